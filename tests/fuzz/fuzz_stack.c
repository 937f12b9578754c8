/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Fuzzes the whole engine: frames, time and the application's calls.
 *
 * The input is a list of records: what to do, and arguments.  Frames are
 * either the fuzzer's own bytes behind a sound Ethernet header, or built by
 * the emitters with a right checksum and then altered; TCP segments take
 * their sequence numbers relative to what the stack said last, so that
 * handshakes succeed and connections reach every state.  The application
 * listens, connects, sends, reads and closes as records tell it.
 *
 * What is checked beyond the sanitizers: time always advances the timers
 * (no deadline in the past stays), descriptors add up, no connection
 * contradicts itself (ams_stack_check), bytes keep their place, and when the
 * stack is freed no frame is left.  Bytes have their place by content: each
 * payload byte, whichever way it goes, is a function of its sequence number,
 * so that a byte that is sent or queued in the wrong place is seen.
 */
#include <stdio.h>

#include "fuzz.h"
#include "packets.h"
#include "router_packets.h"
#include "stack/router.h"
#include "stack/tcp.h"
#include "wire/checksum.h"

#define MAX_RECORDS 400
#define BATCH 16
#define IDS 16
#define LEARNING (AMS_STACK_AUTOCONF | AMS_STACK_REDIRECTS4 | AMS_STACK_REDIRECTS6)

enum action { RAW, DATAGRAM, SEGMENT, CONTROL, TIME, CONNECT, SEND, READ, CLOSE, OPTION, UDP, ACTIONS };

struct fuzz {
    struct frame_pool pool;
    struct ams_stack *stack;
    uint64_t now;
    struct fuzz_input input;
    uint32_t their_next[2];   /* what the stack sent last, per family: its next sequence number */
    uint32_t their_ack[2];    /* and what it expects */
    uint16_t their_port[2], our_port[2];
    bool answers;             /* the peer answers ARP and neighbour solicitations */
    bool asked[2];
    int tcp[IDS];             /* connections that we know of */
    int udp[2];               /* per family */
    int listeners[2];
    uint8_t cookie[16];       /* Fast Open's, as the stack gave it last */
    uint8_t cookie_len;
};

/* The payload byte at a sequence number. */
static uint8_t pattern(uint32_t seq)
{
    return (uint8_t)(seq * 167 + 13);
}

/* Is this payload what it must be, from seq on? */
static bool in_place(const uint8_t *data, uint32_t len, uint32_t seq)
{
    for (uint32_t i = 0; i < len; i++)
        if (data[i] != pattern(seq + i))
            return false;
    return true;
}

/* ---- frames ------------------------------------------------------------------------ */

static void inject(struct fuzz *fuzz, const uint8_t *bytes, uint32_t len, uint16_t flags)
{
    struct ams_frame *frame = frame_new(&fuzz->pool, len > FRAME_SMALL - FRAME_HEADROOM ? FRAME_CLASS_LARGE
                                                                                        : FRAME_CLASS_SMALL);
    FUZZ_ASSERT(frame != NULL);
    memcpy(frame->data, bytes, len);
    frame->len = len;
    frame->flags = flags;
    stack_input(fuzz->stack, &frame, 1, fuzz->now);
}

static void do_raw(struct fuzz *fuzz)
{
    static const uint16_t types[] = {ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_ARP, 0x8100};
    uint8_t frame[1600], how = take8(&fuzz->input);
    struct eth_repr eth = {.type = types[how & 3]};
    memcpy(eth.src, packets_peer_mac, 6);
    memcpy(eth.dst, packets_us_mac, 6);
    if (how & 4)
        memset(eth.dst, 0xff, 6);
    eth_emit(frame, &eth);
    uint32_t len = ETH_HEADER + take_bytes(&fuzz->input, frame + ETH_HEADER, take8(&fuzz->input) * (how & 8 ? 6u : 1u));
    if ((how & 3) == 0 && how & 16 && len >= ETH_HEADER + 60)
        ipv4_update_checksum(frame + ETH_HEADER, (frame[ETH_HEADER] & 0xfu) * 4);
    inject(fuzz, frame, len, how & 32 ? FRAME_CSUM_OK : 0);
}

