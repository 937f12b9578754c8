/* SPDX-License-Identifier: BSD-2-Clause
 *
 * switch.h - 3-tuples and who has them: the switch, and the fabric around it.  A part of aiomultistack.h.
 */
#ifndef AIOMULTISTACK_SWITCH_H
#define AIOMULTISTACK_SWITCH_H

#include "port.h"

/* CFFI-BEGIN */

/* ---- switch: 3-tuples for those who bring a stack of their own ----------- */

struct ams_switch;

/* Where a received frame goes: a port's index, or one of these. */
#define AMS_SWITCH_TO_CONTROL -1 /* the control owner: ARP, NDP, ICMP, ... */
#define AMS_SWITCH_TO_HOST -2    /* the operating system */
#define AMS_SWITCH_TO_NOBODY -3  /* dropped, and counted by reason */

#define AMS_SWITCH_ORPHANS 1 /* later fragments without a first one go to the control owner */

struct ams_switch_config {
    uint8_t mac[6];         /* of everything that leaves */
    uint16_t control;       /* the control owner's port index */
    uint32_t mtu;
    int32_t unclaimed;      /* where frames for tuples that nobody owns go: AMS_SWITCH_TO_* */
    uint32_t flags;         /* AMS_SWITCH_ORPHANS */
    uint32_t max_flows;     /* connections of groups that are remembered; 0: 65536 */
    uint64_t seed[2];       /* secret; keys the tables */
};

/* Makes a switch.  Returns 0, -AMS_EINVAL or -AMS_ENOMEM. */
int ams_switch_new(struct ams_switch **sw, const struct ams_switch_config *config);
/* NULL is legal. */
void ams_switch_free(struct ams_switch *sw);
/* Serves an address (and, for IPv4, its subnet's broadcast address). */
int ams_switch_add_address(struct ams_switch *sw, const struct ams_ifaddr *address);
/* Claims a tuple for a port: 0, -AMS_EADDRINUSE if another port has it,
 * -AMS_EADDRNOTAVAIL if the address is not served.  A wildcard address
 * stands for all addresses of its family.  Claims are counted. */
int ams_switch_claim(struct ams_switch *sw, int port, int protocol, const struct ams_endpoint *local);
/* Undoes one claim; -AMS_EINVAL if the port has none. */
int ams_switch_release(struct ams_switch *sw, int port, int protocol, const struct ams_endpoint *local);
/* Undoes all claims of a port. */
int ams_switch_release_port(struct ams_switch *sw, int port);
/* Says where a received Ethernet frame goes: a port's index, or AMS_SWITCH_TO_*. */
int ams_switch_route(struct ams_switch *sw, const char *frame, size_t length, uint64_t now);
/* Says whether port may send an Ethernet frame: 0 if it may, else the index
 * of the counter (ams_switch_counter_name) of the reason why not. */
int ams_switch_check(struct ams_switch *sw, int port, const char *frame, size_t length, uint64_t now);
/* Fills values[0..max) with the switch's counters; how many there are. */
int ams_switch_counters(struct ams_switch *sw, uint64_t *values, int max);
/* A counter's name and meaning; NULL past the end. */
const char *ams_switch_counter_name(int index);
const char *ams_switch_counter_text(int index);

/* ---- fabric: many stacks in processes of their own, on one link ------------ */

/* A fabric is the switch as a thread: clients attach to it through rings in
 * shared memory (netmap's layout) and are not trusted.  It checks what they
 * send against the 3-tuples that were claimed for them, and gives each
 * received frame to the owner of its destination 3-tuple.
 *
 * All functions may be called from any thread while the data thread runs:
 * they are carried out by the data thread between two batches, and wait for
 * that.  Before ams_fabric_start() they are carried out at once; then the
 * caller may drive the fabric by ams_fabric_poll(), from one thread. */
struct ams_fabric;

/* Port indices.  Clients get the numbers from AMS_FABRIC_CLIENTS on; a number
 * is used again after ams_fabric_detach(). */
#define AMS_FABRIC_CONTROL 0 /* the control plane: ams_fabric_punted(), ams_fabric_inject() */
#define AMS_FABRIC_UPLINK 1
#define AMS_FABRIC_HOST 2    /* the operating system's stack */
#define AMS_FABRIC_CLIENTS 3

