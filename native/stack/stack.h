/* SPDX-License-Identifier: BSD-2-Clause
 *
 * stack.h - the engine's inside: what its modules know of each other.
 *
 * Theory of operation.  struct ams_stack is one host on one link: its
 * addresses, routes, neighbours, and endpoints.  It is sans-I/O: frames and
 * `now` go in (stack_input), frames come out (stack_output), and it says
 * when it wants to be called next (stack_deadline).  Nothing here reads a
 * clock or makes a system call; randomness comes from the config's seed.
 *
 * Layers and their files:
 *
 *   stack.c      life cycle, the three verbs, the queue of ready-made frames
 *   events.c     endpoint ids, the ready list, events to the application
 *   iface.c      addresses, source selection, duplicate address detection;
 *                iface_learned.c: those that come and go
 *   multicast.c  multicast groups, and what routers are told of them
 *   route.c      next hop and path MTU; redirect.c: better next hops
 *   router.c     routers that advertise themselves; router_prefix.c: their
 *                prefixes; network.c: what was learnt
 *   neighbor.c   neighbour cache, ARP and NDP, bounded wait queues
 *   ip_input.c   IPv4/IPv6 receive; ip_output.c: headers and paths
 *   reass.c      fragments; icmp.c: echo and errors
 *   udp.c        UDP endpoints; udp_data.c: their datagrams, udp_group.c:
 *                their groups
 *   tcp_*.c      TCP, one concern a file; cc_*.c congestion control
 *
 * Transmit path.  TCP builds segments on demand when stack_output() asks
 * (so that ACKs ride on data and a full ring loses nothing): it writes its
 * header behind the room for Ethernet and IP in tx->head, then ip_output()
 * completes the frame.  All else (ARP, ICMP, UDP, RSTs without a connection)
 * is made at once and waits in `out`, a bounded queue of whole frames.
 */
#ifndef AMS_STACK_STACK_H
#define AMS_STACK_STACK_H

#include "aiomultistack.h"
#include "core/base.h"
#include "core/bucket.h"
#include "core/frame.h"
#include "core/hash.h"
#include "core/owner.h"
#include "core/slab.h"
#include "core/status.h"
#include "core/timer.h"
#include "wire/proto.h"

/* What the world gives the stack. */
struct stack_link {
    uint32_t mtu;
    uint32_t caps;            /* AMS_CAP_* */
    struct frame_pool *pool;  /* outlives the stack */
    struct ams_owner owner;   /* registers local 3-tuples with the switch; zero: none is needed */
    uint32_t flags;           /* STACK_LINK_* */
    slab_settle settle;       /* told of memory that connections fill; NULL is legal */
};

/* Somebody else speaks for the addresses (an operating system, a switch):
 * they are usable at once, not announced, and there is no link-local one but
 * what is configured. */
#define STACK_LINK_QUIET 1u
/* Packets to our own addresses leave like any others: the port's other end
 * knows which of the stacks that share an address has the tuple. */
#define STACK_LINK_HAIRPIN 2u

/* Counters: one X-macro row each; ams_counter_name() shows them as
 * "stack.<name>". */
