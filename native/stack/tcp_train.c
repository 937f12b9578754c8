/* SPDX-License-Identifier: BSD-2-Clause
 *
 * tcp_train.c - segments that bring nothing but the next bytes.
 *
 * Theory of operation.  Bulk data comes in trains: many segments of one
 * connection, one behind the other in the batch that a port hands over
 * (Jain & Routhier 1986).  The first goes through all of TCP.  Those behind it
 * are mostly what the connection's state lets one predict (Jacobson's header
 * prediction, 1990): in order, the same acknowledgement and window, no flag but
 * PSH.  All that such a segment changes is what is added up: bytes, segments,
 * counters, the end of the receive queue.  So as long as the next frame of the
 * batch is such a one, it is taken here, behind checks of its headers and
 * checksums that are as strict as those of the layers that it passes by, and
 * what remains of TCP is done once for all of them.  This is the large receive
 * of NICs and kernels (LRO, GRO), without merged packets: a frame stays a
 * frame, in the receive queue as in the books about memory.
 *
 * Whatever is not exactly as predicted ends the train, goes through TCP
 * alone, and may be the first of the next one.  What is predicted is chosen so
 * that a train leaves the connection as its segments would have one by one,
 * bit by bit: there is no segment here that
 *
 *   acknowledges anything, has SACK blocks or other options than timestamps,
 *   moves the window, carries RFC 3168's flags, a CE mark, or an ACE field
 *   that says something new (RFC 9768);
 *
 *   is older than ts_recent (PAWS), would renew it (it does not begin before
 *   the last ACK that was sent ends: RFC 7323 section 4.3), or would give a
 *   sample of the peer's round trip;
 *
 *   would change the estimate of the peer's segment size, fills a hole, goes
 *   beyond the window, or comes while memory is scarce;
 *
 *   begins a burst: its forerunner came in order at this very moment, so that
 *   the rules about acknowledging have been asked, and only the number of
 *   bytes that the peer waits for can still change their answer.  (Once the
 *   application has closed there is no such forerunner: new data ends the
 *   connection.)
 */
#include <string.h>

#include "stack/tcp.h"
#include "wire/eth.h"
#include "wire/ipv4.h"

#define TIMESTAMPS_SIZE 12u        /* padded, as nearly everybody sends them */
#define UNIMPORTANT_BITS (0x0e00u << 16 | TCP_PSH << 16) /* reserved ones (RFC 9293 section 3.1), and PSH */

/* What the segments of a train have in common. */
struct train {
    struct ip_info ip;        /* l4_len is that of the segment at hand */
    uint32_t ports;           /* both, as on the wire */
    uint32_t bits;            /* data offset, flags and window, PSH not counted */
    uint32_t header_len;      /* of TCP's header */
};

/* May anything follow the segment that was taken last?
 * Return: false if not; else *train says how it looks. */
static bool train_begin(const struct ams_stack *stack, const struct tcp_conn *conn, const struct ip_info *ip,
                        struct train *train, uint64_t now)
{
    uint32_t window = conn->snd_wnd >> conn->snd_wscale;
    uint16_t ace;
    if (conn->state != AMS_TCP_ESTABLISHED && conn->state != AMS_TCP_FIN_WAIT_1 && conn->state != AMS_TCP_FIN_WAIT_2)
        return false;
    if (conn->data_rcv_at != now || conn->rcv_nxt == conn->last_ack_sent || conn->n_runs ||
        window << conn->snd_wscale != conn->snd_wnd || window > UINT16_MAX ||
        tcp_receive_scarce(stack) || !tcp_ecn_predict(conn, ip->tos, &ace))
        return false;
    train->ip = *ip;
    train->ip.l4_off = ETH_HEADER + (ip->family == AMS_IPV4 ? IP4_HEADER : IP6_HEADER);
    train->ports = (uint32_t)conn->flow.remote_port << 16 | conn->flow.local_port;
    train->header_len = TCP_HEADER + (conn->flags & CONN_TS_OK ? TIMESTAMPS_SIZE : 0);
    train->bits = train->header_len / 4 << 28 | (uint32_t)(TCP_ACK | ace) << 16 | window;
    return true;
}

/* Is the IPv4 packet one of the train's: no options, no fragment, intact?
 * @room: bytes at packet
 * Return: the length of its transport header and payload; 0: it isn't. */
static inline uint32_t ip4_follows(const struct train *train, const uint8_t *packet, uint32_t room)
{
    uint32_t total = load_be16(packet + 2);
    if (load_be16(packet) != (0x4500u | train->ip.tos) || packet[9] != PROTO_TCP ||
        load_be16(packet + 6) & ~IP4_FLAG_DF || total < IP4_HEADER || total > room ||
        memcmp(packet + 12, train->ip.src + 12, 4) != 0 || memcmp(packet + 16, train->ip.dst + 12, 4) != 0 ||
        !ipv4_plain_sum_ok(packet))
        return 0;
    return total - IP4_HEADER;
}

