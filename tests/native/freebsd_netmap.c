/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Our idea of netmap's ABI beside FreeBSD's: compiled only (.ci/freebsd).
 */
#include <sys/types.h>

#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <net/if.h>
#include <net/netmap.h>
#include <stddef.h>

#include "io/netmap_abi.h"
#include "io/netmap_posix.h"
#include "io/ring.h"

#define SAME(ours, our_field, theirs, their_field)                                                   \
    _Static_assert(offsetof(struct ours, our_field) == offsetof(struct theirs, their_field) &&       \
                       sizeof(((struct ours *)0)->our_field) == sizeof(((struct theirs *)0)->their_field), \
                   #ours "." #our_field)
#define EQUAL(ours, theirs) _Static_assert((ours) == (theirs), #ours)

SAME(nm_header, version, nmreq_header, nr_version);
SAME(nm_header, request, nmreq_header, nr_reqtype);
SAME(nm_header, reserved, nmreq_header, nr_reserved);
SAME(nm_header, name, nmreq_header, nr_name);
SAME(nm_header, options, nmreq_header, nr_options);
SAME(nm_header, body, nmreq_header, nr_body);
EQUAL(sizeof(struct nm_header), sizeof(struct nmreq_header));

SAME(nm_register, offset, nmreq_register, nr_offset);
SAME(nm_register, memsize, nmreq_register, nr_memsize);
SAME(nm_register, tx_slots, nmreq_register, nr_tx_slots);
SAME(nm_register, rx_slots, nmreq_register, nr_rx_slots);
SAME(nm_register, tx_rings, nmreq_register, nr_tx_rings);
SAME(nm_register, rx_rings, nmreq_register, nr_rx_rings);
SAME(nm_register, host_tx_rings, nmreq_register, nr_host_tx_rings);
SAME(nm_register, host_rx_rings, nmreq_register, nr_host_rx_rings);
SAME(nm_register, mem_id, nmreq_register, nr_mem_id);
SAME(nm_register, ringid, nmreq_register, nr_ringid);
SAME(nm_register, mode, nmreq_register, nr_mode);
SAME(nm_register, extra_bufs, nmreq_register, nr_extra_bufs);
SAME(nm_register, flags, nmreq_register, nr_flags);
EQUAL(sizeof(struct nm_register), sizeof(struct nmreq_register));
SAME(nm_port_hdr, length, nmreq_port_hdr, nr_hdr_len);

EQUAL(NM_IOCTL_CONTROL, NIOCCTRL);
EQUAL(NM_IOCTL_TXSYNC, NIOCTXSYNC);
EQUAL(NM_IOCTL_RXSYNC, NIOCRXSYNC);
EQUAL(NM_API, NETMAP_API);
EQUAL(RING_NETMAP_API, NETMAP_API);
EQUAL(NM_REGISTER, NETMAP_REQ_REGISTER);
EQUAL(NM_PORT_INFO_GET, NETMAP_REQ_PORT_INFO_GET);
EQUAL(NM_PORT_HDR_SET, NETMAP_REQ_PORT_HDR_SET);
EQUAL(NM_PORT_HDR_GET, NETMAP_REQ_PORT_HDR_GET);
EQUAL(NM_MODE_ALL_NIC, NR_REG_ALL_NIC);
EQUAL(NM_MODE_SW, NR_REG_SW);
EQUAL(NM_MODE_NIC_SW, NR_REG_NIC_SW);
EQUAL(NM_MODE_ONE_NIC, NR_REG_ONE_NIC);
EQUAL(NM_MODE_ONE_SW, NR_REG_ONE_SW);
EQUAL(NM_FLAG_EXCLUSIVE, NR_EXCLUSIVE);
EQUAL(NM_FLAG_ACCEPT_VNET, NR_ACCEPT_VNET_HDR);

SAME(ring_if, name, netmap_if, ni_name);
SAME(ring_if, version, netmap_if, ni_version);
SAME(ring_if, flags, netmap_if, ni_flags);
SAME(ring_if, tx_rings, netmap_if, ni_tx_rings);
SAME(ring_if, rx_rings, netmap_if, ni_rx_rings);
SAME(ring_if, bufs_head, netmap_if, ni_bufs_head);
SAME(ring_if, host_tx_rings, netmap_if, ni_host_tx_rings);
SAME(ring_if, host_rx_rings, netmap_if, ni_host_rx_rings);
EQUAL(RING_IF_OFFSETS, offsetof(struct netmap_if, ring_ofs));

SAME(ring_shared, buf_ofs, netmap_ring, buf_ofs);
SAME(ring_shared, num_slots, netmap_ring, num_slots);
SAME(ring_shared, buf_size, netmap_ring, nr_buf_size);
SAME(ring_shared, ringid, netmap_ring, ringid);
SAME(ring_shared, dir, netmap_ring, dir);
SAME(ring_shared, head, netmap_ring, head);
SAME(ring_shared, cur, netmap_ring, cur);
SAME(ring_shared, tail, netmap_ring, tail);
SAME(ring_shared, flags, netmap_ring, flags);
SAME(ring_shared, offset_mask, netmap_ring, offset_mask);
SAME(ring_shared, buf_align, netmap_ring, buf_align);
EQUAL(RING_HEADER, offsetof(struct netmap_ring, slot));

SAME(ring_slot, buf_idx, netmap_slot, buf_idx);
SAME(ring_slot, len, netmap_slot, len);
SAME(ring_slot, flags, netmap_slot, flags);
SAME(ring_slot, ptr, netmap_slot, ptr);
EQUAL(RING_BUF_CHANGED, NS_BUF_CHANGED);
EQUAL(RING_REPORT, NS_REPORT);
EQUAL(RING_FORWARD, NS_FORWARD);
EQUAL(RING_NO_LEARN, NS_NO_LEARN);
EQUAL(RING_INDIRECT, NS_INDIRECT);
EQUAL(RING_MOREFRAG, NS_MOREFRAG);