#define STACK_COUNTER_TABLE(X)                                                          \
    X(rx_frames) X(rx_not_for_us) X(rx_short) X(rx_bad_ethertype)                        \
    X(arp_rx) X(arp_tx) X(arp_bad) X(neighbor_failed) X(neighbor_queue_full)             \
    X(ndp_rx) X(ndp_tx) X(ndp_bad) X(dad_conflict) X(group_query_rx) X(group_report_tx)   \
    X(router_solicit_tx) X(router_advert_rx) X(router_advert_bad) X(router_full) X(redirect_rx) X(redirect_refused) \
    X(ip_rx) X(ip_bad_header) X(ip_bad_checksum) X(ip_truncated) X(ip_unknown_protocol)  \
    X(ip_no_route) X(ip_options_dropped) X(ip6_ext_dropped)                              \
    X(frag_rx) X(frag_done) X(frag_timeout) X(frag_overlap) X(frag_limit) X(frag_bad)    \
    X(icmp_rx) X(icmp_bad) X(icmp_echo) X(icmp_error_rx) X(icmp_error_tx) X(icmp_rate_limited) \
    X(udp_rx) X(udp_bad) X(udp_no_port) X(udp_queue_full) X(udp_tx)                      \
    X(tcp_rx) X(tcp_rx_merged) X(tcp_bad_checksum) X(tcp_bad_header) X(tcp_tx) X(tcp_tx_bytes)            \
    X(tcp_rx_bytes) X(tcp_retrans) X(tcp_rto) X(tcp_fast_retrans) X(tcp_rst_rx)          \
    X(tcp_rst_tx) X(tcp_no_conn) X(tcp_syn_rx) X(tcp_syn_dropped) X(tcp_accept_overflow) \
    X(tcp_active_open) X(tcp_passive_open) X(tcp_conn_failed) X(tcp_conn_reset)          \
    X(tcp_black_hole) X(tcp_mtu_probe) X(tcp_mtu_probe_ok) X(tcp_mtu_probe_lost)                            \
    X(tcp_cookie_tx) X(tcp_cookie_ok) X(tcp_cookie_bad) X(tcp_fastopen_active) X(tcp_fastopen_passive) \
    X(tcp_paws) X(tcp_icmp_out_of_window) X(tcp_out_of_window) X(tcp_old_ack) X(tcp_challenge_ack)                 \
    X(tcp_ooo) X(tcp_ooo_dropped) X(tcp_dup_data) X(tcp_rcv_dropped) X(tcp_zero_window_probe) \
    X(tcp_keepalive) X(tcp_keepalive_dropped) X(tcp_delayed_ack) X(tcp_tw_recycled)      \
    X(tcp_tlp) X(tcp_tlp_recovered) X(tcp_undo) X(tcp_spurious_rto) X(tcp_ecn_reduced)      \
    X(tcp_tw_overflow) X(tcp_abort_data) X(tcp_no_memory) X(tcp_user_timeout)            \
    X(out_queue_full) X(no_memory)

struct stack_counters {
#define STACK_COUNTER_FIELD(name) uint64_t name;
    STACK_COUNTER_TABLE(STACK_COUNTER_FIELD)
#undef STACK_COUNTER_FIELD
};

/* Which module a wheel timer belongs to (ams_timer.kind). */
enum stack_timer_kind {
    STACK_TIMER_TCP,      /* tcp_timer_expired() */
    STACK_TIMER_TCP_TW,   /* tcp_tw_expired() */
    STACK_TIMER_NEIGHBOR, /* neighbor_timer_expired() */
    STACK_TIMER_REASS,    /* reass_timer_expired() */
    STACK_TIMER_IFACE,    /* iface_timer_expired() */
    STACK_TIMER_ROUTE,    /* route_timer_expired() */
    STACK_TIMER_MULTICAST,   /* multicast_timer_expired() */
    STACK_TIMER_ROUTER,   /* router_timer_expired() */
    STACK_TIMER_REDIRECT, /* redirect_timer_expired() */
};

/* ---- endpoints (events.c) ---------------------------------------------- */

enum sock_kind { SOCK_TCP = 1, SOCK_LISTENER, SOCK_UDP };

/* The common part, first member of every endpoint. */
struct sock {
    int32_t id;               /* index into stack->socks; -1: the application has let go */
    uint8_t kind;
    uint8_t read_mode;        /* AMS_READ_* */
    bool ready;               /* on the ready list */
    uint8_t reserved;
    uint32_t events;          /* AMS_EV_* pending */
    int32_t aux;              /* status of AMS_EV_CLOSED */
    struct sock *ready_next, *ready_prev;
};

/* Gives sock an id.  Return: 0, -AMS_EMFILE, -AMS_ENOMEM. */
int sock_register(struct ams_stack *stack, struct sock *sock, enum sock_kind kind);
/* Takes the id back: no further event will carry it. */
void sock_unregister(struct ams_stack *stack, struct sock *sock);
/* The endpoint of an id, of that kind; NULL if there is none. */
struct sock *sock_find(struct ams_stack *stack, int id, enum sock_kind kind);
/* How much a remote end belongs to one of several endpoints that share a port:
 * that of the greatest weight gets its packets (rendezvous hashing), so that
 * an endpoint which comes or goes moves nothing between the others. */
uint64_t sock_weight(const struct ams_stack *stack, const struct sock *sock, const uint8_t remote_ip[16],
                     uint16_t remote_port);
/* Adds events and puts sock on the ready list. */
void sock_event(struct ams_stack *stack, struct sock *sock, uint32_t events);
/* Takes sock off the ready list (before it is freed). */
void sock_forget(struct ams_stack *stack, struct sock *sock);

/* ---- packets that come up ------------------------------------------------ */

