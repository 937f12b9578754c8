/* SPDX-License-Identifier: BSD-2-Clause */
#include "core/timer.h"

#include <string.h>

#define SLOT_BITS 6
#define NO_DEADLINE UINT64_MAX

static void list_init(struct ams_timer *head)
{
    head->next = head->prev = head;
}

static void list_append(struct ams_timer *head, struct ams_timer *timer)
{
    timer->prev = head->prev;
    timer->next = head;
    head->prev->next = timer;
    head->prev = timer;
}

static bool list_empty(const struct ams_timer *head)
{
    return head->next == head;
}

/* Moves all of a list to the end of another. */
static void list_splice(struct ams_timer *to, struct ams_timer *from)
{
    if (list_empty(from))
        return;
    from->next->prev = to->prev;
    to->prev->next = from->next;
    from->prev->next = to;
    to->prev = from->prev;
    list_init(from);
}

static void list_remove(struct ams_timer *timer)
{
    timer->prev->next = timer->next;
    timer->next->prev = timer->prev;
    timer->next = timer->prev = NULL;
}

void timer_wheel_init(struct timer_wheel *wheel, uint64_t now)
{
    memset(wheel, 0, sizeof(*wheel));
    wheel->tick = now >> TIMER_TICK_SHIFT;
    for (int level = 0; level < TIMER_LEVELS; level++)
        for (int slot = 0; slot < TIMER_SLOTS; slot++)
            list_init(&wheel->slots[level][slot]);
    list_init(&wheel->due);
    list_init(&wheel->moving);
}

/* The tick at which a timer fires: never before its time. */
static inline uint64_t expiry_tick(uint64_t expires)
{
    return (expires + (1ull << TIMER_TICK_SHIFT) - 1) >> TIMER_TICK_SHIFT;
}

/* Puts an unlinked timer into the slot that its time asks for. */
static void wheel_place(struct timer_wheel *wheel, struct ams_timer *timer)
{
    uint64_t tick = expiry_tick(timer->expires);
    uint64_t farthest = wheel->tick + (1ull << (SLOT_BITS * TIMER_LEVELS)) - (1ull << (SLOT_BITS * (TIMER_LEVELS - 1)));
    if (tick < wheel->tick)
        tick = wheel->tick;
    if (tick > farthest)
        tick = farthest;
    uint64_t differing = tick ^ wheel->tick;
    int level = differing ? (63 - __builtin_clzll(differing)) / SLOT_BITS : 0;
    if (level >= TIMER_LEVELS)
        level = TIMER_LEVELS - 1;
    unsigned slot = (tick >> (SLOT_BITS * level)) & (TIMER_SLOTS - 1);
    timer->level = (uint8_t)level;
    timer->slot = (uint8_t)slot;
    list_append(&wheel->slots[level][slot], timer);
    wheel->occupied[level] |= 1ull << slot;
}

/* Has the timer armed TIMER_AHEAD ago note where this one is. */
static void note_ahead(struct timer_wheel *wheel, struct ams_timer *timer)
{
    unsigned turn = wheel->turn++ % TIMER_AHEAD;
    struct ams_timer *before = wheel->latest[turn];
    if (before) {
        intptr_t distance = ((intptr_t)timer - (intptr_t)before) / 8;
        before->ahead = distance == (int32_t)distance ? (int32_t)distance : 0;
    }
    wheel->latest[turn] = timer;
    timer->turn = (uint8_t)turn;
    timer->ahead = 0;
}

/* A timer in `due` or `moving` has left its slot, which the wheel cannot fill
 * again meanwhile unless it is due at once: the map is right either way. */
void timer_cancel(struct timer_wheel *wheel, struct ams_timer *timer)
{
    if (!timer->next)
        return;
    list_remove(timer);
    if (wheel->latest[timer->turn] == timer)
        wheel->latest[timer->turn] = NULL;
    if (list_empty(&wheel->slots[timer->level][timer->slot]))
        wheel->occupied[timer->level] &= ~(1ull << timer->slot);
    wheel->armed--;
}

/* Does a tick belong to the slot that is being moved down? */
static bool is_moving(const struct timer_wheel *wheel, uint64_t tick)
{
    unsigned shift = SLOT_BITS * (unsigned)wheel->moving.level;
    return !list_empty(&wheel->moving) && tick >> shift <= wheel->tick >> shift;
}

