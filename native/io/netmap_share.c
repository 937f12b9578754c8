/* SPDX-License-Identifier: BSD-2-Clause
 *
 * netmap_share.c - one NIC for the operating system and for us: `netmap:eth0*`.
 *
 * Theory of operation.  A NIC in netmap mode is cut off the operating system;
 * its *host rings* are the system's side of the cut: what the system sends
 * appears in the host RX ring, and what is put into the host TX ring is
 * received by the system.  We are between them:
 *
 *   NIC RX       -> us, or the system, or both
 *   host RX      -> the wire, or us, or both
 *   what we send -> the wire, or the system, or both
 *
 * What passes between NIC and system is not copied: the buffers of two slots
 * change places.  A ring that is full drops for its own receiver only.
 *
 * Whose a frame is says a switch of our own, which knows the addresses that
 * are served and the tuples that are claimed (port.h: serve, claim).  An
 * address that the system doesn't have is *own*: everything to it is ours, and
 * the switch's claims don't matter.  One that the system has too is *shared*:
 * ours is what was claimed, with the fragments and ICMP errors that belong to
 * it; all else is the system's, malformed packets too.  ARP and NDP:
 *
 *   requests   for an own address are ours, all others the system's
 *   answers    are for both, since each keeps a table of neighbours
 *   the rest of group traffic is for both, once we have an own address
 *
 * The system and an own address can talk if we have an Ethernet address of our
 * own: what one sends to the other's doesn't reach the wire.
 *
 * The system takes the NIC's offloads for granted, which are behind the cut.
 * Checksums that it leaves unfinished are completed here, those to it as well;
 * super-frames have no place in its rings, so that they are dropped and counted
 * unless it was told to make none: `ethtool -K eth0 tx off gro off`.
 */
#include <string.h>

#include "core/alloc.h"
#include "core/status.h"
#include "io/claims.h"
#include "io/link_mark.h"
#include "io/netmap.h"
#include "switch/switch.h"
#include "wire/arp.h"
#include "wire/bytes.h"
#include "wire/proto.h"

#define SHARE_US 1u
#define SHARE_SYSTEM 2u
#define SHARE_WIRE 4u

#define NDP_ROUTER_ADVERTISEMENT 134u /* RFC 4861 section 4 */
#define NDP_SOLICITATION 135u
#define NDP_ADVERTISEMENT 136u
#define NDP_TARGET 8u                 /* offset of the target in a solicitation */

struct netmap_share {
    uint8_t station[6];           /* our Ethernet address */
    struct ams_switch sw;         /* shared addresses, and what was claimed of them */
    struct tuple_table own;       /* addresses that are ours alone, without ports */
    struct claim_table claims;
    struct ams_frame view;        /* a frame in its ring, for the switch */
};

/* ---- whose frames -------------------------------------------------------------------- */

static struct switch_tuple share_key(const uint8_t ip[16])
{
    struct switch_tuple key;

    switch_tuple_set(&key, ip, 0, 0, ip_is4(ip) ? AMS_IPV4 : AMS_IPV6);
    return key;
}

static bool share_owns(const struct netmap_share *share, const uint8_t ip[16])
{
    struct switch_tuple key = share_key(ip);
    return tuple_owner(&share->own, &key) != TUPLE_NOBODY;
}

/* Who gets an ARP packet.
 * @group: it came to a group address */
static uint32_t share_arp(const struct netmap_share *share, const uint8_t *data, uint32_t length, bool group)
{
    struct arp_repr arp;
    uint8_t target[16];

    if (arp_parse(data + ETH_HEADER, length - ETH_HEADER, &arp) != WIRE_OK)
        return SHARE_SYSTEM;
    if (arp.operation == ARP_REPLY)
        return SHARE_US | SHARE_SYSTEM;
    ip_map4(target, arp.target_ip);
    if (!share_owns(share, target))
        return SHARE_SYSTEM;
    return SHARE_US | (group ? SHARE_SYSTEM : 0);
}

