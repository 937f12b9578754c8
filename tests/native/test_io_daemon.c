/* SPDX-License-Identifier: BSD-2-Clause
 *
 * `switch:` ports against a daemon that is a thread of this test: what they
 * ask for and give back, answers that are late, wrong or missing, and every
 * allocation that may fail.  The real daemon is tested in tests/daemon.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "check.h"
#include "core/status.h"
#include "io/daemon.h"
#include "io/ring.h"
#include "packets.h"
#include "wire/bytes.h"
#include "wire/proto.h"

/* What the daemon does. */
enum mood { KIND, REFUSES, NO_DESCRIPTORS, STUMP, OTHER_VERSION, OTHER_TYPE, HANGS_UP, TOO_MANY_ADDRESSES };

struct fake {
    pthread_t thread;
    int listener;
    struct ring_region region;
    int kick, notify[2];
    _Atomic enum mood mood;
    _Atomic int claims, releases, claim_status, hellos, proofs;
    _Atomic uint8_t mac;        /* the last byte of its Ethernet address */
    _Atomic bool stop;
    char path[64];
};

static int messages_sent(int fd, const void *message, size_t length, const int *fds, size_t n)
{
    union {
        struct cmsghdr align;
        char space[CMSG_SPACE(3 * sizeof(int))];
    } control = {.space = {0}};
    struct iovec piece = {.iov_base = (void *)(uintptr_t)message, .iov_len = length};
    struct msghdr header = {.msg_iov = &piece, .msg_iovlen = 1};

    if (n) {
        header.msg_control = control.space;
        header.msg_controllen = CMSG_SPACE(n * sizeof(int));
        struct cmsghdr *rights = CMSG_FIRSTHDR(&header);
        rights->cmsg_level = SOL_SOCKET;
        rights->cmsg_type = SCM_RIGHTS;
        rights->cmsg_len = CMSG_LEN(n * sizeof(int));
        memcpy(CMSG_DATA(rights), fds, n * sizeof(int));
    }
    return sendmsg(fd, &header, MSG_NOSIGNAL) == (ssize_t)length ? 0 : -1;
}

/* Answers a hello as the mood is. */
static void fake_welcome(struct fake *fake, int fd, const struct ams_msg *head)
{
    struct ams_msg_welcome welcome = {.head = *head, .index = 4, .mtu = 1500};
    int fds[] = {fake->region.fd, fake->kick, fake->notify[0]};
    size_t length = sizeof(welcome), n = 3;

    fake->hellos++;
    welcome.head.type |= AMS_MSG_ANSWER;
    memcpy(welcome.identity.mac, (uint8_t[]){2, 0, 0, 0, 0, fake->mac}, 6);
    welcome.identity.n_addresses = fake->mood == TOO_MANY_ADDRESSES ? AMS_PORT_ADDRESSES + 1 : 1;
    welcome.identity.addresses[0] = (struct ams_ifaddr){packets_endpoint(false, 1, 0), 24};
    if (fake->mood == REFUSES) {
        struct {
            struct ams_msg head;
            char text[16];
        } refusal = {welcome.head, "not today"};
        refusal.head.status = -AMS_EMFILE;
        messages_sent(fd, &refusal, sizeof(refusal.head) + 9, NULL, 0);
        return;
    }
    if (fake->mood == NO_DESCRIPTORS)
        n = 0;
    if (fake->mood == STUMP)
        length = sizeof(welcome.head) + 4;
    if (fake->mood == OTHER_VERSION)
        welcome.head.version++;
    if (fake->mood == OTHER_TYPE)
        welcome.head.type = AMS_MSG_LEND | AMS_MSG_ANSWER;
    if (fake->mood != HANGS_UP)
        messages_sent(fd, &welcome, length, fds, n);
    if (fake->mood == OTHER_TYPE || fake->mood == HANGS_UP)
        shutdown(fd, SHUT_RDWR);
}