void timer_arm(struct timer_wheel *wheel, struct ams_timer *timer, uint64_t expires)
{
    timer_cancel(wheel, timer);
    timer->expires = expires;
    note_ahead(wheel, timer);
    wheel->armed++;
    if (AMS_UNLIKELY(is_moving(wheel, expiry_tick(expires)))) { /* those before it come first */
        timer->level = wheel->moving.level;
        timer->slot = wheel->moving.slot;
        list_append(&wheel->moving, timer);
        return;
    }
    wheel_place(wheel, timer);
}

/* Takes over the slot of wheel->tick on the highest level that has any. */
static void slot_reached(struct timer_wheel *wheel)
{
    for (unsigned level = TIMER_LEVELS; level-- > 0;) {
        unsigned shift = SLOT_BITS * level;
        unsigned slot = (wheel->tick >> shift) & (TIMER_SLOTS - 1);
        if (!(wheel->occupied[level] & 1ull << slot))
            continue;
        if (level && wheel->tick & ((1ull << shift) - 1))
            continue; /* only the last level has timers for its next turn there */
        wheel->occupied[level] &= ~(1ull << slot);
        list_splice(level ? &wheel->moving : &wheel->due, &wheel->slots[level][slot]);
        wheel->moving.level = (uint8_t)level;
        wheel->moving.slot = (uint8_t)slot;
        return;
    }
}

/* Moves the timers of a slot to lower levels.  Return: false if *work did not
 * suffice. */
static bool move_down(struct timer_wheel *wheel, uint32_t *work)
{
    while (!list_empty(&wheel->moving)) {
        struct ams_timer *timer = wheel->moving.next;
        if (!*work)
            return false;
        --*work;
        AMS_PREFETCH(timer_ahead(timer));
        list_remove(timer);
        wheel_place(wheel, timer);
    }
    return true;
}

/* The next tick at which some slot, on any level, must be drained.  A slot
 * of level k stands for the ticks that share all higher bits with the
 * wheel's tick, because timers are placed by the highest differing bit. */
static uint64_t next_tick(const struct timer_wheel *wheel)
{
    uint64_t best = NO_DEADLINE;
    for (int level = 0; level < TIMER_LEVELS; level++) {
        uint64_t map = wheel->occupied[level];
        if (!map)
            continue;
        unsigned shift = SLOT_BITS * (unsigned)level;
        unsigned here = (wheel->tick >> shift) & (TIMER_SLOTS - 1);
        uint64_t ahead = map >> here << here;
        uint64_t base = wheel->tick >> (shift + SLOT_BITS) << (shift + SLOT_BITS);
        uint64_t tick;
        if (ahead)
            tick = base + ((uint64_t)__builtin_ctzll(ahead) << shift);
        else /* only the last level wraps */
            tick = base + (1ull << (shift + SLOT_BITS)) + ((uint64_t)__builtin_ctzll(map) << shift);
        if (tick < wheel->tick)
            tick = wheel->tick;
        if (tick < best)
            best = tick;
    }
    return best;
}

struct ams_timer *timer_pop(struct timer_wheel *wheel, uint64_t now, uint32_t *work)
{
    uint64_t now_tick = now >> TIMER_TICK_SHIFT;
    while (list_empty(&wheel->due)) {
        if (!move_down(wheel, work))
            return NULL;
        uint64_t tick = wheel->armed ? next_tick(wheel) : NO_DEADLINE;
        if (tick > now_tick) {
            wheel->tick = now_tick > wheel->tick ? now_tick : wheel->tick;
            return NULL;
        }
        wheel->tick = tick;
        slot_reached(wheel);
    }
    if (!*work)
        return NULL;
    --*work;
    struct ams_timer *timer = wheel->due.next;
    timer_cancel(wheel, timer);
    return timer;
}

uint64_t timer_wheel_deadline(const struct timer_wheel *wheel)
{
    if (!list_empty(&wheel->due) || !list_empty(&wheel->moving))
        return wheel->tick << TIMER_TICK_SHIFT;
    uint64_t tick = wheel->armed ? next_tick(wheel) : NO_DEADLINE;
    return tick == NO_DEADLINE ? NO_DEADLINE : tick << TIMER_TICK_SHIFT;
}