#define AMS_FABRIC_HOST_SHARES 1 /* the host has the served addresses too, and their MAC address */
#define AMS_FABRIC_HOST_APART 2  /* nothing passes between host and uplink: the system is on both */

struct ams_fabric_config {
    uint8_t mac[6];         /* of everything that clients send; all zero: the uplink's, or made from seed */
    uint16_t flags;         /* AMS_FABRIC_* */
    uint32_t mtu;           /* 0: the uplink's, or 1500 */
    uint64_t seed[2];       /* secret; keys the tables */
    struct ams_port_config uplink; /* spec NULL: none */
    struct ams_port_config host;   /* likewise */
    uint32_t max_clients;   /* 0: 256; at most 4096 */
    uint32_t tx_slots;      /* of a client's rings unless it asks for other ones; 0: 512 */
    uint32_t rx_slots;
    uint32_t max_slots;     /* the most that a client may ask for; 0: 4096 */
    uint32_t max_claims;    /* tuples of one client; 0: 65536 */
    uint32_t max_flows;     /* connections of groups that are remembered; 0: 65536 */
    uint32_t punt_frames;   /* frames that may wait for ams_fabric_punted(); 0: 512 */
    uint32_t spin_us;       /* a port is polled this long after its last frame, then slept on; 0: 50 */
    int32_t cpu;            /* the data thread's core; -1: any */
    uint32_t reserved;
};

/* Opens uplink and host port and makes a fabric without clients.  On failure
 * returns a negative status and says what to do in error. */
int ams_fabric_new(struct ams_fabric **fabric, const struct ams_fabric_config *config, char *error, size_t error_size);
/* Ends the data thread and detaches everybody. */
void ams_fabric_free(struct ams_fabric *fabric);
/* Starts the data thread; ends it again.  Return: 0, -AMS_EBUSY if it runs, -AMS_EAGAIN. */
int ams_fabric_start(struct ams_fabric *fabric);
void ams_fabric_stop(struct ams_fabric *fabric);
/* Does one round of the data thread's work, without one.  Never waits.
 * Returns the number of frames that it took; -AMS_EBUSY if the thread runs. */
int ams_fabric_poll(struct ams_fabric *fabric, uint64_t now);

struct ams_fabric_limits {
    uint32_t tx_slots;      /* 0: the fabric's */
    uint32_t rx_slots;      /* 0: the fabric's */
    uint32_t flags;         /* AMS_ATTACH_* */
    uint32_t reserved;
};

#define AMS_ATTACH_CONTROL 1 /* trusted: the control owner; gets and may send ARP, NDP, ICMP, RST for the addresses */

/* What a client needs: its memory, where it kicks the switch (an eventfd),
 * and what becomes readable when frames wait (a pipe).  The fds are the
 * caller's to pass on and to close. */
struct ams_fabric_link {
    int32_t index;
    int32_t memory_fd;
    int32_t kick_fd;
    int32_t notify_fd;
};

/* Makes a client's port.  Returns its index, -AMS_EMFILE (too many clients or
 * fds), -AMS_EBUSY (there is a control owner), -AMS_EINVAL, -AMS_ENOMEM. */
int ams_fabric_attach(struct ams_fabric *fabric, const struct ams_fabric_limits *limits, struct ams_fabric_link *link);
/* Releases all its tuples and forgets it; its memory reads as zeros to it. */
int ams_fabric_detach(struct ams_fabric *fabric, int index);

#define AMS_FABRIC_FLOWS 8192 /* connections that a client's memory lists, at most */

/* A TCP connection. */
struct ams_fabric_flow {
    struct ams_endpoint local;
    struct ams_endpoint remote;
};

/* The same, and copies into out[0..max) the connections that the client's
 * memory lists: those that it had, if it has died, and has told the truth.
 * Returns how many, or as ams_fabric_detach(). */
int ams_fabric_detach_flows(struct ams_fabric *fabric, int index, struct ams_fabric_flow *out, int max);

#define AMS_CLAIM_GROUP 1 /* others may claim the same tuple for the same group */

/* Claims a tuple for a client, as ams_switch_claim(); with AMS_CLAIM_GROUP
 * for one member of a group: connections are spread over the members. */
