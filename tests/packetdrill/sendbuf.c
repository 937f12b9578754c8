/* SPDX-License-Identifier: BSD-2-Clause
 *
 * sendbuf.c - how much a socket takes, by Linux's books.
 *
 * Theory of operation.  Scripts expect the byte at which a write stops, and
 * the ACK that makes a socket writable again.  Linux's answer depends on
 * buffers: it fills one after the other up to the size of a super-frame, and
 * asks whether there is memory only before it begins another; each costs its
 * bytes and a header's worth.  So the books are kept here, of what the engine
 * was given (stream offsets): which buffers it fills, where sending has cut
 * them, and when acknowledgements free them.
 *
 * The limit is SO_SNDBUF, or the sysctl's, which grows with cwnd when an ACK
 * comes, a writer has been refused and the sender is not limited by cwnd.
 * A socket becomes writable again only when a third of the memory is free.
 */
#include <stdlib.h>
#include <string.h>

#include "world.h"

#define BUFFER_COST 1280u        /* sk_buff, skb_shared_info and the header's room */
#define HEADER_ROOM 320u         /* MAX_TCP_HEADER */
#define SHARED_INFO 320u
#define SKB_STRUCT 256u
#define GSO_MAX 65536u
#define SMALL_WINDOW 536u        /* up to here a buffer may fill the whole window */

/* ---- the buffers ------------------------------------------------------------------------ */

static void buffer_drop(struct pd_sendbuf *buf, int index)
{
    buf->n--;
    memmove(&buf->queue[index], &buf->queue[index + 1], (size_t)(buf->n - index) * sizeof(*buf->queue));
}

static struct pd_buffer *buffer_insert(struct pd_sendbuf *buf, int index, uint64_t start, uint64_t end)
{
    if (buf->n == buf->room) {
        int room = buf->room ? 2 * buf->room : 32;
        struct pd_buffer *grown = realloc(buf->queue, (size_t)room * sizeof(*grown));
        if (!grown)
            abort();
        buf->queue = grown;
        buf->room = room;
    }
    memmove(&buf->queue[index + 1], &buf->queue[index], (size_t)(buf->n - index) * sizeof(*buf->queue));
    buf->n++;
    buf->queue[index] = (struct pd_buffer){start, end, false};
    return &buf->queue[index];
}

/* Frees what was acknowledged, cuts what was sent in part. */
static void sendbuf_sync(struct pd_file *file, const struct ams_tcp_info *info)
{
    struct pd_sendbuf *buf = &file->sendbuf;
    uint64_t acked = file->written - info->send_queue, sent = file->written - info->not_sent;
    while (buf->n && buf->queue[0].end <= acked)
        buffer_drop(buf, 0);
    if (buf->n && buf->queue[0].start < acked)
        buf->queue[0].start = acked;
    for (int i = 0; i < buf->n; i++)
        if (buf->queue[i].start < sent && sent < buf->queue[i].end) {
            bool record = buf->queue[i].record;
            uint64_t end = buf->queue[i].end;
            buf->queue[i].end = sent;
            buf->queue[i].record = false;
            buffer_insert(buf, i + 1, sent, end)->record = record;
            break;
        }
    buf->window = info->snd_wnd > buf->window ? info->snd_wnd : buf->window;
}

uint32_t sendbuf_used(const struct pd_file *file)
{
    const struct pd_sendbuf *buf = &file->sendbuf;
    uint64_t bytes = 0;
    for (int i = 0; i < buf->n; i++)
        bytes += buf->queue[i].end - buf->queue[i].start + BUFFER_COST;
    return (uint32_t)bytes;
}

/* What one buffer holds: a super-frame of at most half the peer's window. */
static uint32_t buffer_size(const struct pd_file *file, uint32_t mss)
{
    uint32_t window = file->sendbuf.window;
    uint32_t bound = window > SMALL_WINDOW ? window / 2 : window;
    uint32_t size = GSO_MAX - 1 - HEADER_ROOM;
    if (!mss)
        return 1;
    size = bound && size > bound ? bound : size;
    return size > mss ? size / mss * mss : mss;
}

/* ---- the limit ----------------------------------------------------------------------------- */

uint32_t sendbuf_limit(struct pd_file *file)
{
    if (!file->sendbuf.limit)
        file->sendbuf.limit = settings_wmem(1);
    return file->sendbuf.limit;
}

void sendbuf_set(struct pd_file *file, int bytes)
{
    uint32_t least = 2 * (2048 + SKB_STRUCT);
    uint32_t twice = bytes > 1 << 29 ? 1u << 30 : 2 * (uint32_t)bytes; /* socket(7) */
    file->sendbuf.limit = twice > least ? twice : least;
    file->sendbuf.fixed = true;
}

