/* SPDX-License-Identifier: BSD-2-Clause
 *
 * fabric_queue.c - frames that wait for the control plane.
 *
 * A bounded queue between the data thread and others, under a lock that is
 * held for one copy.  Its eventfd is written on the way from empty to not
 * empty and read on the way back, both under the lock.
 */
#define _GNU_SOURCE

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "core/alloc.h"
#include "core/status.h"
#include "io/fabric.h"

int fabric_queue_init(struct fabric_queue *queue, uint32_t ports)
{
    memset(queue, 0, sizeof(*queue));
    queue->fd = -1;
    queue->waiting = mem_zalloc(ports, sizeof(*queue->waiting));
    if (!queue->waiting)
        return -AMS_ENOMEM;
    if (pthread_mutex_init(&queue->lock, NULL) != 0) {
        mem_free(queue->waiting);
        queue->waiting = NULL;
        return -AMS_ENOMEM;
    }
    queue->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (queue->fd >= 0)
        return 0;
    int status = port_status(errno);
    fabric_queue_fini(queue);
    return status;
}

void fabric_queue_fini(struct fabric_queue *queue)
{
    if (!queue->waiting)
        return;
    if (queue->fd >= 0)
        close(queue->fd);
    pthread_mutex_destroy(&queue->lock);
    mem_free(queue->places);
    mem_free(queue->waiting);
    queue->places = NULL;
    queue->waiting = NULL;
}

static size_t queue_stride(const struct fabric_queue *queue)
{
    return (sizeof(struct ams_fabric_frame) + queue->snap + 7) / 8 * 8;
}

static void queue_lock(struct fabric_queue *queue)
{
    AMS_ASSERT(pthread_mutex_lock(&queue->lock) == 0);
}

static void queue_unlock(struct fabric_queue *queue)
{
    AMS_ASSERT(pthread_mutex_unlock(&queue->lock) == 0);
}

/* Makes the eventfd unreadable, now that the queue is empty. */
static void queue_quiet(struct fabric_queue *queue)
{
    uint64_t count;
    ssize_t got = read(queue->fd, &count, sizeof(count));

    AMS_ASSERT(got == sizeof(count));
}

/* Takes the first place out.  The queue is not empty. */
static void queue_pop(struct fabric_queue *queue, int32_t index)
{
    queue->waiting[index]--;
    queue->head = (queue->head + 1) % queue->capacity;
    if (--queue->used == 0)
        queue_quiet(queue);
}

static struct ams_fabric_frame *queue_place(const struct fabric_queue *queue, uint32_t n)
{
    return (struct ams_fabric_frame *)(void *)(queue->places + (n % queue->capacity) * queue_stride(queue));
}

int fabric_queue_resize(struct fabric_queue *queue, uint32_t capacity, uint32_t per_port, uint32_t snap)
{
    struct fabric_queue next = {.snap = snap, .capacity = capacity};
    uint8_t *places = capacity ? mem_zalloc(capacity, queue_stride(&next)) : NULL;

    if (capacity && !places)
        return -AMS_ENOMEM;
    queue_lock(queue);
    while (queue->used)
        queue_pop(queue, queue_place(queue, queue->head)->index);
    uint8_t *old = queue->places;
    queue->places = places;
    queue->capacity = capacity;
    queue->per_port = per_port;
    queue->snap = snap;
    queue->head = 0;
    queue->lost = 0;
    queue_unlock(queue);
    mem_free(old);
    return 0;
}

bool fabric_queue_put(struct fabric_queue *queue, const struct ams_fabric_frame *info, const uint8_t *head,
                      uint32_t head_length, const uint8_t *rest)
{
    uint64_t one = 1;

    queue_lock(queue);
    if (queue->used == queue->capacity || queue->waiting[info->index] >= queue->per_port) {
        queue->lost++;
        queue_unlock(queue);
        return false;
    }
    struct ams_fabric_frame *place = queue_place(queue, queue->head + queue->used);
    uint8_t *bytes = (uint8_t *)(place + 1);
    *place = *info;
    place->captured = ams_min_u32(info->length, queue->snap);
    uint32_t first = ams_min_u32(head_length, place->captured);
    memcpy(bytes, head, first);
    if (place->captured > first)
        memcpy(bytes + first, rest, place->captured - first);
    queue->waiting[info->index]++;
    if (queue->used++ == 0) {
        ssize_t written = write(queue->fd, &one, sizeof(one));
        AMS_ASSERT(written == sizeof(one));
    }
    queue_unlock(queue);
    return true;
}

uint64_t fabric_queue_lost(struct fabric_queue *queue)
{
    queue_lock(queue);
    uint64_t lost = queue->lost;
    queue_unlock(queue);
    return lost;
}

int fabric_queue_take(struct fabric_queue *queue, struct ams_fabric_frame *info, char *buffer, size_t size)
{
    queue_lock(queue);
    if (!queue->used) {
        queue_unlock(queue);
        return -AMS_EAGAIN;
    }
    const struct ams_fabric_frame *place = queue_place(queue, queue->head);
    *info = *place;
    if (info->captured > size)
        info->captured = (uint32_t)size;
    memcpy(buffer, place + 1, info->captured);
    queue_pop(queue, info->index);
    queue_unlock(queue);
    return 1;
}
