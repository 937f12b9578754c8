/* SPDX-License-Identifier: BSD-2-Clause
 *
 * bench_port.c - what a port can carry: the loops that a benchmark times.
 *
 * Batches of PORT_BURST, as a node takes them.  When a batch moved nothing the
 * loop sleeps until the port has something to say, a millisecond at most, so
 * that the CPU time used is what the frames cost.
 */
#include <poll.h>
#include <string.h>

#include "core/alloc.h"
#include "core/status.h"
#include "io/port.h"
#include "wire/eth.h"

#define IDLE_WAIT 1 /* ms */

/* Receives a batch and frees it.  Return: frames, or the status of a broken port. */
static int bench_receive(struct ams_port *port, struct ams_bench_frames *result)
{
    struct ams_frame *frames[PORT_BURST];
    int n = port->ops->rx(port, frames, PORT_BURST, ams_clock_now());

    for (int i = 0; i < n; i++)
        frame_free(frames[i]);
    result->received += n > 0 ? (uint64_t)n : 0;
    return n;
}

/* Sends a batch of one and the same frame.  @head: it, with FRAME_HEADROOM before it */
static int bench_send(struct ams_port *port, uint8_t *head, uint32_t length, struct ams_tx *tx,
                      struct ams_bench_frames *result)
{
    int room = port->ops->room(port), n = room < PORT_BURST ? room : PORT_BURST;
    uint64_t now = ams_clock_now();

    for (int i = 0; i < n; i++) {
        memset(&tx[i], 0, offsetof(struct ams_tx, frags));
        tx[i].head = head;
        tx[i].head_len = tx[i].total = length;
    }
    if (n)
        port->ops->tx(port, tx, n, now);
    port->ops->flush(port, now);
    result->sent += (uint64_t)n;
    return n;
}

/* Sends a batch back to where it came from. */
static int bench_echo(struct ams_port *port, struct ams_tx *tx, struct ams_bench_frames *result)
{
    struct ams_frame *frames[PORT_BURST];
    uint64_t now = ams_clock_now();
    int room = port->ops->room(port), wanted = room < PORT_BURST ? room : PORT_BURST;
    int n = wanted ? port->ops->rx(port, frames, wanted, now) : 0;

    for (int i = 0; i < n; i++) {
        uint8_t mac[ETH_ADDR];
        memcpy(mac, frames[i]->data, ETH_ADDR);
        memcpy(frames[i]->data, frames[i]->data + ETH_ADDR, ETH_ADDR);
        memcpy(frames[i]->data + ETH_ADDR, mac, ETH_ADDR);
        memset(&tx[i], 0, offsetof(struct ams_tx, frags));
        tx[i].head = frames[i]->data;
        tx[i].head_len = tx[i].total = frames[i]->len;
    }
    if (n > 0) {
        port->ops->tx(port, tx, n, now);
        result->received += (uint64_t)n;
        result->sent += (uint64_t)n;
    }
    port->ops->flush(port, now);
    for (int i = 0; i < n; i++)
        frame_free(frames[i]);
    return n;
}

int ams_bench_port(struct ams_port *port, int what, const char *frame, size_t length, uint64_t nanoseconds,
                   struct ams_bench_frames *result)
{
    struct pollfd waiting = {port->info.fd, POLLIN, 0};
    uint64_t start = ams_clock_now(), now = start;
    int moved = 0;

    memset(result, 0, sizeof(*result));
    if (what < AMS_BENCH_RECEIVE || what > AMS_BENCH_ECHO || (what == AMS_BENCH_SEND && length < ETH_HEADER))
        return -AMS_EINVAL;
    if (length > port->info.mtu + ETH_HEADER)
        return -AMS_EMSGSIZE;
    uint8_t *copy = mem_zalloc(1, FRAME_HEADROOM + length);
    struct ams_tx *tx = mem_zalloc(PORT_BURST, sizeof(*tx));
    if (!copy || !tx)
        moved = -AMS_ENOMEM;
    else if (length)
        memcpy(copy + FRAME_HEADROOM, frame, length);
    while (moved >= 0 && now - start < nanoseconds) {
        if (what == AMS_BENCH_RECEIVE)
            moved = bench_receive(port, result);
        else if (what == AMS_BENCH_SEND)
            moved = bench_send(port, copy + FRAME_HEADROOM, (uint32_t)length, tx, result);
        else
            moved = bench_echo(port, tx, result);
        if (!moved)
            poll(&waiting, 1, IDLE_WAIT);
        now = ams_clock_now();
    }
    result->nanoseconds = now - start;
    mem_free(tx);
    mem_free(copy);
    return moved < 0 ? moved : 0;
}
