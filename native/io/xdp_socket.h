/* SPDX-License-Identifier: BSD-2-Clause
 *
 * xdp_socket.h - one AF_XDP socket: a queue of an interface in user space.
 *
 * Theory of operation.  A socket has an area of memory cut into chunks, and
 * four rings that it shares with the kernel.  A chunk's number travels:
 *
 *   fill        ours -> kernel   empty chunks for what will be received
 *   rx          kernel -> ours   received, with lengths
 *   tx          ours -> kernel   to be sent
 *   completion  kernel -> ours   sent: empty again
 *
 * The first rx_chunks chunks are for receiving and go round between fill and
 * rx; the others wait in `spare` until something is to be sent.  Received
 * bytes are copied into frames at once, so that chunks are back in the fill
 * ring within a batch, whatever the stack keeps.
 *
 * A frame longer than a chunk takes several descriptors, all but the last
 * one marked XDP_PKT_CONTD (Linux 6.6).
 *
 * Bind is tried in this order, each time with need-wakeup: zero copy with
 * frames of several chunks, zero copy, copy with several chunks, copy.
 */
#ifndef AMS_IO_XDP_SOCKET_H
#define AMS_IO_XDP_SOCKET_H

#include "core/base.h"
#include "core/frame.h"

/* Indices count up and wrap around; the kernel's side of each is in shared memory. */
struct xdp_ring {
    uint32_t *producer;
    uint32_t *consumer;
    uint32_t *flags;
    void *slots;
    uint32_t size;         /* a power of two */
    uint32_t mine;         /* the index that this side moves */
    uint32_t theirs;       /* the kernel's, as last seen */
    void *map;
    size_t map_size;
};

struct xdp_socket {
    int fd;                /* -1: not open */
    uint32_t queue;
    uint32_t chunk;        /* bytes */
    uint32_t rx_chunks;
    uint32_t tx_chunks;
    bool zero_copy;
    bool several;          /* frames may take several chunks */
    uint8_t *area;
    size_t area_size;
    struct xdp_ring fill, completion, rx, tx;
    uint64_t *spare;       /* addresses of empty chunks for sending */
    uint32_t n_spare;
    struct ams_frame *partial; /* a frame whose last chunk has not come yet */
    bool skipping;         /* the rest of a frame that is dropped */
};

struct xdp_socket_config {
    uint32_t ifindex;
    uint32_t queue;
    uint32_t chunk;        /* 2048 or 4096 */
    uint32_t rx_chunks;    /* powers of two */
    uint32_t tx_chunks;
    bool several_needed;   /* the MTU doesn't fit a chunk */
    bool may_send;         /* false: no chunks for sending */
};

/* Bytes of a chunk that the kernel keeps for itself when receiving (XDP_PACKET_HEADROOM). */
#define XDP_CHUNK_RESERVED 256u

/* Opens a socket, bound to a queue, its fill ring full.
 * Return: 0 or -errno; -EMSGSIZE: frames of several chunks are needed, and not to be had. */
int xdp_socket_open(struct xdp_socket *socket, const struct xdp_socket_config *config);
/* Closes it; legal on one that could not be opened. */
void xdp_socket_close(struct xdp_socket *socket);

/* Receives up to n frames into frames of a pool.
 * @dropped: += frames for which there was no memory, or that are too long
 * Return: how many. */
int xdp_socket_receive(struct xdp_socket *socket, struct frame_pool *pool, struct ams_frame **frames, int n,
                       uint64_t *dropped);

/* How many frames of up to `length` bytes can be sent now. */
uint32_t xdp_socket_room(struct xdp_socket *socket, uint32_t length);
/* Puts a frame into the tx ring; there must be room. */
void xdp_socket_send(struct xdp_socket *socket, const struct ams_tx *tx);
/* Frames, or parts of them, that the kernel has not taken from the tx ring yet. */
uint32_t xdp_socket_unsent(const struct xdp_socket *socket);
/* Makes the kernel send what is in the tx ring.
 * Return: 0: it has all; -EAGAIN: not now; another -errno: the link's state. */
int xdp_socket_kick(struct xdp_socket *socket);
/* Frames that the kernel dropped on the way to this socket, and from it. */
void xdp_socket_drops(const struct xdp_socket *socket, uint64_t *rx, uint64_t *tx);

#endif