/* Answers one request. */
static void fake_answer(struct fake *fake, int fd, struct daemon_message *message)
{
    struct ams_msg *head = &message->u.head;
    struct ams_msg stray = *head;

    if (head->type == AMS_MSG_HELLO) {
        fake_welcome(fake, fd, head);
        return;
    }
    if (head->type == AMS_MSG_RELEASE) {
        fake->releases++;
        return;
    }
    stray.serial += 1000; /* an answer to nobody's question comes first */
    stray.type |= AMS_MSG_ANSWER;
    messages_sent(fd, &stray, sizeof(stray), NULL, 0);
    if (head->type == AMS_MSG_CLAIM) {
        fake->claims++;
        fake->proofs += message->n_fds;
        daemon_message_fini(message); /* before the answer: who has it may bind anew */
        head->status = fake->claim_status;
        message->length = sizeof(*head);
    } else if (head->type == AMS_MSG_LEND) {
        message->u.range.low = message->u.range.low ? message->u.range.low : 61000;
        message->u.range.high = (uint16_t)(message->u.range.low + 9);
    } else if (head->type == AMS_MSG_LOOKUP) {
        message->u.tuple.index = message->u.tuple.local.port == 80 ? 5 : -1;
    }
    head->type |= AMS_MSG_ANSWER;
    messages_sent(fd, message->u.bytes, message->length, NULL, 0);
}

static void *fake_main(void *arg)
{
    struct fake *fake = arg;
    struct daemon connection = {.fd = -1};
    struct daemon_message message;

    while (!fake->stop) {
        struct pollfd items[2] = {{.fd = fake->listener, .events = POLLIN}, {.fd = connection.fd, .events = POLLIN}};
        poll(items, 2, 20);
        if (items[0].revents) {
            daemon_disconnect(&connection);
            connection.fd = accept4(fake->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        }
        if (connection.fd < 0 || !items[1].revents || items[0].revents)
            continue;
        if (daemon_receive(&connection, &message) == 0) {
            fake_answer(fake, connection.fd, &message);
            daemon_message_fini(&message);
        } else {
            daemon_disconnect(&connection);
        }
    }
    daemon_disconnect(&connection);
    return NULL;
}

static void fake_listen(struct fake *fake)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    snprintf(address.sun_path, sizeof(address.sun_path), "%s", fake->path);
    unlink(fake->path);
    fake->listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    CHECK(bind(fake->listener, (struct sockaddr *)&address, sizeof(address)) == 0);
    CHECK(listen(fake->listener, 8) == 0);
    fake->stop = false;
    CHECK(pthread_create(&fake->thread, NULL, fake_main, fake) == 0);
}

static void fake_hush(struct fake *fake)
{
    fake->stop = true;
    pthread_join(fake->thread, NULL);
    close(fake->listener);
    unlink(fake->path);
}

static struct fake the_fake;

static struct fake *fake_start(void)
{
    struct fake *fake = &the_fake;
    struct ring_layout layout = {64, 64, ring_buffer_size(1514)};
    struct ring_link link = {.mac = {2, 0, 0, 0, 0, 1}, .mtu = 1500};

    memset(fake, 0, sizeof(*fake));
    snprintf(fake->path, sizeof(fake->path), "/tmp/ams-test-daemon-%d", (int)getpid());
    CHECK_EQ(ring_region_create(&fake->region, "test", &layout, &link), 0);
    fake->kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    CHECK(fake->kick >= 0 && pipe(fake->notify) == 0);
    fake->mac = 1;
    fake_listen(fake);
    return fake;
}

static void fake_end(struct fake *fake)
{
    fake_hush(fake);
    ring_region_close(&fake->region);
    close(fake->kick);
    close(fake->notify[0]);
    close(fake->notify[1]);
}

static char error[300];

static int port_at(struct ams_port **port, const char *path)
{
    char spec[128];
    struct ams_port_config config = {.spec = spec};

    snprintf(spec, sizeof(spec), "switch:%s", path);
    return ams_port_open(port, &config, error, sizeof(error));
}

/* ---- tests ------------------------------------------------------------------------ */