/* A received packet's network header, parsed; addresses IPv4-mapped. */
struct ip_info {
    uint8_t src[16];
    uint8_t dst[16];
    uint8_t family;           /* AMS_IPV4, AMS_IPV6 */
    uint8_t protocol;
    uint8_t ttl;
    uint8_t tos;              /* DSCP and ECN */
    bool dst_unicast;         /* to one of our own addresses, not broad/multicast, and link-layer unicast */
    bool reassembled;         /* it came in fragments (IPv6) */
    uint32_t l3_off;          /* IP header, from frame->data */
    uint32_t l4_off;          /* transport header, from frame->data */
    uint32_t l4_len;          /* transport header and payload */
};

/* An ICMP or ICMPv6 error about a packet that we sent. */
struct icmp_error {
    struct ams_endpoint local;   /* source of the quoted packet */
    struct ams_endpoint remote;
    uint32_t seq;             /* TCP: sequence number quoted */
    int status;               /* -AMS_ECONNREFUSED, -AMS_EHOSTUNREACH, -AMS_EMSGSIZE, ... */
    bool hard;                /* RFC 1122 section 4.2.3.9 */
    uint32_t mtu;             /* with -AMS_EMSGSIZE: next-hop MTU, 0 unknown */
};

#define AHEAD_GROUP 4u
#define AHEAD_RING (4u * AHEAD_GROUP)

/* How far tcp_ahead.c has come in a batch of received frames. */
struct tcp_ahead {
    struct ams_frame **frames;
    int n;
    int next;                 /* tcp_ahead_run() has to be called before this frame is received; INT_MAX: never */
    int scanned;              /* frames */
    uint32_t hashed;          /* segments that were found in them, those that go on after another left out */
    uint32_t at;              /* the one that `next` is */
    uint32_t ports;           /* of the connection that was looked at last, */
    uint64_t address;         /* and its peer's address */
    int ring[AHEAD_RING];     /* the frames that segments came in */
};

void tcp_ahead_begin(struct ams_stack *stack, struct tcp_ahead *ahead, struct ams_frame **frames, int n);
/* Asks for memory that the frames behind `next` will need; those before it are gone. */
void tcp_ahead_run(const struct ams_stack *stack, struct tcp_ahead *ahead, int next);

/* Upper layers' entry points.  Each consumes frame. */
void tcp_input(struct ams_stack *stack, struct ams_frame *frame, const struct ip_info *ip, uint64_t now);
void udp_input(struct ams_stack *stack, struct ams_frame *frame, const struct ip_info *ip, uint64_t now);
void icmp_input(struct ams_stack *stack, struct ams_frame *frame, const struct ip_info *ip, uint64_t now);
void tcp_icmp_error(struct ams_stack *stack, const struct icmp_error *error, uint64_t now);
void udp_icmp_error(struct ams_stack *stack, const struct icmp_error *error, uint64_t now);

/* ---- type of service (ip_service.c) ---------------------------------------- */

/* The traffic class and hop limit that an endpoint's packets shall have.  As on
 * Linux there are two of each: an IPv6 socket may have an IPv4 peer, or be a
 * listener that gets both. */
struct ip_service {
    uint16_t ttl;             /* IPv4's hop limit and one; 0: the default */
    uint16_t hops;            /* the same of IPv6 */
    uint8_t tos;              /* DSCP, and the ECN bits where they are the application's */
    uint8_t tclass;           /* the same of IPv6 */
};

#define IP_ECN_MASK 3u        /* RFC 3168 section 5: the lower bits of the traffic class */

/* What one packet gets of it. */
struct ip_class {
    uint16_t hops;            /* the hop limit and one; 0: the default */
    uint8_t tos;
};

static inline struct ip_class ip_service_class(const struct ip_service *service, uint8_t family)
{
    if (family == AMS_IPV4)
        return (struct ip_class){.hops = service->ttl, .tos = service->tos};
    return (struct ip_class){.hops = service->hops, .tos = service->tclass};
}

/* Sets or gets AMS_OPT_TOS, _TTL, _TCLASS, _HOPS.
 * @own_ecn: the ECN bits are the application's
 * Return: 0, -AMS_EINVAL, or -AMS_ENOPROTOOPT for other options. */
int ip_service_set(struct ip_service *service, bool own_ecn, int option, int value);
int ip_service_get(const struct ams_stack *stack, const struct ip_service *service, int option, int *value);

