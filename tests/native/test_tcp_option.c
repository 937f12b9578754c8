/* SPDX-License-Identifier: BSD-2-Clause
 *
 * test_tcp_option.c - an option of our own: an experiment (RFC 6994) that
 * counts the bytes that each side has sent, negotiated on the SYN.  This is
 * also the example of docs/options.md: all that an option needs is here,
 * between the two lines.
 */
#include "net_fixture.h"

#include "stack/tcp.h"

/* ---- the option ----------------------------------------------------------------- */

#define COUNT_EXID 0xa1b2u

struct count {
    uint32_t sent;            /* what we say */
    uint32_t peer;            /* what the peer has said */
    uint32_t received;        /* how many options came */
};

/* Everybody takes part who opens, and who is asked. */
static bool count_join(struct ams_stack *stack, struct tcp_conn *conn, const struct tcp_option_value *offered)
{
    return conn->state == AMS_TCP_SYN_SENT || offered;
}

/* An empty value on SYNs, four bytes later; nothing on what is sent again. */
static uint32_t count_size(const struct ams_stack *stack, const struct tcp_conn *conn, const void *state,
                           enum tcp_place place, uint32_t room)
{
    if (place == TCP_PLACE_SYN || place == TCP_PLACE_SYN_ACK)
        return 0;
    return place == TCP_PLACE_DATA && room >= 4 ? 4 : TCP_OPTION_ABSENT;
}

static uint8_t count_emit(struct ams_stack *stack, struct tcp_conn *conn, void *state, enum tcp_place place,
                          uint8_t *out, uint32_t length)
{
    struct count *count = state;
    count->sent++;
    if (length == 4)
        store_be32(out, count->sent);
    return 0;
}

static void count_receive(struct ams_stack *stack, struct tcp_conn *conn, void *state, const struct tcp_repr *seg,
                          const struct tcp_option_value *value, uint64_t now)
{
    struct count *count = state;
    count->received++;
    if (value->length == 4)
        count->peer = load_be32(value->data);
}

static const struct tcp_option_ops count_option = {
    .name = "count",
    .kind = TCP_OPT_EXPERIMENTAL,
    .exid = COUNT_EXID,
    .state_size = sizeof(struct count),
    .join = count_join,
    .size = count_size,
    .emit = count_emit,
    .receive = count_receive,
};

/* ---- the tests ------------------------------------------------------------------ */

static struct world world;
static int indices[HOSTS];

/* Two hosts; those of them that know the option. */
static void start(bool a, bool b, uint32_t flags)
{
    world_init(&world, (struct world_options){.flags = AMS_STACK_NO_DAD | flags});
    world_settle(&world);
    for (int i = 0; i < HOSTS; i++)
        if (i == A ? a : b) {
            indices[i] = tcp_option_register(world.host[i], &count_option);
            CHECK(indices[i] >= 0);
        }
}

static struct tcp_conn *conn_at(int host, int id)
{
    struct tcp_conn *conn = (struct tcp_conn *)sock_find(world.host[host], id, SOCK_TCP);
    CHECK(conn != NULL);
    return conn;
}

/* Opens a connection from A to B and lets A say something. */
static void talk(struct tcp_conn **a, struct tcp_conn **b)
{
    struct ams_endpoint to = packets_endpoint(false, 2, 80);
    CHECK(ams_tcp_listen(world.host[B], &to, 5, 0) >= 0);
    int id = ams_tcp_connect(world.host[A], NULL, &to, world.now);
    CHECK(id >= 0);
    world_settle(&world);
    CHECK(ams_tcp_send(world.host[A], id, "hello", 5) >= 0);
    world_settle(&world);
    *a = conn_at(A, id);
    *b = conn_at(B, 1);
    CHECK_EQ((*b)->bytes_received, 5);
}

/* Does the n-th frame of the trace carry these bytes? */
static bool frame_has(uint32_t n, const char *bytes, size_t length)
{
    const struct world_frame *frame = &world.trace[n];
    for (uint32_t i = 0; i + length <= frame->len && i + length <= sizeof(frame->data); i++)
        if (memcmp(frame->data + i, bytes, length) == 0)
            return true;
    return false;
}

static uint32_t frames_with(const char *bytes, size_t length)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < world.n_trace; i++)
        n += frame_has(i, bytes, length);
    return n;
}

static void test_negotiated_and_carried(void)
{
    struct tcp_conn *a, *b;
    start(true, true, 0);
    talk(&a, &b);
    struct count *at_a = tcp_option_state(world.host[A], a, (uint32_t)indices[A]);
    struct count *at_b = tcp_option_state(world.host[B], b, (uint32_t)indices[B]);
    CHECK(at_a && at_b);
    CHECK_EQ(at_a->sent, 2);     /* SYN, data */
    CHECK_EQ(at_b->sent, 1);     /* SYN-ACK */
    CHECK_EQ(at_a->received, 1);
    CHECK_EQ(at_b->received, 2);
    CHECK_EQ(at_b->peer, 2);
    CHECK_EQ(frames_with("\xfe\x04\xa1\xb2", 4), 2);
    CHECK_EQ(frames_with("\xfe\x08\xa1\xb2\0\0\0\2", 8), 1);
    CHECK(ams_stack_check(world.host[A]) == NULL && ams_stack_check(world.host[B]) == NULL);
    world_fini(&world);
}

