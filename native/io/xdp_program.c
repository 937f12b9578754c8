/* SPDX-License-Identifier: BSD-2-Clause
 *
 * xdp_program.c - writing the XDP program, instruction by instruction.
 *
 * R6 is the context, R7 the frame, R8 its end, R9 where the walk through the
 * headers has got to, and R5, between calls, the protocol that comes there.
 * Along a chain of extension headers R3 is its start and R4 the offset from
 * there, which is kept within CHAIN_MASK for the verifier's sake: it then sees
 * the same state at each step, whatever way led there.
 * Every load is preceded by need(), which leaves a frame that is too short to
 * the system.  What the maps are asked with is built on the stack.
 */
#include "io/xdp_program.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "aiomultistack.h"
#include "core/alloc.h"
#include "io/bpf.h"
#include "io/bpf_asm.h"
#include "wire/icmp.h"
#include "wire/proto.h"

#ifndef BPF_F_XDP_HAS_FRAGS
#define BPF_F_XDP_HAS_FRAGS (1u << 5) /* Linux 5.18 */
#endif

#define CHAIN_MAX 8        /* extension headers walked: as the switch does */
#define CHAIN_MASK 0x7ff8  /* 8 headers of 2048 bytes */

/* The stack, from R10. */
#define KEY (-24)                     /* struct xdp_tuple; its first 16 bytes are an address */
#define KEY_PORT (KEY + 16)
#define KEY_PROTOCOL (KEY + 18)
#define KEY_FAMILY (KEY + 19)
#define FRAGMENT (-64)                /* source, destination, identification, protocol */
#define FRAGMENT_DST (FRAGMENT + 16)
#define FRAGMENT_ID (FRAGMENT + 32)
#define FRAGMENT_PROTOCOL (FRAGMENT + 36)
#define FRAGMENT_SIZE 40
#define EXPIRES (-72)                 /* 64 bits */
#define FIRST (-76)                   /* 32 bits: 1 in a first fragment */
#define SEEN (-80)                    /* 32 bits: 1 after an IPv6 fragment header */

/* Offsets in a frame. */
#define ETH_TYPE 12
#define IP (int)ETH_HEADER
#define IP4_ID (IP + 4)
#define IP4_FRAGMENT (IP + 6)
#define IP4_PROTOCOL (IP + 9)
#define IP4_SRC (IP + 12)
#define IP4_DST (IP + 16)
#define IP6_NEXT (IP + 6)
#define IP6_SRC (IP + 8)
#define IP6_DST (IP + 24)
#define ARP_TARGET (IP + 24)
#define NDP_TYPE (IP + 40)
#define NDP_TARGET (IP + 48)

/* struct xdp_md */
#define CTX_DATA 0
#define CTX_DATA_END 4
#define CTX_QUEUE 16

struct demux {
    struct bpf_asm code;
    const struct xdp_maps *maps;
    int pass;         /* labels: it is the system's */
    int take;         /* it is the user's */
    int ports;        /* R9 is at the ports of the packet */
    int quoted_ports; /* R9 is at the ports of the packet that an ICMP error quotes */
    int later;        /* FRAGMENT names a later fragment */
};

/* ---- pieces ------------------------------------------------------------------- */

/* Leaves the frame to the system unless it has n bytes from base on.  R0 is lost. */
static void need(struct demux *d, enum bpf_reg base, int n)
{
    asm_mov(&d->code, R0, base);
    asm_alu_imm(&d->code, BPF_ADD, R0, n);
    asm_jump_if(&d->code, BPF_JGT, R0, R8, d->pass);
}

/* Copies an IPv4 address to the stack, mapped.  R0 is lost. */
static void copy_ip4(struct demux *d, int to, enum bpf_reg base, int from)
{
    asm_store_imm(&d->code, BPF_DW, R10, to, 0);
    asm_store_imm(&d->code, BPF_W, R10, to + 8, (int32_t)htonl(0xffff));
    asm_load(&d->code, BPF_W, R0, base, from);
    asm_store(&d->code, BPF_W, R10, to + 12, R0);
}

/* Copies an IPv6 address to the stack.  R0 is lost. */
static void copy_ip6(struct demux *d, int to, enum bpf_reg base, int from)
{
    for (int i = 0; i < 16; i += 4) {
        asm_load(&d->code, BPF_W, R0, base, from + i);
        asm_store(&d->code, BPF_W, R10, to + i, R0);
    }
}

