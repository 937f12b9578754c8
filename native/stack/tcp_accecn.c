/* SPDX-License-Identifier: BSD-2-Clause
 *
 * tcp_accecn.c - Accurate ECN feedback (RFC 9768): counters, and the option
 * that carries those of bytes.  tcp_ecn.c negotiates.
 *
 * Theory of operation.  In AccECN mode the flags AE, CWR and ECE are a number,
 * the low three bits of how many packets came with CE (r.cep).  Its sender
 * adds one to five at the beginning, so that a field that somebody clears can
 * be told from one that didn't count.  The other end keeps a copy (s.cep), and
 * brings it up to date by the difference modulo 8.  Where an ACK stands for
 * so many packets that the number may have gone round unseen, the option's
 * count of bytes decides.  Without it "the safest likely case under the
 * prevailing conditions" (section 3.2.2.5.2) is, where such an ACK is rare, as
 * many marks as there can have been (appendix A.2.1, as Linux), and where ACKs
 * are thinned out anyhow, the share of packets that were marked lately.
 *
 * The option (section 3.2.3) counts payload by code point.  It goes along
 * when a counter has changed, with all that ever have changed, in the order
 * that makes it shorter; if the room is short, what the peer knows already is
 * left off its end.  AMS_ACCECN_ALWAYS is what Linux does by default: all
 * segments have it, ECT(1) first, once the peer has sent one.
 *
 * What is done about congestion is what is done about RFC 3168's: one
 * reduction for each window of data.
 */
#include "stack/tcp_accecn.h"

#define CEP_FIRST 5u           /* section 3.2.1 */
#define ECT_BYTES_FIRST 1u
#define ACE_CYCLE 8u
#define FIELD_SIZE 3u
#define FIELD_MASK 0xffffffu
#define FIELD_SIGN 0x800000u
#define KIND_ORDER0 172u
#define KIND_ORDER1 174u
#define ALL_FIELDS 7u
#define HANDSHAKE_DEMANDS 2u   /* options on the first ACK and the first data (section 3.2.3.2.1) */
#define ROUNDS_MARKED 4u       /* all marked for so long: somebody mangles (section 3.2.2.3) */
#define RATE_ONE 256u
#define RATE_GAIN 8            /* one part in so many of the average is the latest ACK's */
#define RATE_SAFETY 4u         /* marking may have become so much denser meanwhile */
#define PER_ACK_ONE 64u
#define PER_ACK_GAIN 64
#define PER_ACK_USUAL 4u       /* where ACKs stand for more, they are thinned out on the way */
#define CE_WITH_DATA 2u        /* increment-triggered ACKs (section 3.2.2.5.1) */
#define CE_WITHOUT_DATA 3u

/* ---- the handshake ------------------------------------------------------------- */

void tcp_accecn_counters(struct tcp_accecn *acc)
{
    *acc = (struct tcp_accecn){.r_cep = CEP_FIRST, .s_cep = CEP_FIRST};
    acc->r_bytes[IP_ECT0 - 1] = acc->r_bytes[IP_ECT1 - 1] = ECT_BYTES_FIRST;
    acc->s_bytes[IP_ECT0 - 1] = acc->s_bytes[IP_ECT1 - 1] = ECT_BYTES_FIRST;
}

bool tcp_accecn_start(struct ams_stack *stack, struct tcp_conn *conn, uint8_t ecn)
{
    struct tcp_accecn *acc = tcp_option_enable(stack, conn, TCP_OPTION_ACCECN);
    if (!acc)
        return false;
    tcp_accecn_counters(acc);
    acc->syn_ecn = acc->last_ecn = ecn;
    acc->round_end = conn->snd_nxt;
    conn->ecn |= ECN_ACCURATE | ECN_ECT;
    return true;
}

uint16_t tcp_accecn_reflect(uint8_t ecn)
{
    static const uint8_t codes[] = {[IP_NOT_ECT] = 2, [IP_ECT1] = 3, [IP_ECT0] = 4, [IP_CE] = 6};
    return (uint16_t)(codes[ecn & IP_ECN_MASK] << TCP_ACE_SHIFT);
}