/* A peer that doesn't know it doesn't answer, and is not bothered again. */
static void test_not_answered(void)
{
    struct tcp_conn *a, *b;
    start(true, false, 0);
    talk(&a, &b);
    CHECK(tcp_option_state(world.host[A], a, (uint32_t)indices[A]) == NULL);
    CHECK_EQ(frames_with("\xfe", 1) ? frames_with("\xfe\x04\xa1\xb2", 4) : 0, 1);
    CHECK_EQ(frames_with("\xfe\x08\xa1\xb2", 4), 0);
    world_fini(&world);
}

/* Who wasn't asked doesn't offer. */
static void test_not_asked(void)
{
    struct tcp_conn *a, *b;
    start(false, true, 0);
    talk(&a, &b);
    CHECK(b->ext == NULL && a->ext == NULL);
    CHECK_EQ(frames_with("\xa1\xb2", 2), 0);
    world_fini(&world);
}

/* Full segments leave room for it: none is longer than the MTU, none is cut short more than needed. */
static void test_room(void)
{
    static char data[20000];
    struct tcp_conn *a, *b;
    start(true, true, 0);
    talk(&a, &b);
    world.n_trace = 0;
    CHECK(ams_tcp_send(world.host[A], a->sock.id, data, sizeof(data)) >= 0);
    world_settle(&world);
    CHECK_EQ(b->bytes_received, 5 + sizeof(data));
    uint32_t full = 0;
    for (uint32_t i = 0; i < world.n_trace; i++) {
        CHECK(world.trace[i].len <= 1514);
        full += world.trace[i].len == 1514;
    }
    CHECK(full >= 13); /* 20000 / (1500 - 52 - 8) */
    world_fini(&world);
}

static void test_who_may_register(void)
{
    struct tcp_option_ops other = count_option;
    start(true, false, 0);
    CHECK_EQ(tcp_option_register(world.host[A], &count_option), -AMS_EADDRINUSE);
    other.exid = 0;
    CHECK_EQ(tcp_option_register(world.host[A], &other), -AMS_EINVAL);
    other.kind = 8;
    CHECK_EQ(tcp_option_register(world.host[A], &other), -AMS_EINVAL);
    other.kind = 172; /* AccECN's */
    CHECK_EQ(tcp_option_register(world.host[A], &other), -AMS_EADDRINUSE);
    for (uint8_t kind = 100; kind < 100 + TCP_OPTIONS_KNOWN; kind++) {
        other.kind = kind;
        int status = tcp_option_register(world.host[A], &other);
        CHECK(status >= 0 || status == -AMS_ENOMEM);
    }
    CHECK_EQ(tcp_option_register(world.host[A], &other), -AMS_ENOMEM);
    world_fini(&world);
}

/* Once there are connections, it is too late: their states have no room for another. */
static void test_register_late(void)
{
    struct tcp_option_ops other = count_option;
    struct tcp_conn *a, *b;
    start(true, true, 0);
    talk(&a, &b);
    other.exid++;
    CHECK_EQ(tcp_option_register(world.host[A], &other), -AMS_EBUSY);
    world_fini(&world);
}

#ifdef AMS_TEST_ALLOC
/* Without memory for its state a connection does without the option. */
static void test_no_memory(void)
{
    struct ams_endpoint to = packets_endpoint(false, 2, 80);
    start(true, true, 0);
    CHECK(ams_tcp_listen(world.host[B], &to, 5, 0) >= 0);
    int id = ams_tcp_connect(world.host[A], NULL, &to, world.now);
    CHECK(id >= 0);
    check_fail_at = 1; /* what the SYN needs first is the state */
    world_settle(&world);
    CHECK_EQ(check_fail_at, 0);
    CHECK_EQ(world.host[A]->counters.tcp_no_memory, 1);
    CHECK(conn_at(A, id)->ext == NULL);
    CHECK_EQ(conn_at(A, id)->state, AMS_TCP_ESTABLISHED);
    CHECK_EQ(frames_with("\xa1\xb2", 2), 0);
    world_fini(&world);
}
#endif

int main(void)
{
    RUN(test_negotiated_and_carried);
    RUN(test_not_answered);
    RUN(test_not_asked);
    RUN(test_room);
    RUN(test_who_may_register);
    RUN(test_register_late);
#ifdef AMS_TEST_ALLOC
    RUN(test_no_memory);
#endif
    return check_report();
}