/* UDP, whole or in fragments. */
static void do_datagram(struct fuzz *fuzz)
{
    uint8_t frame[PACKETS_MAX], body[256], how = take8(&fuzz->input);
    struct packets_frame what = {.v6 = how & 1, .protocol = PROTO_UDP, .sport = how & 2 ? 9 : 53, .dport = how & 4 ? 9 : 10,
                                 .body = body};
    if (how & 8) {
        what.frag_id = take8(&fuzz->input) & 3;
        what.frag_offset = (uint16_t)((take16(&fuzz->input) % 8192) * 8);
        what.more_fragments = how & 16;
    }
    what.payload = (uint16_t)take_bytes(&fuzz->input, body, take8(&fuzz->input));
    uint32_t len = packets_build(frame, &what);
    if (!(how & 8))
        packets_checksum(frame, len, what.v6, PROTO_UDP, UDP_CHECKSUM_AT);
    inject(fuzz, frame, len, how & 32 ? FRAME_CSUM_OK : 0);
}

static uint8_t take_flags(struct fuzz *fuzz)
{
    static const uint8_t usual[] = {TCP_SYN, TCP_ACK, TCP_ACK | TCP_PSH, TCP_ACK | TCP_FIN, TCP_SYN | TCP_ACK, TCP_RST,
                                    TCP_RST | TCP_ACK};
    uint8_t choice = take8(&fuzz->input);
    return choice < sizeof(usual) ? usual[choice] : choice;
}

/* TCP, relative to what the stack sent last. */
static void do_segment(struct fuzz *fuzz)
{
    uint8_t frame[PACKETS_MAX] = {0}, how = take8(&fuzz->input), options = take8(&fuzz->input);
    bool v6 = how & 1;
    uint32_t l4 = ETH_HEADER + (v6 ? IP6_HEADER : IP4_HEADER);
    struct tcp_repr tcp = {
        .src_port = how & 2 && fuzz->our_port[v6] ? fuzz->our_port[v6] : (uint16_t)(5000 + (how >> 6)),
        .dst_port = how & 2 && fuzz->their_port[v6] ? fuzz->their_port[v6] : 80,
        .seq = fuzz->their_ack[v6] + (how & 4 ? (uint32_t)(int32_t)(int16_t)take16(&fuzz->input) : 0),
        .ack = fuzz->their_next[v6] + (how & 8 ? (uint32_t)(int32_t)(int16_t)take16(&fuzz->input) : 0),
        .flags = take_flags(fuzz),
        .window = how & 16 ? take16(&fuzz->input) : 65535,
        .mss = options & 1 ? take16(&fuzz->input) : 0,
        .has_wscale = options & 2,
        .wscale = options & 2 ? take8(&fuzz->input) : 0,
        .sack_permitted = options & 4,
        .has_timestamps = options & 8,
        .tsval = (uint32_t)(fuzz->now / AMS_NS_PER_MS) + (options & 16 ? take16(&fuzz->input) : 0),
    };
    for (tcp.n_sack = 0; tcp.n_sack < (options >> 5 & 3) && tcp.n_sack < 3; tcp.n_sack++) {
        tcp.sack[tcp.n_sack].start = fuzz->their_next[v6] - take16(&fuzz->input);
        tcp.sack[tcp.n_sack].end = tcp.sack[tcp.n_sack].start + take16(&fuzz->input);
    }
    if (tcp.flags & TCP_SYN && options & 64) { /* Fast Open: asks for a cookie, or has it */
        tcp.n_sack = 0;
        tcp.fastopen_kind = TCP_OPT_FASTOPEN;
        tcp.fastopen_len = how & 32 ? 0 : fuzz->cookie_len;
        memcpy(tcp.fastopen, fuzz->cookie, tcp.fastopen_len);
    }
    uint32_t header = tcp_header_size(&tcp);
    if (header > TCP_HEADER + TCP_OPTIONS_MAX)
        return;
    struct packets_frame what = {.v6 = v6, .protocol = 255, .payload = (uint16_t)header};
    what.payload = (uint16_t)(header + take8(&fuzz->input) * (how & 32 ? 5u : 1u));
    uint32_t len = packets_build(frame, &what);
    frame[ETH_HEADER + (v6 ? 6 : 9)] = PROTO_TCP;
    if (!v6)
        ipv4_update_checksum(frame + ETH_HEADER, IP4_HEADER);
    tcp_emit(&tcp, frame + l4);
    if (options & 128)
        take_bytes(&fuzz->input, frame + l4 + TCP_HEADER, header - TCP_HEADER); /* the fuzzer's own options */
    for (uint32_t i = l4 + header; i < len; i++)
        frame[i] = pattern(tcp.seq + !!(tcp.flags & TCP_SYN) + i - l4 - header);
    packets_checksum(frame, len, v6, PROTO_TCP, TCP_CSUM_OFFSET);
    inject(fuzz, frame, len, 0);
}

