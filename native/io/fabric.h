/* SPDX-License-Identifier: BSD-2-Clause
 *
 * fabric.h - inside the fabric: the switch as a thread of its own.
 *
 * Theory of operation.  One thread moves all frames.  It owns the switch, the
 * uplink, the host port and the device's ends of all clients' rings; nobody
 * else touches them.  What the control plane wants of it, it asks by a *call*:
 * a function that the thread runs between two rounds, while the asker waits.
 * Without a thread the asker runs it itself.
 *
 * A *round* takes up to FABRIC_BATCH frames from each client that is active,
 * decides where they go (switch_forward()), copies them into the receivers'
 * rings, and at its end publishes each ring that was touched, once.
 *
 * What clients share with us is hostile.  A frame's first bytes are copied
 * into memory of our own before anything is believed of them; what is
 * delivered are those bytes, followed by the payload, which nobody checks.
 * A frame that needs a closer look is copied as a whole first.  Whatever goes
 * to a port driver is in a frame of our own anyway.
 *
 * Sleeping.  A client is *active* while frames come from it, and for spin_us
 * after the last; then its bell is armed (ring.h), and its kick wakes us.
 * Idle clients cost nothing, however many there are.  Kicks
 * are eventfds, registered edge-triggered and never read.  Clients are
 * notified through pipes, whose writing end is ours alone: the flags of an
 * eventfd would be shared with the client, who could make us wait in write()
 * by taking O_NONBLOCK off and filling the counter.
 *
 * A receiver whose ring is full loses the frame; the sender doesn't notice.
 * So does an uplink that has no room: there is no waiting, and so nobody to
 * wait for.
 *
 * Files: fabric.c is the thread, its calls and life cycle; fabric_port.c
 * attaches clients and holds claims, fabric_list.c shows them, counters and
 * frames; fabric_path.c moves frames between clients; fabric_super.c those of
 * several slots; fabric_wire.c is uplink, host and control; fabric_queue.c
 * holds frames for the control plane.
 */
#ifndef AMS_IO_FABRIC_H
#define AMS_IO_FABRIC_H

#include <pthread.h>

#include "io/fabric_super.h"
#include "io/port.h"
#include "io/ring.h"
#include "switch/switch.h"

#define FABRIC_BATCH 32u         /* frames of one client in a round */
#define FABRIC_PUBLISH 128u      /* frames delivered before receivers are told, at least */
#define FABRIC_PUBLISH_EACH 8u   /* frames for each of them that pay for telling it */
#define FABRIC_PUBLISH_MAX 1024u /* and at most */
#define FABRIC_PUBLISH_ONE 128u  /* for one of them, if that is no more than a quarter of its ring */
#define FABRIC_HEAD 128u         /* bytes of a frame that are copied before they are looked at */
#define FABRIC_CLIENTS_MAX 4096u
#define FABRIC_FRAME_MAX 9216u   /* the longest frame that a client may send or get */
#define FABRIC_BUFFER_MAX (FABRIC_FRAME_MAX + 2 * AMS_CACHE_LINE) /* ring_buffer_size() of that */
#define FABRIC_POLL_NS 10000u    /* how often descriptors are looked at while there is work */

_Static_assert(FABRIC_HEAD >= SWITCH_REACH, "the switch reads that much");
_Static_assert(FABRIC_BATCH <= SWITCH_BATCH, "one batch");

