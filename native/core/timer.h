/* SPDX-License-Identifier: BSD-2-Clause
 *
 * timer.h - a hierarchical timing wheel (Varghese & Lauck, 1987, scheme 7).
 *
 * Theory of operation.  Time is cut into ticks of 2^20 ns (about 1.05 ms).
 * Level 0 has a slot for each of the next 64 ticks, level k one for each
 * run of 64^k ticks.  Arming and cancelling are O(1): a doubly linked list
 * per slot and a 64-bit occupancy map per level.  A timer on level k > 0 is
 * moved down when its slot is reached, so at most TIMER_LEVELS - 1 times.  A
 * timer never fires early; it fires at the first tick boundary at or after its
 * time.  Timers fire in the order of their ticks, and those of one tick in the
 * order in which they were armed.
 *
 * However many timers are due, or must be moved, at one time: timer_pop() does
 * no more than it is allowed to, and goes on from there the next time.  A slot
 * is taken over as a whole (`moving`, `due`), and emptied one by one; what is
 * armed for the same ticks meanwhile lines up behind.
 *
 * timer_wheel_deadline() is the time of the next occupied slot of any level:
 * exact for level 0; for others it is when timers move down, after which
 * the deadline is later.  So waking at the deadline always makes progress.
 *
 * With many timers none is in the CPU's caches when it is due, and a list
 * tells only of the next.  What was armed one after the other mostly fires so,
 * too: each timer notes which one was armed TIMER_AHEAD after it (`ahead`), and
 * that one's memory is asked for when it fires.  A note is never more than
 * advice: that timer may be armed otherwise by now, or gone.
 */
#ifndef AMS_CORE_TIMER_H
#define AMS_CORE_TIMER_H

#include "core/base.h"

#define TIMER_TICK_SHIFT 20
#define TIMER_SLOTS 64
#define TIMER_LEVELS 6
#define TIMER_AHEAD 8

struct ams_timer {
    struct ams_timer *next; /* NULL: not armed */
    struct ams_timer *prev;
    uint64_t expires;       /* ns */
    uint8_t level;
    uint8_t slot;
    uint8_t kind;           /* owner's use: which callback */
    uint8_t turn;           /* place in wheel->latest, if that is this one */
    int32_t ahead;          /* where the one armed TIMER_AHEAD later lay, from here, in 8 bytes; 0: unknown */
};

struct timer_wheel {
    uint64_t tick;          /* all ticks before this one have been handled */
    uint64_t occupied[TIMER_LEVELS];
    struct ams_timer slots[TIMER_LEVELS][TIMER_SLOTS]; /* list heads */
    struct ams_timer due;   /* expired, not yet popped */
    struct ams_timer moving; /* of a slot that has been reached, not yet moved down; its level and slot are that one's */
    uint32_t armed;
    uint32_t turn;
    struct ams_timer *latest[TIMER_AHEAD]; /* armed last, in turn; NULL: disarmed since */
};

void timer_wheel_init(struct timer_wheel *wheel, uint64_t now);
/* Arms timer at `expires` (ns, absolute); re-arms it if it was armed. */
void timer_arm(struct timer_wheel *wheel, struct ams_timer *timer, uint64_t expires);
/* Disarms; an idle timer is left as it is. */
void timer_cancel(struct timer_wheel *wheel, struct ams_timer *timer);
/* Takes one timer that is due at `now`.
 * @work: how many timers may be touched, those that only move included; counts down
 * Return: NULL when there is none, or *work is used up. */
struct ams_timer *timer_pop(struct timer_wheel *wheel, uint64_t now, uint32_t *work);
/* Where a timer lies, or has lain, that is likely to be popped soon after this
 * one: for prefetching only.  NULL: nothing is known. */
static inline const void *timer_ahead(const struct ams_timer *timer)
{
    return timer->ahead ? (const void *)((uintptr_t)timer + (uintptr_t)((intptr_t)timer->ahead * 8)) : NULL;
}
/* When timer_pop() should be called next; AMS_NEVER's value if never. */
uint64_t timer_wheel_deadline(const struct timer_wheel *wheel);

static inline bool timer_armed(const struct ams_timer *timer) { return timer->next != NULL; }

#endif