/* Who gets ICMPv6 that neighbour discovery may be.  Return: 0 if it isn't. */
static uint32_t share_ndp(const struct netmap_share *share, const uint8_t *data, uint32_t length,
                          const struct packet *packet, bool group)
{
    if (packet->protocol != PROTO_ICMPV6 || packet->flags & (PACKET_FRAG_FIRST | PACKET_FRAG_LATER))
        return 0;
    if (packet->icmp_type == NDP_ADVERTISEMENT || packet->icmp_type == NDP_ROUTER_ADVERTISEMENT)
        return SHARE_US | SHARE_SYSTEM;
    if (packet->icmp_type != NDP_SOLICITATION || packet->l4 + NDP_TARGET + 16 > length)
        return 0;
    if (!share_owns(share, data + packet->l4 + NDP_TARGET))
        return SHARE_SYSTEM;
    return SHARE_US | (group ? SHARE_SYSTEM : 0);
}

/* Who gets a frame from the wire, or from the system: SHARE_US, SHARE_SYSTEM
 * or both.
 * @data: the frame, in its ring: its bytes are not changed */
static uint32_t share_sort(struct netmap_share *share, uint8_t *data, uint32_t length, uint64_t now)
{
    struct ams_frame *view = &share->view;
    struct packet packet;
    int32_t target;

    if (length < ETH_HEADER)
        return SHARE_SYSTEM;
    bool group = data[0] & 1;
    if (!group && memcmp(data, share->station, 6) != 0)
        return SHARE_SYSTEM;
    if (load_be16(data + 12) == ETHERTYPE_ARP)
        return share_arp(share, data, length, group);
    if (packet_parse(data, length, length, &packet) != PACKET_OK || !packet.family)
        return SHARE_SYSTEM;
    uint32_t ndp = share_ndp(share, data, length, &packet, group);
    if (ndp)
        return ndp;
    if (group)
        return SHARE_SYSTEM | (share->own.used ? SHARE_US : 0);
    if (share_owns(share, packet.dst))
        return SHARE_US;
    if (!share->claims.n_addresses)
        return SHARE_SYSTEM;
    view->data = data;
    view->len = length;
    switch_rx(&share->sw, (struct ams_frame *const[]){view}, 1, &target, now);
    return target >= 0 ? SHARE_US : SHARE_SYSTEM;
}

/* ---- between the rings --------------------------------------------------------------- */

/* Finds room for one frame.  Return: NULL if there is none. */
static struct ring *share_room(struct netmap_port *netmap, struct netmap_rings *to)
{
    struct ring *ring = &to->rings[0];

    if (AMS_LIKELY(ring_avail(ring)) || ring_user_refresh(ring))
        return ring;
    ring_user_push(ring);
    netmap_sync(netmap, true);
    return ring_user_refresh(ring) ? ring : NULL;
}

/* Copies the frame in a slot to a ring. */
static bool share_copy(struct netmap_port *netmap, struct ring *to, uint8_t *data, uint32_t length)
{
    struct ams_tx tx;

    memset(&tx, 0, offsetof(struct ams_tx, frags));
    tx.head = data;
    tx.head_len = tx.total = length;
    return netmap_put(netmap, to, &tx);
}

/* Deals with the frame at a ring's next slot.
 * @who: of SHARE_*
 * @other: the rings for those who are not us
 * Return: a frame for us; NULL if there is none. */
static struct ams_frame *share_deal(struct netmap_port *netmap, struct ring *ring, struct netmap_rings *other,
                                    uint32_t who, uint32_t slots, uint32_t bytes)
{
    struct ring_item item;
    uint8_t *data = ring_peek(ring, &item);
    struct ring *to = who & ~SHARE_US ? share_room(netmap, other) : NULL;

    /* No chains in host rings, nor to a NIC. */
    if (who & ~SHARE_US && (!to || slots != 1 || !data)) {
        netmap->port.info.rx_dropped++;
        if (!(who & SHARE_US))
            netmap_skip(ring, slots);
    } else if (who == SHARE_SYSTEM || who == SHARE_WIRE) {
        /* What the system sends may be unfinished, and what it gets from a link that is in this machine. */
        if (who == SHARE_WIRE || netmap->link.partial)
            link_finish(data, bytes);
        if (!netmap_swap(ring, to, bytes)) {
            netmap->port.info.rx_dropped++;
            netmap_skip(ring, 1);
        }
    } else if (who & ~SHARE_US) {
        share_copy(netmap, to, data, bytes); /* group traffic: ARP, NDP and the like */
    }
    if (to) {
        ring_user_push(to);
        netmap->unsynced = true;
    }
    return who & SHARE_US ? netmap_take(netmap, ring, slots, bytes) : NULL;
}