int ams_fabric_claim(struct ams_fabric *fabric, int index, int protocol, const struct ams_endpoint *local, uint32_t flags);
/* The same for n port numbers from local's on: all of them, or none. */
int ams_fabric_claim_ports(struct ams_fabric *fabric, int index, int protocol, const struct ams_endpoint *local, int n,
                           uint32_t flags);
/* Undoes one claim; -AMS_EINVAL if the client has none. */
int ams_fabric_release(struct ams_fabric *fabric, int index, int protocol, const struct ams_endpoint *local);
/* Serves an address, as ams_switch_add_address(). */
int ams_fabric_add_address(struct ams_fabric *fabric, const struct ams_ifaddr *address);
/* Serves an address no longer; the tuples on it are gone. */
int ams_fabric_remove_address(struct ams_fabric *fabric, const struct ams_endpoint *address);

struct ams_fabric_tuple {
    struct ams_endpoint local;
    uint8_t protocol;
    uint8_t group;          /* 1: index is one of several members, each listed */
    uint16_t reserved;
    int32_t index;
    uint32_t claims;
};
/* Lists tuples into out[0..max); returns how many there are. */
int ams_fabric_tuples(struct ams_fabric *fabric, struct ams_fabric_tuple *out, int max);

/* Fills in what ams_port_info() says, of any port of the fabric. */
int ams_fabric_port_info(struct ams_fabric *fabric, int index, struct ams_port_info *info);
/* Lists the indices in use into out[0..max); returns how many there are. */
int ams_fabric_ports(struct ams_fabric *fabric, int *out, int max);
/* Counters of one port, or with index -1 their sums over all ports there are
 * and were: fills values[0..max), returns how many there are.  A frame that
 * is dropped is counted once, for the port that it came from, or, if that
 * had no room, for the one that it was going to. */
int ams_fabric_counters(struct ams_fabric *fabric, int index, uint64_t *values, int max);
/* A counter's name and meaning; NULL past the end.  ams_fabric_counter_drop() is 1
 * for those that count dropped frames. */
const char *ams_fabric_counter_name(int index);
const char *ams_fabric_counter_text(int index);
int ams_fabric_counter_drop(int index);

/* A frame handed out by the fabric. */
struct ams_fabric_frame {
    uint64_t time;          /* CLOCK_MONOTONIC, ns */
    int32_t index;          /* the port that it came from, or (capture) went to */
    int32_t outgoing;       /* capture: 1 if the fabric gave it to the port */
    int32_t reason;         /* capture: counter (ams_fabric_counter_name) of the drop; -1: not dropped */
    uint32_t length;        /* of the frame */
    uint32_t captured;      /* bytes of it that follow */
};

/* Takes the next frame that the control plane must look at: a client's ARP
 * request, neighbour solicitation or the like, and, while there is neither
 * control owner nor host to answer, what arrives for the addresses
 * themselves or for nobody.  Returns 1, or -AMS_EAGAIN; then
 * ams_fabric_punt_fd() becomes readable with the next one. */
int ams_fabric_punted(struct ams_fabric *fabric, struct ams_fabric_frame *info, char *buffer, size_t size);
int ams_fabric_punt_fd(struct ams_fabric *fabric);
/* Gives a frame to a port: 0, -AMS_EINVAL, -AMS_EAGAIN if it was full.
 * AMS_FABRIC_CONTROL: to whomever its destination says. */
int ams_fabric_inject(struct ams_fabric *fabric, int index, const char *frame, size_t length);

/* Starts to copy the frames of one port (-1: of all) into a queue of `frames`
 * places, `snap` bytes of each at most; 0 frames stops.  What finds the queue
 * full is not copied. */
int ams_fabric_capture(struct ams_fabric *fabric, int index, uint32_t snap, uint32_t frames);
/* As ams_fabric_punted(). */
int ams_fabric_captured(struct ams_fabric *fabric, struct ams_fabric_frame *info, char *buffer, size_t size);
int ams_fabric_capture_fd(struct ams_fabric *fabric);
/* How many frames were not copied because the queue was full. */
uint64_t ams_fabric_capture_lost(struct ams_fabric *fabric);

/* CFFI-END */

#endif /* AIOMULTISTACK_SWITCH_H */