/* A row is (NAME, "name", what it means, 1 if it counts dropped frames). */
#define FABRIC_COUNTER_TABLE(X)                                                                             \
    X(IN_FRAMES, "in_frames", "frames taken from the port", 0)                                              \
    X(IN_BYTES, "in_bytes", "bytes taken from the port", 0)                                                 \
    X(OUT_FRAMES, "out_frames", "frames given to the port", 0)                                              \
    X(OUT_BYTES, "out_bytes", "bytes given to the port", 0)                                                 \
    X(OUT_SUPER, "out_super", "super-frames given to the port", 0)                                          \
    X(OUT_CUT, "out_cut", "super-frames cut into segments for the port", 0)                                 \
    X(PUNTED, "punted", "frames handed to the control plane", 0)                                            \
    X(WAKEUPS, "wakeups", "times that the port was woken by a system call", 0)                              \
    X(KICKS, "kicks", "times that the port woke the switch by a system call", 0)                            \
    X(IN_INDEX, "in_index", "times that a ring's index was out of range", 0)                                \
    X(IN_SLOT, "in_slot", "sent: the slot names no buffer of the port", 1)                                  \
    X(IN_LENGTH, "in_length", "sent: longer than a buffer", 1)                                              \
    X(IN_CHAIN, "in_chain", "sent: a chain of slots that is cut off or too long, or by the sender's address", 1) \
    X(OUT_FULL, "out_full", "not delivered: the port's ring was full", 1)                                   \
    X(OUT_SLOT, "out_slot", "not delivered: the slot names no buffer of the port", 1)                       \
    X(OUT_LENGTH, "out_length", "not delivered: longer than the port's buffers, or its MTU", 1)             \
    X(OUT_BROKEN, "out_broken", "not delivered: the port's device is gone", 1)                              \
    X(PUNT_FULL, "punt_full", "for the control plane, which has too many waiting", 1)                       \
    X(NOWHERE, "nowhere", "for a station that no port leads to", 1)                                         \
    X(NO_MEMORY, "no_memory", "no frame to copy it into", 1)

enum fabric_counter {
#define FABRIC_COUNTER_ENUM(NAME, name, text, drop) FABRIC_##NAME,
    FABRIC_COUNTER_TABLE(FABRIC_COUNTER_ENUM)
#undef FABRIC_COUNTER_ENUM
    FABRIC_OWN_COUNTERS
};

#define FABRIC_COUNTERS (FABRIC_OWN_COUNTERS + SWITCH_COUNTERS)
#define FABRIC_NO_REASON (-1)

/* ---- frames for the control plane (fabric_queue.c) -------------------------- */

struct fabric_queue {
    pthread_mutex_t lock;
    int fd;                      /* eventfd, readable while there are frames; -1: not made */
    uint8_t *places;             /* capacity times (struct ams_fabric_frame, snap bytes) */
    uint32_t *waiting;           /* frames in the queue, by port */
    uint32_t snap;
    uint32_t capacity;
    uint32_t per_port;           /* how many may wait for one port */
    uint32_t head, used;
    uint64_t lost;
};

/* @ports: how many ports there may be
 * Return: 0, -AMS_EMFILE, -AMS_ENOMEM. */
int fabric_queue_init(struct fabric_queue *queue, uint32_t ports);
void fabric_queue_fini(struct fabric_queue *queue);
/* Makes room for `capacity` frames of up to `snap` bytes; drops what is there. */
int fabric_queue_resize(struct fabric_queue *queue, uint32_t capacity, uint32_t per_port, uint32_t snap);
/* Puts a frame, in two pieces, at the end.  Return: false if there is no room. */
bool fabric_queue_put(struct fabric_queue *queue, const struct ams_fabric_frame *info, const uint8_t *head,
                      uint32_t head_length, const uint8_t *rest);
/* How many found no room since the last resize. */
uint64_t fabric_queue_lost(struct fabric_queue *queue);
/* Takes the first.  Return: 1, or -AMS_EAGAIN. */
int fabric_queue_take(struct fabric_queue *queue, struct ams_fabric_frame *info, char *buffer, size_t size);

/* ---- ports --------------------------------------------------------------------- */

/* A port driver's place in the fabric: uplink and host. */
struct fabric_wire {
    struct ams_port *port;       /* NULL: there is none */
    uint16_t index;
    bool hot;                    /* its last rx was a full batch */
    int broken;                  /* status; 0 while it works */
    uint8_t mac[6];              /* the host's: as its frames show */
    int n;                       /* frames that wait in tx[] */
    struct ams_tx tx[PORT_BURST];
};

