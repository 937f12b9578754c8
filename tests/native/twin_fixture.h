/* SPDX-License-Identifier: BSD-2-Clause
 *
 * twin_fixture.h - two stacks that get the same segments, one in batches, the
 * other one by one: nothing but the time it takes may tell them apart.
 *
 * A twin has two stacks with the same configuration and seed, and peers whose
 * segments the test makes: twin_segment() puts one into the batch at hand,
 * twin_deliver() gives the batch to both stacks and compares them.  Compared
 * are all counters, the TCBs bit by bit (pointers apart), what the
 * applications read, and every byte that is sent.  What a failure means is up
 * to the test: TWIN_CHECK, defined before this file is included.
 */
#ifndef AMS_TESTS_TWIN_FIXTURE_H
#define AMS_TESTS_TWIN_FIXTURE_H

#include "packets.h"
#include "stack/tcp.h"
#include "stack/tcp_accecn.h"
#include "wire/checksum.h"

#define TWIN_PEERS 3
#define TWIN_BATCH 32
#define TWIN_MSS 1000u
#define TWIN_PORT 80

enum { TWIN_BATCHED, TWIN_SINGLY, TWINS };
enum { TWIN_V6 = 1, TWIN_TIMESTAMPS = 2, TWIN_SACK = 4, TWIN_WSCALE = 8, TWIN_ECN = 16, TWIN_ACCURATE = 32 };

/* One of the peers, and what it knows. */
struct twin_peer {
    uint32_t seq;             /* its next byte */
    uint32_t ack;             /* the stack's next byte, as seen from what came */
    uint32_t acked;           /* what the stack waits for */
    uint32_t tsval, tsecr;
    uint16_t window;
    uint16_t ace;             /* flags that its segments bear */
    int id;                   /* the connection's */
};

/* One frame of the batch. */
struct twin_frame {
    uint8_t data[PACKETS_MAX];
    uint32_t len;
    uint16_t flags;
    uint16_t gso_size;
};

struct twin {
    struct frame_pool pool[TWINS];
    struct ams_stack *stack[TWINS];
    uint32_t how;             /* TWIN_* */
    uint64_t now;
    struct twin_peer peers[TWIN_PEERS];
    struct twin_frame batch[TWIN_BATCH];
    uint32_t n_batch;
    int accepted;
};

/* What a segment is like; zero fields take what is usual. */
struct twin_segment {
    uint32_t payload;
    int32_t seq_off, ack_off, ts_off; /* added to what the peer would send */
    int32_t window_off;
    uint16_t flags;           /* 0: ACK */
    uint8_t tos;
    uint32_t tsecr_off;
    bool sack;                /* a block */
    bool no_timestamps;
    bool nops;                /* instead of timestamps: as many bytes */
    uint8_t protocol;         /* 0: TCP */
    uint16_t gso_size;        /* a super-frame */
    uint8_t from, to;         /* hosts, 0: 2 and 1 */
    bool other_mac;           /* to somebody else's */
    bool ip_options;          /* IPv4: NOPs */
    bool fragment;            /* IPv4: more of them to come */
    bool bad_sum, bad_ip_sum;
    bool verified;            /* as if the port had checked the checksum */
    uint32_t padding;         /* bytes behind the packet */
    uint32_t cut;             /* bytes that are missing at the end */
};

static inline uint8_t twin_pattern(uint32_t seq)
{
    return (uint8_t)(seq * 2654435761u >> 11);
}

/* ---- frames ---------------------------------------------------------------------- */

static inline void twin_options(const struct twin *twin, const struct twin_peer *peer, const struct twin_segment *what,
                                struct tcp_repr *tcp)
{
    if (tcp->flags & TCP_SYN) {
        tcp->mss = TWIN_MSS;
        tcp->sack_permitted = twin->how & TWIN_SACK;
        tcp->has_wscale = twin->how & TWIN_WSCALE;
        tcp->wscale = 3;
    }
    tcp->has_timestamps = twin->how & TWIN_TIMESTAMPS && !what->no_timestamps;
    tcp->tsval = peer->tsval + (uint32_t)what->ts_off;
    tcp->tsecr = peer->tsecr + what->tsecr_off;
    if (what->sack) {
        tcp->n_sack = 1;
        tcp->sack[0] = (struct tcp_sack_block){peer->ack - 20, peer->ack - 10};
    }
}

