/* SPDX-License-Identifier: BSD-2-Clause
 *
 * tcp_option.c - options beside the usual ones: who knows which, and how they
 * share a segment.
 *
 * Theory of operation.  wire/tcp.c notes where in a header the options lie
 * that it doesn't read itself.  A stack finds who knows a kind by an index;
 * the kinds for experiments are shared (RFC 6994), and the few options there
 * are tried in turn.  Each option has a fixed place in the block of states
 * that a connection gets with the first option that it takes part in.
 */
#include "stack/tcp_option.h"

#include <string.h>

#include "core/alloc.h"
#include "stack/tcp.h"

#define KIND_SMALLEST 9u        /* up to 8 they are wire/tcp.c's */
#define KIND_EXPERIMENTAL_1 253u
#define TIMESTAMPS_SIZE 12u
#define SACK_HEAD 4u            /* two NOPs, kind, length */
#define SACK_BLOCK 8u
#define SACK_FIRST 2u           /* blocks that come before other options */

static const struct tcp_option_ops *const listed[] = {
    [TCP_OPTION_ACCECN] = &tcp_option_accecn,
    [TCP_OPTION_USER_TIMEOUT] = &tcp_option_user_timeout,
};

/* ---- who knows what ------------------------------------------------------------- */

static bool is_shared(uint8_t kind)
{
    return kind == TCP_OPT_EXPERIMENTAL || kind == KIND_EXPERIMENTAL_1;
}

/* The index of the option with this kind and experiment; TCP_OPTIONS_KNOWN if there is none. */
static uint32_t find(const struct tcp_host *tcp, uint8_t kind, uint16_t exid)
{
    if (AMS_LIKELY(!is_shared(kind)))
        return tcp->option_of_kind[kind] ? tcp->option_of_kind[kind] - 1u : TCP_OPTIONS_KNOWN;
    for (uint32_t i = 0; i < tcp->n_options; i++)
        if (tcp->options[i]->kind == kind && tcp->options[i]->exid == exid)
            return i;
    return TCP_OPTIONS_KNOWN;
}

int tcp_option_register(struct ams_stack *stack, const struct tcp_option_ops *ops)
{
    struct tcp_host *tcp = stack->tcp;
    if (ops->kind < KIND_SMALLEST || ops->kind == TCP_OPT_FASTOPEN || is_shared(ops->kind) != (ops->exid != 0) ||
        !ops->size || !ops->emit || !ops->receive)
        return -AMS_EINVAL;
    if (tcp->n_conns)
        return -AMS_EBUSY;
    if (tcp->n_options == TCP_OPTIONS_KNOWN)
        return -AMS_ENOMEM;
    if (find(tcp, ops->kind, ops->exid) != TCP_OPTIONS_KNOWN ||
        (ops->kind_also && find(tcp, ops->kind_also, 0) != TCP_OPTIONS_KNOWN))
        return -AMS_EADDRINUSE;
    uint32_t index = tcp->n_options++;
    tcp->options[index] = ops;
    tcp->option_offset[index] = (uint16_t)tcp->ext_words;
    tcp->ext_words += (ops->state_size + 7u) / 8u;
    if (!is_shared(ops->kind))
        tcp->option_of_kind[ops->kind] = (uint8_t)(index + 1);
    if (ops->kind_also)
        tcp->option_of_kind[ops->kind_also] = (uint8_t)(index + 1);
    return (int)index;
}

void tcp_option_init(struct ams_stack *stack)
{
    for (uint32_t i = 0; i < AMS_ARRAY_SIZE(listed); i++)
        tcp_option_register(stack, listed[i]);
}

/* ---- states ---------------------------------------------------------------------- */

static size_t ext_size(const struct tcp_host *tcp)
{
    return sizeof(struct tcp_ext) + tcp->ext_words * sizeof(uint64_t);
}

