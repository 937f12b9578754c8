/* SPDX-License-Identifier: BSD-2-Clause
 *
 * bench_engine.c - what one segment costs the engine.
 *
 * Theory of operation.  A stack without port and switch talks to this file,
 * which plays all of its peers.  Frames are made before the clock is read,
 * BATCH at a time, each for the next connection in turn, in an order that is
 * drawn at random, so that with many connections none is in the cache when its
 * segment comes, nor can a CPU guess which one will be next; what is timed is
 * what the node does with a batch: stack_input, events, the application's
 * calls, stack_output.  Checksums count as verified, and payload is neither
 * written nor read: a port with offloads and an application that reads in
 * place.  The stack's own time is virtual and passes 100 ns a segment.  What
 * the operating system interrupted to run something else is not counted.
 *
 * Besides those that are served there may be others, as many as one likes, that
 * are established and silent: what segments cost must not depend on them.
 *
 *   ack          the application has sent FLIGHT segments on each connection
 *                (not timed); the peers acknowledge two with each segment
 *   data         segments of MSS bytes in order; the answers, an ACK for two,
 *                are made and dropped
 *   train        the same, TRAIN segments of a connection one behind the
 *                other, as a sender of bulk data has them arrive
 *   sack         of each two segments the second comes first, so that one
 *                ACK with a SACK block and one that closes the hole answer
 *   connection   SYN, ACK and FIN come in; the engine accepts, and closes first
 *   transaction  SYN, request, ACK and FIN come in; the engine accepts,
 *                answers with RESPONSE bytes and closes first
 */
#define _GNU_SOURCE /* RUSAGE_THREAD under -std=c11 */

#include <string.h>
#include <sys/resource.h>
#include <sys/time.h>

#include "core/alloc.h"
#include "core/status.h"
#include "io/pages.h"
#include "io/port.h"
#include "stack/stack.h"
#include "wire/arp.h"
#include "wire/eth.h"
#include "wire/ipv4.h"
#include "wire/tcp.h"

#define BATCH 64u
#define TRAIN 16u               /* a part of BATCH */
#define MSS 1460u
#define FLIGHT 10u              /* RFC 6928's initial window */
#define ROUND_TRIP (50 * AMS_NS_PER_MS) /* longer than serving all connections once */
#define TRIES 4u                /* runs end, too, when so many times what was wanted was interrupted */
#define RESPONSE 1024u
#define REQUEST 100u
#define SERVER_PORT 80u
#define PORTS 50000u            /* connections per peer address */
#define FIRST_PORT 10000u
#define EVENTS 512
#define BLOB 65536u
#define ISN_STEP 100000u        /* beyond the last incarnation, so that TIME-WAIT lets it in (RFC 6191) */
#define TICK 100u               /* virtual ns per segment */
#define POOL_FRAMES (1u << 20)

static const uint8_t bench_mac[6] = {2, 0, 0, 0, 1, 1};
static const uint8_t peer_mac[6] = {2, 0, 0, 0, 1, 2};

/* A peer's end of one connection. */
struct peer {
    uint32_t snd_nxt;
    uint32_t rcv_nxt;
};

struct bench {
    struct frame_pool pool;
    struct ams_stack *stack;
    struct peer *peers;
    uint32_t *order;            /* in which they are served: the first n_served of them */
    uint32_t n_peers;
    uint32_t n_served;
    uint32_t accepted;          /* connections that the application has got */
    uint32_t held;              /* bytes of what they have that they don't acknowledge yet */
    uint64_t now;
    uint64_t spent;             /* ns inside the engine */
    uint64_t bytes;             /* that the application has read, or had acknowledged */
    bool reply;                 /* the application answers and closes */
    bool hang_up;               /* the application closes what it gets */
    bool in_place;              /* the application reads without copying */
    struct ams_tx tx[BATCH];
    int32_t events[EVENTS * AMS_EVENT_WORDS];
    char *blob;
    char *response;
};