/* Puts Ethernet and IP in front of a segment that lies behind room for them, and sets its checksum. */
static inline uint32_t twin_network(const struct twin *twin, const struct twin_segment *what, uint8_t *data,
                                    uint32_t l4_len)
{
    bool v6 = twin->how & TWIN_V6;
    struct eth_repr eth = {.type = v6 ? ETHERTYPE_IPV6 : ETHERTYPE_IPV4};
    uint8_t src[16], dst[16], protocol = what->protocol ? what->protocol : PROTO_TCP;
    uint32_t l4 = ETH_HEADER + (v6 ? IP6_HEADER : IP4_HEADER);
    memcpy(eth.dst, packets_us_mac, 6);
    memcpy(eth.src, packets_peer_mac, 6);
    eth.dst[5] ^= what->other_mac;
    eth_emit(data, &eth);
    packets_ip(src, v6, what->from ? what->from : 2);
    packets_ip(dst, v6, what->to ? what->to : 1);
    if (v6) {
        struct ipv6_repr ip = {.payload_len = (uint16_t)l4_len, .next = protocol, .hop_limit = 64, .traffic_class = what->tos};
        memcpy(ip.src, src, 16);
        memcpy(ip.dst, dst, 16);
        ipv6_emit(data + ETH_HEADER, &ip);
    } else {
        struct ipv4_repr ip = {.ttl = 64, .protocol = protocol, .total_len = (uint16_t)(IP4_HEADER + l4_len),
                               .tos = what->tos, .dont_fragment = true, .more_fragments = what->fragment};
        memcpy(ip.src, src + 12, 4);
        memcpy(ip.dst, dst + 12, 4);
        ipv4_emit(data + ETH_HEADER, &ip);
    }
    packets_checksum(data, l4 + l4_len, v6, PROTO_TCP, TCP_CSUM_OFFSET);
    if (!v6 && what->ip_options) { /* four NOPs */
        memmove(data + l4 + 4, data + l4, l4_len);
        memset(data + l4, 1, 4);
        data[ETH_HEADER] = 0x46;
        store_be16(data + ETH_HEADER + 2, IP4_HEADER + 4 + l4_len);
        ipv4_update_checksum(data + ETH_HEADER, IP4_HEADER + 4);
        l4 += 4;
    }
    return l4 + l4_len;
}

/* Puts a segment of a peer into the batch.  The peer goes on behind what is
 * in its place: its next one begins there. */
static inline void twin_segment(struct twin *twin, int k, struct twin_segment what)
{
    struct twin_peer *peer = &twin->peers[k];
    TWIN_CHECK(twin->n_batch < TWIN_BATCH);
    struct twin_frame *frame = &twin->batch[twin->n_batch++];
    uint32_t l4 = ETH_HEADER + (twin->how & TWIN_V6 ? IP6_HEADER : IP4_HEADER);
    struct tcp_repr tcp = {
        .src_port = (uint16_t)(5000 + k),
        .dst_port = TWIN_PORT,
        .seq = peer->seq + (uint32_t)what.seq_off,
        .ack = peer->ack + (uint32_t)what.ack_off,
        .window = (uint16_t)(peer->window + what.window_off),
        .flags = what.flags ? what.flags : (uint16_t)(TCP_ACK | peer->ace),
    };
    memset(frame, 0, sizeof(*frame));
    twin_options(twin, peer, &what, &tcp);
    uint32_t header = tcp_emit(&tcp, frame->data + l4);
    if (what.nops)
        memset(frame->data + l4 + TCP_HEADER, 1, header - TCP_HEADER);
    for (uint32_t i = 0; i < what.payload; i++)
        frame->data[l4 + header + i] = twin_pattern(tcp.seq + i);
    frame->len = twin_network(twin, &what, frame->data, header + what.payload);
    frame->flags = (what.verified ? FRAME_CSUM_OK : 0) | (what.gso_size ? FRAME_GSO : 0);
    frame->gso_size = what.gso_size;
    if (what.bad_sum)
        frame->data[l4 + TCP_CSUM_OFFSET] ^= 0x55;
    if (what.bad_ip_sum)
        frame->data[ETH_HEADER + 8] ^= 0x55;
    frame->len += what.padding;
    frame->len -= ams_min_u32(what.cut, frame->len);
    if (!what.seq_off)
        peer->seq += what.payload + !!(tcp.flags & TCP_SYN) + !!(tcp.flags & TCP_FIN);
}