/* What routers say: advertisements with one or two prefixes, redirects, and the fuzzer's own bytes as options. */
static void do_router(struct fuzz *fuzz)
{
    static const uint8_t all_nodes[16] = {0xff, 0x02, [15] = 1};
    uint8_t frame[PACKETS_MAX], message[512], src[16], target[16], how = take8(&fuzz->input);
    struct ams_endpoint ours = packets_endpoint(true, 1, 0), far = packets_endpoint(true, 2, 0);
    uint32_t len;
    router_packets_ip(src, how & 7);
    if (how & 8) {
        far.ip[0] = 0x20;
        far.ip[1] = 1;
        router_packets_ip(target, take8(&fuzz->input) & 7);
        len = router_packets_redirect(message, how & 16 ? far.ip : target, far.ip);
    } else {
        len = router_packets_advert(message, take8(&fuzz->input), how & 0x18, take16(&fuzz->input));
        for (int i = 0; i < (how & 16 ? 2 : 1); i++) {
            uint8_t flags = take8(&fuzz->input);
            len += router_packets_prefix(message + len, flags & 31, flags & 32 ? 64 : take8(&fuzz->input), flags,
                                         take16(&fuzz->input), take8(&fuzz->input));
        }
    }
    if (how & 32)
        len += router_packets_mac(message + len, how & 8 ? 2 : 1, packets_peer_mac);
    if (how & 64)
        len += (uint32_t)take_bytes(&fuzz->input, message + len, take8(&fuzz->input));
    inject(fuzz, frame, router_packets_frame(frame, src, how & 128 ? ours.ip : all_nodes, message, len), 0);
}

/* ARP, neighbour discovery, echo, and errors that quote. */
static void do_control(struct fuzz *fuzz)
{
    uint8_t frame[PACKETS_MAX], body[256], how = take8(&fuzz->input);
    if (how & 1) {
        struct arp_repr arp = {.operation = how & 2 ? ARP_REPLY : ARP_REQUEST, .sender_ip = {10, 0, 0, take8(&fuzz->input)},
                               .target_ip = {10, 0, 0, take8(&fuzz->input)}};
        memcpy(arp.sender_mac, packets_peer_mac, 6);
        uint32_t len = packets_arp(frame, packets_peer_mac, &arp);
        if (how & 4)
            memcpy(frame, packets_us_mac, 6);
        inject(fuzz, frame, len, 0);
        return;
    }
    bool v6 = how & 2;
    if (how >= 0xf0) {
        do_router(fuzz);
        return;
    }
    uint8_t protocol = v6 ? PROTO_ICMPV6 : PROTO_ICMP;
    struct packets_frame what = {.v6 = v6, .protocol = protocol, .icmp_type = take8(&fuzz->input), .icmp_code = take8(&fuzz->input),
                                 .hop_limit = how & 4 ? 255 : 64, .body = body};
    uint32_t rest = take16(&fuzz->input);
    if (how & 8) { /* quote a segment or datagram of ours */
        struct packets_frame quoted = {.v6 = v6, .outgoing = true, .protocol = how & 16 ? PROTO_UDP : PROTO_TCP,
                                       .sport = how & 16 ? 9 : fuzz->their_port[v6],
                                       .dport = how & 16 ? 53 : fuzz->our_port[v6], .payload = 8};
        what.payload = (uint16_t)packets_build_ip(body, &quoted);
        if (!(how & 16))
            store_be32(body + (v6 ? IP6_HEADER : IP4_HEADER) + 4, fuzz->their_next[v6] - take8(&fuzz->input));
    } else {
        what.payload = (uint16_t)take_bytes(&fuzz->input, body, take8(&fuzz->input));
    }
    uint32_t len = packets_build(frame, &what);
    store_be32(frame + ETH_HEADER + (v6 ? IP6_HEADER : IP4_HEADER) + 4, how & 32 ? rest << 16 : rest);
    packets_checksum(frame, len, v6, protocol, ICMP_CHECKSUM_AT);
    inject(fuzz, frame, len, 0);
}