void *tcp_option_enable(struct ams_stack *stack, struct tcp_conn *conn, uint32_t index)
{
    struct tcp_host *tcp = stack->tcp;
    if (!conn->ext) {
        conn->ext = mem_zalloc(1, ext_size(tcp));
        if (!conn->ext) {
            stack->counters.tcp_no_memory++;
            return NULL;
        }
        tcp->memory += ext_size(tcp);
    }
    conn->ext->enabled |= 1u << index;
    return conn->ext->states + tcp->option_offset[index];
}

void *tcp_option_state(const struct ams_stack *stack, const struct tcp_conn *conn, uint32_t index)
{
    if (!conn->ext || !(conn->ext->enabled & 1u << index))
        return NULL;
    return conn->ext->states + stack->tcp->option_offset[index];
}

void tcp_option_fini(struct ams_stack *stack, struct tcp_conn *conn)
{
    if (!conn->ext)
        return;
    stack->tcp->memory -= ext_size(stack->tcp);
    mem_free(conn->ext);
    conn->ext = NULL;
}

/* ---- receiving -------------------------------------------------------------------- */

/* Reads the n-th option that was noted.
 * Return: who knows it, TCP_OPTIONS_KNOWN if nobody does. */
static uint32_t read_other(const struct tcp_host *tcp, const struct tcp_repr *seg, uint32_t n,
                           struct tcp_option_value *out)
{
    const uint8_t *option = seg->raw + seg->others[n];
    uint32_t head = is_shared(option[0]) ? 2 + TCP_OPTION_EXID_SIZE : 2;
    uint16_t exid = 0;
    if (option[1] < head)
        return TCP_OPTIONS_KNOWN;
    if (head > 2)
        exid = load_be16(option + 2);
    *out = (struct tcp_option_value){.data = option + head, .length = option[1] - head, .kind = option[0]};
    return find(tcp, option[0], exid);
}

/* Looks for an option in a segment.  Return: false if it isn't there. */
static bool look_for(const struct tcp_host *tcp, const struct tcp_repr *seg, uint32_t index,
                     struct tcp_option_value *out)
{
    for (uint32_t n = 0; n < seg->n_others; n++)
        if (read_other(tcp, seg, n, out) == index)
            return true;
    return false;
}

void tcp_option_join(struct ams_stack *stack, struct tcp_conn *conn, const struct tcp_repr *seg, uint64_t now)
{
    const struct tcp_host *tcp = stack->tcp;
    for (uint32_t i = 0; i < tcp->n_options; i++) {
        const struct tcp_option_ops *ops = tcp->options[i];
        struct tcp_option_value value;
        if (!ops->join)
            continue;
        bool offered = seg && look_for(tcp, seg, i, &value);
        if (!ops->join(stack, conn, offered ? &value : NULL))
            continue;
        void *state = tcp_option_enable(stack, conn, i);
        if (state && offered)
            ops->receive(stack, conn, state, seg, &value, now);
    }
}

void tcp_option_answered(struct ams_stack *stack, struct tcp_conn *conn, const struct tcp_repr *seg, uint64_t now)
{
    const struct tcp_host *tcp = stack->tcp;
    for (uint32_t i = 0; i < tcp->n_options; i++) {
        const struct tcp_option_ops *ops = tcp->options[i];
        struct tcp_option_value value;
        void *state = tcp_option_state(stack, conn, i);
        if (!state)
            continue;
        bool found = look_for(tcp, seg, i, &value);
        if (ops->join && !(ops->answered ? ops->answered(stack, conn, state, found ? &value : NULL) : found))
            conn->ext->enabled &= ~(1u << i);
        else if (found)
            ops->receive(stack, conn, state, seg, &value, now);
    }
}

void tcp_option_receive(struct ams_stack *stack, struct tcp_conn *conn, const struct tcp_repr *seg, uint64_t now)
{
    for (uint32_t n = 0; n < seg->n_others; n++) {
        struct tcp_option_value value;
        uint32_t index = read_other(stack->tcp, seg, n, &value);
        void *state = index < TCP_OPTIONS_KNOWN ? tcp_option_state(stack, conn, index) : NULL;
        if (state)
            stack->tcp->options[index]->receive(stack, conn, state, seg, &value, now);
    }
}