/* ---- the peers' frames ------------------------------------------------------------ */

/* Writes the address of a peer. */
static void peer_ip(uint32_t index, uint8_t out[4])
{
    store_be32(out, 0x0a010100u + index / PORTS + 1);
}

/* Makes one segment from a peer, payload not written.
 * Return: the frame, NULL without memory.  Owns: the caller. */
static struct ams_frame *segment_new(struct bench *bench, uint32_t index, uint8_t flags, uint32_t seq, uint32_t payload)
{
    const struct peer *peer = &bench->peers[index];
    struct ams_frame *frame = frame_new(&bench->pool, FRAME_CLASS_SMALL);
    if (!frame)
        return NULL;
    struct eth_repr eth = {.type = ETHERTYPE_IPV4};
    memcpy(eth.dst, bench_mac, 6);
    memcpy(eth.src, peer_mac, 6);
    eth_emit(frame->data, &eth);
    struct tcp_repr tcp = {
        .src_port = (uint16_t)(FIRST_PORT + index % PORTS),
        .dst_port = SERVER_PORT,
        .seq = seq,
        .ack = flags & TCP_ACK ? peer->rcv_nxt - bench->held : 0,
        .window = 65535,
        .flags = flags,
    };
    if (flags & TCP_SYN) {
        tcp.mss = MSS;
        tcp.sack_permitted = true;
        tcp.has_wscale = true;
        tcp.wscale = 7;
    }
    uint32_t header = tcp_emit(&tcp, frame->data + ETH_HEADER + IP4_HEADER);
    struct ipv4_repr ip = {.ttl = 64, .protocol = PROTO_TCP, .dont_fragment = true};
    ip.total_len = (uint16_t)(IP4_HEADER + header + payload);
    peer_ip(index, ip.src);
    memcpy(ip.dst, (const uint8_t[]){10, 1, 0, 1}, 4);
    ipv4_emit(frame->data + ETH_HEADER, &ip);
    frame->len = ETH_HEADER + ip.total_len;
    frame->flags = FRAME_CSUM_OK;
    return frame;
}

/* The answer to a neighbour question. */
static struct ams_frame *arp_answer(struct bench *bench, const struct arp_repr *question)
{
    struct ams_frame *frame = frame_new(&bench->pool, FRAME_CLASS_SMALL);
    if (!frame)
        return NULL;
    struct eth_repr eth = {.type = ETHERTYPE_ARP};
    memcpy(eth.dst, bench_mac, 6);
    memcpy(eth.src, peer_mac, 6);
    eth_emit(frame->data, &eth);
    struct arp_repr answer = {.operation = ARP_REPLY};
    memcpy(answer.sender_mac, peer_mac, 6);
    memcpy(answer.sender_ip, question->target_ip, 4);
    memcpy(answer.target_mac, bench_mac, 6);
    memcpy(answer.target_ip, question->sender_ip, 4);
    arp_emit(frame->data + ETH_HEADER, &answer);
    frame->len = ETH_HEADER + ARP_LENGTH;
    return frame;
}

/* Looks at what the engine sent: learns its sequence numbers.
 * Return: the answer to a neighbour question, or NULL. */
static struct ams_frame *peer_receive(struct bench *bench, const struct ams_tx *tx)
{
    struct eth_repr eth;
    struct arp_repr arp;
    struct ipv4_repr ip;
    struct tcp_repr tcp;