/* ---- what the stacks do ------------------------------------------------------------ */

/* Clears what can't be the same in two stacks. */
static inline void twin_strip(struct tcp_conn *conn)
{
    conn->sock.ready_next = conn->sock.ready_prev = NULL;
    conn->flow.hash_next = NULL;
    conn->path.neighbor = NULL;
    conn->out_next = conn->out_prev = NULL;
    conn->snd_head = conn->snd_tail = conn->snd_cursor = NULL;
    conn->rcv_head = conn->rcv_tail = NULL;
    conn->runs = NULL;
    conn->recs = NULL;
    conn->timer.next = conn->timer.prev = NULL;
    conn->timer.ahead = 0; /* how far apart connections lie */
    conn->listener = NULL;
    conn->child_next = conn->child_prev = NULL;
    conn->ext = NULL;
}

/* The receive queues: the same pieces, with the same bytes. */
static inline void twin_compare_queues(const struct tcp_conn *a, const struct tcp_conn *b)
{
    const struct ams_frame *x = a->rcv_head, *y = b->rcv_head;
    for (; x && y; x = x->next, y = y->next) {
        TWIN_CHECK(x->len == y->len);
        TWIN_CHECK(memcmp(x->data, y->data, x->len) == 0);
        TWIN_CHECK(frame_tailroom(x) == frame_tailroom(y));
    }
    TWIN_CHECK(!x && !y);
}

static inline void twin_compare_conns(const struct tcp_conn *a, const struct tcp_conn *b)
{
    struct tcp_conn x, y;
    TWIN_CHECK(!a == !b);
    if (!a)
        return;
    memcpy(&x, a, sizeof(x));
    memcpy(&y, b, sizeof(y));
    twin_strip(&x);
    twin_strip(&y);
    TWIN_CHECK(memcmp(&x, &y, sizeof(x)) == 0);
    twin_compare_queues(a, b);
    if (!(a->ecn & ECN_ACCURATE))
        return;
    TWIN_CHECK(memcmp(tcp_accecn_of(a), tcp_accecn_of(b), sizeof(struct tcp_accecn)) == 0);
}

/* Everything that there is. */
static inline void twin_compare(struct twin *twin)
{
    struct ams_stack *a = twin->stack[TWIN_BATCHED], *b = twin->stack[TWIN_SINGLY];
    struct stack_counters x = a->counters, y = b->counters;
    TWIN_CHECK(y.tcp_rx_merged == 0);
    x.tcp_rx_merged = 0;
    TWIN_CHECK(memcmp(&x, &y, sizeof(x)) == 0);
    TWIN_CHECK(twin->pool[TWIN_BATCHED].in_use == twin->pool[TWIN_SINGLY].in_use);
    TWIN_CHECK(stack_deadline(a) == stack_deadline(b));
    for (int id = 0; id < 2 * TWIN_PEERS + 1; id++)
        twin_compare_conns((struct tcp_conn *)sock_find(a, id, SOCK_TCP), (struct tcp_conn *)sock_find(b, id, SOCK_TCP));
    for (int i = 0; i < TWINS; i++)
        TWIN_CHECK(ams_stack_check(twin->stack[i]) == NULL);
}

