/* SPDX-License-Identifier: BSD-2-Clause
 *
 * switch.h - one table, two directions: RX demux and TX validation.
 *
 * Theory of operation.  Ports are small integers; a port owns local 3-tuples
 * (address, protocol, port number).  One of the ports may be the *control
 * owner*: the stack that answers for the addresses themselves (ARP, NDP,
 * ICMP echo, IGMP, MLD, RST and unreachables for tuples that nobody owns).
 *
 *   switch_rx   says for each received frame who gets it: the owner of its
 *               destination tuple, the control owner, the host, or nobody.
 *   switch_tx   says for each frame to be sent whether its source tuple is
 *               the sending port's.  What it doesn't recognise as permitted
 *               doesn't leave.
 *
 * A tuple belongs to one port at a time; a wildcard claim (0.0.0.0 or ::)
 * stands for all addresses served.  Exact claims are looked up first.  An
 * ICMP error belongs to the owner of the tuple that the quoted packet came
 * from; a later fragment goes where its first one went.  A tuple may also
 * belong to a group of ports (group.h): each packet to it goes to one of them.
 *
 * A switch is sans-I/O and belongs to one thread.  Files: packet.c walks
 * headers, tuple.c, fragment.c and group.c are the tables, switch.c holds
 * claims, rx.c demultiplexes, tx.c validates tuples, tx_control.c what has no
 * tuple, forward.c does both for the common shape of packet, api.c is the
 * public face.
 */
#ifndef AMS_SWITCH_SWITCH_H
#define AMS_SWITCH_SWITCH_H

#include "aiomultistack.h"
#include "core/base.h"
#include "core/frame.h"
#include "switch/counters.h"
#include "switch/fragment.h"
#include "switch/group.h"
#include "switch/packet.h"
#include "switch/tuple.h"

#define SWITCH_BATCH 64     /* frames looked up together */
#define SWITCH_PORTS_MAX 65535u

/* Targets of switch_rx(): a port index, or one of these. */
#define SWITCH_TO_CONTROL (AMS_SWITCH_TO_CONTROL)
#define SWITCH_TO_HOST (AMS_SWITCH_TO_HOST)
#define SWITCH_TO_NOBODY (AMS_SWITCH_TO_NOBODY) /* dropped and counted */
/* And of switch_forward(): */
#define SWITCH_TO_WIRE (-4)  /* a station that isn't ours */
#define SWITCH_TO_ALL (-5)   /* a group address: the wire, and whom switch_rx() says */
#define SWITCH_UNDECIDED (-6) /* not of the common shape: ask switch_forward_any() */

struct ams_switch {
    uint8_t mac[6];
    uint16_t control;              /* the control owner's port */
    uint32_t mtu;
    int32_t unclaimed;             /* where frames that nobody claimed go: SWITCH_TO_* */
    bool beside;                   /* the host is a station beside us: what isn't for our MAC address may be for it */
    bool orphans_to_control;       /* later fragments without a first: to the control owner */
    uint8_t rx_reason;             /* the counter of the last frame that went to nobody */
    uint32_t epoch;                /* changes with every claim, release and address; never 0 */
    uint64_t station;              /* mac, as the first six bytes in memory of a word */
    uint32_t wildcards;            /* wildcard tuples in the table */
    struct tuple_table tuples;
    struct tuple_table addresses;  /* served addresses, as tuples without port; owner: enum switch_address */
    struct group_table groups;
    struct fragment_table rx_fragments;
    struct fragment_table tx_fragments;
    uint64_t counters[SWITCH_COUNTERS];
};

enum switch_address { SWITCH_ADDRESS_OTHER, SWITCH_ADDRESS_UNICAST, SWITCH_ADDRESS_BROADCAST, SWITCH_ADDRESS_MULTICAST };

/* Makes a switch.  Return: 0, -AMS_EINVAL, -AMS_ENOMEM.  Owns: the caller. */
int switch_init(struct ams_switch *sw, const struct ams_switch_config *config);
void switch_fini(struct ams_switch *sw);

/* Serves one more address (IPv4: and its subnet's broadcast address).
 * Return: 0 (also if it is served already), -AMS_EINVAL, -AMS_ENOMEM. */
int switch_add_address(struct ams_switch *sw, const struct ams_ifaddr *address);
/* Serves an address no longer; tuples on it are gone, whoever had them.
 * Return: 0, -AMS_EADDRNOTAVAIL. */
int switch_remove_address(struct ams_switch *sw, const struct ams_endpoint *address);
/* What kind of address ip is to this switch. */
enum switch_address switch_address_kind(const struct ams_switch *sw, const uint8_t ip[16], uint8_t family);

/* Claims and releases a tuple for a port, as struct ams_owner has it.
 * Return: 0, -AMS_EADDRINUSE, -AMS_EADDRNOTAVAIL, -AMS_EINVAL, -AMS_ENOMEM. */
int switch_claim(struct ams_switch *sw, uint16_t port, uint8_t protocol, const struct ams_endpoint *local);
int switch_release(struct ams_switch *sw, uint16_t port, uint8_t protocol, const struct ams_endpoint *local);
/* How often a port has claimed exactly this tuple. */
uint32_t switch_claims(const struct ams_switch *sw, uint16_t port, uint8_t protocol, const struct ams_endpoint *local);
/* Claims a tuple for a port as one of a group: others may join, too.  Undone
 * by switch_release().
 * Return: as switch_claim(); -AMS_EMFILE if the group is full. */