    if (eth_parse(tx->head, tx->head_len, &eth) != WIRE_OK)
        return NULL;
    if (eth.type == ETHERTYPE_ARP) {
        if (arp_parse(tx->head + ETH_HEADER, tx->head_len - ETH_HEADER, &arp) != WIRE_OK ||
            arp.operation != ARP_REQUEST || arp.target_ip[2] == 0)
            return NULL;
        return arp_answer(bench, &arp);
    }
    if (eth.type != ETHERTYPE_IPV4 || ipv4_parse_quoted(tx->head + ETH_HEADER, tx->head_len - ETH_HEADER, &ip) != WIRE_OK ||
        !tcp_parse(tx->head + ETH_HEADER + IP4_HEADER, tx->head_len - ETH_HEADER - IP4_HEADER, &tcp))
        return NULL;
    uint32_t index = (load_be32(ip.dst) - 0x0a010101u) * PORTS + tcp.dst_port - FIRST_PORT;
    if (index >= bench->n_peers)
        return NULL;
    uint32_t payload = tx->total - ETH_HEADER - IP4_HEADER - tcp.header_len;
    if (payload || tcp.flags & (TCP_SYN | TCP_FIN))
        bench->peers[index].rcv_nxt = tcp.seq + payload + !!(tcp.flags & TCP_SYN) + !!(tcp.flags & TCP_FIN);
    return NULL;
}

/* ---- the node's part, timed ---------------------------------------------------------- */

/* What the application does when it is told of an endpoint.
 * @data: bytes in the blob that are its */
static void application(struct bench *bench, int32_t id, int32_t bits, int32_t data)
{
    if (bits & AMS_EV_ACCEPTED) {
        bench->accepted++;
        if (bench->in_place)
            ams_tcp_set_reading(bench->stack, id, AMS_READ_EVENT);
        if (bench->hang_up)
            ams_tcp_close(bench->stack, id);
    }
    if (bits & AMS_EV_READABLE) {
        size_t length;
        while (ams_tcp_peek(bench->stack, id, &length)) {
            ams_tcp_consume(bench->stack, id, length);
            bench->bytes += length;
        }
    }
    if (bits & AMS_EV_DATA && bench->reply) {
        bench->bytes += (uint32_t)data;
        ams_tcp_send(bench->stack, id, bench->response, RESPONSE);
        ams_tcp_close(bench->stack, id);
    }
}

/* Takes the engine's events until it has none.  Return: 0 or a status. */
static int take_events(struct bench *bench)
{
    int n;
    do {
        n = stack_events(bench->stack, bench->events, EVENTS, bench->blob, BLOB);
        for (int i = 0; i < n; i++)
            application(bench, bench->events[i * 4], bench->events[i * 4 + 1], bench->events[i * 4 + 3]);
    } while (n > EVENTS - 4);
    return n < 0 ? n : 0;
}

/* Gives the engine n frames and takes what it sends, answering its questions.
 * Return: 0 or a status.  Consumes the frames. */
static int exchange(struct bench *bench, struct ams_frame **frames, int n)
{
    struct ams_frame *answers[BATCH];
    int sent, answered = 0;

    bench->now += (uint64_t)n * TICK;
    uint64_t start = ams_clock_now();
    stack_input(bench->stack, frames, n, bench->now);
    stack_timers(bench->stack, bench->now);
    int status = take_events(bench);
    if (status < 0)
        return status;
    do {
        sent = stack_output(bench->stack, bench->tx, BATCH, bench->now);
        bench->spent += ams_clock_now() - start;
        for (int i = 0; i < sent; i++) {
            struct ams_frame *answer = peer_receive(bench, &bench->tx[i]);
            if (answer && answered < (int)BATCH)
                answers[answered++] = answer;
            else
                frame_free(answer);
        }
        start = ams_clock_now();
        stack_output_done(bench->stack, bench->tx, sent);
    } while (sent == (int)BATCH);
    bench->spent += ams_clock_now() - start;
    return answered ? exchange(bench, answers, answered) : 0;
}

/* One segment from each of n <= BATCH peers, from `first` in the order.
 * Return: 0 or a status. */
static int round_of(struct bench *bench, uint32_t first, uint32_t n, uint8_t flags, uint32_t offset, uint32_t payload)
{
    struct ams_frame *frames[BATCH];

    for (uint32_t i = 0; i < n; i++) {
        uint32_t index = bench->order[first + i];
        frames[i] = segment_new(bench, index, flags, bench->peers[index].snd_nxt + offset, payload);
        if (!frames[i]) {
            while (i)
                frame_free(frames[--i]);
            return -AMS_ENOMEM;
        }
    }
    return exchange(bench, frames, (int)n);
}