/* The peer's answer to the stack's solicitation. */
static void answer(struct fuzz *fuzz, bool v6)
{
    uint8_t frame[PACKETS_MAX], message[NDP_LENGTH_LLADDR];
    if (!v6) {
        struct arp_repr arp = {.operation = ARP_REPLY, .sender_ip = {10, 0, 0, 2}, .target_ip = {10, 0, 0, 1}};
        memcpy(arp.sender_mac, packets_peer_mac, 6);
        uint32_t len = packets_arp(frame, packets_peer_mac, &arp);
        memcpy(frame, packets_us_mac, 6);
        inject(fuzz, frame, len, 0);
        return;
    }
    struct ndp_repr ndp = {.type = ICMP6_NEIGHBOR_ADVERT, .flags = NDP_SOLICITED | NDP_OVERRIDE, .has_lladdr = true};
    packets_ip(ndp.target, true, 2);
    memcpy(ndp.lladdr, packets_peer_mac, 6);
    uint32_t message_len = ndp_emit(message, &ndp);
    struct packets_frame what = {.v6 = true, .protocol = PROTO_ICMPV6, .hop_limit = 255,
                                 .payload = (uint16_t)(message_len - ICMP_HEADER)};
    uint32_t len = packets_build(frame, &what);
    memcpy(frame + len - message_len, message, message_len);
    packets_checksum(frame, len, true, PROTO_ICMPV6, ICMP_CHECKSUM_AT);
    inject(fuzz, frame, len, 0);
}

/* ---- what the stack sends --------------------------------------------------------------- */

/* Remembers where a connection stands. */
static void observe(struct fuzz *fuzz, const struct ams_tx *tx)
{
    static uint8_t frame[FRAME_LARGE];
    struct tcp_repr tcp;
    uint32_t total = tx->head_len;
    FUZZ_ASSERT(tx->total <= 65535 + ETH_HEADER + IP6_HEADER);
    FUZZ_ASSERT((tx->gso_size ? tx->gso_hdr_len + tx->gso_size : tx->total) <= 1500 + ETH_HEADER);
    FUZZ_ASSERT(fuzz->stack->caps & AMS_CAP_TSO4 || !tx->gso_size);
    for (unsigned i = 0; i < tx->n_frags; i++)
        total += tx->frags[i].len;
    FUZZ_ASSERT(total == tx->total);
    uint32_t len = tx_gather(tx, frame);
    bool v6 = load_be16(frame + 12) == ETHERTYPE_IPV6;
    uint32_t l4 = ETH_HEADER + (v6 ? IP6_HEADER : IP4_HEADER);
    struct arp_repr arp;
    if (load_be16(frame + 12) == ETHERTYPE_ARP && arp_parse(frame + ETH_HEADER, len - ETH_HEADER, &arp) == WIRE_OK)
        fuzz->asked[0] |= arp.target_ip[3] == 2;
    if (v6 && len > l4 && frame[ETH_HEADER + 6] == PROTO_ICMPV6 && frame[l4] == ICMP6_NEIGHBOR_SOLICIT)
        fuzz->asked[1] |= frame[l4 + 23] == 2;
    if (len < l4 || load_be16(frame + 12) == ETHERTYPE_ARP || frame[ETH_HEADER + (v6 ? 6 : 9)] != PROTO_TCP)
        return;
    FUZZ_ASSERT(tcp_parse(frame + l4, len - l4, &tcp));
    FUZZ_ASSERT(in_place(frame + l4 + tcp.header_len, len - l4 - tcp.header_len, tcp.seq + !!(tcp.flags & TCP_SYN)));
    fuzz->their_next[v6] = tcp.seq + len - l4 - tcp.header_len + !!(tcp.flags & TCP_SYN) + !!(tcp.flags & TCP_FIN);
    if (tcp.flags & TCP_ACK)
        fuzz->their_ack[v6] = tcp.ack;
    if (tcp.fastopen_kind && tcp.fastopen_len <= sizeof(fuzz->cookie)) {
        fuzz->cookie_len = tcp.fastopen_len;
        memcpy(fuzz->cookie, tcp.fastopen, tcp.fastopen_len);
    }
    fuzz->their_port[v6] = tcp.src_port;
    fuzz->our_port[v6] = tcp.dst_port;
}