/* Is the IPv6 packet one of the train's: no extension headers?  As above. */
static inline uint32_t ip6_follows(const struct train *train, const uint8_t *packet, uint32_t room)
{
    uint32_t payload_len = load_be16(packet + 4);
    if (load_be16(packet) >> 4 != (0x600u | train->ip.tos) || packet[6] != PROTO_TCP ||
        IP6_HEADER + payload_len > room || !ip_equal(packet + 8, train->ip.src) ||
        !ip_equal(packet + 24, train->ip.dst))
        return 0;
    return payload_len;
}

/* Is the segment what was predicted?
 * @tcp: a header of train->header_len bytes at least
 * @payload: behind it */
static inline bool segment_follows(const struct tcp_conn *conn, const struct train *train, const uint8_t *tcp,
                                   uint32_t payload)
{
    if ((load_be32(tcp + 12) & ~UNIMPORTANT_BITS) != train->bits || load_be32(tcp + 8) != conn->snd_una ||
        payload > conn->rcv_mss || payload > conn->rcv_adv - conn->rcv_nxt)
        return false;
    if (!(conn->flags & CONN_TS_OK))
        return true;
    const uint8_t *options = tcp + TCP_HEADER;
    return load_be32(options) == TCP_TIMESTAMPS_ALIGNED && (int32_t)(load_be32(options + 4) - conn->ts_recent) >= 0 &&
           (load_be32(options + 8) == conn->rcv_rtt_echo || payload < conn->rcv_mss);
}

/* Is the frame the next one of the train?  If so, its window becomes the payload.
 * @tsval: set to its timestamp, if there are any */
static inline bool frame_follows(const struct ams_stack *stack, const struct tcp_conn *conn, struct train *train,
                                 struct ams_frame *frame, uint32_t *tsval)
{
    uint32_t l4_off = train->ip.l4_off, header_len = train->header_len;
    const uint8_t *data = frame->data, *tcp = data + l4_off;
    bool v4 = train->ip.family == AMS_IPV4;
    if (frame->len < l4_off + header_len || load_be32(tcp) != train->ports || load_be32(tcp + 4) != conn->rcv_nxt ||
        frame->flags & FRAME_GSO || !eth_equal(data, stack->mac) ||
        load_be16(data + 12) != (v4 ? ETHERTYPE_IPV4 : ETHERTYPE_IPV6))
        return false;
    uint32_t room = frame->len - ETH_HEADER;
    uint32_t l4_len = v4 ? ip4_follows(train, data + ETH_HEADER, room) : ip6_follows(train, data + ETH_HEADER, room);
    train->ip.l4_len = l4_len;
    if (l4_len <= header_len || !segment_follows(conn, train, tcp, l4_len - header_len) ||
        (!(frame->flags & FRAME_CSUM_OK) && !ip_l4_checksum_ok(frame, &train->ip)))
        return false;
    if (conn->flags & CONN_TS_OK)
        *tsval = load_be32(tcp + TCP_HEADER + 4);
    frame_pull(frame, l4_off + header_len);
    frame_trim(frame, l4_len - header_len);
    return true;
}

/* What is left to do for all of a train.
 * @segments, @bytes: that were taken
 * @last: payload of the last
 * @tsval: its timestamp */
static void train_end(struct ams_stack *stack, struct tcp_conn *conn, const struct train *train, uint32_t segments,
                      uint32_t bytes, uint32_t last, uint32_t tsval, uint64_t now)
{
    uint32_t seq = conn->rcv_nxt - last;
    stack->counters.rx_frames += segments;
    stack->counters.ip_rx += segments;
    stack->counters.tcp_rx += segments;
    stack->counters.tcp_rx_merged += segments;
    stack->counters.tcp_rx_bytes += bytes;
    conn->segs_in += segments;
    conn->data_segs_in += segments;
    conn->bytes_received += bytes;
    if (seq_lt(conn->snd_wl1, seq) || (conn->snd_wl1 == seq && seq_leq(conn->snd_wl2, conn->snd_una))) {
        conn->snd_wl1 = seq;
        conn->snd_wl2 = conn->snd_una;
    }
    if (AMS_UNLIKELY(conn->ecn & (ECN_OK | ECN_ACCURATE)))
        tcp_ecn_predicted(conn, train->ip.tos, bytes, tsval);
    tcp_ack_policy(stack, conn, last, now);
    sock_event(stack, &conn->sock, AMS_EV_DATA);
    if (conn->flags & CONN_ACK_NOW)
        tcp_want_output(stack, conn);
}

void tcp_train(struct ams_stack *stack, struct tcp_conn *conn, const struct ip_info *ip, uint64_t now)
{
    struct train train;
    uint32_t start = conn->rcv_nxt, segments = 0, last = 0, tsval = 0;
    if (!train_begin(stack, conn, ip, &train, now))
        return;
    while (stack->rx_next < stack->rx_end && frame_follows(stack, conn, &train, *stack->rx_next, &tsval)) {
        struct ams_frame *frame = *stack->rx_next++;
        if (stack->rx_next < stack->rx_end)
            AMS_PREFETCH((*stack->rx_next)->data);
        last = frame->len;
        conn->rcv_nxt += last;
        tcp_receive_append(conn, frame);
        segments++;
    }
    if (segments)
        train_end(stack, conn, &train, segments, conn->rcv_nxt - start, last, tsval, now);
}
