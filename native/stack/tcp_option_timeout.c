/* SPDX-License-Identifier: BSD-2-Clause
 *
 * tcp_option_timeout.c - the User Timeout option (RFC 5482).
 *
 * Theory of operation.  With AMS_STACK_USER_TIMEOUT_OPTION a connection whose
 * application has set TCP_USER_TIMEOUT tells its peer, so that the peer may
 * wait as long for data that we don't acknowledge: on the SYN, on the first
 * segment after it (the other side may have kept no state for the SYN's,
 * section 3.2) and when the time is changed.  A connection whose application
 * has set none takes over what the peer says, within limits (section 3.1): a
 * peer can neither end a connection early nor keep it for ever.  Who has set
 * a time of its own keeps it.
 */
#include "stack/tcp.h"

#define KIND 28u
#define VALUE_SIZE 2u
#define IN_MINUTES 0x8000u
#define VALUE_MAX 0x7fffu
#define L_LIMIT_S 100u          /* RFC 1122 section 4.2.3.5: at least 100 seconds */
#define U_LIMIT_S 86400u
#define MS_PER_S 1000u
#define S_PER_MINUTE 60u

struct user_timeout {
    uint8_t owed;             /* segments that shall carry the option */
    bool adopted;             /* the connection's user timeout is the peer's */
};

static bool timeout_join(struct ams_stack *stack, struct tcp_conn *conn, const struct tcp_option_value *offered)
{
    return stack->config.flags & AMS_STACK_USER_TIMEOUT_OPTION;
}

/* The option is not negotiated: each side may send it whatever the other does. */
static bool timeout_answered(struct ams_stack *stack, struct tcp_conn *conn, void *state,
                             const struct tcp_option_value *answer)
{
    return true;
}

static uint32_t timeout_size(const struct ams_stack *stack, const struct tcp_conn *conn, const void *state,
                             enum tcp_place place, uint32_t room)
{
    const struct user_timeout *timeout = state;
    bool syn = place == TCP_PLACE_SYN || place == TCP_PLACE_SYN_ACK;
    if (!conn->user_timeout_ms || timeout->adopted || room < VALUE_SIZE || (!syn && !timeout->owed))
        return TCP_OPTION_ABSENT;
    return VALUE_SIZE;
}

static uint8_t timeout_emit(struct ams_stack *stack, struct tcp_conn *conn, void *state, enum tcp_place place,
                            uint8_t *out, uint32_t length)
{
    struct user_timeout *timeout = state;
    uint32_t seconds = conn->user_timeout_ms / MS_PER_S + !!(conn->user_timeout_ms % MS_PER_S);
    uint32_t minutes = seconds / S_PER_MINUTE + !!(seconds % S_PER_MINUTE);
    if (seconds <= VALUE_MAX)
        store_be16(out, seconds);
    else
        store_be16(out, IN_MINUTES | ams_min_u32(minutes, VALUE_MAX));
    if (place == TCP_PLACE_SYN || place == TCP_PLACE_SYN_ACK)
        timeout->owed = 1;
    else
        timeout->owed--;
    return KIND;
}

static void timeout_receive(struct ams_stack *stack, struct tcp_conn *conn, void *state, const struct tcp_repr *seg,
                            const struct tcp_option_value *value, uint64_t now)
{
    struct user_timeout *timeout = state;
    if (value->length != VALUE_SIZE || (conn->user_timeout_ms && !timeout->adopted))
        return;
    uint32_t field = load_be16(value->data), seconds = field & VALUE_MAX;
    if (field & IN_MINUTES)
        seconds *= S_PER_MINUTE;
    if (!seconds) /* section 3.3: zero means nothing */
        return;
    conn->user_timeout_ms = ams_min_u32(ams_max_u32(seconds, L_LIMIT_S), U_LIMIT_S) * MS_PER_S;
    timeout->adopted = true;
}

void tcp_user_timeout_changed(struct ams_stack *stack, struct tcp_conn *conn)
{
    struct user_timeout *timeout = tcp_option_state(stack, conn, TCP_OPTION_USER_TIMEOUT);
    if (!timeout)
        return;
    timeout->adopted = false;
    timeout->owed = 1;
}

const struct tcp_option_ops tcp_option_user_timeout = {
    .name = "user-timeout",
    .kind = KIND,
    .state_size = sizeof(struct user_timeout),
    .join = timeout_join,
    .answered = timeout_answered,
    .size = timeout_size,
    .emit = timeout_emit,
    .receive = timeout_receive,
};