static void remember(struct fuzz *fuzz, int id)
{
    fuzz->tcp[(unsigned)id % IDS] = id;
}

/* Every connection is at one with itself, and its received bytes are in their places. */
static void check_connections(struct fuzz *fuzz)
{
    const char *wrong = ams_stack_check(fuzz->stack);
    if (wrong)
        fprintf(stderr, "%s\n", wrong);
    FUZZ_ASSERT(!wrong);
    struct ams_net_info known[300];
    int rows = ams_stack_network(fuzz->stack, known, 300, fuzz->now), learned = 0;
    FUZZ_ASSERT(rows <= 300);
    for (int i = 0; i < rows; i++)
        learned += known[i].kind != AMS_NET_REDIRECT && known[i].flags & AMS_NET_LEARNED;
    FUZZ_ASSERT(learned <= (int)(ROUTER_LIMIT + ROUTER_PREFIXES + IFACE_LEARNED));
    for (int i = 0; i < IDS; i++) {
        struct tcp_conn *conn = (struct tcp_conn *)sock_find(fuzz->stack, fuzz->tcp[i], SOCK_TCP);
        if (!conn)
            continue;
        uint32_t seq = conn->rcv_nxt - !!(conn->flags & CONN_FIN_RECEIVED) - conn->rcv_queued;
        for (const struct ams_frame *frame = conn->rcv_head; frame; frame = frame->next) {
            FUZZ_ASSERT(in_place(frame->data, frame->len, seq));
            seq += frame->len;
        }
    }
}

static void poll_stack(struct fuzz *fuzz)
{
    static char blob[32768];
    int32_t events[BATCH * AMS_EVENT_WORDS];
    for (int round = 0; round < 64; round++) {
        struct ams_tx tx[BATCH];
        memset(tx, 0, sizeof(tx));
        int sent = stack_output(fuzz->stack, tx, BATCH, fuzz->now);
        FUZZ_ASSERT(sent >= 0 && sent <= BATCH);
        for (int i = 0; i < sent; i++)
            observe(fuzz, &tx[i]);
        stack_output_done(fuzz->stack, tx, sent);
        for (int v6 = 0; v6 < 2; v6++) {
            if (fuzz->asked[v6] && fuzz->answers)
                answer(fuzz, v6);
            fuzz->asked[v6] = false;
        }
        int n = stack_events(fuzz->stack, events, BATCH, blob, sizeof(blob));
        for (int i = 0; i < n; i++)
            if (events[4 * i + 1] & AMS_EV_ACCEPTED)
                remember(fuzz, events[4 * i]);
        if (sent == 0 && n == 0) {
            FUZZ_ASSERT(stack_deadline(fuzz->stack) > fuzz->now); /* or a loop would spin */
            check_connections(fuzz);
            return;
        }
    }
}

/* ---- the application ------------------------------------------------------------------------ */