/* Learns from a segment that the stack has sent. */
static inline void twin_observe(struct twin *twin, const uint8_t *data, uint32_t len)
{
    uint32_t l4 = ETH_HEADER + (twin->how & TWIN_V6 ? IP6_HEADER : IP4_HEADER);
    struct tcp_repr tcp;
    if (len < l4 || load_be16(data + 12) == ETHERTYPE_ARP || data[ETH_HEADER + (twin->how & TWIN_V6 ? 6 : 9)] != PROTO_TCP)
        return;
    TWIN_CHECK(tcp_parse(data + l4, len - l4, &tcp));
    uint32_t k = tcp.dst_port - 5000u;
    TWIN_CHECK(k < TWIN_PEERS);
    uint32_t end = tcp.seq + len - l4 - tcp.header_len + !!(tcp.flags & TCP_SYN) + !!(tcp.flags & TCP_FIN);
    if (tcp.flags & TCP_SYN || seq_gt(end, twin->peers[k].ack))
        twin->peers[k].ack = end;
    if (tcp.flags & TCP_ACK)
        twin->peers[k].acked = tcp.ack;
    if (tcp.has_timestamps)
        twin->peers[k].tsecr = tcp.tsval;
}

/* The neighbour's answer, so that the stacks can send. */
static inline void twin_answer(struct twin *twin, const uint8_t *question, uint32_t len)
{
    struct twin_frame *frame = &twin->batch[0];
    if (load_be16(question + 12) == ETHERTYPE_ARP) {
        struct arp_repr arp = {.operation = ARP_REPLY, .sender_ip = {10, 0, 0, 2}, .target_ip = {10, 0, 0, 1}};
        memcpy(arp.sender_mac, packets_peer_mac, 6);
        frame->len = packets_arp(frame->data, packets_peer_mac, &arp);
    } else if (len > ETH_HEADER + IP6_HEADER + 24 && question[ETH_HEADER + 6] == PROTO_ICMPV6 &&
               question[ETH_HEADER + IP6_HEADER] == ICMP6_NEIGHBOR_SOLICIT) {
        struct ndp_repr ndp = {.type = ICMP6_NEIGHBOR_ADVERT, .flags = NDP_SOLICITED | NDP_OVERRIDE, .has_lladdr = true};
        uint8_t message[NDP_LENGTH_LLADDR];
        packets_ip(ndp.target, true, 2);
        memcpy(ndp.lladdr, packets_peer_mac, 6);
        uint32_t length = ndp_emit(message, &ndp);
        struct packets_frame what = {.v6 = true, .protocol = PROTO_ICMPV6, .hop_limit = 255,
                                     .payload = (uint16_t)(length - ICMP_HEADER)};
        frame->len = packets_build(frame->data, &what);
        memcpy(frame->data + frame->len - length, message, length);
        packets_checksum(frame->data, frame->len, true, PROTO_ICMPV6, ICMP_CHECKSUM_AT);
    } else {
        return;
    }
    memcpy(frame->data, packets_us_mac, 6);
    frame->flags = 0;
    twin->n_batch = 1;
}

/* Lets both send what they want to, and compares it.  A question for a
 * neighbour leaves its answer in the batch. */
static inline void twin_output(struct twin *twin)
{
    static uint8_t heads[TWINS][8][TCP_HEAD_SIZE], bytes[TWINS][65536 + 200];
    struct ams_tx tx[TWINS][8];
    int n[TWINS];
    do {
        memset(tx, 0, sizeof(tx));
        for (int i = 0; i < TWINS; i++) {
            for (int j = 0; j < 8; j++)
                tx[i][j].head = heads[i][j] + FRAME_HEADROOM;
            n[i] = stack_output(twin->stack[i], tx[i], 8, twin->now);
        }
        TWIN_CHECK(n[0] == n[1]);
        for (int j = 0; j < n[0]; j++) {
            TWIN_CHECK(tx[0][j].total == tx[1][j].total);
            for (int i = 0; i < TWINS; i++)
                tx_gather(&tx[i][j], bytes[i]);
            TWIN_CHECK(memcmp(bytes[0], bytes[1], tx[0][j].total) == 0);
            twin_observe(twin, bytes[0], tx[0][j].total);
            twin_answer(twin, bytes[0], tx[0][j].total);
        }
        for (int i = 0; i < TWINS; i++)
            stack_output_done(twin->stack[i], tx[i], n[i]);
    } while (n[0] == 8);
}