/* R0 = the address of key's value, or 0. */
static void look_up(struct demux *d, int map, int key)
{
    asm_map(&d->code, R1, map);
    asm_mov(&d->code, R2, R10);
    asm_alu_imm(&d->code, BPF_ADD, R2, key);
    asm_call(&d->code, BPF_FUNC_map_lookup_elem);
}

/* Looks up the address at KEY: not served, the frame is the system's; the
 * user's own, the frame is the user's.  Else goes on: it is shared. */
static void look_up_address(struct demux *d)
{
    look_up(d, d->maps->addresses, KEY);
    asm_jump_imm(&d->code, BPF_JEQ, R0, 0, d->pass);
    asm_load(&d->code, BPF_W, R0, R0, 0);
    asm_jump_imm(&d->code, BPF_JEQ, R0, XDP_ADDRESS_OWN, d->take);
}

/* ---- IPv4 --------------------------------------------------------------------- */

/* R9 += the length of the IPv4 header whose first byte is at base + offset,
 * which must be one.  R0 and R1 are lost. */
static void step_ip4(struct demux *d, enum bpf_reg base, int offset)
{
    struct bpf_asm *code = &d->code;

    asm_load(code, BPF_B, R1, base, offset);
    asm_mov(code, R0, R1);
    asm_alu_imm(code, BPF_RSH, R0, 4);
    asm_jump_imm(code, BPF_JNE, R0, 4, d->pass);
    asm_alu_imm(code, BPF_AND, R1, 15);
    asm_alu_imm(code, BPF_LSH, R1, 2);
    asm_jump_imm(code, BPF_JLT, R1, IP4_HEADER, d->pass);
    asm_alu(code, BPF_ADD, R9, R1);
}

/* Names the packet that an IPv4 fragment belongs to; goes to `later`, or sets
 * FIRST. */
static void fragment_ip4(struct demux *d)
{
    struct bpf_asm *code = &d->code;

    copy_ip4(d, FRAGMENT, R7, IP4_SRC);
    copy_ip4(d, FRAGMENT_DST, R7, IP4_DST);
    asm_load(code, BPF_H, R0, R7, IP4_ID);
    asm_store(code, BPF_W, R10, FRAGMENT_ID, R0);
    asm_load(code, BPF_B, R0, R7, IP4_PROTOCOL);
    asm_store(code, BPF_W, R10, FRAGMENT_PROTOCOL, R0);
    asm_load(code, BPF_H, R0, R7, IP4_FRAGMENT);
    asm_jump_imm(code, BPF_JSET, R0, htons(0x1fff), d->later);
    asm_store_imm(code, BPF_W, R10, FIRST, 1);
}

/* R9 is at an ICMP message. */
static void icmp_ip4(struct demux *d)
{
    struct bpf_asm *code = &d->code;
    int error = asm_label(code), quoted = ICMP_HEADER;

    asm_load(code, BPF_W, R0, R10, FIRST);
    asm_jump_imm(code, BPF_JNE, R0, 0, d->pass);
    need(d, R9, (int)(ICMP_HEADER + IP4_HEADER));
    asm_load(code, BPF_B, R0, R9, 0);
    asm_jump_imm(code, BPF_JEQ, R0, ICMP4_UNREACHABLE, error);
    asm_jump_imm(code, BPF_JEQ, R0, ICMP4_TIME_EXCEEDED, error);
    asm_jump_imm(code, BPF_JNE, R0, ICMP4_PARAMETER_PROBLEM, d->pass);
    asm_place(code, error);
    asm_load(code, BPF_H, R0, R9, quoted + 6);
    asm_jump_imm(code, BPF_JSET, R0, htons(0x1fff), d->pass);
    copy_ip4(d, KEY, R9, quoted + 12);
    asm_load(code, BPF_B, R0, R9, quoted + 9);
    asm_store(code, BPF_B, R10, KEY_PROTOCOL, R0);
    asm_mov(code, R2, R9);
    step_ip4(d, R2, quoted);
    asm_alu_imm(code, BPF_ADD, R9, quoted);
    asm_jump(code, d->quoted_ports);
}