/* Empties a ring of the NIC's, or of the system's, up to n frames for us and
 * as many slots as there are.
 * Return: frames for us. */
static int share_drain(struct netmap_port *netmap, struct ring *ring, bool from_system, struct ams_frame **frames,
                       int n, uint64_t now)
{
    uint32_t slots, bytes, before = ring->next;
    int taken = 0;

    ring_user_refresh(ring);
    while (taken < n && netmap_chain(ring, &slots, &bytes)) {
        struct ring_item item;
        uint8_t *data = ring_peek(ring, &item);
        uint32_t first = ams_min_u32(item.len, ring->buf_size);
        uint32_t who = data ? share_sort(netmap->share, data, first, now) : SHARE_SYSTEM;
        if (from_system) { /* a copy for the system is the wire's; what is ours alone needn't go there */
            bool station = data && first >= 6 && memcmp(data, netmap->share->station, 6) == 0;
            who = (who & SHARE_US) | (station && who & SHARE_US ? 0 : SHARE_WIRE);
        }
        struct ams_frame *frame = share_deal(netmap, ring, from_system ? &netmap->tx : &netmap->host_tx, who, slots,
                                             bytes);
        if (frame)
            frames[taken++] = frame;
    }
    if (ring->next != before)
        ring_user_pull(ring);
    netmap->unreturned += ring_distance(ring, before, ring->next);
    return taken;
}

int netmap_share_receive(struct netmap_port *netmap, struct ams_frame **frames, int n, uint64_t now)
{
    int taken = 0;

    for (uint32_t i = 0; i < netmap->rx.n && taken < n; i++)
        taken += share_drain(netmap, &netmap->rx.rings[(netmap->next + i) % netmap->rx.n], false, frames + taken,
                             n - taken, now);
    for (uint32_t i = 0; i < netmap->host_rx.n && taken < n; i++)
        taken += share_drain(netmap, &netmap->host_rx.rings[i], true, frames + taken, n - taken, now);
    netmap->next = (netmap->next + 1) % netmap->rx.n;
    if (netmap->unsynced) /* the system doesn't wait for our flush */
        netmap->port.ops->flush(&netmap->port, now);
    return taken;
}

bool netmap_share_send(struct netmap_port *netmap, const struct ams_tx *tx)
{
    bool group = tx->head_len >= 6 && tx->head[0] & 1;

    if (tx->head_len < 6 || (!group && memcmp(tx->head, netmap->link.mac, 6) != 0))
        return true;
    struct ring *ring = share_room(netmap, &netmap->host_tx);
    if (!ring || !netmap_put(netmap, ring, tx)) {
        netmap->port.info.tx_dropped += !group;
        return group;
    }
    ring_user_push(ring);
    if (!group) {
        netmap->port.info.tx_frames++;
        netmap->port.info.tx_bytes += tx->total;
    }
    return group;
}

/* ---- what is ours ---------------------------------------------------------------------- */

/* Keeps the switch's claims as the table of claims is. */
static int share_change(void *ctx, const struct claim_key *key, bool claimed)
{
    struct netmap_share *share = ctx;
    struct ams_endpoint local = {.port = key->port, .family = key->family};

    memcpy(local.ip, key->ip, 16);
    if (claimed)
        return switch_claim(&share->sw, 0, key->protocol, &local);
    switch_release(&share->sw, 0, key->protocol, &local);
    return 0;
}

/* Makes the switch for an Ethernet address; what was claimed is gone. */
static int share_switch(struct netmap_port *netmap, struct ams_switch *sw, const uint8_t mac[6])
{
    struct ams_switch_config config;

    memset(&config, 0, sizeof(config));
    memcpy(config.mac, mac, 6);
    config.mtu = netmap->port.info.mtu;
    config.unclaimed = AMS_SWITCH_TO_HOST;
    netmap->sys->random(netmap->sys->ctx, config.seed, sizeof(config.seed));
    return switch_init(sw, &config);
}

int netmap_share_new(struct netmap_port *netmap)
{
    struct netmap_share *share = mem_zalloc(1, sizeof(*share));

    if (!share)
        return -AMS_ENOMEM;
    memcpy(share->station, netmap->link.mac, 6);
    int status = share_switch(netmap, &share->sw, netmap->link.mac);
    if (status) {
        mem_free(share);
        return status;
    }
    status = tuple_table_init(&share->own, share->sw.tuples.secret, 16);
    if (!status)
        status = claims_init(&share->claims, netmap->link.index, share_change, share);
    if (status) {
        netmap_share_free(share);
        return status;
    }
    netmap->share = share;
    return 0;
}

