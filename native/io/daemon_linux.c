/* SPDX-License-Identifier: BSD-2-Clause
 *
 * daemon_linux.c - messages between a client and the switch daemon.
 *
 * A request is a rare thing (a listener, a range of ports, a look-up), so
 * that a client may wait for its answer.  It does so for DAEMON_PATIENCE_MS;
 * a daemon that is silent for longer has hung, and is as good as gone.
 */
#define _GNU_SOURCE /* MSG_CMSG_CLOEXEC */

#include "io/daemon.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "core/status.h"

/* Says what to do about a socket that cannot be connected to. */
static int daemon_refused(const char *path, int number, struct port_error *error)
{
    switch (number) {
    case ENOENT:
    case ECONNREFUSED:
        return port_fail(error, -AMS_ENODEV,
                         "no switch answers at %s: start one, 'aiomultistack switch --socket %s ...'", path, path);
    case EACCES:
    case EPERM:
        return port_fail(error, -AMS_EACCES, "%s: this user may not connect; see the switch's --socket-mode and --allow",
                         path);
    case EPROTOTYPE:
        return port_fail(error, -AMS_EINVAL, "%s is a socket of something else than a switch", path);
    default:
        return port_fail(error, port_status(number), "cannot connect to %s: %s", path, strerror(number));
    }
}

int daemon_connect(struct daemon *daemon, const char *path, struct port_error *error)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t length = strlen(path);

    daemon->fd = -1;
    if (!length || length >= sizeof(address.sun_path))
        return port_fail(error, -AMS_EINVAL, "switch:%s must name the switch's socket, in less than %zu characters",
                         path, sizeof(address.sun_path));
    memcpy(address.sun_path, path, length);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return port_fail(error, port_status(errno), "cannot make a socket: %s", strerror(errno));
    if (connect(fd, (const struct sockaddr *)&address, sizeof(address)) < 0) {
        int number = errno;
        close(fd);
        return daemon_refused(path, number, error);
    }
    daemon->fd = fd;
    return 0;
}

void daemon_disconnect(struct daemon *daemon)
{
    if (daemon->fd >= 0)
        close(daemon->fd);
    daemon->fd = -1;
}

/* Waits until the socket is ready.  Return: 0, -AMS_ETIMEDOUT, -AMS_ENETDOWN. */
static int daemon_wait(const struct daemon *daemon, short events)
{
    struct pollfd item = {.fd = daemon->fd, .events = events};
    int ready;

    do
        ready = poll(&item, 1, DAEMON_PATIENCE_MS);
    while (ready < 0 && errno == EINTR);
    if (ready == 0)
        return -AMS_ETIMEDOUT;
    return ready < 0 ? -AMS_ENETDOWN : 0;
}

int daemon_send(struct daemon *daemon, struct ams_msg *head, uint16_t type, size_t length, int fd)
{
    union {
        struct cmsghdr align;
        char space[CMSG_SPACE(sizeof(int))];
    } control = {.space = {0}};
    struct iovec piece = {.iov_base = head, .iov_len = length};
    struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1};
    int status;

    if (daemon->fd < 0)
        return -AMS_ENETDOWN;
    head->version = AMS_MSG_VERSION;
    head->type = type;
    head->serial = ++daemon->serial;
    if (fd >= 0) {
        message.msg_control = control.space;
        message.msg_controllen = sizeof(control.space);
        struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
        rights->cmsg_level = SOL_SOCKET;
        rights->cmsg_type = SCM_RIGHTS;
        rights->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(rights), &fd, sizeof(int));
    }
    while (sendmsg(daemon->fd, &message, MSG_NOSIGNAL) < 0) {
        if (errno == EINTR)
            continue;
        if (errno != EAGAIN)
            return errno == ETOOMANYREFS ? -AMS_EMFILE : -AMS_ENETDOWN;
        status = daemon_wait(daemon, POLLOUT);
        if (status)
            return status;
    }
    return 0;
}

/* Takes the descriptors out of a message's control part; what is too many is closed. */
static void daemon_take_fds(struct msghdr *header, struct daemon_message *message)
{
    for (struct cmsghdr *part = CMSG_FIRSTHDR(header); part; part = CMSG_NXTHDR(header, part)) {
        if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS)
            continue;
        size_t n = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < n; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(part) + i * sizeof(int), sizeof(int));
            if (message->n_fds < DAEMON_FDS)
                message->fds[message->n_fds++] = fd;
            else
                close(fd);
        }
    }
}

int daemon_receive(struct daemon *daemon, struct daemon_message *message)
{
    union {
        struct cmsghdr align;
        char space[CMSG_SPACE(DAEMON_FDS * sizeof(int))];
    } control;
    struct iovec piece = {.iov_base = message->u.bytes, .iov_len = sizeof(message->u.bytes) - 1};
    struct msghdr header = {.msg_iov = &piece, .msg_iovlen = 1, .msg_control = control.space,
                            .msg_controllen = sizeof(control.space)};
    ssize_t length;

    memset(message, 0, sizeof(*message));
    if (daemon->fd < 0)
        return -AMS_ENETDOWN;
    do
        length = recvmsg(daemon->fd, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    while (length < 0 && errno == EINTR);
    if (length < 0)
        return errno == EAGAIN || errno == EWOULDBLOCK ? -AMS_EAGAIN : -AMS_ENETDOWN;
    daemon_take_fds(&header, message);
    message->length = (size_t)length;
    if (message->length >= sizeof(struct ams_msg) && message->u.head.version == AMS_MSG_VERSION)
        return 0;
    daemon_message_fini(message); /* the end of the stream, or nothing of ours */
    return -AMS_ENETDOWN;
}

int daemon_call(struct daemon *daemon, struct ams_msg *head, uint16_t type, size_t length, int fd,
                struct daemon_message *answer)
{
    int status = daemon_send(daemon, head, type, length, fd);

    memset(answer, 0, sizeof(*answer));
    while (!status) {
        status = daemon_receive(daemon, answer);
        if (!status && answer->u.head.type == (type | AMS_MSG_ANSWER) && answer->u.head.serial == daemon->serial)
            return answer->u.head.status;
        daemon_message_fini(answer);
        if (status == -AMS_EAGAIN)
            status = daemon_wait(daemon, POLLIN);
    }
    return status;
}

void daemon_message_fini(struct daemon_message *message)
{
    for (int i = 0; i < message->n_fds; i++)
        close(message->fds[i]);
    message->n_fds = 0;
}

const char *daemon_reason(struct daemon_message *message)
{
    message->u.bytes[message->length] = '\0'; /* daemon_receive() left room */
    return message->length > sizeof(struct ams_msg) ? message->u.bytes + sizeof(struct ams_msg) : "";
}
