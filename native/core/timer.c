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

void timer_wheel_init(struct timer_wheel *wheel, uint64_t now)
{
    memset(wheel, 0, sizeof(*wheel));
    wheel->tick = now >> TIMER_TICK_SHIFT;
    for (int level = 0; level < TIMER_LEVELS; level++)
        for (int slot = 0; slot < TIMER_SLOTS; slot++)
            list_init(&wheel->slots[level][slot]);
    list_init(&wheel->due);
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

void timer_cancel(struct timer_wheel *wheel, struct ams_timer *timer)
{
    if (!timer->next)
        return;
    timer->prev->next = timer->next;
    timer->next->prev = timer->prev;
    if (timer->level < TIMER_LEVELS) {
        struct ams_timer *head = &wheel->slots[timer->level][timer->slot];
        if (head->next == head)
            wheel->occupied[timer->level] &= ~(1ull << timer->slot);
    }
    timer->next = timer->prev = NULL;
    wheel->armed--;
}

void timer_arm(struct timer_wheel *wheel, struct ams_timer *timer, uint64_t expires)
{
    timer_cancel(wheel, timer);
    timer->expires = expires;
    wheel->armed++;
    wheel_place(wheel, timer);
}

/* Empties a slot into `place`: either the due list or lower levels. */
static void slot_drain(struct timer_wheel *wheel, int level, unsigned slot)
{
    struct ams_timer *head = &wheel->slots[level][slot];
    struct ams_timer *timer = head->next;
    list_init(head);
    wheel->occupied[level] &= ~(1ull << slot);
    while (timer != head) {
        struct ams_timer *next = timer->next;
        if (level == 0) {
            timer->level = TIMER_LEVELS;
            list_append(&wheel->due, timer);
        } else {
            wheel_place(wheel, timer);
        }
        timer = next;
    }
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

struct ams_timer *timer_pop(struct timer_wheel *wheel, uint64_t now)
{
    uint64_t now_tick = now >> TIMER_TICK_SHIFT;
    while (wheel->due.next == &wheel->due) {
        uint64_t tick = wheel->armed ? next_tick(wheel) : NO_DEADLINE;
        if (tick > now_tick) {
            if (now_tick > wheel->tick && tick != NO_DEADLINE)
                wheel->tick = now_tick;
            else if (tick == NO_DEADLINE && now_tick > wheel->tick)
                wheel->tick = now_tick;
            return NULL;
        }
        wheel->tick = tick;
        for (int level = TIMER_LEVELS - 1; level >= 0; level--) {
            unsigned shift = SLOT_BITS * (unsigned)level;
            unsigned slot = (tick >> shift) & (TIMER_SLOTS - 1);
            if (wheel->occupied[level] & (1ull << slot) && (level == 0 || (tick & ((1ull << shift) - 1)) == 0))
                slot_drain(wheel, level, slot);
        }
    }
    struct ams_timer *timer = wheel->due.next;
    timer_cancel(wheel, timer);
    return timer;
}

uint64_t timer_wheel_deadline(const struct timer_wheel *wheel)
{
    if (wheel->due.next != &wheel->due)
        return wheel->tick << TIMER_TICK_SHIFT;
    uint64_t tick = wheel->armed ? next_tick(wheel) : NO_DEADLINE;
    return tick == NO_DEADLINE ? NO_DEADLINE : tick << TIMER_TICK_SHIFT;
}