static void do_connect(struct fuzz *fuzz)
{
    uint8_t how = take8(&fuzz->input);
    struct ams_endpoint remote = packets_endpoint(how & 1, how & 2 ? 1 : 2, how & 4 ? 80 : 81);
    int id = ams_tcp_connect(fuzz->stack, NULL, &remote, fuzz->now);
    if (id < 0)
        return;
    remember(fuzz, id);
    if (how & 24)
        ams_tcp_setopt(fuzz->stack, id, AMS_OPT_FASTOPEN_CONNECT, how & 8 ? 1 : 2);
}

static void do_send(struct fuzz *fuzz)
{
    static uint8_t bytes[70000];
    uint8_t how = take8(&fuzz->input);
    uint32_t length = take8(&fuzz->input) * (how & 16 ? 256u : 4u);
    int id = fuzz->tcp[how % IDS];
    const struct tcp_conn *conn = (const struct tcp_conn *)sock_find(fuzz->stack, id, SOCK_TCP);
    if (!bytes[0])
        for (uint32_t i = 0; i < sizeof(bytes); i++)
            bytes[i] = pattern(i);
    /* The pattern repeats after 256 bytes: begin where the stream goes on. */
    const char *data = (const char *)bytes + (conn ? conn->snd_end & 0xff : 0);
    if (how & 32)
        ams_tcp_send_ref(fuzz->stack, id, data, length);
    else
        ams_tcp_send(fuzz->stack, id, data, length);
    if (how & 64)
        ams_tcp_want_drain(fuzz->stack, id, take8(&fuzz->input));
}

static void do_read(struct fuzz *fuzz)
{
    static char buffer[70000];
    uint8_t how = take8(&fuzz->input);
    int id = fuzz->tcp[how % IDS];
    size_t length;
    ams_tcp_set_reading(fuzz->stack, id, how >> 6 & 3);
    ams_tcp_recv(fuzz->stack, id, buffer, how & 16 ? 10 : sizeof(buffer));
    if (how & 32 && ams_tcp_peek(fuzz->stack, id, &length))
        ams_tcp_consume(fuzz->stack, id, length / 2);
}

static void do_close(struct fuzz *fuzz)
{
    uint8_t how = take8(&fuzz->input);
    int id = fuzz->tcp[how % IDS];
    if (how & 64)
        ams_tcp_drop_excess(fuzz->stack, id);
    if (how & 16)
        ams_tcp_shutdown(fuzz->stack, id);
    else if (how & 32)
        ams_tcp_abort(fuzz->stack, id);
    else
        ams_tcp_close(fuzz->stack, id);
}

/* What a running stack may be told. */
static void set_stack(struct fuzz *fuzz, int value)
{
    static const uint16_t fastopen[] = {AMS_FASTOPEN_OFF, AMS_FASTOPEN_CLIENT | AMS_FASTOPEN_SERVER,
                                        AMS_FASTOPEN_SERVER | AMS_FASTOPEN_SERVER_NO_COOKIE | AMS_FASTOPEN_LISTENERS,
                                        AMS_FASTOPEN_CLIENT | AMS_FASTOPEN_CLIENT_NO_COOKIE | AMS_FASTOPEN_SERVER |
                                            AMS_FASTOPEN_SERVER_NO_COOKIE | AMS_FASTOPEN_LISTENERS};
    switch (value >> 4 & 7) {
    case 0: ams_stack_set(fuzz->stack, AMS_SET_FLAGS, (uint32_t)value & 0xfe); break;
    case 1: ams_stack_set(fuzz->stack, AMS_SET_ECN, (uint32_t)value & 7); break;
    case 2: ams_stack_set(fuzz->stack, AMS_SET_ACCECN, (uint32_t)value & 7); break;
    case 3: ams_stack_set(fuzz->stack, AMS_SET_SYN_COOKIES, (uint32_t)value & 3); break;
    case 4: ams_stack_set(fuzz->stack, AMS_SET_FORGET, 0); break;
    default: ams_stack_set(fuzz->stack, AMS_SET_FASTOPEN, fastopen[value >> 8 & 3]); break;
    }
}