static void test_claims_are_counted_and_given_back(void)
{
    struct fake *fake = fake_start();
    struct ams_port *port;
    struct ams_port_identity identity;
    struct ams_endpoint any = packets_endpoint(false, 1, 20001), exact = any, other = packets_endpoint(false, 1, 20002);
    uint16_t low = 0, high = 0;

    CHECK_EQ(port_at(&port, fake->path), 0);
    CHECK_EQ(ams_port_identity(port, &identity), 0);
    CHECK_EQ(identity.n_addresses, 1);
    memset(any.ip + 12, 0, 4);
    CHECK_EQ(ams_port_claim(port, PROTO_TCP, &any), 0);
    CHECK_EQ(ams_port_claim(port, PROTO_TCP, &exact), 0); /* within the wildcard: nobody is asked */
    CHECK_EQ(fake->claims, 1);
    CHECK_EQ(fake->proofs, 1);
    CHECK_EQ(ams_port_claim(port, PROTO_UDP, &other), 0); /* another protocol is another tuple */
    CHECK_EQ(fake->claims, 2);
    ams_port_release(port, PROTO_TCP, &any); /* the connection outlives its listener */
    CHECK_EQ(ams_port_claim(port, PROTO_TCP, &any), 0);
    CHECK_EQ(fake->claims, 2);
    ams_port_release(port, PROTO_TCP, &exact);
    ams_port_release(port, PROTO_TCP, &any);
    CHECK_EQ(ams_port_lookup(port, PROTO_TCP, &(struct ams_endpoint){.port = 80, .family = AMS_IPV4}), 1);
    CHECK_EQ(fake->releases, 1); /* told before the look-up */
    CHECK_EQ(ams_port_lookup(port, PROTO_TCP, &(struct ams_endpoint){.port = 81, .family = AMS_IPV4}), 0);
    CHECK_EQ(ams_port_lend(port, &low, &high), 0);
    CHECK(low == 61000 && high == 61009);
    other.port = 61005; /* lent: no proof is needed */
    CHECK_EQ(ams_port_claim(port, PROTO_UDP, &other), 0);
    CHECK_EQ(fake->claims, 2);
    fake->claim_status = -AMS_EADDRINUSE;
    CHECK_EQ(ams_port_claim(port, PROTO_TCP, &any), -AMS_EADDRINUSE);
    fake->claim_status = 0;
    CHECK_EQ(ams_port_claim(port, PROTO_TCP, &any), 0); /* the refused one's socket was closed */
    ams_port_close(port);
    fake_end(fake);
}

static void test_a_socket_that_was_shown_is_the_proof(void)
{
    struct fake *fake = fake_start();
    struct ams_port *port;
    struct ams_endpoint local = packets_endpoint(false, 1, 0);
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t length = sizeof(address);
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    CHECK(fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof(address)) == 0);
    CHECK(getsockname(fd, (struct sockaddr *)&address, &length) == 0);
    memset(local.ip + 12, 0, 4);
    local.port = ntohs(address.sin_port);
    CHECK_EQ(port_at(&port, fake->path), 0);
    CHECK_EQ(ams_port_claim(port, PROTO_TCP, &local), -AMS_EADDRINUSE); /* somebody has it: we, but who knows */
    CHECK_EQ(ams_port_show(port, -1), -AMS_EINVAL);
    CHECK_EQ(ams_port_show(port, 0), -AMS_EINVAL);
    CHECK_EQ(ams_port_show(port, fd), 0);
    for (int i = 0; i < DAEMON_SHOWN + 3; i++) /* the oldest give way */
        CHECK_EQ(ams_port_show(port, fd), 0);
    CHECK_EQ(ams_port_claim(port, PROTO_TCP, &local), 0);
    ams_port_release(port, PROTO_TCP, &local);
    close(fd);
    CHECK_EQ(ams_port_claim(port, PROTO_TCP, &local), 0); /* nothing of it was kept */
    ams_port_close(port);
    fake_end(fake);
}

static void test_answers_that_are_none(void)
{
    struct fake *fake = fake_start();
    struct ams_port *port;
    static const struct {
        enum mood mood;
        int status;
    } cases[] = {
        {REFUSES, -AMS_EMFILE},   {NO_DESCRIPTORS, -AMS_EPROTO}, {STUMP, -AMS_EPROTO},
        {OTHER_VERSION, -AMS_EPROTO}, {OTHER_TYPE, -AMS_EACCES}, {HANGS_UP, -AMS_EACCES},
        {TOO_MANY_ADDRESSES, -AMS_EPROTO},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        fake->mood = cases[i].mood;
        CHECK_EQ(port_at(&port, fake->path), cases[i].status);
        CHECK(port == NULL && *error);
        if (cases[i].mood == REFUSES)
            CHECK(strstr(error, "not today") != NULL);
    }
    fake->mood = KIND;
    CHECK_EQ(port_at(&port, "/nowhere/at/all"), -AMS_ENODEV);
    CHECK_EQ(port_at(&port, ""), -AMS_EINVAL);
    CHECK_EQ(port_at(&port, "/tmp/a-name-that-is-much-too-long-for-the-address-of-a-unix-socket-which-has-room-for-"
                            "one-hundred-and-seven-characters-and-no-more"),
             -AMS_EINVAL);
    fake_end(fake);
}