int switch_join(struct ams_switch *sw, uint16_t port, uint8_t protocol, const struct ams_endpoint *local);
/* Takes all that a port owns from it. */
void switch_release_port(struct ams_switch *sw, uint16_t port);
/* The slot of a tuple's owner, exactly or by wildcard; NULL: nobody. */
const struct tuple_slot *switch_find(const struct ams_switch *sw, const struct switch_tuple *tuple);
/* True if a port owns a slot, alone or with others. */
bool switch_owns(const struct ams_switch *sw, const struct tuple_slot *slot, uint16_t port);
/* The port that a packet with this slot's tuple belongs to.
 * @sending: the packet was sent from the tuple (one quoted by an ICMP error), not to it */
int switch_pick(struct ams_switch *sw, const struct tuple_slot *slot, const struct packet *packet, bool sending,
                uint64_t now);

/* Classifies received frames.
 * @targets: result, one a frame
 * A priority tag is taken off; otherwise frames are left as they are, and
 * those for SWITCH_TO_NOBODY are still the caller's to free. */
void switch_rx(struct ams_switch *sw, struct ams_frame *const *frames, int n, int32_t *targets, uint64_t now);
/* The same, saying by which counter those for SWITCH_TO_NOBODY are dropped. */
void switch_rx_reasons(struct ams_switch *sw, struct ams_frame *const *frames, int n, int32_t *targets,
                       uint8_t *reasons, uint64_t now);

/* Validates frames that a port wants to send.
 * @verdicts: result, one a frame: SWITCH_PASSED or the counter of the reason
 * Return: how many passed. */
int switch_tx(struct ams_switch *sw, uint16_t port, const struct ams_tx *tx, int n, uint8_t *verdicts, uint64_t now);

/* ---- both at once: from port to port --------------------------------------------- */

#define SWITCH_HEAD 512u /* bytes of a frame in which all headers that we allow lie */
#define SWITCH_REACH 80u /* Ethernet, IPv6 and TCP headers: 74 */

/* What a port sent last, and to whom: nearly always it is the same again. */
struct switch_memo {
    struct switch_tuple tuple;
    uint32_t epoch;              /* of the switch when it was noted */
    int32_t target;
};

struct switch_line {
    struct switch_memo source, destination;
};

/* A frame whose first bytes can be read, and don't change. */
struct switch_view {
    const uint8_t *data;         /* at least SWITCH_REACH bytes can be read, whatever they are */
    uint32_t length;             /* of the frame */
};

/* Validates frames that a port wants to send, and says where they go.
 * @line: the port's memory; zeroed before its first use
 * @targets: result, one a frame: a port, or SWITCH_TO_*; SWITCH_UNDECIDED if
 *           nothing was decided, and nothing counted
 * n is at most SWITCH_BATCH. */
void switch_forward(struct ams_switch *sw, uint16_t port, struct switch_line *line, const struct switch_view *frames,
                    int n, int32_t *targets);

/* The same for one frame of any shape, all of which can be read.
 * @target: result; SWITCH_TO_NOBODY if it is dropped
 * Return: SWITCH_PASSED, or why it is dropped: a tx or an rx counter. */
enum switch_counter switch_forward_any(struct ams_switch *sw, uint16_t port, const uint8_t *data, uint32_t length,
                                       int32_t *target, uint64_t now);

/* The same for a descriptor, of which only the head is read: a super-frame's
 * headers, without its payload.
 * @tx: of its pieces only the lengths count, if the head has SWITCH_HEAD bytes */
enum switch_counter switch_forward_tx(struct ams_switch *sw, uint16_t port, const struct ams_tx *tx, int32_t *target,
                                      uint64_t now);

/* True if a frame that has no tuple (ARP, ICMP, NDP, MLD, IGMP) is one that the
 * control owner could send: well-formed, and nothing but the truth. */
bool switch_truthful(struct ams_switch *sw, const uint8_t *data, uint32_t length);
/* What a frame of ARP, or a neighbour solicitation or advertisement, is about;
 * 0 for all others. */
#define SWITCH_NEIGHBOR 1u       /* it is such a frame */
#define SWITCH_NEIGHBOR_ASKS 2u  /* a request or solicitation */
#define SWITCH_NEIGHBOR_OURS 4u  /* for an address that we serve */
#define SWITCH_NEIGHBOR_POSES 8u /* it says that such an address is its sender's */
uint32_t switch_neighbor(const struct ams_switch *sw, const uint8_t *data, uint32_t length);
/* The port that gets a copy of a frame to a group address because it owns the
 * destination tuple; SWITCH_TO_NOBODY.  Nothing is counted. */
int32_t switch_group_receiver(struct ams_switch *sw, const uint8_t *data, uint32_t length, uint64_t now);

/* ---- inside the switch ----------------------------------------------------- */

/* Builds a lookup key. */
static inline void switch_tuple_set(struct switch_tuple *tuple, const uint8_t ip[16], uint16_t port, uint8_t protocol,
                                    uint8_t family)
{
    memcpy(tuple->ip, ip, 16);
    tuple->port = port;
    tuple->protocol = protocol;
    tuple->family = family;
}

/* Classifies one frame without a tag, as switch_rx(); it is not written to.
 * @avail: bytes of it that can be read */
int32_t switch_rx_local(struct ams_switch *sw, const uint8_t *data, uint32_t avail, uint32_t length, uint64_t now);

/* Validates ARP, ICMP, ICMPv6 and IGMP (tx_control.c).
 * @data, @avail: the frame as far as it can be reached
 * Return: SWITCH_PASSED or a reason. */
enum switch_counter switch_tx_arp(const struct ams_switch *sw, uint16_t port, const uint8_t *data,
                                  const struct packet *packet);
enum switch_counter switch_tx_icmp(const struct ams_switch *sw, uint16_t port, const uint8_t *data, uint32_t avail,
                                   const struct packet *packet);
enum switch_counter switch_tx_igmp(const struct ams_switch *sw, uint16_t port, const struct packet *packet);

#endif