/* IPv4: the address, fragments, and the protocols behind the header. */
static void demux_ip4(struct demux *d)
{
    struct bpf_asm *code = &d->code;
    int whole = asm_label(code);

    need(d, R7, (int)(ETH_HEADER + IP4_HEADER));
    copy_ip4(d, KEY, R7, IP4_DST);
    look_up_address(d);
    asm_store_imm(code, BPF_B, R10, KEY_FAMILY, AMS_IPV4);
    asm_store_imm(code, BPF_W, R10, FIRST, 0);
    asm_load(code, BPF_H, R0, R7, IP4_FRAGMENT);
    asm_alu_imm(code, BPF_AND, R0, htons(0x3fff));
    asm_jump_imm(code, BPF_JEQ, R0, 0, whole);
    fragment_ip4(d);
    asm_place(code, whole);
    asm_mov(code, R9, R7);
    step_ip4(d, R7, IP);
    asm_alu_imm(code, BPF_ADD, R9, IP);
    asm_load(code, BPF_B, R5, R7, IP4_PROTOCOL);
    asm_store(code, BPF_B, R10, KEY_PROTOCOL, R5);
    asm_jump_imm(code, BPF_JEQ, R5, PROTO_TCP, d->ports);
    asm_jump_imm(code, BPF_JEQ, R5, PROTO_UDP, d->ports);
    asm_jump_imm(code, BPF_JNE, R5, PROTO_ICMP, d->pass);
    icmp_ip4(d);
}

/* ---- IPv6 --------------------------------------------------------------------- */

/* R9 = the extension header that the walk is at, of which 8 bytes are there. */
static void chain_here(struct demux *d)
{
    asm_mov(&d->code, R9, R3);
    asm_alu(&d->code, BPF_ADD, R9, R4);
    need(d, R9, 8);
}

/* Reads a fragment header: R5 = what follows it, R1 = its length.
 * @quoted: in a packet that an ICMP error quotes */
static void fragment_ip6(struct demux *d, bool quoted)
{
    struct bpf_asm *code = &d->code;
    int last = asm_label(code);

    asm_load(code, BPF_W, R0, R10, SEEN);
    asm_jump_imm(code, BPF_JNE, R0, 0, d->pass);
    asm_store_imm(code, BPF_W, R10, SEEN, 1);
    chain_here(d);
    asm_load(code, BPF_B, R5, R9, 0);
    asm_load(code, BPF_H, R1, R9, 2);
    if (quoted) {
        asm_jump_imm(code, BPF_JSET, R1, htons(0xfff8), d->pass);
    } else {
        copy_ip6(d, FRAGMENT, R7, IP6_SRC);
        copy_ip6(d, FRAGMENT_DST, R7, IP6_DST);
        asm_load(code, BPF_W, R0, R9, 4);
        asm_store(code, BPF_W, R10, FRAGMENT_ID, R0);
        asm_store_imm(code, BPF_W, R10, FRAGMENT_PROTOCOL, 0); /* RFC 8200 section 4.5 names no protocol */
        asm_jump_imm(code, BPF_JSET, R1, htons(0xfff8), d->later);
        asm_alu_imm(code, BPF_AND, R1, htons(1));
        asm_jump_imm(code, BPF_JEQ, R1, 0, last); /* RFC 6946: an atomic fragment is a whole packet */
        asm_store_imm(code, BPF_W, R10, FIRST, 1);
    }
    asm_place(code, last);
    asm_mov_imm(code, R1, 8);
}

/* Walks extension headers from R9 on, R5 being the first one's number, up to
 * TCP, UDP or ICMPv6. */
static void chain_ip6(struct demux *d, bool quoted)
{
    struct bpf_asm *code = &d->code;
    int done = asm_label(code);

    asm_store_imm(code, BPF_W, R10, SEEN, 0);
    asm_mov(code, R3, R9);
    asm_mov_imm(code, R4, 0);
    for (int i = 0; i <= CHAIN_MAX; i++) {
        asm_jump_imm(code, BPF_JEQ, R5, PROTO_TCP, done);
        asm_jump_imm(code, BPF_JEQ, R5, PROTO_UDP, done);
        asm_jump_imm(code, BPF_JEQ, R5, PROTO_ICMPV6, done);
        if (i == CHAIN_MAX) {
            asm_jump(code, d->pass);
            break;
        }
        int extension = asm_label(code), next = asm_label(code);
        if (i == 0) /* RFC 8200 section 4.1: hop-by-hop options come first or not at all */
            asm_jump_imm(code, BPF_JEQ, R5, PROTO_HOPOPTS, extension);
        asm_jump_imm(code, BPF_JEQ, R5, PROTO_ROUTING, extension);
        asm_jump_imm(code, BPF_JEQ, R5, PROTO_DSTOPTS, extension);
        asm_jump_imm(code, BPF_JNE, R5, PROTO_FRAGMENT, d->pass);
        fragment_ip6(d, quoted);
        asm_jump(code, next);
        asm_place(code, extension);
        chain_here(d);
        asm_load(code, BPF_B, R5, R9, 0);
        asm_load(code, BPF_B, R1, R9, 1);
        asm_alu_imm(code, BPF_ADD, R1, 1);
        asm_alu_imm(code, BPF_LSH, R1, 3);
        asm_place(code, next);
        asm_alu(code, BPF_ADD, R4, R1);
        asm_alu_imm(code, BPF_AND, R4, CHAIN_MASK);
    }
    asm_place(code, done);
    asm_mov(code, R9, R3);
    asm_alu(code, BPF_ADD, R9, R4);
}

