/* SPDX-License-Identifier: BSD-2-Clause */
#define _POSIX_C_SOURCE 200809L

#include "io/hub.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "core/alloc.h"
#include "core/status.h"
#include "io/port.h"
#include "wire/proto.h"

#define MAC_PROBES 8u
#define MAC_MULTICAST 1u /* in an address's first byte */

/* ---- life cycle ---------------------------------------------------------------- */

struct ams_hub *ams_hub_new(uint64_t seed, uint32_t mtu, uint32_t flags)
{
    if (!mtu)
        mtu = 1500;
    if (mtu < PORT_MTU_MIN || mtu > PORT_MTU_MAX)
        return NULL;
    struct ams_hub *hub = mem_zalloc(1, sizeof(*hub));
    if (!hub)
        return NULL;
    hub->macs = mem_zalloc(HUB_MACS, sizeof(*hub->macs));
    if (!hub->macs || pthread_mutex_init(&hub->lock, NULL) != 0) {
        mem_free(hub->macs);
        mem_free(hub);
        return NULL;
    }
    hub->refs = 1;
    hub->mtu = mtu;
    hub->flags = flags;
    rng_init(&hub->rng, seed, 0x687562 /* a stream of its own */);
    hub->secret = rng_next(&hub->rng) | 1;
    frame_pool_init(&hub->pool, UINT32_MAX, true);
    return hub;
}

static void hub_lock(struct ams_hub *hub)
{
    AMS_ASSERT(pthread_mutex_lock(&hub->lock) == 0);
}

static void hub_unlock(struct ams_hub *hub)
{
    AMS_ASSERT(pthread_mutex_unlock(&hub->lock) == 0);
}

/* Drops a reference; the last one frees the hub.  The lock is held, and is
 * released. */
static void hub_unref(struct ams_hub *hub)
{
    AMS_ASSERT(hub->refs > 0);
    bool last = --hub->refs == 0;
    hub_unlock(hub);
    if (!last)
        return;
    frame_pool_fini(&hub->pool);
    pthread_mutex_destroy(&hub->lock);
    mem_free(hub->members);
    mem_free(hub->macs);
    mem_free(hub);
}

void ams_hub_free(struct ams_hub *hub)
{
    if (!hub)
        return;
    hub_lock(hub);
    hub_unref(hub);
}

int ams_hub_impair(struct ams_hub *hub, const struct ams_impairment *what)
{
    int status = 0;
    bool active = impair_active(what);

    if (!impair_valid(what) || (active && !(hub->flags & AMS_HUB_NO_OFFLOAD)))
        return -AMS_EINVAL;
    hub_lock(hub);
    for (uint32_t i = 0; i < hub->n_members && !status; i++)
        status = impair_line_set(&hub->members[i]->line, what);
    if (!status) {
        hub->impairment = *what;
        hub->impaired = active;
    }
    hub_unlock(hub);
    return status;
}

uint64_t ams_hub_deadline(struct ams_hub *hub)
{
    uint64_t deadline = AMS_NEVER;

    hub_lock(hub);
    for (uint32_t i = 0; i < hub->n_members; i++)
        deadline = ams_min_u64(deadline, impair_line_deadline(&hub->members[i]->line));
    hub_unlock(hub);
    return deadline;
}

/* ---- members ------------------------------------------------------------------- */

/* Makes room for one more member.  Return: 0, -AMS_ENOMEM. */
static int hub_reserve(struct ams_hub *hub)
{
    if (hub->n_members < hub->capacity)
        return 0;
    uint32_t capacity = hub->capacity ? hub->capacity * 2 : 8;
    struct hub_member **members = mem_realloc(hub->members, capacity * sizeof(*members));
    if (!members)
        return -AMS_ENOMEM;
    hub->members = members;
    hub->capacity = capacity;
    return 0;
}

int hub_attach(struct ams_hub *hub, struct hub_member **out)
{
    struct hub_member *member = mem_zalloc(1, sizeof(*member));

    if (!member)
        return -AMS_ENOMEM;
    member->hub = hub;
    member->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (member->wake_fd < 0) {
        int status = port_status(errno);
        mem_free(member);
        return status;
    }
    hub_lock(hub);
    int status = hub_reserve(hub);
    if (!status)
        status = impair_line_set(&member->line, &hub->impairment);
    if (!status) {
        member->index = hub->n_members;
        hub->members[hub->n_members++] = member;
        hub->refs++;
    }
    hub_unlock(hub);
    if (status) {
        impair_line_fini(&member->line);
        close(member->wake_fd);
        mem_free(member);
        return status;
    }
    *out = member;
    return 0;
}