void tcp_accecn_synack(struct tcp_conn *conn, uint32_t ace)
{
    struct tcp_accecn *acc = tcp_accecn_of(conn);
    acc->marks |= ACC_HANDSHAKE_ACK;
    acc->demands = HANDSHAKE_DEMANDS;
    if (acc->syn_ecn == IP_CE) {
        acc->r_cep++;
        acc->marks |= ACC_SYNACK_CE;
    }
    /* our SYN was Not-ECT: whatever else arrived was made on the way (section 3.2.2.3) */
    if (ace == 3 || ace == 4 || ace == 6)
        conn->ecn &= (uint8_t)~ECN_ECT;
    if (ace == 6)
        acc->marks |= ACC_RESPOND;
}

/* ---- what arrives ------------------------------------------------------------------ */

void tcp_accecn_arrived(struct tcp_conn *conn, uint8_t tos, uint32_t payload, uint32_t packets)
{
    struct tcp_accecn *acc = tcp_accecn_of(conn);
    uint8_t ecn = tos & IP_ECN_MASK;
    if (ecn != IP_NOT_ECT) {
        conn->ecn |= ECN_SEEN;
        if (payload) {
            acc->r_bytes[ecn - 1] += payload;
            acc->touched |= (uint8_t)(1u << (ecn - 1));
            acc->news |= (uint8_t)(1u << (ecn - 1));
        }
    }
    if (ecn == IP_CE) {
        bool waits = payload || conn->rcv_nxt != conn->last_ack_sent;
        acc->r_cep += packets;
        acc->ce_owed = (uint8_t)ams_min_u32(acc->ce_owed + packets, UINT8_MAX);
        if ((payload && acc->last_ecn != IP_CE) || acc->ce_owed >= (waits ? CE_WITH_DATA : CE_WITHOUT_DATA))
            conn->flags |= CONN_ACK_NOW;
    }
    acc->last_ecn = ecn;
}

/* ---- feedback ----------------------------------------------------------------------- */

/* Has a later acknowledgement told more than this one (appendix A.1)? */
static bool superseded(const struct tcp_conn *conn, const struct tcp_accecn *acc, const struct tcp_repr *seg,
                       uint32_t payload, const struct tcp_delivery *delivery)
{
    if (delivery->delivered || (payload && seq_geq(seg->seq, conn->rcv_nxt)))
        return false;
    return !(conn->flags & CONN_TS_OK && seg->has_timestamps) || (int32_t)(seg->tsval - acc->newest_tsval) <= 0;
}

/* The feedback of this segment is the newest. */
static void taken_in(struct tcp_accecn *acc, const struct tcp_repr *seg)
{
    if (seg->has_timestamps)
        acc->newest_tsval = seg->tsval;
}

/* Brings the counters of bytes up to date.
 * Return: how many bytes more have arrived with CE; UINT32_MAX: not known. */
static uint32_t take_option(struct tcp_accecn *acc, uint8_t fields)
{
    uint32_t marked = UINT32_MAX;
    if (fields && !(fields & 1u << (IP_CE - 1)) && !acc->s_bytes[IP_CE - 1])
        marked = 0; /* the field is left out while the counter has never changed */
    for (uint32_t i = 0; i < 3; i++) {
        uint32_t delta = (acc->field[i] - acc->s_bytes[i]) & FIELD_MASK;
        if (!(fields & 1u << i) || delta & FIELD_SIGN)
            continue;
        acc->s_bytes[i] += delta;
        if (i == IP_CE - 1)
            marked = delta;
    }
    return marked;
}

/* How many packets were marked, of those that an ACK stands for.
 * @least: the counter's difference modulo 8
 * @packets: that were delivered
 * @marked: bytes that arrived with CE; UINT32_MAX: not known */
static uint32_t count_marks(const struct tcp_conn *conn, const struct tcp_accecn *acc, uint32_t least,
                            uint32_t packets, uint32_t marked)
{
    if (AMS_LIKELY(packets < ACE_CYCLE))
        return least;
    uint32_t likely;
    if (marked != UINT32_MAX)
        likely = marked / conn->snd_mss + ACE_CYCLE / 2;
    else if (acc->per_ack <= PER_ACK_USUAL * PER_ACK_ONE)
        likely = packets;
    else
        likely = packets * ams_min_u32(acc->rate * RATE_SAFETY, RATE_ONE) / RATE_ONE;
    return likely > least ? least + (likely - least) / ACE_CYCLE * ACE_CYCLE : least;
}