/* Room for two windows, each segment in a buffer of its own. */
static void limit_grow(struct pd_file *file, const struct ams_tcp_info *info)
{
    uint32_t each = info->snd_mss + HEADER_ROOM + SHARED_INFO, power = 1;
    uint32_t segments = info->snd_mss ? info->snd_cwnd / info->snd_mss : 0;
    while (power < each)
        power *= 2;
    segments = segments > 10 ? segments : 10;
    segments = segments > info->reordering + 1 ? segments : info->reordering + 1;
    uint64_t want = 2 * (uint64_t)segments * (power + SKB_STRUCT);
    uint32_t most = settings_wmem(2);
    want = want < most ? want : most;
    if (want > sendbuf_limit(file))
        file->sendbuf.limit = (uint32_t)want;
}

void sendbuf_start(struct pd_world *world, struct pd_file *file)
{
    struct ams_tcp_info info;
    if (!file->sendbuf.fixed && ams_tcp_get_info(world->stack, file->id, &info, world->now) == 0)
        limit_grow(file, &info);
}

/* ---- may it write? -------------------------------------------------------------------------- */

static bool memory_free(struct pd_file *file, const struct ams_tcp_info *info)
{
    return sendbuf_used(file) < sendbuf_limit(file) && info->not_sent < file_lowat(file);
}

bool sendbuf_writable(struct pd_world *world, struct pd_file *file)
{
    struct ams_tcp_info info;
    if (file->id < 0 || ams_tcp_get_info(world->stack, file->id, &info, world->now) < 0)
        return true;
    sendbuf_sync(file, &info);
    uint32_t used = sendbuf_used(file), limit = sendbuf_limit(file);
    return used <= limit && limit - used >= used / 2 && 2 * (uint64_t)info.not_sent < file_lowat(file);
}

size_t sendbuf_room(struct pd_world *world, struct pd_file *file)
{
    struct ams_tcp_info info;
    struct pd_sendbuf *buf = &file->sendbuf;
    if (file->id < 0 || ams_tcp_get_info(world->stack, file->id, &info, world->now) < 0)
        return 0;
    sendbuf_sync(file, &info);
    uint32_t size = buffer_size(file, info.snd_mss);
    const struct pd_buffer *tail = buf->n ? &buf->queue[buf->n - 1] : NULL;
    bool unsent = tail && tail->start >= file->written - info.not_sent && info.not_sent;
    if (unsent && !tail->record && tail->end - tail->start < size)
        return size - (size_t)(tail->end - tail->start);
    if (!memory_free(file, &info))
        return 0;
    return size;
}

void sendbuf_wrote(struct pd_world *world, struct pd_file *file, size_t n, bool record)
{
    struct ams_tcp_info info;
    struct pd_sendbuf *buf = &file->sendbuf;
    if (!n || ams_tcp_get_info(world->stack, file->id, &info, world->now) < 0)
        return;
    struct pd_buffer *tail = buf->n ? &buf->queue[buf->n - 1] : NULL;
    uint64_t sent = file->written + n - info.not_sent;
    bool joins = tail && !tail->record && tail->start >= sent && tail->end > sent &&
                 tail->end - tail->start + n <= buffer_size(file, info.snd_mss);
    if (joins)
        tail->end += n;
    else
        tail = buffer_insert(buf, buf->n, file->written, file->written + n);
    tail->record = record;
    file->written += n;
}

void sendbuf_watch(struct pd_world *world, struct pd_file *file)
{
    struct ams_tcp_info info;
    struct pd_sendbuf *buf = &file->sendbuf;
    if ((!buf->refused && !buf->limited_since) || file->id < 0 ||
        ams_tcp_get_info(world->stack, file->id, &info, world->now) < 0)
        return;
    uint32_t in_flight = info.unacked - info.sacked - info.lost + info.retrans_out;
    bool limited = buf->refused && info.unacked && (buf->limited_since || (!info.not_sent && in_flight < info.snd_cwnd));
    if (limited && !buf->limited_since) {
        buf->limited_since = world->now;
    } else if (!limited && buf->limited_since) {
        buf->limited_time += world->now - buf->limited_since;
        buf->limited_since = 0;
    }
}

uint64_t sendbuf_limited(const struct pd_world *world, const struct pd_file *file)
{
    const struct pd_sendbuf *buf = &file->sendbuf;
    return buf->limited_time + (buf->limited_since ? world->now - buf->limited_since : 0);
}

/* A segment has come: is there room for a writer that was refused? */
void sendbuf_input(struct pd_world *world, struct pd_file *file)
{
    struct ams_tcp_info info;
    if (file->id < 0 || ams_tcp_get_info(world->stack, file->id, &info, world->now) < 0)
        return;
    sendbuf_sync(file, &info);
    if (!file->sendbuf.refused)
        return;
    uint32_t in_flight = info.unacked - info.sacked - info.lost + info.retrans_out;
    if (!file->sendbuf.fixed && in_flight < info.snd_cwnd)
        limit_grow(file, &info);
    if (sendbuf_writable(world, file)) {
        file->sendbuf.refused = false;
        file->changes++;
    }
}