/* ---- the kinds ------------------------------------------------------------------------- */

/* n peers, from `first` in the order, go on by so many sequence numbers. */
static void advance(struct bench *bench, uint32_t first, uint32_t n, uint32_t by)
{
    for (uint32_t i = 0; i < n; i++)
        bench->peers[bench->order[first + i]].snd_nxt += by;
}

/* Opens the connections of n peers. */
static int open_some(struct bench *bench, uint32_t first, uint32_t n)
{
    advance(bench, first, n, ISN_STEP);
    int status = round_of(bench, first, n, TCP_SYN, 0, 0);
    advance(bench, first, n, 1);
    return status;
}

/* Opens the connections from `first` in the order on. */
static int open_from(struct bench *bench, uint32_t first)
{
    uint32_t wanted = bench->n_peers - first;
    for (; first < bench->n_peers; first += BATCH) {
        uint32_t n = ams_min_u32(BATCH, bench->n_peers - first);
        int status = open_some(bench, first, n);
        bench->now += ROUND_TRIP;
        if (status >= 0)
            status = round_of(bench, first, n, TCP_ACK, 0, 0);
        if (status < 0)
            return status;
    }
    return bench->accepted == wanted ? 0 : -AMS_EIO;
}

/* In-order data: one segment for each of n peers.  Return: segments, or a status. */
static int step_data(struct bench *bench, uint32_t first, uint32_t n)
{
    int status = round_of(bench, first, n, TCP_ACK | TCP_PSH, 0, MSS);
    advance(bench, first, n, MSS);
    return status < 0 ? status : (int)n;
}

/* TRAIN segments in order from each of n peers, those of one together. */
static int step_train(struct bench *bench, uint32_t first, uint32_t n)
{
    struct ams_frame *frames[BATCH];
    int status = 0, filled = 0;

    for (uint32_t i = 0; i < n * TRAIN && status >= 0; i++) {
        uint32_t index = bench->order[first + i / TRAIN];
        struct peer *peer = &bench->peers[index];
        struct ams_frame *frame = segment_new(bench, index, TCP_ACK, peer->snd_nxt, MSS);
        if (!frame) {
            while (filled)
                frame_free(frames[--filled]);
            return -AMS_ENOMEM;
        }
        peer->snd_nxt += MSS;
        frames[filled++] = frame;
        if (filled == (int)BATCH || i + 1 == n * TRAIN) {
            status = exchange(bench, frames, filled);
            filled = 0;
        }
    }
    return status < 0 ? status : (int)(n * TRAIN);
}

/* The second of two segments, then the first. */
static int step_sack(struct bench *bench, uint32_t first, uint32_t n)
{
    int status = round_of(bench, first, n, TCP_ACK | TCP_PSH, MSS, MSS);
    if (status >= 0)
        status = round_of(bench, first, n, TCP_ACK | TCP_PSH, 0, MSS);
    advance(bench, first, n, 2 * MSS);
    return status < 0 ? status : (int)(2 * n);
}

/* Sends a flight of data on every connection, not timed.  Return: 0 or a status. */
static int send_flights(struct bench *bench)
{
    uint64_t spent = bench->spent;
    int status = 0;

    for (uint32_t i = 0; i < bench->n_served && status >= 0; i++) {
        /* Connections are accepted in the order of the peers: ids count up behind the listener's. */
        int excess = ams_tcp_send_ref(bench->stack, (int)bench->order[i] + 1, bench->response, FLIGHT * MSS);
        if (excess)
            return excess < 0 ? excess : -AMS_EIO; /* what was sent before isn't acknowledged */
        if (i % BATCH == BATCH - 1 || i == bench->n_served - 1)
            status = exchange(bench, NULL, 0);
    }
    bench->now += ROUND_TRIP;
    bench->spent = spent;
    return status;
}