/* Takes an ACK of so many packets into the average. */
static void note_per_ack(struct tcp_accecn *acc, uint32_t packets)
{
    uint32_t scaled = ams_min_u32(packets * PER_ACK_ONE, UINT16_MAX);
    if (acc->per_ack)
        scaled = (acc->per_ack * (PER_ACK_GAIN - 1) + scaled) / PER_ACK_GAIN;
    acc->per_ack = (uint16_t)scaled;
}

/* Does everything seem to be marked, round after round (section 3.2.2.3)? */
static void watch_rounds(struct tcp_conn *conn, struct tcp_accecn *acc, uint32_t count)
{
    if (!count) {
        acc->marks |= ACC_NOT_ALL;
        return;
    }
    if (seq_lt(conn->snd_una, acc->round_end))
        return;
    acc->round_end = conn->snd_nxt;
    if (++acc->rounds <= ROUNDS_MARKED)
        return;
    conn->ecn &= (uint8_t)~ECN_ECT;
    acc->marks |= ACC_IGNORE | ACC_NOT_ALL;
}

void tcp_accecn_ack(struct ams_stack *stack, struct tcp_conn *conn, const struct tcp_repr *seg, uint32_t payload,
                    const struct tcp_delivery *delivery, uint64_t now)
{
    struct tcp_accecn *acc = tcp_accecn_of(conn);
    uint32_t ace = seg->flags >> TCP_ACE_SHIFT & (ACE_CYCLE - 1);
    uint8_t fields = acc->fields;
    acc->fields = 0;
    if (seg->flags & TCP_SYN)
        return;
    if (acc->marks & ACC_THIRD) {
        acc->marks &= (uint16_t)~ACC_THIRD;
        taken_in(acc, seg);
        return;
    }
    if (superseded(conn, acc, seg, payload, delivery))
        return;
    taken_in(acc, seg);
    if (!(acc->marks & ACC_CHECKED) && !ace) { /* section 3.2.2.4: it began with five, or more */
        conn->ecn &= (uint8_t)~ECN_ECT;
        acc->marks |= ACC_IGNORE;
    }
    acc->marks |= ACC_CHECKED;
    uint32_t packets = (delivery->delivered + conn->snd_mss - 1) / conn->snd_mss;
    uint32_t marked = take_option(acc, fields);
    if (packets)
        note_per_ack(acc, packets);
    uint32_t count = count_marks(conn, acc, (ace - acc->s_cep) & (ACE_CYCLE - 1), packets, marked);
    acc->s_cep += count;
    if (!count && marked && marked != UINT32_MAX) /* section 3.2.3.2.5: the two contradict each other */
        conn->ecn &= (uint8_t)~ECN_ECT;
    if (packets) {
        int32_t step = (int32_t)(ams_min_u32(count, packets) * RATE_ONE / packets) - acc->rate;
        acc->rate = (uint16_t)(acc->rate + (step + (step > 0 ? RATE_GAIN - 1 : 1 - RATE_GAIN)) / RATE_GAIN);
        if (!(acc->marks & ACC_NOT_ALL))
            watch_rounds(conn, acc, count);
    }
    if (count && !(acc->marks & ACC_IGNORE))
        tcp_cc_ecn(stack, conn, now);
}

/* ---- the option ---------------------------------------------------------------------- */

/* The code point that a field is about. */
static uint32_t field_of(bool order1, uint32_t i)
{
    return i == 1 ? IP_CE - 1 : (i == 0) == order1 ? IP_ECT1 - 1 : IP_ECT0 - 1;
}

/* How many fields it takes to have all of `wanted` in one order. */
static uint32_t fields_needed(uint8_t wanted, bool order1)
{
    uint32_t n = 3;
    while (n && !(wanted & 1u << field_of(order1, n - 1)))
        n--;
    return n;
}

/* Chooses what the option says: what may be omitted is at its end, and never
 * what the peer doesn't know yet (section 3.2.3.3).
 * @room: bytes that its fields may take
 * Return: how many fields; TCP_OPTION_ABSENT: better none. */