/* ---- sending ---------------------------------------------------------------------- */

/* The bytes before an option's value. */
static uint32_t head_size(const struct tcp_option_ops *ops)
{
    return ops->exid ? 2 + TCP_OPTION_EXID_SIZE : 2;
}

/* How long the next option's value is that fits into room; TCP_OPTION_ABSENT if it stays away. */
static uint32_t value_size(const struct ams_stack *stack, const struct tcp_conn *conn, uint32_t index,
                           enum tcp_place place, uint32_t room)
{
    const struct tcp_option_ops *ops = stack->tcp->options[index];
    const void *state = tcp_option_state(stack, conn, index);
    if (!state || room < head_size(ops))
        return TCP_OPTION_ABSENT;
    uint32_t length = ops->size(stack, conn, state, place, room - head_size(ops));
    return length <= room - head_size(ops) ? length : TCP_OPTION_ABSENT;
}

/* The bytes of all options that go with a segment, padded. */
static uint32_t total_size(const struct ams_stack *stack, const struct tcp_conn *conn, enum tcp_place place,
                           uint32_t room)
{
    uint32_t used = 0;
    for (uint32_t i = 0; i < stack->tcp->n_options; i++) {
        uint32_t length = value_size(stack, conn, i, place, room - used);
        if (length != TCP_OPTION_ABSENT)
            used += head_size(stack->tcp->options[i]) + length;
    }
    return (used + 3u) & ~3u;
}

uint32_t tcp_option_plan(const struct ams_stack *stack, const struct tcp_conn *conn, enum tcp_place place,
                         struct tcp_option_plan *plan)
{
    uint32_t blocks = conn->flags & CONN_SACK_OK ? conn->n_runs + !!(conn->flags & CONN_DSACK) : 0;
    plan->sack_blocks = plan->others = 0;
    if (AMS_LIKELY(!blocks && !conn->ext))
        return 0;
    uint32_t room = TCP_OPTIONS_MAX - (conn->flags & CONN_TS_OK ? TIMESTAMPS_SIZE : 0);
    uint32_t first = blocks ? SACK_HEAD + ams_min_u32(blocks, SACK_FIRST) * SACK_BLOCK : 0;
    if (conn->ext)
        plan->others = (uint8_t)total_size(stack, conn, place, room - first);
    if (blocks) {
        uint32_t fit = (room - plan->others - SACK_HEAD) / SACK_BLOCK;
        plan->sack_blocks = (uint8_t)ams_min_u32(ams_min_u32(blocks, fit), TCP_SACK_BLOCKS);
    }
    return plan->others + (blocks ? SACK_HEAD + plan->sack_blocks * SACK_BLOCK : 0);
}

void tcp_option_emit(struct ams_stack *stack, struct tcp_conn *conn, enum tcp_place place, struct tcp_repr *repr,
                     uint8_t scratch[TCP_OPTIONS_MAX], uint32_t room)
{
    uint32_t used = 0;
    for (uint32_t i = 0; i < stack->tcp->n_options; i++) {
        const struct tcp_option_ops *ops = stack->tcp->options[i];
        uint32_t head = head_size(ops), length = value_size(stack, conn, i, place, room - used);
        if (length == TCP_OPTION_ABSENT)
            continue;
        uint8_t *option = scratch + used;
        uint8_t kind = ops->emit(stack, conn, tcp_option_state(stack, conn, i), place, option + head, length);
        option[0] = ops->kind_also ? kind : ops->kind;
        option[1] = (uint8_t)(head + length);
        if (ops->exid)
            store_be16(option + 2, ops->exid);
        used += head + length;
    }
    repr->raw = scratch;
    repr->raw_len = (uint8_t)used;
}
