/* SPDX-License-Identifier: BSD-2-Clause
 *
 * hub.h - an Ethernet segment inside the process.
 *
 * Theory of operation.  A hub learns which member sits behind which MAC
 * address from what they send.  A frame to a learnt address goes to that
 * member, all others go to everybody but the sender.  The sender gathers a
 * frame once, into a frame of the hub's own pool, whose lists have a lock of
 * their own; the receiver gets that very frame, and frees it where it likes.
 *
 * One mutex guards the segment: members, inboxes, learnt addresses, lines
 * and generator.  It is held for a batch, never while payload is gathered,
 * except to copy a frame for several receivers.
 *
 * A member's fd (an eventfd) is readable exactly while its inbox is not
 * empty, or a held frame's deadline has moved forward unseen.  It is written
 * on the way from empty to not empty and read on the way back, both under the
 * lock: no wakeup is lost, and frames that arrive while the receiver has
 * others waiting cost no system call.
 *
 * Members that one thread drives may form a group.  What they send each other
 * signals no fd: the thread asks after each batch whom it has to serve.
 *
 * Frames that an impairment holds back become receivable when their time has
 * come; since no thread of the hub's own exists to signal that, receivers
 * call again at hub_member_deadline().
 */
#ifndef AMS_IO_HUB_H
#define AMS_IO_HUB_H

#include <pthread.h>

#include "aiomultistack.h"
#include "core/base.h"
#include "core/frame.h"
#include "core/hash.h"
#include "io/impair.h"

#define HUB_INBOX_FRAMES 16384u
#define HUB_INBOX_BYTES (64u << 20) /* of buffers, so that many small frames count for what they hold */
#define HUB_MACS 4096u              /* addresses learnt; a power of two */
#define HUB_CAPS (AMS_CAP_CSUM_TX | AMS_CAP_CSUM_RX | AMS_CAP_TSO4 | AMS_CAP_TSO6 | AMS_CAP_LRO)

struct hub_member {
    struct ams_hub *hub;
    uint32_t index;              /* in hub->members */
    int wake_fd;
    bool signalled;              /* wake_fd is readable */
    bool waiting;                /* would be signalled, but for its group */
    uint64_t group;              /* of the thread that drives it; 0: none */
    bool monitor;                /* gets a copy of all that is sent, and nothing else */
    struct ams_frame *head, *tail; /* the inbox */
    uint32_t frames;
    uint32_t bytes;
    uint64_t dropped;            /* for want of room */
    struct impair_line line;
};

struct hub_mac {
    uint64_t mac;                /* 0: free */
    struct hub_member *member;
};

struct ams_hub {
    pthread_mutex_t lock;
    uint32_t refs;               /* the creator's and one a member */
    uint32_t mtu;
    uint32_t flags;              /* AMS_HUB_* */
    uint64_t secret;             /* of the MAC table's hash */
    struct frame_pool pool;
    struct hub_member **members;
    uint32_t n_members;
    uint32_t capacity;
    uint32_t n_monitors;
    bool impaired;
    struct ams_impairment impairment;
    struct ams_rng rng;
    struct hub_mac *macs;
};

/* Joins a hub.  Return: 0 with *member set, -AMS_ENOMEM, -AMS_EMFILE. */
int hub_attach(struct ams_hub *hub, struct hub_member **member);
/* Puts a member into a group: see ams_port_set_group. */
void hub_set_group(struct hub_member *member, uint64_t group);
/* Whether something has come from the member's own group. */
bool hub_waiting(struct hub_member *member);
/* Makes a member a monitor: from now on it sees what others send, before
 * any impairment, and is no receiver itself. */
void hub_monitor(struct hub_member *member);
/* Leaves the hub; frames not yet received are gone.  Frames that were
 * received must have been freed. */
void hub_detach(struct hub_member *member);
/* Sends frames of the hub's pool.  Owns: takes them. */
void hub_send(struct hub_member *member, struct ams_frame **frames, int n, uint64_t now);
/* Takes up to n frames out of the inbox. */
int hub_receive(struct hub_member *member, struct ams_frame **frames, int n, uint64_t now);
/* When hub_receive() will give a frame that it doesn't give yet. */
uint64_t hub_member_deadline(struct hub_member *member);
/* Frames for this member that were dropped so far. */
uint64_t hub_member_dropped(struct hub_member *member);

#endif