struct fabric_port {
    /* what delivering to the port touches */
    struct ring rx;
    uint32_t dirty;              /* RING_WAKE_*: what was done to its rings since they were published */
    uint32_t unpublished;        /* slots filled since then */
    uint32_t tell_after;         /* how many of them make it urgent */
    uint16_t index;
    bool client;
    bool active;                 /* polled; its place is fabric->active[place] */
    uint64_t counters[FABRIC_COUNTERS];
    /* what taking from it touches */
    struct ring tx;
    struct switch_line line;
    struct ring_bell *user_bell, *device_bell;
    uint64_t last_frame;         /* when */
    uint32_t place;
    uint32_t claims;
    int kick_fd;
    int notify_fd;               /* the pipe's writing end */
    int reader_fd;               /* its other end, kept so that no write gives SIGPIPE */
    struct ring_region region;
};

struct fabric_call {
    int (*run)(struct ams_fabric *fabric, void *args);
    void *args;
    int result;
    bool done;
    struct fabric_call *next;
};

/* What one batch needs between its passes. */
struct fabric_batch {
    _Alignas(AMS_CACHE_LINE) uint8_t heads[FABRIC_BATCH][FABRIC_HEAD];
    struct switch_view views[FABRIC_BATCH];
    const uint8_t *data[FABRIC_BATCH];  /* in the sender's memory; NULL: not usable */
    uint8_t *out[FABRIC_BATCH];         /* in the receiver's; NULL: not to be copied */
    int32_t targets[FABRIC_BATCH];
    uint16_t reasons[FABRIC_BATCH];     /* of slots that are not usable */
    struct super_chain chains[FABRIC_BATCH]; /* where data is NULL; n is 0 if the slot isn't usable */
    struct super_piece pieces[SUPER_PIECES];
    uint32_t n_pieces;
};

struct ams_fabric {
    struct ams_switch sw;
    struct fabric_port **ports;  /* by index; NULL: free */
    struct fabric_port **active; /* clients that are polled */
    uint32_t n_active;
    struct fabric_port **dirty;
    uint32_t n_dirty;
    uint32_t unpublished;        /* frames */
    bool urgent;                 /* a receiver's ring fills up: tell it */
    bool capturing;
    int32_t capture_index;
    uint64_t now;
    uint64_t spin_ns;
    struct fabric_wire uplink, host;
    struct frame_pool pool;
    struct fabric_batch batch;
    uint8_t scratch[FABRIC_BUFFER_MAX];
    uint8_t segment[FABRIC_BUFFER_MAX]; /* of a super-frame that is cut */

    uint32_t n_ports;            /* indices, AMS_FABRIC_CLIENTS included */
    uint32_t flags;
    uint32_t mtu;
    struct ring_layout layout;
    uint32_t max_slots;
    uint32_t max_claims;
    uint64_t retired[FABRIC_COUNTERS]; /* of ports that were */
    struct fabric_queue punts, captures;
    int wait_fd;
    int wake_fd;

    pthread_mutex_t lock;        /* guards the calls, and all the rest while there is no thread */
    pthread_cond_t called;
    struct fabric_call *calls, **last_call;
    uint32_t calls_waiting;      /* atomic: there are some, or the thread is to end */
    bool running;
    bool stopping;
    pthread_t thread;
    int32_t cpu;
};

/* A client by its index; NULL if there is none. */
static inline struct fabric_port *fabric_client(const struct ams_fabric *fabric, int index)
{
    if (index < AMS_FABRIC_CLIENTS || (uint32_t)index >= fabric->n_ports)
        return NULL;
    return fabric->ports[index];
}

/* The endpoint that a slot was claimed by (fabric_port.c). */
struct ams_endpoint fabric_slot_local(const struct tuple_slot *slot);

/* ---- fabric.c --------------------------------------------------------------------- */