/* Takes both applications' events.  They leave all data in the queues, but
 * for what comes before they have said so. */
static inline void twin_events(struct twin *twin)
{
    static char blob[TWINS][1 << 16];
    int32_t events[TWINS][16 * AMS_EVENT_WORDS];
    int n[TWINS];
    do {
        for (int i = 0; i < TWINS; i++)
            n[i] = stack_events(twin->stack[i], events[i], 16, blob[i], sizeof(blob[i]));
        TWIN_CHECK(n[0] == n[1]);
        if (n[0] > 0)
            TWIN_CHECK(memcmp(events[0], events[1], (size_t)n[0] * AMS_EVENT_WORDS * sizeof(int32_t)) == 0);
        for (int e = 0; e < n[0]; e++) {
            const int32_t *event = events[0] + e * AMS_EVENT_WORDS;
            if (!(event[1] & AMS_EV_ACCEPTED))
                continue;
            for (int i = 0; i < TWINS; i++)
                ams_tcp_set_reading(twin->stack[i], event[0], AMS_READ_EVENT);
            struct tcp_conn *conn = (struct tcp_conn *)sock_find(twin->stack[0], event[0], SOCK_TCP);
            if (conn)
                twin->peers[conn->flow.remote_port - 5000].id = event[0];
            twin->accepted++;
        }
    } while (n[0] > 0);
}

/* Both applications read up to `most` bytes.  Return: how many. */
static inline uint32_t twin_read(struct twin *twin, int k, uint32_t most)
{
    static char bytes[TWINS][1 << 16];
    int n[TWINS];
    most = ams_min_u32(most, sizeof(bytes[0]));
    for (int i = 0; i < TWINS; i++)
        n[i] = ams_tcp_recv(twin->stack[i], twin->peers[k].id, bytes[i], most);
    TWIN_CHECK(n[0] == n[1]);
    if (n[0] > 0)
        TWIN_CHECK(memcmp(bytes[0], bytes[1], (size_t)n[0]) == 0);
    return n[0] > 0 ? (uint32_t)n[0] : 0;
}

/* Gives the batch to both stacks, as a whole and one by one, and compares
 * them.  What they would like to send stays with them. */
static inline void twin_deliver(struct twin *twin)
{
    struct ams_frame *frames[TWINS][TWIN_BATCH];
    int n[TWINS] = {0};
    for (int i = 0; i < TWINS; i++)
        for (uint32_t j = 0; j < twin->n_batch; j++) {
            struct ams_frame *frame = frame_new(&twin->pool[i], FRAME_CLASS_SMALL);
            if (!frame)
                break; /* lost, as a port loses it */
            memcpy(frame->data, twin->batch[j].data, twin->batch[j].len);
            frame->len = twin->batch[j].len;
            frame->flags = twin->batch[j].flags;
            frame->gso_size = twin->batch[j].gso_size;
            frames[i][n[i]++] = frame;
        }
    TWIN_CHECK(n[0] == n[1]);
    stack_input(twin->stack[TWIN_BATCHED], frames[TWIN_BATCHED], n[TWIN_BATCHED], twin->now);
    for (int j = 0; j < n[TWIN_SINGLY]; j++)
        stack_input(twin->stack[TWIN_SINGLY], &frames[TWIN_SINGLY][j], 1, twin->now);
    twin->n_batch = 0;
    twin_compare(twin);
}

/* Delivers, then lets the applications hear of it and the stacks answer. */
static inline void twin_exchange(struct twin *twin)
{
    do {
        if (twin->n_batch)
            twin_deliver(twin);
        twin_events(twin);
        twin_output(twin);
        twin_compare(twin);
    } while (twin->n_batch);
}