/* ---- paths (route.c, ip_output.c) ---------------------------------------- */

struct neighbor;

/* Where packets to one destination go: a cached look-up.  Valid while
 * generation equals stack->path_generation; ip_output() renews it. */
struct ip_path {
    struct neighbor *neighbor;
    uint32_t generation;
    uint16_t mtu;             /* path MTU */
    uint8_t family;
};

/* Looks up the path to dst.  Return: 0 or -AMS_ENETUNREACH, -AMS_ENOMEM. */
int ip_path_find(struct ams_stack *stack, const uint8_t dst[16], struct ip_path *path);
/* Lowers the path MTU to dst (ICMP too big); paths are renewed. */
void ip_path_set_mtu(struct ams_stack *stack, const uint8_t dst[16], uint32_t mtu, uint64_t now);
/* The bytes that Ethernet and IP headers take on a path. */
static inline uint32_t ip_headroom(uint8_t family)
{
    return ETH_HEADER + (family == AMS_IPV4 ? IP4_HEADER : IP6_HEADER);
}
/* Completes a TCP segment whose header and payload are in tx: the L4 header
 * was written at tx->head + ip_headroom(path->family), tx->head_len and
 * tx->total count everything.  Writes Ethernet and IP headers, sets
 * csum_start and the gso_hdr_len/TX_GSO flags where tx->gso_size is set, and
 * fills in the neighbour's MAC.  The L4 checksum is the caller's
 * (ip_l4_checksum).  DF is set on IPv4.
 * @ecn: the lower bits of the traffic class, whose others are service's
 * Return: true: send it now.  false: the neighbour is being resolved; the
 * frame was copied to its wait queue (or dropped there and counted). */
bool ip_output(struct ams_stack *stack, struct ip_path *path, struct ams_tx *tx, const uint8_t src[16],
               const uint8_t dst[16], const struct ip_service *service, uint8_t ecn, uint64_t now);
/* Sets the L4 checksum at l4 + offset: partial with TX_CSUM where the link
 * has AMS_CAP_CSUM_TX, whole otherwise (over tx->head's L4 part and frags).
 * Call before ip_output(). */
void ip_l4_checksum(struct ams_stack *stack, struct ams_tx *tx, const uint8_t src[16], const uint8_t dst[16],
                    uint8_t protocol, uint32_t l4_off, uint16_t offset);
/* Sends an L4 packet that sits in a frame of its own: frame->data is the L4
 * header, with at least ip_headroom() bytes free before it.  Completes it
 * (L4 checksum at csum_offset) and queues it on `out`.  Consumes frame.
 * Return: 0, -AMS_ENETUNREACH, -AMS_EAGAIN (queue full), -AMS_ENOMEM. */
int ip_send_frame(struct ams_stack *stack, struct ams_frame *frame, const uint8_t src[16], const uint8_t dst[16],
                  uint8_t protocol, uint16_t csum_offset, struct ip_class class_, uint64_t now);
/* Appends a complete Ethernet frame to `out`.  Consumes frame. */
int stack_enqueue(struct ams_stack *stack, struct ams_frame *frame);
/* Verifies the L4 checksum of a received packet (FRAME_CSUM_OK: true). */
bool ip_l4_checksum_ok(const struct ams_frame *frame, const struct ip_info *ip);
/* ICMP port unreachable (and the like) for a received packet; rate-limited. */
void icmp_send_unreachable(struct ams_stack *stack, const struct ams_frame *frame, const struct ip_info *ip,
                           uint64_t now);

/* ---- interface (iface.c) -------------------------------------------------- */

/* True if ip is one of our own, usable addresses. */
bool iface_owns(const struct ams_stack *stack, const uint8_t ip[16]);
/* Picks a source address for dst (RFC 6724, cut to one link).
 * Return: false if there is none of that family. */
bool iface_source(const struct ams_stack *stack, const uint8_t dst[16], uint8_t out[16]);
/* True for 0.0.0.0 (mapped) and ::. */
static inline bool ip_is_any(const uint8_t ip[16])
{
    static const uint8_t any4[16] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
    static const uint8_t any6[16];
    return __builtin_memcmp(ip, any4, 16) == 0 || __builtin_memcmp(ip, any6, 16) == 0;
}

/* True for 127.0.0.0/8 (mapped) and ::1, which never leave a host or enter it
 * (RFC 1122 section 3.2.1.3 (g), RFC 4291 section 2.5.3). */