static uint32_t choose(const struct ams_stack *stack, const struct tcp_accecn *acc, enum tcp_place place, uint32_t room,
                       bool *order1)
{
    bool always = stack->config.accecn_options == AMS_ACCECN_ALWAYS;
    uint8_t wanted = always || acc->demands || place == TCP_PLACE_SYN_ACK ? ALL_FIELDS : acc->touched;
    uint32_t fit = room / FIELD_SIZE;
    *order1 = always || fields_needed(wanted, true) <= fields_needed(wanted, false);
    if (!always && fields_needed(acc->news, *order1) > fit)
        *order1 = !*order1;
    if (fields_needed(acc->news, *order1) > fit)
        return TCP_OPTION_ABSENT;
    return ams_min_u32(fields_needed(wanted, *order1), fit);
}

/* May a segment that is no SYN-ACK have the option? */
static bool reports(const struct ams_stack *stack, const struct tcp_accecn *acc, enum tcp_place place)
{
    if (stack->config.accecn_options == AMS_ACCECN_ALWAYS)
        return acc->marks & ACC_OPTION_SEEN;
    return place != TCP_PLACE_AGAIN && (acc->news || acc->demands);
}

static uint32_t accecn_size(const struct ams_stack *stack, const struct tcp_conn *conn, const void *state,
                            enum tcp_place place, uint32_t room)
{
    const struct tcp_accecn *acc = state;
    bool order1;
    if (place == TCP_PLACE_SYN || acc->marks & ACC_NO_OPTION || !(conn->ecn & ECN_ACCURATE) ||
        stack->config.accecn_options == AMS_ACCECN_NEVER)
        return TCP_OPTION_ABSENT;
    if (place == TCP_PLACE_SYN_ACK ? acc->marks & ACC_SYNACK_BARE : !reports(stack, acc, place))
        return TCP_OPTION_ABSENT;
    uint32_t n = choose(stack, acc, place, room, &order1);
    return n == TCP_OPTION_ABSENT ? n : n * FIELD_SIZE;
}

static uint8_t accecn_emit(struct ams_stack *stack, struct tcp_conn *conn, void *state, enum tcp_place place,
                           uint8_t *out, uint32_t length)
{
    struct tcp_accecn *acc = state;
    bool order1;
    choose(stack, acc, place, length, &order1);
    for (uint32_t i = 0; i < length / FIELD_SIZE; i++) {
        uint32_t which = field_of(order1, i), value = acc->r_bytes[which];
        *out++ = (uint8_t)(value >> 16);
        *out++ = (uint8_t)(value >> 8);
        *out++ = (uint8_t)value;
        acc->news &= (uint8_t)~(1u << which);
    }
    if (acc->demands && place != TCP_PLACE_SYN_ACK)
        acc->demands--;
    if (conn->flags & CONN_DSACK)
        acc->marks |= ACC_DUP_REPORTED;
    return order1 ? KIND_ORDER1 : KIND_ORDER0;
}

/* Notes the fields for tcp_accecn_ack(), which knows whether they are news. */
static void accecn_receive(struct ams_stack *stack, struct tcp_conn *conn, void *state, const struct tcp_repr *seg,
                           const struct tcp_option_value *value, uint64_t now)
{
    struct tcp_accecn *acc = state;
    bool first = !(acc->marks & ACC_OPTION_SEEN), order1 = value->kind == KIND_ORDER1;
    uint32_t n = ams_min_u32(value->length / FIELD_SIZE, 3); /* the rest is padding (section 3.2.3) */
    if (acc->marks & ACC_OPTION_ZEROED)
        return;
    acc->marks |= ACC_OPTION_SEEN;
    for (uint32_t i = 0; i < n; i++) {
        const uint8_t *p = value->data + i * FIELD_SIZE;
        uint32_t which = field_of(order1, i);
        acc->field[which] = (uint32_t)p[0] << 16 | (uint32_t)p[1] << 8 | p[2];
        acc->fields |= (uint8_t)(1u << which);
        if (first && which != IP_CE - 1 && !acc->field[which]) { /* section 3.2.3.2.4 */
            acc->marks |= ACC_OPTION_ZEROED;
            acc->fields = 0;
            return;
        }
    }
    if (seg->flags & TCP_SYN)
        acc->fields = 0; /* the initial values */
}

const struct tcp_option_ops tcp_option_accecn = {
    .name = "accecn",
    .kind = KIND_ORDER0,
    .kind_also = KIND_ORDER1,
    .state_size = sizeof(struct tcp_accecn),
    .size = accecn_size,
    .emit = accecn_emit,
    .receive = accecn_receive,
};