/* ---- life cycle ------------------------------------------------------------------------ */

/* The flags of the peer's SYN. */
static inline uint16_t twin_syn(const struct twin *twin)
{
    if (twin->how & TWIN_ACCURATE)
        return TCP_SYN | TCP_AE | TCP_CWR | TCP_ECE;
    return twin->how & TWIN_ECN ? TCP_SYN | TCP_CWR | TCP_ECE : TCP_SYN;
}

/* Makes both stacks, with a connection from each of the peers.
 * @frames: limit of the pools
 * @rcvbuf: 0: the default */
static inline void twin_init(struct twin *twin, uint32_t how, uint32_t frames, uint32_t rcvbuf)
{
    struct ams_ifaddr addresses[2] = {{packets_endpoint(false, 1, 0), 24}, {packets_endpoint(true, 1, 0), 64}};
    struct ams_stack_config config = {
        .seed = {5, how}, .addresses = addresses, .n_addresses = 2, .flags = AMS_STACK_NO_DAD, .rcvbuf = rcvbuf,
        .ecn = how & TWIN_ACCURATE ? AMS_ECN_ACCURATE_ACCEPT : AMS_ECN_ACCEPT,
    };
    memset(twin, 0, sizeof(*twin));
    memcpy(config.mac, packets_us_mac, 6);
    twin->how = how;
    twin->now = 1000 * AMS_NS_PER_S;
    for (int i = 0; i < TWINS; i++) {
        int status;
        frame_pool_init(&twin->pool[i], frames, false);
        struct stack_link link = {.mtu = 1500, .pool = &twin->pool[i]};
        twin->stack[i] = stack_new(&config, &link, twin->now, &status);
        TWIN_CHECK(twin->stack[i]);
        struct ams_endpoint any = packets_wildcard(how & TWIN_V6, TWIN_PORT);
        TWIN_CHECK(ams_tcp_listen(twin->stack[i], &any, 16, AMS_LISTEN_V6ONLY) == 0);
    }
    for (int k = 0; k < TWIN_PEERS; k++) {
        struct twin_peer *peer = &twin->peers[k];
        *peer = (struct twin_peer){.seq = 0u - 3000u * (uint32_t)k - 5000u, .tsval = 0u - 10u, .window = 60000, .id = -1};
        twin_segment(twin, k, (struct twin_segment){.flags = twin_syn(twin)});
        twin_exchange(twin);
        twin_segment(twin, k, (struct twin_segment){.flags = how & TWIN_ACCURATE ? TCP_ACK | TCP_CWR : TCP_ACK});
        twin_exchange(twin);
        if (how & TWIN_ACCURATE)
            peer->ace = TCP_AE | TCP_ECE; /* five (RFC 9768 section 3.2.1) */
    }
    TWIN_CHECK(twin->accepted == TWIN_PEERS);
}

static inline void twin_fini(struct twin *twin)
{
    for (int i = 0; i < TWINS; i++) {
        stack_free(twin->stack[i]);
        TWIN_CHECK(twin->pool[i].in_use == 0);
        frame_pool_fini(&twin->pool[i]);
    }
}

/* Segments that were taken along with the one before them. */
static inline uint64_t twin_merged(const struct twin *twin)
{
    return twin->stack[TWIN_BATCHED]->counters.tcp_rx_merged;
}

/* ---- a conversation that somebody else decides on --------------------------------------- */