static inline bool ip_is_loopback(const uint8_t ip[16])
{
    static const uint8_t net4[13] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127};
    static const uint8_t host6[16] = {[15] = 1};
    return __builtin_memcmp(ip, net4, 13) == 0 || __builtin_memcmp(ip, host6, 16) == 0;
}

/* ---- the stack ------------------------------------------------------------ */

#define STACK_IP_IDS 64

struct iface_table;
struct multicast_table;
struct route_table;
struct neighbor_table;
struct reass_table;
struct redirect_table;
struct router_table;
struct udp_host;
struct tcp_host;

struct ams_stack {
    /* hot */
    struct frame_pool *pool;
    uint32_t caps;
    uint32_t mtu;
    uint8_t mac[6];
    uint8_t hop_limit6;        /* of IPv6 unicast; hop_limit6, mtu6 and the times as routers want them */
    uint32_t path_generation;
    struct sock *ready_head, *ready_tail;
    struct ams_frame *out_head, *out_tail; /* whole frames, ready to leave */
    uint32_t out_count;
    struct tcp_host *tcp;
    struct sock **socks;
    uint32_t n_socks;          /* slots in socks */
    int32_t free_sock;         /* head of the list of free ids, -1: none */
    int32_t *sock_links;       /* next free id */
    uint32_t socks_used;
    uint32_t socks_limit;
    struct ams_frame **rx_next, **rx_end; /* of the batch that is being received: what hasn't been looked at */
    uint64_t now;              /* of the call in progress or the last one */
    uint64_t trim_at;          /* when caches are trimmed next; 0: now, since the last connection has gone */
    /* modules */
    struct iface_table *iface;
    struct multicast_table *groups;
    struct route_table *route;
    struct router_table *routers;     /* NULL: nothing is learnt from them */
    struct redirect_table *redirects; /* NULL: none are heeded */
    struct neighbor_table *neighbors;
    struct reass_table *reass;
    struct udp_host *udp;
    struct timer_wheel wheel;
    struct ams_rng rng;
    struct siphash_key key;
    struct ams_owner owner;
    struct ams_stack_config config; /* addresses and congestion point into the stack's own copies */
    struct stack_counters counters;
    uint32_t mtu6;             /* of the link for IPv6: at most mtu */
    uint32_t reachable_ms6;    /* RFC 4861 section 6.3.2: BaseReachableTime, RetransTimer */
    uint32_t retrans_ms6;
    /* IP and ICMP */
    struct ams_frame *loop_head, *loop_tail; /* frames to ourselves, not yet received */
    uint32_t loop_count;
    uint32_t link_flags;       /* STACK_LINK_* */
    slab_settle settle;
    bool borrowed;             /* config's ephemeral range was lent by the owner */
    uint32_t out_limit;        /* of out_count and loop_count */
    struct token_bucket icmp_errors; /* how many may be sent now */
    uint32_t ip_ids[STACK_IP_IDS]; /* next identification of fragments, by hash of the addresses */
};

#define STACK_OUT_LIMIT 4096

/* Module life cycles: init returns 0 or a status and undoes itself on
 * failure; fini is legal after a failed init. */
int iface_init(struct ams_stack *stack);
void iface_fini(struct ams_stack *stack);
int multicast_init(struct ams_stack *stack);
void multicast_fini(struct ams_stack *stack);
int route_init(struct ams_stack *stack);
void route_fini(struct ams_stack *stack);
int neighbor_init(struct ams_stack *stack);
void neighbor_fini(struct ams_stack *stack);
int reass_init(struct ams_stack *stack);
void reass_fini(struct ams_stack *stack);
int udp_init(struct ams_stack *stack);
void udp_fini(struct ams_stack *stack);
int tcp_init(struct ams_stack *stack);
void tcp_fini(struct ams_stack *stack);

/* Timer callbacks, by enum stack_timer_kind. */
void tcp_timer_expired(struct ams_stack *stack, struct ams_timer *timer, uint64_t now);
/* Asks for the memory that tcp_timer_expired() will need; NULL is legal. */
void tcp_timer_fetch(const void *timer);
void tcp_tw_expired(struct ams_stack *stack, struct ams_timer *timer);
void neighbor_timer_expired(struct ams_stack *stack, struct ams_timer *timer, uint64_t now);
void reass_timer_expired(struct ams_stack *stack, struct ams_timer *timer, uint64_t now);
void iface_timer_expired(struct ams_stack *stack, struct ams_timer *timer, uint64_t now);
void route_timer_expired(struct ams_stack *stack, struct ams_timer *timer, uint64_t now);
void multicast_timer_expired(struct ams_stack *stack, struct ams_timer *timer, uint64_t now);