/* R9 is at an ICMPv6 message. */
static void icmp_ip6(struct demux *d)
{
    struct bpf_asm *code = &d->code;
    int quoted = ICMP_HEADER;

    asm_load(code, BPF_W, R0, R10, FIRST);
    asm_jump_imm(code, BPF_JNE, R0, 0, d->pass);
    need(d, R9, (int)(ICMP_HEADER + IP6_HEADER));
    asm_load(code, BPF_B, R0, R9, 0);
    asm_jump_imm(code, BPF_JGE, R0, 128, d->pass); /* RFC 4443 section 2.1 */
    asm_load(code, BPF_B, R0, R9, quoted);
    asm_alu_imm(code, BPF_RSH, R0, 4);
    asm_jump_imm(code, BPF_JNE, R0, 6, d->pass);
    copy_ip6(d, KEY, R9, quoted + 8);
    asm_load(code, BPF_B, R5, R9, quoted + 6);
    asm_alu_imm(code, BPF_ADD, R9, quoted + (int)IP6_HEADER);
    chain_ip6(d, true);
    asm_store(code, BPF_B, R10, KEY_PROTOCOL, R5);
    asm_jump(code, d->quoted_ports);
}

/* IPv6, likewise; extension headers are stepped over. */
static void demux_ip6(struct demux *d)
{
    struct bpf_asm *code = &d->code;

    need(d, R7, (int)(ETH_HEADER + IP6_HEADER));
    asm_load(code, BPF_B, R0, R7, IP);
    asm_alu_imm(code, BPF_RSH, R0, 4);
    asm_jump_imm(code, BPF_JNE, R0, 6, d->pass);
    copy_ip6(d, KEY, R7, IP6_DST);
    look_up_address(d);
    asm_store_imm(code, BPF_B, R10, KEY_FAMILY, AMS_IPV6);
    asm_store_imm(code, BPF_W, R10, FIRST, 0);
    asm_load(code, BPF_B, R5, R7, IP6_NEXT);
    asm_mov(code, R9, R7);
    asm_alu_imm(code, BPF_ADD, R9, (int)(ETH_HEADER + IP6_HEADER));
    chain_ip6(d, false);
    asm_store(code, BPF_B, R10, KEY_PROTOCOL, R5);
    asm_jump_imm(code, BPF_JNE, R5, PROTO_ICMPV6, d->ports);
    icmp_ip6(d);
}

/* ---- what has no tuple ---------------------------------------------------------- */

/* ARP about an address of the user's own. */
static void demux_arp(struct demux *d)
{
    struct bpf_asm *code = &d->code;

    need(d, R7, (int)ETH_HEADER + 28);
    asm_load(code, BPF_W, R0, R7, IP);
    asm_jump_imm(code, BPF_JNE, R0, (int32_t)htonl(0x00010800), d->pass); /* Ethernet, IPv4 */
    asm_load(code, BPF_H, R0, R7, IP + 4);
    asm_jump_imm(code, BPF_JNE, R0, htons(0x0604), d->pass); /* and their lengths */
    copy_ip4(d, KEY, R7, ARP_TARGET);
    look_up_address(d);
    asm_jump(code, d->pass);
}

/* A frame to a group: neighbour discovery about an address of the user's own. */
static void demux_group(struct demux *d, int arp)
{
    struct bpf_asm *code = &d->code;
    int neighbour = asm_label(code);

    asm_load(code, BPF_H, R0, R7, ETH_TYPE);
    asm_jump_imm(code, BPF_JEQ, R0, htons(ETHERTYPE_ARP), arp);
    asm_jump_imm(code, BPF_JNE, R0, htons(ETHERTYPE_IPV6), d->pass);
    need(d, R7, NDP_TARGET + 16);
    asm_load(code, BPF_B, R0, R7, IP6_NEXT);
    asm_jump_imm(code, BPF_JNE, R0, PROTO_ICMPV6, d->pass);
    asm_load(code, BPF_B, R0, R7, NDP_TYPE);
    asm_jump_imm(code, BPF_JEQ, R0, ICMP6_NEIGHBOR_SOLICIT, neighbour);
    asm_jump_imm(code, BPF_JNE, R0, ICMP6_NEIGHBOR_ADVERT, d->pass);
    asm_place(code, neighbour);
    copy_ip6(d, KEY, R7, NDP_TARGET);
    look_up_address(d);
    asm_jump(code, d->pass);
}