void hub_detach(struct hub_member *member)
{
    struct ams_hub *hub = member->hub;

    hub_lock(hub);
    for (uint32_t i = 0; i < HUB_MACS; i++) {
        if (hub->macs[i].member == member)
            hub->macs[i] = (struct hub_mac){0, NULL};
    }
    hub->n_monitors -= member->monitor;
    hub->members[member->index] = hub->members[--hub->n_members];
    hub->members[member->index]->index = member->index;
    while (member->head) {
        struct ams_frame *next = member->head->next;
        frame_free(member->head);
        member->head = next;
    }
    impair_line_fini(&member->line);
    close(member->wake_fd);
    mem_free(member);
    hub_unref(hub);
}

/* ---- learnt addresses ------------------------------------------------------------ */

static uint64_t hub_mac_key(const uint8_t *mac)
{
    uint64_t key = 0;
    for (int i = 0; i < 6; i++)
        key = key << 8 | mac[i];
    return key;
}

/* The place of a MAC address: where it is, else a free one, else the last
 * that was looked at.  (Detaching leaves holes: all probes are made.) */
static struct hub_mac *hub_mac_place(struct ams_hub *hub, uint64_t key)
{
    uint32_t home = (uint32_t)(((key + hub->secret) * (hub->secret ^ 0x9e3779b97f4a7c15)) >> 40);
    struct hub_mac *place = NULL;

    for (uint32_t i = 0; i < MAC_PROBES; i++) {
        struct hub_mac *candidate = &hub->macs[(home + i) % HUB_MACS];
        if (candidate->mac == key)
            return candidate;
        if (!place || (place->mac && !candidate->mac))
            place = candidate;
    }
    return place;
}

static void hub_learn(struct hub_member *member, const struct ams_frame *frame)
{
    uint64_t key = hub_mac_key(frame->data + 6);

    if (frame->data[6] & MAC_MULTICAST || !key || member->monitor)
        return;
    struct hub_mac *place = hub_mac_place(member->hub, key);
    place->mac = key;
    place->member = member;
}

/* The member behind a frame's destination; NULL if it is unknown or a group. */
static struct hub_member *hub_lookup(struct ams_hub *hub, const struct ams_frame *frame)
{
    uint64_t key = hub_mac_key(frame->data);

    if (frame->data[0] & MAC_MULTICAST || !key)
        return NULL;
    struct hub_mac *place = hub_mac_place(hub, key);
    return place->mac == key ? place->member : NULL;
}

/* ---- delivery ------------------------------------------------------------------- */

/* Makes a member's fd readable, unless who has something for it (0: nobody
 * in particular) is of its own group. */
static void member_signal(struct hub_member *member, uint64_t group)
{
    uint64_t one = 1;

    if (member->signalled)
        return;
    if (group && group == member->group) {
        member->waiting = true;
        return;
    }
    member->signalled = true;
    ssize_t written = write(member->wake_fd, &one, sizeof(one));
    AMS_ASSERT(written == sizeof(one)); /* the counter is 0: it cannot be full */
}

/* Makes it unreadable again. */
static void member_clear(struct hub_member *member)
{
    uint64_t count;

    if (!member->signalled)
        return;
    member->signalled = false;
    ssize_t got = read(member->wake_fd, &count, sizeof(count));
    AMS_ASSERT(got == sizeof(count));
}

/* Puts a frame into a member's inbox; the caller signals.  Owns: takes
 * frame. */
static void member_put(struct hub_member *member, struct ams_frame *frame)
{
    if (member->frames >= HUB_INBOX_FRAMES || member->bytes + frame->capacity > HUB_INBOX_BYTES) {
        frame_free(frame);
        member->dropped++;
        return;
    }
    frame->next = NULL;
    if (member->head)
        member->tail->next = frame;
    else
        member->head = frame;
    member->tail = frame;
    member->frames++;
    member->bytes += frame->capacity;
}

/* Moves frames whose time has come to the inbox. */
static void member_release(struct hub_member *member, uint64_t now)
{
    struct ams_frame *frame;

    while ((frame = impair_line_pop(&member->line, now)))
        member_put(member, frame);
}

/* Gives a frame to one member, over its line.
 * @group: the sender's
 * Owns: takes frame. */