/* Receives until done(), a status that is for good, or 10 seconds.  Return: the last status of a receive. */
static int receive_until(struct ams_port *port, bool (*done)(void), uint64_t *now)
{
    char frame[2000];
    int status = -AMS_EAGAIN;

    for (int i = 0; i < 1000 && status == -AMS_EAGAIN && !done(); i++, *now += 20 * AMS_NS_PER_MS) {
        status = ams_port_recv(port, frame, sizeof(frame), *now);
        usleep(10000);
    }
    return status;
}

static bool told_twice(void) { return the_fake.claims == 2; }
static bool told_again(void) { return the_fake.claims > 2; }
static bool greeted(void) { return the_fake.hellos > 2; }

static void test_the_daemon_comes_back(void)
{
    struct fake *fake = fake_start();
    struct ams_port *port;
    struct ams_endpoint local = packets_endpoint(false, 1, 20003);
    char frame[60] = {2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1, 8};
    uint64_t now = ams_clock_now();
    uint16_t low, high;

    CHECK_EQ(port_at(&port, fake->path), 0);
    CHECK_EQ(ams_port_claim(port, PROTO_TCP, &local), 0);
    CHECK_EQ(ams_port_lend(port, &low, &high), 0);
    fake_hush(fake);
    for (int i = 0; i < 500 && !port->lost; i++) {
        ams_port_recv(port, frame, sizeof(frame), now);
        usleep(10000);
    }
    CHECK_EQ(port->lost, -AMS_ENETDOWN);
    CHECK(port->ops->deadline(port) > now);
    CHECK_EQ(ams_port_claim(port, PROTO_TCP, &local), -AMS_ENETDOWN);
    CHECK_EQ(ams_port_lend(port, &low, &high), -AMS_ENETDOWN);
    CHECK_EQ(ams_port_lookup(port, PROTO_TCP, &local), -AMS_ENETDOWN);
    ams_port_send(port, frame, sizeof(frame), now);
    CHECK_EQ(port->info.tx_dropped, 1);
    fake_listen(fake);
    now += AMS_NS_PER_S;
    receive_until(port, told_twice, &now);
    CHECK_EQ(fake->claims, 2);
    CHECK_EQ(fake->proofs, 2);
    ams_port_recv(port, frame, sizeof(frame), now);
    CHECK_EQ(ams_port_lookup(port, PROTO_TCP, &local), 0); /* it is up again */

    /* One that is another doesn't do. */
    fake_hush(fake);
    fake->mac = 2;
    fake_listen(fake);
    now += AMS_NS_PER_S;
    receive_until(port, greeted, &now);
    CHECK_EQ(receive_until(port, told_again, &now), -AMS_EADDRNOTAVAIL);
    CHECK_EQ(ams_port_recv(port, frame, sizeof(frame), now), -AMS_EADDRNOTAVAIL);
    ams_port_close(port);
    fake_end(fake);
}

#ifdef AMS_TEST_ALLOC
static bool open_and_claim(void)
{
    struct ams_port *port;
    struct ams_endpoint local = packets_endpoint(false, 1, 20004);
    int status = port_at(&port, the_fake.path);

    if (status) {
        CHECK_EQ(status, -AMS_ENOMEM);
        return false;
    }
    status = ams_port_claim(port, PROTO_TCP, &local);
    CHECK(status == 0 || status == -AMS_ENOMEM);
    ams_port_close(port);
    return status == 0;
}

static void test_every_allocation_may_fail(void)
{
    struct fake *fake = fake_start();

    CHECK(check_every_allocation(open_and_claim) >= 3);
    fake_end(fake);
}
#endif

int main(void)
{
    RUN(test_claims_are_counted_and_given_back);
    RUN(test_a_socket_that_was_shown_is_the_proof);
    RUN(test_answers_that_are_none);
    RUN(test_the_daemon_comes_back);
#ifdef AMS_TEST_ALLOC
    RUN(test_every_allocation_may_fail);
#endif
    return check_report();
}