/* Options of connections, listeners and UDP endpoints; the read-only ones stand for something else. */
static void do_option(struct fuzz *fuzz)
{
    static const char *const congestion[] = {"cubic", "reno", "bbr", "none"};
    uint8_t how = take8(&fuzz->input);
    int value;
    struct ams_tcp_info info[8];
    int given = (int16_t)take16(&fuzz->input), option = 1 + (how >> 4) + (given & 1 ? 10 : 0);
    int id = (given & 6) == 6 ? fuzz->listeners[how & 1] : fuzz->tcp[how % IDS];
    if ((given & 14) == 14) {
        ams_udp_setopt(fuzz->stack, fuzz->udp[how & 1], option, given >> 4);
        ams_udp_getopt(fuzz->stack, fuzz->udp[how & 1], option, &value);
    }
    if (option == AMS_OPT_ERROR)
        ams_tcp_set_congestion(fuzz->stack, id, congestion[given >> 4 & 3]);
    else if (option == AMS_OPT_FASTOPEN_ROOM)
        set_stack(fuzz, given);
    ams_tcp_setopt(fuzz->stack, id, option, given);
    ams_tcp_getopt(fuzz->stack, id, option, &value);
    ams_tcp_get_info(fuzz->stack, id, info, fuzz->now);
    ams_stack_list(fuzz->stack, info, 8, fuzz->now);
}

/* A multicast router asks who is in which group: IGMPv1 to 3, MLDv1 and 2. */
static void do_query(struct fuzz *fuzz, bool v6)
{
    uint8_t frame[PACKETS_MAX], body[64] = {0}, how = take8(&fuzz->input);
    struct packets_frame what = {.v6 = v6, .protocol = v6 ? PROTO_ICMPV6 : PROTO_IGMP, .icmp_type = ICMP6_MLD_QUERY,
                                 .hop_limit = how & 1 ? 64 : 1, .body = body};
    packets_ip(what.src, v6, 2);
    if (v6) {
        what.src[0] = 0xfe;
        what.src[1] = 0x80;
    } else {
        body[0] = 0x11;
        body[1] = take8(&fuzz->input);
    }
    if (how & 2)
        take_bytes(&fuzz->input, body + (v6 ? 0 : 4), v6 ? 16 : 4);
    if (how & 4)
        take_bytes(&fuzz->input, body + (v6 ? 16 : 8), 8);
    what.payload = (uint16_t)((v6 ? 16 : 8) + (how & 8 ? 4 : 0) + (how & 16 ? 4 : 0));
    uint32_t len = packets_build(frame, &what), l4 = ETH_HEADER + (v6 ? IP6_HEADER : IP4_HEADER);
    if (v6) {
        store_be32(frame + l4 + 4, (uint32_t)take16(&fuzz->input) << 16);
        packets_checksum(frame, len, true, PROTO_ICMPV6, ICMP_CHECKSUM_AT);
    } else {
        store_be16(frame + l4 + 2, checksum_finish(checksum_add(0, frame + l4, len - l4)));
    }
    inject(fuzz, frame, len, 0);
}

/* Joins a group, or leaves one. */
static void do_group(struct fuzz *fuzz, uint8_t how)
{
    bool v6 = how & 1;
    struct ams_endpoint group = {.family = v6 ? AMS_IPV6 : AMS_IPV4};
    if (v6) {
        group.ip[0] = 0xff;
        group.ip[1] = how & 4 ? 0x02 : 0x05;
        group.ip[15] = how >> 3 & 7;
    } else {
        const uint8_t ip[4] = {how & 4 ? 224 : 239, 0, 0, how >> 3 & 7};
        ip_map4(group.ip, ip);
    }
    if (how & 2)
        ams_udp_leave(fuzz->stack, fuzz->udp[v6], &group, fuzz->now);
    else
        ams_udp_join(fuzz->stack, fuzz->udp[v6], &group, fuzz->now);
}

static void do_udp(struct fuzz *fuzz)
{
    static char buffer[70000];
    uint8_t how = take8(&fuzz->input);
    if (how & 64) {
        if (how & 128)
            do_query(fuzz, how & 1);
        else
            do_group(fuzz, how);
        return;
    }
    struct ams_endpoint to = packets_endpoint(false, how & 1 ? 1 : how & 2 ? 255 : 2, how & 4 ? 9 : 10), from;
    if (how & 8)
        ams_udp_recv(fuzz->stack, fuzz->udp[how >> 4 & 1], &from, buffer, sizeof(buffer));
    else
        ams_udp_send(fuzz->stack, fuzz->udp[0], &to, buffer, take16(&fuzz->input), fuzz->now);
}