/* ---- verdicts ------------------------------------------------------------------- */

/* `ports`: the packet is whose its destination tuple is; what later fragments
 * of it are to follow is noted, or struck out. */
static void judge_ports(struct demux *d)
{
    struct bpf_asm *code = &d->code;
    int unclaimed = asm_label(code);

    asm_place(code, d->ports);
    need(d, R9, 4);
    asm_load(code, BPF_H, R0, R9, 2);
    asm_store(code, BPF_H, R10, KEY_PORT, R0);
    look_up(d, d->maps->tuples, KEY);
    asm_load(code, BPF_W, R1, R10, FIRST);
    asm_jump_imm(code, BPF_JEQ, R0, 0, unclaimed);
    asm_jump_imm(code, BPF_JEQ, R1, 0, d->take);
    asm_call(code, BPF_FUNC_ktime_get_ns);
    asm_mov_imm(code, R1, (int32_t)(XDP_FRAGMENT_LIFETIME_NS >> 10));
    asm_alu_imm(code, BPF_LSH, R1, 10);
    asm_alu(code, BPF_ADD, R0, R1);
    asm_store(code, BPF_DW, R10, EXPIRES, R0);
    asm_map(code, R1, d->maps->fragments);
    asm_mov(code, R2, R10);
    asm_alu_imm(code, BPF_ADD, R2, FRAGMENT);
    asm_mov(code, R3, R10);
    asm_alu_imm(code, BPF_ADD, R3, EXPIRES);
    asm_mov_imm(code, R4, BPF_ANY);
    asm_call(code, BPF_FUNC_map_update_elem);
    asm_jump(code, d->take);

    asm_place(code, unclaimed);
    asm_jump_imm(code, BPF_JEQ, R1, 0, d->pass);
    asm_map(code, R1, d->maps->fragments);
    asm_mov(code, R2, R10);
    asm_alu_imm(code, BPF_ADD, R2, FRAGMENT);
    asm_call(code, BPF_FUNC_map_delete_elem);
    asm_jump(code, d->pass);
}

/* `quoted_ports`: an ICMP error is whose the quoted packet's source tuple is. */
static void judge_quoted(struct demux *d)
{
    struct bpf_asm *code = &d->code;

    asm_place(code, d->quoted_ports);
    need(d, R9, 4);
    asm_load(code, BPF_H, R0, R9, 0);
    asm_store(code, BPF_H, R10, KEY_PORT, R0);
    look_up(d, d->maps->tuples, KEY);
    asm_jump_imm(code, BPF_JEQ, R0, 0, d->pass);
    asm_jump(code, d->take);
}

/* `later`: a later fragment is the user's if its first one was, not long ago. */
static void judge_later(struct demux *d)
{
    struct bpf_asm *code = &d->code;

    asm_place(code, d->later);
    look_up(d, d->maps->fragments, FRAGMENT);
    asm_jump_imm(code, BPF_JEQ, R0, 0, d->pass);
    asm_load(code, BPF_DW, R9, R0, 0);
    asm_call(code, BPF_FUNC_ktime_get_ns);
    asm_jump_if(code, BPF_JLT, R0, R9, d->take);
    asm_jump(code, d->pass);
}

/* `take`: to the socket of the queue that the frame came in by. */
static void judge_take(struct demux *d)
{
    struct bpf_asm *code = &d->code;

    asm_place(code, d->take);
    asm_map(code, R1, d->maps->sockets);
    asm_load(code, BPF_W, R2, R6, CTX_QUEUE);
    asm_mov_imm(code, R3, XDP_DROP); /* without a socket */
    asm_call(code, BPF_FUNC_redirect_map);
    asm_exit(code);
}

/* `pass` */
static void judge_pass(struct demux *d)
{
    asm_place(&d->code, d->pass);
    asm_mov_imm(&d->code, R0, XDP_PASS);
    asm_exit(&d->code);
}