static void hub_deliver(struct hub_member *member, struct ams_frame *frame, uint64_t group, uint64_t now)
{
    struct ams_hub *hub = member->hub;

    if (AMS_LIKELY(!hub->impaired && !member->line.held)) {
        member_put(member, frame);
        member_signal(member, group);
        return;
    }
    uint64_t before = impair_line_deadline(&member->line);
    impair_line_push(&member->line, &hub->impairment, &hub->rng, frame, now);
    member_release(member, now);
    /* A receiver asleep doesn't know of a deadline that is new. */
    if (member->head || impair_line_deadline(&member->line) < before)
        member_signal(member, group);
}

/* A copy of a frame for one more receiver, or NULL. */
static struct ams_frame *hub_copy(const struct ams_frame *frame)
{
    struct ams_frame *copy = frame_new(frame->pool, (enum frame_class)frame->class_);

    if (!copy)
        return NULL;
    memcpy(copy->data, frame->data, frame->len);
    copy->len = frame->len;
    copy->flags = frame->flags;
    copy->gso_size = frame->gso_size;
    return copy;
}

/* Gives a frame to all members but the sender.  Owns: takes frame. */
static void hub_flood(struct hub_member *from, struct ams_frame *frame, uint64_t now)
{
    struct ams_hub *hub = from->hub;
    struct hub_member *last = NULL;

    for (uint32_t i = 0; i < hub->n_members; i++) {
        struct hub_member *to = hub->members[i];
        if (to == from || to->monitor)
            continue;
        if (last) {
            struct ams_frame *copy = hub_copy(frame);
            if (copy)
                hub_deliver(last, copy, from->group, now);
            else
                last->dropped++;
        }
        last = to;
    }
    if (last)
        hub_deliver(last, frame, from->group, now);
    else
        frame_free(frame);
}

/* Shows a frame to the monitors. */
static void hub_mirror(struct hub_member *from, const struct ams_frame *frame)
{
    struct ams_hub *hub = from->hub;

    for (uint32_t i = 0; i < hub->n_members; i++) {
        struct hub_member *to = hub->members[i];
        if (!to->monitor || to == from)
            continue;
        struct ams_frame *copy = hub_copy(frame);
        if (copy) {
            member_put(to, copy);
            member_signal(to, from->group);
        } else {
            to->dropped++;
        }
    }
}

void hub_monitor(struct hub_member *member)
{
    hub_lock(member->hub);
    if (!member->monitor) {
        member->monitor = true;
        member->hub->n_monitors++;
    }
    hub_unlock(member->hub);
}

void hub_send(struct hub_member *member, struct ams_frame **frames, int n, uint64_t now)
{
    struct ams_hub *hub = member->hub;

    hub_lock(hub);
    for (int i = 0; i < n; i++) {
        if (AMS_UNLIKELY(hub->n_monitors))
            hub_mirror(member, frames[i]);
        hub_learn(member, frames[i]);
        struct hub_member *to = hub_lookup(hub, frames[i]);
        if (!to)
            hub_flood(member, frames[i], now);
        else if (to != member)
            hub_deliver(to, frames[i], member->group, now);
        else
            frame_free(frames[i]);
    }
    hub_unlock(hub);
}

int hub_receive(struct hub_member *member, struct ams_frame **frames, int n, uint64_t now)
{
    struct ams_hub *hub = member->hub;
    int taken = 0;

    hub_lock(hub);
    member->waiting = false;
    if (member->line.held)
        member_release(member, now);
    while (taken < n && member->head) {
        struct ams_frame *frame = member->head;
        member->head = frame->next;
        frame->next = NULL;
        member->frames--;
        member->bytes -= frame->capacity;
        frames[taken++] = frame;
    }
    if (member->head)
        member_signal(member, 0);
    else
        member_clear(member);
    hub_unlock(hub);
    return taken;
}

void hub_set_group(struct hub_member *member, uint64_t group)
{
    hub_lock(member->hub);
    member->group = group;
    if (member->waiting)
        member_signal(member, 0);
    member->waiting = false;
    hub_unlock(member->hub);
}

bool hub_waiting(struct hub_member *member)
{
    hub_lock(member->hub);
    bool waiting = member->waiting;
    hub_unlock(member->hub);
    return waiting;
}

uint64_t hub_member_deadline(struct hub_member *member)
{
    hub_lock(member->hub);
    uint64_t deadline = impair_line_deadline(&member->line);
    hub_unlock(member->hub);
    return deadline;
}

uint64_t hub_member_dropped(struct hub_member *member)
{
    hub_lock(member->hub);
    uint64_t dropped = member->dropped + member->line.dropped;
    hub_unlock(member->hub);
    return dropped;
}