static void do_time(struct fuzz *fuzz)
{
    uint16_t step = take16(&fuzz->input);
    fuzz->now += step & 0x8000 ? (step & 0x7fffu) * 10 * AMS_NS_PER_MS : step * 100 * AMS_NS_PER_US;
}

/* ---- set-up ------------------------------------------------------------------------------------ */

static void fuzz_init(struct fuzz *fuzz, uint8_t how)
{
    int status;
    struct ams_ifaddr addresses[2] = {{packets_endpoint(false, 1, 0), 24}, {packets_endpoint(true, 1, 0), 64}};
    struct ams_stack_config config = {.seed = {3, 4}, .addresses = addresses, .n_addresses = 2, .time_wait_ms = 1000,
                                      .max_time_wait = 8, .max_endpoints = 64,
                                      .flags = (how & 1 ? 0 : AMS_STACK_NO_DAD) | (how & 16 ? LEARNING : 0) |
                                               (how & 32 ? AMS_STACK_USER_TIMEOUT_OPTION : 0),
                                      .congestion = how & 2 ? "reno" : NULL,
                                      .ecn = how & 64 ? AMS_ECN_ACCURATE : AMS_ECN_ACCEPT,
                                      .syn_cookies = how & 128 ? AMS_SYN_COOKIES_ALWAYS : AMS_SYN_COOKIES_AUTO};
    struct stack_link link = {.mtu = 1500, .pool = &fuzz->pool,
                              .caps = how & 4 ? AMS_CAP_CSUM_TX | AMS_CAP_TSO4 | AMS_CAP_TSO6 : 0};
    memcpy(config.mac, packets_us_mac, 6);
    fuzz->answers = !(how & 8);
    frame_pool_init(&fuzz->pool, 20000, false);
    fuzz->now = 1000 * AMS_NS_PER_S;
    fuzz->stack = stack_new(&config, &link, fuzz->now, &status);
    FUZZ_ASSERT(fuzz->stack != NULL);
    for (int v6 = 0; v6 < 2; v6++) {
        struct ams_endpoint any = packets_wildcard(v6, 80);
        fuzz->listeners[v6] = ams_tcp_listen(fuzz->stack, &any, 4, AMS_LISTEN_V6ONLY);
        FUZZ_ASSERT(fuzz->listeners[v6] >= 0);
    }
    for (int v6 = 0; v6 < 2; v6++) {
        struct ams_endpoint any = packets_wildcard(v6, 9);
        fuzz->udp[v6] = ams_udp_open(fuzz->stack, &any, NULL, AMS_LISTEN_V6ONLY);
        FUZZ_ASSERT(fuzz->udp[v6] >= 0);
    }
    for (int i = 0; i < IDS; i++)
        fuzz->tcp[i] = -1;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static void (*const actions[ACTIONS])(struct fuzz *) = {
        [RAW] = do_raw,         [DATAGRAM] = do_datagram, [SEGMENT] = do_segment, [CONTROL] = do_control,
        [TIME] = do_time,       [CONNECT] = do_connect,   [SEND] = do_send,       [READ] = do_read,
        [CLOSE] = do_close,     [OPTION] = do_option,     [UDP] = do_udp,
    };
    struct fuzz fuzz = {.input = {data, size}};
    fuzz_init(&fuzz, take8(&fuzz.input));
    for (int record = 0; record < MAX_RECORDS && fuzz.input.left > 0; record++) {
        actions[take8(&fuzz.input) % ACTIONS](&fuzz);
        poll_stack(&fuzz);
    }
    stack_abort_all(fuzz.stack, fuzz.now);
    poll_stack(&fuzz);
    stack_free(fuzz.stack);
    FUZZ_ASSERT(fuzz.pool.in_use == 0);
    frame_pool_fini(&fuzz.pool);
    return 0;
}