/* The whole program, from the Ethernet header on. */
static void demux_write(struct demux *d)
{
    struct bpf_asm *code = &d->code;
    int group = asm_label(code), ip4 = asm_label(code), ip6 = asm_label(code), arp = asm_label(code);

    asm_load(code, BPF_W, R7, R6, CTX_DATA);
    asm_load(code, BPF_W, R8, R6, CTX_DATA_END);
    need(d, R7, (int)ETH_HEADER);
    asm_load(code, BPF_B, R0, R7, 0);
    asm_jump_imm(code, BPF_JSET, R0, 1, group);
    asm_map_value(code, R1, d->maps->station);
    asm_load(code, BPF_W, R0, R7, 0);
    asm_load(code, BPF_W, R2, R1, 0);
    asm_jump_if(code, BPF_JNE, R0, R2, d->pass);
    asm_load(code, BPF_H, R0, R7, 4);
    asm_load(code, BPF_H, R2, R1, 4);
    asm_jump_if(code, BPF_JNE, R0, R2, d->pass);
    asm_load(code, BPF_H, R0, R7, ETH_TYPE);
    asm_jump_imm(code, BPF_JEQ, R0, htons(ETHERTYPE_IPV4), ip4);
    asm_jump_imm(code, BPF_JEQ, R0, htons(ETHERTYPE_IPV6), ip6);
    asm_jump_imm(code, BPF_JEQ, R0, htons(ETHERTYPE_ARP), arp);
    asm_jump(code, d->pass);
    asm_place(code, ip4);
    demux_ip4(d);
    asm_place(code, ip6);
    demux_ip6(d);
    asm_place(code, arp);
    demux_arp(d);
    asm_place(code, group);
    demux_group(d, arp);
    judge_ports(d);
    judge_quoted(d);
    judge_later(d);
    judge_pass(d);
}

int xdp_program_new(const struct xdp_maps *maps, uint32_t flags, char *log, uint32_t log_size)
{
    struct demux *d = mem_zalloc(1, sizeof(*d));

    if (!d)
        return -ENOMEM;
    asm_init(&d->code);
    d->maps = maps;
    d->pass = asm_label(&d->code);
    d->take = asm_label(&d->code);
    d->ports = asm_label(&d->code);
    d->quoted_ports = asm_label(&d->code);
    d->later = asm_label(&d->code);
    asm_mov(&d->code, R6, R1);
    if (!(flags & XDP_PROGRAM_ALL))
        demux_write(d);
    judge_take(d);
    struct bpf_source source = {d->code.insns, asm_finish(&d->code), "aiomultistack",
                                flags & XDP_PROGRAM_FRAGS ? BPF_F_XDP_HAS_FRAGS : 0};
    int fd = bpf_program_load(&source, log, log_size);
    mem_free(d);
    return fd;
}

/* ---- maps ----------------------------------------------------------------------- */

int xdp_maps_init(struct xdp_maps *maps, uint32_t queues)
{
    const int hash = BPF_MAP_TYPE_HASH, lru = BPF_MAP_TYPE_LRU_HASH;
    int status = 0;

    maps->sockets = bpf_map_new(BPF_MAP_TYPE_XSKMAP, "ams_sockets", 4, 4, queues, 0);
    maps->addresses = bpf_map_new(hash, "ams_addresses", 16, 4, XDP_ADDRESSES, BPF_F_NO_PREALLOC);
    maps->tuples = bpf_map_new(hash, "ams_tuples", sizeof(struct xdp_tuple), 4, XDP_TUPLES, BPF_F_NO_PREALLOC);
    maps->fragments = bpf_map_new(lru, "ams_fragments", FRAGMENT_SIZE, 8, XDP_FRAGMENTS, 0);
    maps->station = bpf_map_new(BPF_MAP_TYPE_ARRAY, "ams_station", 4, 8, 1, 0);
    const int made[] = {maps->sockets, maps->addresses, maps->tuples, maps->fragments, maps->station};
    for (size_t i = 0; i < AMS_ARRAY_SIZE(made) && !status; i++)
        status = made[i] < 0 ? made[i] : 0;
    if (status)
        xdp_maps_fini(maps);
    return status;
}

void xdp_maps_fini(struct xdp_maps *maps)
{
    int *all[] = {&maps->sockets, &maps->addresses, &maps->tuples, &maps->fragments, &maps->station};

    for (size_t i = 0; i < AMS_ARRAY_SIZE(all); i++) {
        if (*all[i] >= 0)
            close(*all[i]);
        *all[i] = -1;
    }
}