/* Puts one more segment into the batch; mostly the next one. */
static inline void twin_random_segment(struct twin *twin, uint32_t (*choose)(void *, uint32_t), void *arg)
{
    static const uint16_t odd_flags[] = {TCP_ACK | TCP_ECE, TCP_ACK | TCP_CWR, TCP_ACK | TCP_URG, TCP_ACK | TCP_AE,
                                         TCP_PSH, TCP_ACK | TCP_SYN, TCP_ACK | TCP_FIN, TCP_ACK | TCP_RST};
    struct twin_segment what = {.payload = TWIN_MSS, .tos = 2, .verified = choose(arg, 2)};
    int k = choose(arg, 8) ? 0 : (int)choose(arg, TWIN_PEERS);
    struct twin_peer *peer = &twin->peers[k];
    switch (choose(arg, 80)) {
    case 0: what.payload = 1 + choose(arg, 1400); break;
    case 1: what.payload = 0; break;
    case 2: what.payload = 1 + choose(arg, 60); what.padding = choose(arg, 8); break;
    case 3: what.flags = (uint16_t)(TCP_ACK | TCP_PSH | peer->ace); break;
    case 4: what.flags = odd_flags[choose(arg, choose(arg, 64) ? 5 : 8)]; break;
    case 5: what.seq_off = (int32_t)choose(arg, 6) * 500 - 1000; break;
    case 6: peer->seq += choose(arg, 3) * 400; break;
    case 7: peer->seq -= choose(arg, 4) * 600; break;
    case 8: what.ack_off = (int32_t)choose(arg, 3) - 1; break;
    case 9: what.window_off = (int32_t)choose(arg, 5) * 100 - 200; break;
    case 10: peer->window = (uint16_t)(choose(arg, 4) * 20000); break;
    case 11: peer->tsval += choose(arg, 4); break;
    case 12: what.ts_off = (int32_t)choose(arg, 4) - 2; break;
    case 13: what.tsecr_off = 0u - choose(arg, 3); break;
    case 14: what.tos = (uint8_t)choose(arg, 4); break;
    case 15: what.sack = true; break;
    case 16: what.no_timestamps = choose(arg, 2); what.nops = !what.no_timestamps; break;
    case 17: what.ip_options = true; break;
    case 18: what.bad_sum = choose(arg, 2); what.bad_ip_sum = !what.bad_sum; break;
    case 19: what.cut = choose(arg, 3); what.fragment = !choose(arg, 4); break;
    case 20: what.gso_size = TWIN_MSS / 2; break;
    case 21: peer->ace ^= twin->how & TWIN_ACCURATE ? TCP_ECE : 0; break;
    default: break;
    }
    twin_segment(twin, k, what);
}

/* One step of it: a batch, and perhaps what the applications do meanwhile. */
static inline void twin_random_step(struct twin *twin, uint32_t (*choose)(void *, uint32_t), void *arg)
{
    static const char bytes[3000];
    int k = (int)choose(arg, TWIN_PEERS), id = twin->peers[k].id;
    uint32_t size = 1 + choose(arg, TWIN_BATCH);
    for (int i = 0; i < TWIN_PEERS; i++)
        if (choose(arg, 4)) /* it sends again what wasn't accepted */
            twin->peers[i].seq = twin->peers[i].acked;
    for (uint32_t i = 0; i < size; i++)
        twin_random_segment(twin, choose, arg);
    if (choose(arg, 4))
        twin_exchange(twin);
    else
        twin_deliver(twin); /* nothing is sent yet: the next batch finds ACKs owed */
    switch (choose(arg, 16)) {
    case 0: case 1: case 2: case 3: case 12: case 13: case 14: twin_read(twin, 0, 65536); break;
    case 4: case 5: twin_read(twin, k, 1 + choose(arg, 5000)); break;
    case 6: case 7: case 8: twin->now += (uint64_t)choose(arg, 60) * AMS_NS_PER_MS; break;
    case 9:
        for (int i = 0; i < TWINS; i++)
            ams_tcp_send(twin->stack[i], id, bytes, sizeof(bytes));
        break;
    case 10:
        for (int i = 0; i < TWINS; i++)
            if (!choose(arg, 1))
                ams_tcp_setopt(twin->stack[i], id, AMS_OPT_QUICKACK, k & 1);
        break;
    case 11:
        if (choose(arg, 4))
            break;
        for (int i = 0; i < TWINS; i++)
            ams_tcp_shutdown(twin->stack[i], id);
        break;
    default: break;
    }
    if (choose(arg, 4))
        twin_exchange(twin);
}

#endif