/* The acknowledgement of two more segments from each of n peers. */
static int step_ack(struct bench *bench, uint32_t first, uint32_t n)
{
    if (first == 0) {
        if (!bench->held) {
            int status = send_flights(bench);
            if (status < 0)
                return status;
            bench->held = FLIGHT * MSS;
        }
        bench->held -= 2 * MSS;
    }
    int status = round_of(bench, first, n, TCP_ACK, 0, 0);
    bench->bytes += (uint64_t)n * 2 * MSS;
    return status < 0 ? status : (int)n;
}

/* Connections that are opened and closed.  Return: how many, or a status. */
static int step_connection(struct bench *bench, uint32_t first, uint32_t n)
{
    int status = open_some(bench, first, n);
    if (status >= 0)
        status = round_of(bench, first, n, TCP_ACK, 0, 0);
    if (status >= 0)
        status = round_of(bench, first, n, TCP_ACK | TCP_FIN, 0, 0);
    return status < 0 ? status : (int)n;
}

/* Whole transactions.  Return: how many, or a status. */
static int step_transaction(struct bench *bench, uint32_t first, uint32_t n)
{
    int status = open_some(bench, first, n);
    if (status >= 0)
        status = round_of(bench, first, n, TCP_ACK | TCP_PSH, 0, REQUEST);
    advance(bench, first, n, REQUEST);
    if (status >= 0)
        status = round_of(bench, first, n, TCP_ACK, 0, 0);
    if (status >= 0)
        status = round_of(bench, first, n, TCP_ACK | TCP_FIN, 0, 0);
    return status < 0 ? status : (int)n;
}

static int (*const steps[])(struct bench *, uint32_t, uint32_t) = {
    [AMS_BENCH_ACK] = step_ack,
    [AMS_BENCH_DATA] = step_data,
    [AMS_BENCH_SACK] = step_sack,
    [AMS_BENCH_TRANSACTION] = step_transaction,
    [AMS_BENCH_TRAIN] = step_train,
    [AMS_BENCH_CONNECTION] = step_connection,
};

/* ---- set-up ------------------------------------------------------------------------------ */

/* Do the kind's connections come and go? */
static bool passing(int kind)
{
    return kind == AMS_BENCH_TRANSACTION || kind == AMS_BENCH_CONNECTION;
}

/* Draws the order of the first n peers (Fisher and Yates' shuffle). */
static void order_shuffle(struct bench *bench, uint32_t n)
{
    struct ams_rng rng;

    rng_init(&rng, 1, 2);
    for (uint32_t i = n; i > 1; i--) {
        uint32_t other = rng_below(&rng, i), index = bench->order[i - 1];
        bench->order[i - 1] = bench->order[other];
        bench->order[other] = index;
    }
}

/* Makes the stack, with a listener as its first endpoint. */
static int bench_init(struct bench *bench, int kind, uint32_t connections, uint32_t idle)
{
    struct ams_endpoint local = {.ip = {[10] = 0xff, 0xff, 10, 1, 0, 1}, .port = SERVER_PORT, .family = AMS_IPV4};
    struct ams_ifaddr address = {.address = local, .prefix_len = 16};
    struct ams_stack_config config = {.seed = {1, 2}, .addresses = &address, .n_addresses = 1};
    struct stack_link link = {.mtu = 1500, .caps = AMS_CAP_CSUM_RX | AMS_CAP_CSUM_TX, .pool = &bench->pool,
                              .settle = pages_settle};
    int status = -AMS_ENOMEM;

    memcpy(config.mac, bench_mac, 6);
    config.flags = AMS_STACK_NO_DAD;
    config.now = bench->now = 1000000000;
    frame_pool_init(&bench->pool, POOL_FRAMES, false);
    bench->n_peers = connections + idle;
    bench->n_served = connections;
    bench->in_place = !passing(kind);
    bench->peers = mem_zalloc(bench->n_peers, sizeof(*bench->peers));
    bench->order = mem_zalloc(bench->n_peers, sizeof(*bench->order));
    bench->blob = mem_zalloc(1, BLOB);
    bench->response = mem_zalloc(1, FLIGHT * MSS);
    if (!bench->peers || !bench->order || !bench->blob || !bench->response)
        return status;
    for (uint32_t i = 0; i < bench->n_peers; i++)
        bench->order[i] = i;
    bench->stack = stack_new(&config, &link, bench->now, &status);
    if (!bench->stack)
        return status;
    int id = ams_tcp_listen(bench->stack, &local, 4096, 0);
    return id < 0 ? id : 0;
}

