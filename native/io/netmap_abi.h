/* SPDX-License-Identifier: BSD-2-Clause
 *
 * netmap_abi.h - the requests that /dev/netmap takes (API version 14).
 *
 * Written from the ABI as it was observed, so that no header of netmap is
 * needed to build; rings and slots are in ring.h.  tests/native/freebsd_netmap.c
 * compares all of it with FreeBSD's own header.
 *
 * A descriptor of /dev/netmap is bound to a port by REGISTER, once.  Then
 * mmap() gives the region that the port's rings live in, poll() and the two
 * sync calls move slots between us and the kernel, and closing the descriptor
 * and unmapping the region release the port.
 */
#ifndef AMS_IO_NETMAP_ABI_H
#define AMS_IO_NETMAP_ABI_H

#include <stdint.h>

#define NM_API 14u

struct nm_header {
    uint16_t version;
    uint16_t request;    /* NM_REGISTER, ... */
    uint32_t reserved;
    char name[64];
    uint64_t options;    /* pointer to a list of options; 0: none */
    uint64_t body;       /* pointer to the request's own struct */
};

#define NM_REGISTER 1u
#define NM_PORT_INFO_GET 2u
#define NM_PORT_HDR_SET 6u
#define NM_PORT_HDR_GET 7u

/* of NM_REGISTER */
struct nm_register {
    uint64_t offset;     /* result: of netmap_if in the region */
    uint64_t memsize;    /* result: of the region */
    uint32_t tx_slots;
    uint32_t rx_slots;
    uint16_t tx_rings;
    uint16_t rx_rings;
    uint16_t host_tx_rings;
    uint16_t host_rx_rings;
    uint16_t mem_id;     /* the region; 0: whichever the kernel chooses */
    uint16_t ringid;     /* of the ONE modes */
    uint32_t mode;       /* NM_MODE_* */
    uint32_t extra_bufs;
    uint32_t pad;
    uint64_t flags;      /* NM_FLAG_* */
};

#define NM_MODE_ALL_NIC 1u
#define NM_MODE_SW 2u        /* host rings */
#define NM_MODE_NIC_SW 3u    /* both: the operating system is cut off the NIC, and we are between them */
#define NM_MODE_ONE_NIC 4u
#define NM_MODE_ONE_SW 8u

#define NM_FLAG_EXCLUSIVE 0x800u
#define NM_FLAG_ACCEPT_VNET 0x8000u

/* of NM_PORT_HDR_SET and NM_PORT_HDR_GET */
struct nm_port_hdr {
    uint32_t length;     /* of the virtio-net header: 0, 10 or 12 */
};

_Static_assert(sizeof(struct nm_header) == 88, "nmreq_header");
_Static_assert(sizeof(struct nm_register) == 56, "nmreq_register");

#endif