/* Runs a function on the data thread and waits for it.  Return: its result. */
int fabric_call(struct ams_fabric *fabric, int (*run)(struct ams_fabric *fabric, void *args), void *args);
/* Puts a client among those that are polled. */
void fabric_activate(struct ams_fabric *fabric, struct fabric_port *port);
/* And out of it, at once. */
void fabric_deactivate(struct ams_fabric *fabric, struct fabric_port *port);

static inline void fabric_count(struct fabric_port *port, enum fabric_counter counter, uint64_t n)
{
    port->counters[counter] += n;
}

/* Notes that a port's rings were worked on. */
static inline void fabric_touch(struct ams_fabric *fabric, struct fabric_port *port, uint32_t what)
{
    if (!port->dirty)
        fabric->dirty[fabric->n_dirty++] = port;
    port->dirty |= what;
}

/* Notes that slots of a port's RX ring were filled. */
static inline void fabric_filled(struct ams_fabric *fabric, struct fabric_port *port, uint32_t slots)
{
    fabric_touch(fabric, port, RING_WAKE_RX);
    port->unpublished += slots;
    if (AMS_UNLIKELY(port->unpublished >= port->tell_after))
        fabric->urgent = true;
    fabric->unpublished++;
}

/* Copies a frame for whoever captures. */
void fabric_tap(struct ams_fabric *fabric, uint16_t index, bool outgoing, int reason, const uint8_t *head,
                uint32_t head_length, const uint8_t *rest, uint32_t length);

/* ---- fabric_path.c ------------------------------------------------------------------ */

/* Takes a batch from a client.  Return: how many frames. */
uint32_t fabric_pull(struct ams_fabric *fabric, struct fabric_port *port);
/* Copies a frame of ours to a client.
 * @flags: RING_CSUM_OK or 0
 * Return: false if it was dropped, and counted. */
bool fabric_deliver(struct ams_fabric *fabric, struct fabric_port *port, const uint8_t *data, uint32_t length,
                    uint16_t flags);
/* Shows clients what was delivered to them and taken from them. */
void fabric_publish(struct ams_fabric *fabric);

/* ---- fabric_wire.c ------------------------------------------------------------------- */

/* Opens uplink or host. */
int fabric_wire_open(struct ams_fabric *fabric, struct fabric_wire *wire, uint16_t index,
                     const struct ams_port_config *config, struct port_error *error);
void fabric_wire_close(struct fabric_wire *wire);
/* Takes a batch from it.  Return: how many frames. */
uint32_t fabric_wire_pull(struct ams_fabric *fabric, struct fabric_wire *wire);
/* Sends what waits, and lets the driver push. */
void fabric_wire_flush(struct ams_fabric *fabric, struct fabric_wire *wire);
/* Puts a frame of ours, in two pieces, into the batch for a wire.
 * @from: who is charged if there is no memory
 * Return: false if it was dropped, and counted. */
bool fabric_wire_put(struct ams_fabric *fabric, struct fabric_wire *wire, struct fabric_port *from,
                     const uint8_t *head, uint32_t head_length, const uint8_t *rest, uint32_t length);
/* The same for a frame that is given away. */
void fabric_wire_add(struct ams_fabric *fabric, struct fabric_wire *wire, struct ams_frame *frame);
/* The wire behind which a station is; NULL: none. */
struct fabric_wire *fabric_wire_to(struct ams_fabric *fabric, const uint8_t *mac, uint16_t from);
/* Gives a client's frame for a group address to all whom it concerns. */
void fabric_flood(struct ams_fabric *fabric, struct fabric_port *from, const uint8_t *data, uint32_t length);
/* Gives a frame to whoever answers for the addresses. */
void fabric_control(struct ams_fabric *fabric, struct fabric_port *from, const uint8_t *data, uint32_t length);
/* Hands a frame to the control plane. */
void fabric_punt(struct ams_fabric *fabric, struct fabric_port *from, const uint8_t *data, uint32_t length);

#endif