static void bench_fini(struct bench *bench)
{
    stack_free(bench->stack);
    mem_free(bench->response);
    mem_free(bench->blob);
    mem_free(bench->order);
    mem_free(bench->peers);
    frame_pool_fini(&bench->pool);
}

/* How often this thread had to make way for another. */
static long interruptions(void)
{
    struct rusage usage;

    AMS_ASSERT(getrusage(RUSAGE_THREAD, &usage) == 0);
    return usage.ru_nivcsw;
}

/* Opens the connections that stay, and draws the order.
 * @memory: becomes what they take
 * Return: 0 or a status. */
static int bench_open(struct bench *bench, int kind, uint64_t *memory)
{
    uint64_t before = ams_stack_memory(bench->stack);
    int status = open_from(bench, passing(kind) ? bench->n_served : 0);
    *memory = ams_stack_memory(bench->stack) - before;
    if (status < 0)
        return status;
    order_shuffle(bench, passing(kind) ? bench->n_served : bench->n_peers);
    bench->reply = kind == AMS_BENCH_TRANSACTION;
    bench->hang_up = kind == AMS_BENCH_CONNECTION;
    return 0;
}

/* Serves all peers in turn, once and then until `wanted` operations are done
 * without an interruption, or many more with one.  The first turn isn't
 * counted: memory is as it was left by opening the connections. */
static int bench_run(struct bench *bench, int kind, uint64_t wanted, struct ams_bench_result *result)
{
    uint32_t first = 0;
    bool counts = false;

    bench->spent = bench->bytes = 0;
    while (result->operations < wanted && (result->interrupted < TRIES * wanted || !result->operations)) {
        uint32_t n = ams_min_u32(BATCH, bench->n_served - first);
        uint64_t spent = bench->spent, bytes = bench->bytes;
        long before = interruptions();
        int done = steps[kind](bench, first, n);
        if (done < 0)
            return done;
        if (counts && interruptions() == before) {
            result->operations += (uint64_t)done;
        } else {
            result->interrupted += counts ? (uint64_t)done : 0;
            bench->spent = spent;
            bench->bytes = bytes;
        }
        first += n;
        if (first == bench->n_served) {
            first = 0;
            counts = true;
        }
    }
    result->nanoseconds = bench->spent;
    result->bytes = bench->bytes;
    return 0;
}

int ams_bench_engine(int kind, uint32_t connections, uint32_t idle, uint64_t operations,
                     struct ams_bench_result *result)
{
    memset(result, 0, sizeof(*result));
    if (kind < 0 || kind >= (int)AMS_ARRAY_SIZE(steps) || !connections || connections > 4 * PORTS ||
        idle > 4 * PORTS - connections)
        return -AMS_EINVAL;
    struct bench *bench = mem_zalloc(1, sizeof(*bench));
    if (!bench)
        return -AMS_ENOMEM;
    int status = bench_init(bench, kind, connections, idle);
    if (!status)
        status = bench_open(bench, kind, &result->memory);
    if (!status)
        status = bench_run(bench, kind, operations, result);
    result->endpoints = bench->stack ? (uint32_t)ams_stack_endpoints(bench->stack) : 0;
    bench_fini(bench);
    mem_free(bench);
    return status;
}