void netmap_share_free(struct netmap_share *share)
{
    if (!share)
        return;
    claims_fini(&share->claims);
    tuple_table_fini(&share->own);
    switch_fini(&share->sw);
    mem_free(share);
}

int netmap_station(struct ams_port *port, const uint8_t mac[6], struct port_error *error)
{
    struct netmap_port *netmap = netmap_from(port);
    const struct netmap_sys *sys = netmap->sys;

    if (netmap->share && netmap->share->claims.n_addresses)
        return -AMS_EBUSY;
    if (memcmp(mac, netmap->link.mac, 6) != 0 && netmap->listen < 0) {
        netmap->listen = sys->promiscuous(sys->ctx, netmap->name.link);
        if (netmap->listen < 0)
            return port_fail(error, port_status(-netmap->listen), "%s cannot receive for another Ethernet address: %s",
                             netmap->name.link, strerror(-netmap->listen));
    }
    if (!netmap->share)
        return 0;
    struct ams_switch sw;
    int status = share_switch(netmap, &sw, mac);
    if (status)
        return port_fail(error, status, "cannot use this Ethernet address: %s", ams_status_text(status));
    switch_fini(&netmap->share->sw);
    netmap->share->sw = sw;
    memcpy(netmap->share->station, mac, 6);
    return 0;
}

int netmap_serve(struct ams_port *port, const struct ams_endpoint *address, struct port_error *error)
{
    struct netmap_port *netmap = netmap_from(port);
    struct netmap_share *share = netmap->share;
    const struct netmap_sys *sys = netmap->sys;
    struct ams_ifaddr with_prefix = {*address, address->family == AMS_IPV4 ? 32 : 128};

    if (!share)
        return PORT_OWN; /* the system is cut off */
    struct switch_tuple key = share_key(address->ip);
    if (!sys->has_address(sys->ctx, netmap->name.link, address->ip)) {
        int status = share_owns(share, address->ip) ? 0 : tuple_insert(&share->own, &key, 0, 0);
        return status ? port_fail(error, status, "out of memory") : PORT_OWN;
    }
    if (memcmp(share->station, netmap->link.mac, 6) != 0)
        return port_fail(error, -AMS_EINVAL, "an address of this machine itself can only be shared under the MAC "
                         "address of %s: leave mac unset, or give the user-space stack an address of its own",
                         netmap->name.link);
    int status = switch_add_address(&share->sw, &with_prefix);
    if (!status)
        status = claims_share(&share->claims, address->ip);
    return status ? port_fail(error, status, "cannot share the system's address: %s", ams_status_text(status))
                  : PORT_SHARED;
}

void netmap_unserve(struct ams_port *port, const struct ams_endpoint *address)
{
    struct netmap_share *share = netmap_from(port)->share;

    if (!share)
        return;
    struct switch_tuple key = share_key(address->ip);
    struct tuple_slot *slot = tuple_find(&share->own, &key, tuple_hash(&share->own, &key));
    if (slot)
        tuple_remove(&share->own, slot);
    claims_unshare(&share->claims, address->ip);
}

int netmap_claim(struct ams_port *port, uint8_t protocol, const struct ams_endpoint *local, uint32_t flags)
{
    struct netmap_share *share = netmap_from(port)->share;
    return share ? claims_add(&share->claims, protocol, local, flags & PORT_PROVE) : 0;
}

void netmap_release(struct ams_port *port, uint8_t protocol, const struct ams_endpoint *local)
{
    struct netmap_share *share = netmap_from(port)->share;

    if (share)
        claims_remove(&share->claims, protocol, local);
}

int netmap_show(struct ams_port *port, int fd)
{
    struct netmap_share *share = netmap_from(port)->share;
    return share && share->claims.n_addresses ? claims_show(&share->claims, fd) : 0;
}

/* Without host rings the system is cut off, whatever addresses it has. */
int netmap_lookup(struct ams_port *port, uint8_t protocol, const struct ams_endpoint *address)
{
    struct netmap_share *share = netmap_from(port)->share;
    return share ? claims_lookup(&share->claims, protocol, address) : -AMS_EOPNOTSUPP;
}