/* TCP's part of the verbs.  tcp_output fills up to n descriptors. */
int tcp_output(struct ams_stack *stack, struct ams_tx *tx, int n, uint64_t now);
/* What tcp_output filled in since the last call is sent: its header scratch
 * is free again. */
void tcp_output_done(struct ams_stack *stack);
/* True if tcp_output has work now. */
bool tcp_output_pending(const struct ams_stack *stack);
/* Aborts every connection: RSTs go to `out`.  Closes listeners. */
void tcp_abort_all(struct ams_stack *stack);
/* Ends every connection with a status, without a word to the peers. */
void tcp_drop_all(struct ams_stack *stack, int status);
/* The same for those on one of our addresses, which is ours no longer. */
void tcp_drop_address(struct ams_stack *stack, const uint8_t ip[16], int status);
/* The range that ephemeral ports come from.
 * @more: false at first; true when all of it was found taken: another range
 *        takes its place, if the owner lends one
 * Return: 0, -AMS_EADDRNOTAVAIL when there is none, or why not. */
int stack_ephemeral(struct ams_stack *stack, bool more, uint32_t *low, uint32_t *range);
/* Reports one ready endpoint: appends events (4 words each) and data to the
 * blob.  Returns the events written (at most 4), -1 if the blob was too full
 * for its data (it stays ready). */
int tcp_report(struct ams_stack *stack, struct sock *sock, int32_t *events, char *blob, size_t blob_size,
               size_t *blob_used);
int udp_report(struct sock *sock, int32_t *events);
int tcp_list(struct ams_stack *stack, struct ams_tcp_info *out, int max, uint64_t now);
int udp_list(struct ams_stack *stack, struct ams_tcp_info *out, int max);
uint64_t tcp_memory(const struct ams_stack *stack);
/* Frees cached connections and TIME-WAIT entries: all but a small stock, or a quarter of what is beyond it. */
void tcp_trim(struct ams_stack *stack, bool all);

/* ---- the verbs ------------------------------------------------------------- */

/* Makes a stack.  Owns: the caller.  Return: NULL with *status set on failure. */
struct ams_stack *stack_new(const struct ams_stack_config *config, const struct stack_link *link, uint64_t now,
                            int *status);
/* Frees everything; no RSTs (stack_abort_all is for that). NULL is legal. */
void stack_free(struct ams_stack *stack);
/* RST for every connection, into the output queue. */
void stack_abort_all(struct ams_stack *stack, uint64_t now);
/* The link was gone, and what the peers sent with it: every connection ends
 * with status, nothing is sent.  Listeners and UDP endpoints stay. */
void stack_link_lost(struct ams_stack *stack, int status, uint64_t now);
/* Takes n frames. */
void stack_input(struct ams_stack *stack, struct ams_frame **frames, int n, uint64_t now);
/* Runs due timers (if there are very many, some of them: the deadline then
 * stays in the past), then fills up to n descriptors.  Their memory is valid
 * until stack_output_done(). */
int stack_output(struct ams_stack *stack, struct ams_tx *tx, int n, uint64_t now);
void stack_output_done(struct ams_stack *stack, struct ams_tx *tx, int n);
/* Runs due timers only, so many at most. */
void stack_timers(struct ams_stack *stack, uint64_t now);
/* The latest time for the next call; 0: now, because frames or events wait. */
uint64_t stack_deadline(struct ams_stack *stack);
/* Pops events; see ams_node_poll. */
int stack_events(struct ams_stack *stack, int32_t *events, int max, char *blob, size_t blob_size);

/* ---- what the node asks ---------------------------------------------------- */

/* All addresses that the stack sends from, the IPv6 link-local one (made
 * from the MAC) included: what the switch must let pass for this stack.
 * Return: how many there are; up to max are written. */
int stack_addresses(const struct ams_stack *stack, struct ams_ifaddr *out, int max);
/* The hardware address in use. */
const uint8_t *stack_mac(const struct ams_stack *stack);
/* Name of a counter; NULL past the end. */
const char *stack_counter_name(int index);
/* Fills values[0..max).  Return: how many counters there are. */
int stack_counter_values(const struct ams_stack *stack, uint64_t *values, int max);

#endif
