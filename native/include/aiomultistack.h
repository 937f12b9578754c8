/* SPDX-License-Identifier: BSD-2-Clause
 *
 * aiomultistack.h - the public header of the native module.
 *
 * Everything between the two CFFI markers is read by native/build_ffi.py as
 * it stands: plain declarations, integer #defines, no #ifdef, no inline.
 *
 * The layers that this header shows, from the outside in:
 *
 *   node    the embedded deployment: one port, one switch, one stack
 *   port    a driver: frames in, frames out (tap, mem, xdp, switch)
 *   hub     an in-process Ethernet segment that mem ports attach to
 *   fabric  the shared deployment: the switch as a thread, clients on rings
 *   stack   the sans-I/O engine: endpoints (TCP, UDP) addressed by id
 *
 * Return values: >= 0 is success; < 0 is a status (-AMS_E...), which
 * ams_status_errno(), ams_status_name() and ams_status_text() explain.
 * Time is uint64_t nanoseconds of a monotonic clock.  AMS_NOW asks the
 * function to read the clock itself (native/io only).  AMS_NEVER is "no
 * deadline".
 *
 * Threads: a node, its stack and its port belong to one thread at a time.
 * A hub may be shared by nodes in different threads.
 */
#ifndef AIOMULTISTACK_H
#define AIOMULTISTACK_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define AMS_API __attribute__((visibility("default")))
#pragma GCC visibility push(default)
#endif

/* CFFI-BEGIN */

/* ---- status ----------------------------------------------------------- */

/* The errno of a negative status, as the platform numbers it; 0 if none. */
int ams_status_errno(int status);
/* "ECONNRESET" for a negative status; NULL past the end of the table, so
 * that -1, -2, ... can be enumerated. */
const char *ams_status_name(int status);
/* One short English phrase. */
const char *ams_status_text(int status);

/* ---- time ------------------------------------------------------------- */

#define AMS_NOW 0
#define AMS_NEVER 0xffffffffffffffff

/* CLOCK_MONOTONIC in nanoseconds. */
uint64_t ams_clock_now(void);

/* ---- addresses -------------------------------------------------------- */

#define AMS_IPV4 4
#define AMS_IPV6 6

/* An IP address with a port.  IPv4 is kept IPv4-mapped (RFC 4291 section
 * 2.5.5.2), so that one 16-byte key serves both families.  port is in host
 * order.  family is AMS_IPV4 or AMS_IPV6; for a wildcard IPv4 bind ip is
 * ::ffff:0.0.0.0, for IPv6 it is ::. */
struct ams_endpoint {
    uint8_t ip[16];
    uint16_t port;
    uint16_t family;
    uint32_t scope_id;
};

/* A local address with its prefix length (0..32 or 0..128). */
struct ams_ifaddr {
    struct ams_endpoint address;
    uint32_t prefix_len;
};

/* ---- hub: an Ethernet segment inside the process ----------------------- */

struct ams_hub;

/* What a hub does to the frames that cross it.  Probabilities 0..1 per
 * frame and receiver; every decision comes from the hub's seed. */
struct ams_impairment {
    double loss;
    double duplicate;
    double reorder;         /* this frame is held back reorder_delay_ns */
    double corrupt;         /* one random bit after the MAC header is flipped */
    uint64_t delay_ns;      /* constant one-way delay */
    uint64_t jitter_ns;     /* uniform extra delay, order kept */
    uint64_t reorder_delay_ns; /* 0: four times delay_ns, at least 1 ms */
    uint64_t rate_bps;      /* 0: unlimited; serialisation per receiver */
    uint32_t queue_frames;  /* frames that may wait for rate_bps; 0: 1000 */
    uint32_t mark_frames;   /* ECN: more frames waiting than that: Congestion Experienced; 0: never */
    double burst;           /* this frame begins a burst of losses */
    double burst_frames;    /* mean length of bursts; 0: 1 */
};

#define AMS_HUB_NO_OFFLOAD 1 /* ports see MTU-sized frames, real checksums */

/* Makes a hub.  seed feeds its impairments.  mtu 0 means 1500.
 * Returns NULL when out of memory. */
struct ams_hub *ams_hub_new(uint64_t seed, uint32_t mtu, uint32_t flags);
/* Drops the caller's reference; the hub goes with its last port. */
void ams_hub_free(struct ams_hub *hub);
/* Sets the impairment from here on.  A hub that impairs must have been made
 * with AMS_HUB_NO_OFFLOAD (else -AMS_EINVAL), or its faults would hit 64 KB
 * super-frames whose checksums nobody verifies. */
int ams_hub_impair(struct ams_hub *hub, const struct ams_impairment *what);
/* Earliest time at which a held-back frame becomes deliverable. */
uint64_t ams_hub_deadline(struct ams_hub *hub);

/* ---- raw port: frames without a stack (tests, capture, generators) ----- */

struct ams_port;

struct ams_port_config {
    const char *spec;       /* "tap:NAME", "mem:NAME", "xdp:IFNAME[@QUEUE]", "switch:PATH" */
    struct ams_hub *hub;    /* for mem: */
    uint32_t mtu;           /* 0: the port's own */
    uint32_t flags;         /* AMS_PORT_* */
    uint32_t pool_frames;   /* limit of frames held; 0: 65536 */
};

#define AMS_PORT_NO_OFFLOAD 1 /* don't use vnet headers, checksum or TSO */
#define AMS_PORT_MONITOR 2    /* mem: receives a copy of every frame, as its sender sent it, and no other */
#define AMS_PORT_ALL 4        /* xdp: takes every frame of its link; the system gets none */

/* What a port can do, in caps. */
#define AMS_CAP_CSUM_TX 1   /* fills in TCP/UDP checksums on transmit */
#define AMS_CAP_CSUM_RX 2   /* says which received checksums are good */
#define AMS_CAP_TSO4 4
#define AMS_CAP_TSO6 8
#define AMS_CAP_LRO 16      /* may deliver frames above the MTU */

struct ams_port_info {
    uint32_t mtu;
    uint32_t caps;
    uint8_t mac[6];         /* the link's own address; zero if none */
    uint8_t reserved[2];
    int32_t fd;             /* readable when frames wait; -1 if none */
    uint64_t rx_frames;
    uint64_t rx_bytes;
    uint64_t tx_frames;
    uint64_t tx_bytes;
    uint64_t rx_dropped;
    uint64_t tx_dropped;
};

/* Opens a port.  On failure returns a negative status and writes a sentence
 * that says what to do into error[0..error_size).  Frames on a switch's port
 * are as on a wire: no longer than its MTU, with checksums. */
int ams_port_open(struct ams_port **port, const struct ams_port_config *config, char *error, size_t error_size);
void ams_port_close(struct ams_port *port);
void ams_port_info(struct ams_port *port, struct ams_port_info *info);
/* Sends one Ethernet frame, copied.  -AMS_EAGAIN when the port is full. */
int ams_port_send(struct ams_port *port, const char *frame, size_t length, uint64_t now);
/* Receives one frame into buffer.  Returns its length (which may exceed
 * size: then it was cut), or -AMS_EAGAIN. */
int ams_port_recv(struct ams_port *port, char *buffer, size_t size, uint64_t now);
/* Passes up to max received frames on to another port without looking at
 * them and without copying: two netmap: ports of one memory region.  Returns
 * how many; -AMS_EOPNOTSUPP if the two share no memory. */
int ams_port_forward(struct ams_port *from, struct ams_port *to, int max, uint64_t now);

/* ---- what a port shares with others ---------------------------------------- */

#define AMS_PORT_ADDRESSES 32

/* What a link dictates to the stack on it. */
struct ams_port_identity {
    uint8_t mac[6];         /* the source of all that is sent */
    uint8_t reserved[2];
    uint32_t flags;         /* AMS_IDENTITY_* */
    uint32_t n_addresses;   /* 0: the stack brings its own */
    struct ams_ifaddr addresses[AMS_PORT_ADDRESSES];
    struct ams_endpoint gateway4;
    struct ams_endpoint gateway6;
};

#define AMS_IDENTITY_QUIET 1   /* somebody else answers for the addresses (ARP, NDP, echo) */
#define AMS_IDENTITY_HAIRPIN 2 /* other stacks share the addresses: packets to them leave like any others */

/* Fills in the identity; -AMS_EOPNOTSUPP if the link dictates nothing. */
int ams_port_identity(struct ams_port *port, struct ams_port_identity *identity);
/* Claims a local 3-tuple on a link that is shared: from here on the port
 * receives what is sent to it, and may send from it.  A wildcard address
 * stands for all addresses of its family.  -AMS_EADDRINUSE, -AMS_EACCES
 * (a port below 1024), -AMS_EADDRNOTAVAIL, -AMS_EMFILE, -AMS_ENETDOWN.
 * -AMS_EOPNOTSUPP on a link that is the port's alone, where no claim is
 * needed. */
int ams_port_claim(struct ams_port *port, int protocol, const struct ams_endpoint *local);
/* Undoes one claim. */
int ams_port_release(struct ams_port *port, int protocol, const struct ams_endpoint *local);
/* Shows a kernel socket that the caller has bound, and that proves its right
 * to the address: the next claims that it covers use it, instead of one that
 * the port would bind itself.  Two processes that show the same socket, or
 * two of one user with SO_REUSEPORT, share the tuple as a group. */
int ams_port_show(struct ams_port *port, int fd);
/* Borrows a range of ports for outgoing connections, of TCP and UDP; their
 * claims need no proof. */
int ams_port_lend(struct ams_port *port, uint16_t *low, uint16_t *high);
/* 1 if a stack on this link has the 3-tuple, 0 if none has: then it is the
 * operating system's, if that has the address. */
int ams_port_lookup(struct ams_port *port, int protocol, const struct ams_endpoint *address);

/* Ports of one hub that the same thread drives may form a group (any number
 * but 0; 0 leaves it).  Frames between them signal no fd: after each flush or
 * send the thread asks ams_port_waiting of the others, and polls those where
 * it is 1.  Does nothing for other ports. */
void ams_port_set_group(struct ams_port *port, uint64_t group);
int ams_port_waiting(struct ams_port *port);

/* ---- the switch daemon's protocol ------------------------------------------- */

/* A process attaches to the daemon over a Unix socket of type SOCK_SEQPACKET:
 * one struct, in the machine's byte order, is one message.  The port driver
 * `switch:PATH` speaks it; this is for those who would rather do it
 * themselves, and for the daemon.
 *
 * A request bears a serial number, which its answer repeats; the answer's
 * type is the request's with AMS_MSG_ANSWER, its status 0 or negative.  An
 * answer with a negative status is a struct ams_msg, with a sentence (UTF-8)
 * behind it that says why.  Descriptors travel with SCM_RIGHTS.
 *
 * All that was granted to a client is taken back when its socket closes, and
 * a client that breaks these rules is cut off. */

#define AMS_MSG_VERSION 1
#define AMS_MSG_SIZE 2048       /* no request is longer, and no answer but LIST's and CAPTURE's */

#define AMS_MSG_HELLO 1         /* ams_msg_hello; answer: ams_msg_welcome and three fds, as in ams_fabric_link */
#define AMS_MSG_CLAIM 2         /* ams_msg_tuple and a bound kernel socket; answer: ams_msg */
#define AMS_MSG_RELEASE 3       /* ams_msg_tuple; no answer */
#define AMS_MSG_LEND 4          /* ams_msg_range; answer: ams_msg_range */
#define AMS_MSG_LOOKUP 5        /* ams_msg_tuple; answer: the same, with index */
#define AMS_MSG_LIST 6          /* ams_msg; answers: ams_msg and a piece of JSON; status 1 until the last one */
#define AMS_MSG_CAPTURE 7       /* ams_msg_capture; answer: ams_msg, then AMS_MSG_FRAME until the socket closes */
#define AMS_MSG_FRAME 8         /* from the daemon: ams_msg_frame and the bytes captured */
#define AMS_MSG_ANSWER 0x8000

struct ams_msg {
    uint16_t version;       /* AMS_MSG_VERSION */
    uint16_t type;
    uint32_t serial;
    int32_t status;         /* 0 in a request */
    uint32_t reserved;
};

struct ams_msg_hello {
    struct ams_msg head;
    uint32_t tx_slots;      /* of the rings; 0: the daemon's default */
    uint32_t rx_slots;
    char name[32];          /* for people: the program's; zero-terminated */
};

struct ams_msg_welcome {
    struct ams_msg head;
    int32_t index;          /* the client's number */
    uint32_t mtu;
    struct ams_port_identity identity;
};

struct ams_msg_tuple {
    struct ams_msg head;
    struct ams_endpoint local;
    uint32_t protocol;      /* 6 TCP, 17 UDP */
    int32_t index;          /* LOOKUP's answer: who has it; -1: nobody */
};

struct ams_msg_range {
    struct ams_msg head;
    uint16_t low;           /* 0 in a request: any range */
    uint16_t high;
    uint32_t reserved;
};

struct ams_msg_capture {
    struct ams_msg head;
    int32_t index;          /* a port of the switch; -1: all */
    uint32_t snap;          /* bytes of each frame at most; 0: all */
};

struct ams_msg_frame {
    struct ams_msg head;
    uint64_t time;          /* CLOCK_MONOTONIC, ns */
    int32_t index;          /* as in struct ams_fabric_frame */
    int32_t outgoing;
    int32_t reason;
    uint32_t length;
    uint32_t captured;
    uint32_t lost;          /* frames before this one that found no room */
};

/* ---- node: port + switch + stack --------------------------------------- */

struct ams_node;
struct ams_stack;

struct ams_stack_config {
    uint8_t mac[6];                     /* all zero: made from seed */
    uint8_t reserved[2];
    uint64_t seed[2];                   /* ISNs, ports, hash keys */
    const struct ams_ifaddr *addresses; /* at least one; copied */
    uint32_t n_addresses;
    uint32_t mtu;                       /* 0: the port's */
    struct ams_endpoint gateway4;       /* family 0: none */
    struct ams_endpoint gateway6;
    const char *congestion;             /* NULL: "cubic" */
    uint32_t max_endpoints;             /* 0: 1 << 20 */
    uint32_t sndbuf;                    /* initial socket buffer, bytes; 0: default */
    uint32_t rcvbuf;                    /* initial receive buffer, bytes; 0: default */
    uint32_t sndbuf_max;
    uint32_t rcvbuf_max;
    uint32_t time_wait_ms;              /* 0: 60000 */
    uint32_t max_time_wait;             /* 0: 65536 */
    uint32_t rto_min_ms;                /* 0: 200 */
    uint32_t delack_ms;                 /* 0: 40 */
    uint16_t ephemeral_low;             /* 0: 32768 */
    uint16_t ephemeral_high;            /* 0: 60999 */
    uint32_t flags;                     /* AMS_STACK_* */
    uint32_t syn_retries;               /* 0: 6 */
    uint32_t synack_retries;            /* 0: 5 */
    uint32_t ecn;                       /* AMS_ECN_* */
    uint32_t syn_cookies;               /* AMS_SYN_COOKIES_* */
    uint32_t syn_backlog;               /* half-open connections of a listener; 0: 1024 */
    uint32_t min_tso_segs;              /* least segments of a super-frame on slow paths; 0: 2 */
    uint32_t fastopen;                  /* AMS_FASTOPEN_*; 0: client and server */
    uint8_t fastopen_key[16];           /* of the server's cookies; all zero: from seed */
    uint64_t now;                       /* when the node is made, for virtual time; AMS_NOW: the clock's */
};

/* SYN cookies (RFC 4987 section 3.6). */
#define AMS_SYN_COOKIES_AUTO 0 /* once a listener has syn_backlog half-open connections */
#define AMS_SYN_COOKIES_NEVER 1
#define AMS_SYN_COOKIES_ALWAYS 2

/* Explicit Congestion Notification (RFC 3168), with Accurate ECN feedback (RFC 9768) or without. */
#define AMS_ECN_ACCEPT 0 /* where the peer asks for it */
#define AMS_ECN_ASK 1    /* ask for it, too */
#define AMS_ECN_OFF 2
#define AMS_ECN_ACCURATE 3         /* ask for and accept accurate feedback, or else RFC 3168's */
#define AMS_ECN_ACCURATE_CLASSIC 4 /* accept both kinds, ask for RFC 3168's */
#define AMS_ECN_ACCURATE_ACCEPT 5  /* accept both kinds, ask for none */

/* TCP Fast Open (RFC 7413), numbered as Linux's net.ipv4.tcp_fastopen. */
#define AMS_FASTOPEN_CLIENT 1
#define AMS_FASTOPEN_SERVER 2
#define AMS_FASTOPEN_CLIENT_NO_COOKIE 4      /* data in the SYN without a cookie */
#define AMS_FASTOPEN_SERVER_NO_COOKIE 0x200  /* takes such data */
#define AMS_FASTOPEN_LISTENERS 0x400         /* all listeners, not only those with AMS_OPT_FASTOPEN */
#define AMS_FASTOPEN_OFF 0x8000

#define AMS_STACK_NO_DAD 1         /* addresses are usable at once (RFC 4862 5.4) */
#define AMS_STACK_NO_TIMESTAMPS 2  /* TCP neither offers nor accepts timestamps */
#define AMS_STACK_NO_SACK 4        /* the same for SACK */
#define AMS_STACK_NO_WSCALE 8      /* and for window scaling */
#define AMS_STACK_NO_BLACK_HOLE 32 /* repeated timeouts don't make segments shorter */
#define AMS_STACK_NO_IDLE_RESTART 16 /* cwnd is kept over idle times (RFC 5681 section 4.1) */
#define AMS_STACK_PACING 128       /* AMS_OPT_PACING is on unless turned off */
#define AMS_STACK_USER_TIMEOUT_OPTION 64 /* tell peers about AMS_OPT_USER_TIMEOUT, heed theirs (RFC 5482) */
#define AMS_STACK_HAIRPIN 0x100    /* other stacks on the link have the same addresses: as AMS_IDENTITY_HAIRPIN */
#define AMS_STACK_NO_REPORTS 0x200 /* nobody is told of multicast groups (IGMP, MLD): a link without routers and snooping switches */

/* One event: four int32_t in a row. */
#define AMS_EVENT_WORDS 4
/* words[0] id, words[1] bits below, words[2] aux, words[3] length: bytes of
 * the blob, 0 without AMS_EV_DATA */

#define AMS_EV_ACCEPTED 1   /* new connection; aux: the listener's id */
#define AMS_EV_CONNECTED 2  /* active open done */
#define AMS_EV_DATA 4       /* the next `length` bytes of the blob are its data, already consumed */
#define AMS_EV_READABLE 8   /* data waits: ams_tcp_peek/ams_udp_recv */
#define AMS_EV_EOF 16       /* peer's FIN, all data before it delivered */
#define AMS_EV_DRAINED 32   /* write excess fell to the low-water mark */
#define AMS_EV_REFS 64      /* aux: how many more references of ams_tcp_send_ref are released, oldest first */
#define AMS_EV_CLOSED 128   /* connection is gone; aux: status (0: orderly) */
#define AMS_EV_CONGESTION 512 /* ams_cc_report has something to tell */
#define AMS_EV_RELEASED 256 /* the id is no longer the application's */

/* Opens config's port and builds switch and stack over it. */
int ams_node_new(struct ams_node **node, const struct ams_port_config *port,
                 const struct ams_stack_config *config, char *error, size_t error_size);
/* Aborts what is open (peers get RST), flushes, closes the port. */
void ams_node_free(struct ams_node *node);
struct ams_stack *ams_node_stack(struct ams_node *node);
struct ams_port *ams_node_port(struct ams_node *node);
/* Receives a batch, runs timers, and reports up to max_events events (4
 * words each).  Data of AMS_EV_DATA events lies back to back in blob.
 * Returns the number of events.  More may wait (events or blob were too
 * small, or the batch was full): then ams_node_flush returns 0.  A negative
 * status means the port is broken for good. */
int ams_node_poll(struct ams_node *node, uint64_t now, int32_t *events, int max_events, char *blob, size_t blob_size);
/* Sends all that may be sent.  Returns the next deadline: the latest time
 * at which ams_node_poll should be called again; 0: at once, because events
 * wait to be reported or frames to be sent. */
uint64_t ams_node_flush(struct ams_node *node, uint64_t now);

/* Counters of port, switch and stack: fills values[0..max), returns how many
 * there are.  ams_counter_name(i) names them; NULL past the end. */
int ams_node_counters(struct ams_node *node, uint64_t *values, int max);
const char *ams_counter_name(int index);
/* What a counter of the switch means; NULL for others. */
const char *ams_counter_text(int index);

/* A captured frame, in front of its bytes. */
struct ams_captured {
    uint64_t time;          /* the node's clock, ns */
    uint32_t length;        /* of the frame */
    uint32_t captured;      /* bytes of it that follow; then padding to 8 bytes */
    int32_t outgoing;       /* 1: sent; 0: received */
    int32_t reason;         /* the counter (ams_counter_name) of its drop; -1: it was not dropped */
};

/* Starts to copy the port's frames, `snap` bytes of each at most (0: all), into
 * a buffer of `size` bytes, until that is full; 0 stops.  What is to be sent is
 * seen as the port gets it: checksums and segmentation may be left to it.
 * Return: 0, -AMS_ENOMEM. */
int ams_node_capture(struct ams_node *node, uint32_t snap, size_t size);
/* Moves what was copied into buffer, whole records (struct ams_captured and its
 * bytes), and makes room for more.  Returns how many bytes. */
size_t ams_node_captured(struct ams_node *node, char *buffer, size_t size);
/* How many frames found no room. */
uint64_t ams_node_capture_lost(struct ams_node *node);

/* Changes a setting of a running stack; connections that are opened from here
 * on follow it.  Return: 0 or -AMS_EINVAL. */
int ams_stack_set(struct ams_stack *stack, int setting, uint32_t value);
#define AMS_SET_FLAGS 1        /* AMS_STACK_NO_*; AMS_STACK_NO_DAD is ignored */
#define AMS_SET_FASTOPEN 2     /* AMS_FASTOPEN_* */
#define AMS_SET_ECN 3          /* AMS_ECN_* */
#define AMS_SET_SYN_COOKIES 4  /* AMS_SYN_COOKIES_* */
#define AMS_SET_FORGET 5       /* any value: forgets what servers said about Fast Open */

/* ---- stack: endpoints --------------------------------------------------- */

/* Ids are small non-negative integers, reused after AMS_EV_RELEASED or a
 * close that returned 1. */

/* Starts to listen.  local.port 0 takes an ephemeral port.  Returns the
 * listener's id, or -AMS_EADDRINUSE, -AMS_EADDRNOTAVAIL, ... */
int ams_tcp_listen(struct ams_stack *stack, const struct ams_endpoint *local, int backlog, uint32_t flags);
#define AMS_LISTEN_V6ONLY 1
#define AMS_LISTEN_REUSEADDR 2
/* Several may have the same address and port, all with this flag; each remote
 * address and port is served by one of them, chosen by a hash. */
#define AMS_LISTEN_REUSEPORT 4

/* Starts an active open.  local may be NULL; local->port 0 is ephemeral.
 * Returns the connection's id; AMS_EV_CONNECTED or AMS_EV_CLOSED follows. */
int ams_tcp_connect(struct ams_stack *stack, const struct ams_endpoint *local,
                    const struct ams_endpoint *remote, uint64_t now);

/* Queues data.  The bytes are copied.  Returns the write excess: bytes
 * queued beyond what the socket buffer (auto-tuned) holds; 0 means that all
 * is in the stack's hands as with a kernel's send(). */
int ams_tcp_send(struct ams_stack *stack, int id, const char *data, size_t length);
/* The same, with flags.  A send of no bytes and no flags lets go of what
 * AMS_SEND_MORE has held back. */
int ams_tcp_send_flags(struct ams_stack *stack, int id, const char *data, size_t length, uint32_t flags);
#define AMS_SEND_EOR 1         /* a record ends here: no segment joins later bytes to these (MSG_EOR) */
#define AMS_SEND_MORE 2        /* more follows: a short segment may wait for it, and carries no PSH (MSG_MORE) */
/* The same without a copy: data must stay as it is until AMS_EV_REFS. */
int ams_tcp_send_ref(struct ams_stack *stack, int id, const char *data, size_t length);
/* The write excess now. */
int ams_tcp_excess(struct ams_stack *stack, int id);
/* Asks for one AMS_EV_DRAINED when the excess is at or below low. */
int ams_tcp_want_drain(struct ams_stack *stack, int id, size_t low);

/* The first contiguous piece of received data and its length; NULL and 0
 * if there is none. */
const char *ams_tcp_peek(struct ams_stack *stack, int id, size_t *length);
/* Frees received bytes and opens the window. */
int ams_tcp_consume(struct ams_stack *stack, int id, size_t length);
/* Copies out and consumes up to size bytes; returns the count. */
int ams_tcp_recv(struct ams_stack *stack, int id, char *buffer, size_t size);

#define AMS_READ_BLOB 0   /* short data comes with the events (AMS_EV_DATA) */
#define AMS_READ_EVENT 1  /* AMS_EV_READABLE only */
#define AMS_READ_PAUSED 2 /* neither data nor EOF is reported */
/* How received data is reported from here on. */
int ams_tcp_set_reading(struct ams_stack *stack, int id, int mode);

/* Sends FIN after the queued data (half-close). */
int ams_tcp_shutdown(struct ams_stack *stack, int id);
/* The application is done: FIN after the queued data, what arrives later is
 * refused with RST as a kernel does; SO_LINGER is honoured.  Returns 1 if
 * the id is free at once, 0 if AMS_EV_REFS and AMS_EV_RELEASED follow. */
int ams_tcp_close(struct ams_stack *stack, int id);
/* Drops the write excess, as a program that closes a kernel's socket at once
 * drops its own buffer: what the socket buffer holds is still sent.  Returns
 * how many references of ams_tcp_send_ref were dropped with it: the latest
 * ones, which are the caller's again.  No AMS_EV_REFS tells of them. */
int ams_tcp_drop_excess(struct ams_stack *stack, int id);
/* RST.  Returns as ams_tcp_close. */
int ams_tcp_abort(struct ams_stack *stack, int id);

int ams_tcp_local(struct ams_stack *stack, int id, struct ams_endpoint *out);
int ams_tcp_remote(struct ams_stack *stack, int id, struct ams_endpoint *out);

#define AMS_OPT_NODELAY 1
#define AMS_OPT_CORK 2
#define AMS_OPT_KEEPALIVE 3
#define AMS_OPT_KEEPIDLE 4     /* seconds */
#define AMS_OPT_KEEPINTVL 5    /* seconds */
#define AMS_OPT_KEEPCNT 6
#define AMS_OPT_LINGER 7       /* seconds; -1 off */
#define AMS_OPT_QUICKACK 8
#define AMS_OPT_USER_TIMEOUT 9 /* milliseconds; 0 off */
#define AMS_OPT_SNDBUF 10      /* bytes; turns auto-tuning off */
#define AMS_OPT_RCVBUF 11
#define AMS_OPT_MAXSEG 12
#define AMS_OPT_ERROR 13       /* SO_ERROR: pending status, cleared */
#define AMS_OPT_PACING 14      /* spread segments over the round trip; BBR always does */
#define AMS_OPT_FASTOPEN 18    /* a listener: how many may be open before their handshake is done; 0 off */
/* A connection, between ams_tcp_connect() and the next flush.  1: if a cookie
 * is known its SYN waits for ams_tcp_send(), to carry the data; 2: it doesn't
 * wait.  Without a cookie it asks for one. */
#define AMS_OPT_FASTOPEN_CONNECT 15
#define AMS_OPT_SYNCNT 17      /* how often a SYN is repeated; 0: as the stack's configuration says */
#define AMS_OPT_FASTOPEN_ROOM 16 /* read only: bytes that the waiting SYN can carry; -1: no SYN waits */
#define AMS_OPT_DEFER_ACCEPT 19  /* a listener: seconds to wait for data before a connection is reported; 0 off */
#define AMS_OPT_NOTSENT_LOWAT 20 /* bytes: so much unsent counts as write excess; 0 off */
#define AMS_OPT_LINGER2 21       /* seconds in FIN-WAIT-2 after ams_tcp_close(); -1 none, 0 the default, 60 */
#define AMS_OPT_WINDOW_CLAMP 22  /* bytes: the largest window that is offered; 0 off */
/* Options of a connection or a listener (whose connections inherit). */
int ams_tcp_setopt(struct ams_stack *stack, int id, int option, int value);
int ams_tcp_getopt(struct ams_stack *stack, int id, int option, int *value);
/* Chooses the congestion control by name (TCP_CONGESTION). */
/* A listener's own key for Fast Open cookies, as TCP_FASTOPEN_KEY; without, it
 * has the stack's.  -AMS_EINVAL unless length is 16. */
int ams_tcp_fastopen_key(struct ams_stack *stack, int id, const uint8_t *key, size_t length);
int ams_tcp_set_congestion(struct ams_stack *stack, int id, const char *name);
/* Names of the congestion controls built in; NULL past the end. */
const char *ams_congestion_name(int index);

/* Congestion controls outside of the engine: it reports once per round trip
 * and when something is lost, and is told what to do.  See cc_external.c. */

/* Registers a name of at most 15 bytes with one stack; its index, which
 * reports carry, or -AMS_EADDRINUSE (it exists), -AMS_EINVAL, -AMS_ENOMEM
 * (there are 16 already). */
int ams_congestion_register(struct ams_stack *stack, const char *name);
/* Chooses the congestion control of new connections. */
int ams_stack_set_congestion(struct ams_stack *stack, const char *name);

#define AMS_CC_START 1 /* the connection is established, or the algorithm was chosen */
#define AMS_CC_ACK 2   /* a round trip is over */
#define AMS_CC_LOSS 4  /* segments were lost: cwnd has been multiplied by 0.7 */
#define AMS_CC_RTO 8   /* retransmission timeout: cwnd is one segment */
#define AMS_CC_ECN 16  /* congestion was signalled: as for loss */
#define AMS_CC_UNDO 32 /* nothing was lost after all: cwnd is what it was */
#define AMS_CC_IDLE 64 /* the sender starts again after a pause, with a smaller cwnd */

/* What happened since the last report.  Bytes, ns, bytes per second. */
struct ams_cc_report {
    int32_t algorithm;      /* index of the registration */
    uint32_t what;          /* AMS_CC_* */
    uint32_t acked;         /* delivered, SACKed bytes included */
    uint32_t lost;          /* what was thought lost when loss was reported */
    uint32_t in_flight;     /* now */
    uint32_t mss;
    uint32_t cwnd;          /* now; during recovery: where it will be afterwards */
    uint32_t ssthresh;
    uint64_t rtt;           /* the latest sample, 0: none yet */
    uint64_t min_rtt;       /* the shortest one since the last report, 0: none */
    uint64_t srtt;
    uint64_t delivery_rate; /* the highest one seen since the last report, 0: none */
    uint64_t duration;      /* since the last report */
    uint64_t pacing_rate;   /* 0: not paced */
};

/* Takes the report of a connection; the next one starts afresh.
 * -AMS_EBADF if its congestion control is not outside. */
int ams_cc_report(struct ams_stack *stack, int id, struct ams_cc_report *out);
/* Sets cwnd and ssthresh in bytes, and the pacing rate in bytes per second
 * (0: none).  During recovery cwnd is what it will be afterwards. */
int ams_cc_set(struct ams_stack *stack, int id, uint32_t cwnd, uint32_t ssthresh, uint64_t pacing_rate);

/* States, numbered as Linux numbers them in TCP_INFO. */
#define AMS_TCP_ESTABLISHED 1
#define AMS_TCP_SYN_SENT 2
#define AMS_TCP_SYN_RECEIVED 3
#define AMS_TCP_FIN_WAIT_1 4
#define AMS_TCP_FIN_WAIT_2 5
#define AMS_TCP_TIME_WAIT 6
#define AMS_TCP_CLOSED 7
#define AMS_TCP_CLOSE_WAIT 8
#define AMS_TCP_LAST_ACK 9
#define AMS_TCP_LISTEN 10
#define AMS_TCP_CLOSING 11

#define AMS_INFO_TIMESTAMPS 1
#define AMS_INFO_SACK 2
#define AMS_INFO_WSCALE 4
#define AMS_INFO_ECN 8       /* negotiated */
#define AMS_INFO_ECN_SEEN 16 /* and a packet with ECT came */
#define AMS_INFO_SYN_DATA 32 /* data in the SYN was accepted (Fast Open) */
#define AMS_INFO_ACCECN 64   /* with Accurate ECN feedback */

/* What ss shows of an endpoint.  Times in nanoseconds. */
struct ams_tcp_info {
    int32_t id;             /* -1 for TIME-WAIT and orphans */
    uint8_t protocol;       /* 6 TCP, 17 UDP */
    uint8_t state;          /* AMS_TCP_* */
    uint8_t ca_state;       /* 0 open, 1 disorder, 2 cwr, 3 recovery, 4 loss */
    uint8_t options;        /* AMS_INFO_* */
    uint8_t snd_wscale;
    uint8_t rcv_wscale;
    uint8_t backoff;        /* RTO doublings */
    uint8_t probes;
    struct ams_endpoint local;
    struct ams_endpoint remote;
    uint32_t recv_queue;    /* bytes not yet read; a listener: connections waiting */
    uint32_t send_queue;    /* bytes not yet acknowledged; a listener: its backlog */
    uint32_t snd_mss;
    uint32_t rcv_mss;
    uint32_t snd_cwnd;      /* bytes */
    uint32_t snd_ssthresh;  /* bytes; 0xffffffff: none yet */
    uint32_t snd_wnd;
    uint32_t rcv_wnd;
    uint32_t unacked;       /* bytes in flight */
    uint32_t pmtu;
    uint64_t rto;
    uint64_t srtt;
    uint64_t rttvar;
    uint64_t min_rtt;
    uint64_t bytes_sent;    /* payload, retransmissions included */
    uint64_t bytes_acked;
    uint64_t bytes_received;
    uint64_t bytes_retrans;
    uint64_t segs_out;
    uint64_t segs_in;
    uint64_t dsack_dups;
    uint64_t created;
    uint32_t adv_mss;       /* what our SYN offers */
    uint32_t sacked;        /* bytes */
    uint32_t lost;
    uint32_t retrans_out;   /* retransmitted and not acknowledged */
    uint32_t not_sent;
    uint32_t reordering;    /* segments: the furthest that one came late, from 3 up */
    uint64_t delivered;     /* bytes, SACKed ones included */
    uint64_t pacing_rate;   /* bytes per second; 0: not paced */
    uint64_t last_data_sent; /* how long ago; never: since it was created */
    uint64_t last_data_received;
    uint64_t last_received; /* any segment */
    /* Accurate ECN: packets with CE, and payload by code point, that came, and
     * that the peer says it got */
    uint32_t received_ce;
    uint32_t delivered_ce;
    uint32_t received_ect1_bytes, received_ect0_bytes, received_ce_bytes;
    uint32_t delivered_ect1_bytes, delivered_ect0_bytes, delivered_ce_bytes;
    uint64_t delivery_rate; /* bytes per second, the latest sample; 0: none */
    uint64_t segs_retrans;
    uint64_t busy_time;     /* with data to send or in flight */
    uint64_t rwnd_limited;  /* of that, while the peer's window had no room */
    uint32_t data_segs_in;
    uint32_t data_segs_out;
    char congestion[16];
};
int ams_tcp_get_info(struct ams_stack *stack, int id, struct ams_tcp_info *out, uint64_t now);
/* Lists endpoints of all kinds into out[0..max); returns how many there are. */
int ams_stack_list(struct ams_stack *stack, struct ams_tcp_info *out, int max, uint64_t now);

/* Looks for contradictions in the state of all connections: sequence numbers,
 * scoreboard, queues, timers.  Returns NULL, or what is wrong with the first
 * that has one.  For tests, and for those who change the engine: it looks at
 * everything.  Call it between the stack's own calls. */
const char *ams_stack_check(struct ams_stack *stack);

/* ---- UDP ---------------------------------------------------------------- */

/* Binds (and, if remote is not NULL, connects) a UDP endpoint; its id.
 * local may be NULL if remote is not.  flags: AMS_LISTEN_*.  A port and
 * address belong to one endpoint unless AMS_LISTEN_REUSEPORT lets several
 * share them, a wildcard standing for all addresses of its family; the IPv6
 * one, unless AMS_LISTEN_V6ONLY is set, for IPv4's too. */
int ams_udp_open(struct ams_stack *stack, const struct ams_endpoint *local, const struct ams_endpoint *remote, uint32_t flags);
/* Sends one datagram; to may be NULL on a connected endpoint.
 * -AMS_EMSGSIZE, -AMS_EAGAIN (queue full), -AMS_ENETUNREACH, a pending ICMP error. */
int ams_udp_send(struct ams_stack *stack, int id, const struct ams_endpoint *to, const char *data, size_t length, uint64_t now);
/* Receives one datagram: its length (which may exceed size: then it was
 * cut), or -AMS_EAGAIN, or a pending error. */
int ams_udp_recv(struct ams_stack *stack, int id, struct ams_endpoint *from, char *buffer, size_t size);
/* Returns 1: the id is free at once. */
int ams_udp_close(struct ams_stack *stack, int id);
int ams_udp_local(struct ams_stack *stack, int id, struct ams_endpoint *out);
/* Joins a multicast group (its port is ignored), until the endpoint leaves it
 * or is closed.  -AMS_EADDRINUSE (it is in it), -AMS_EADDRNOTAVAIL (it isn't),
 * -AMS_EINVAL, -AMS_ENOBUFS (20 per endpoint); -AMS_EOPNOTSUPP where somebody
 * else speaks for the addresses (AMS_IDENTITY_QUIET). */
int ams_udp_join(struct ams_stack *stack, int id, const struct ams_endpoint *group, uint64_t now);
int ams_udp_leave(struct ams_stack *stack, int id, const struct ams_endpoint *group, uint64_t now);
#define AMS_UDP_MULTICAST_HOPS 1 /* 0 to 255; -1: the default, 1 */
#define AMS_UDP_MULTICAST_LOOP 2 /* 1 (the default): a stack that is in the group receives what it sends to it */
int ams_udp_setopt(struct ams_stack *stack, int id, int option, int value);
int ams_udp_getopt(struct ams_stack *stack, int id, int option, int *value);

/* ---- routing: which addresses are the stack's ---------------------------- */

/* 1 if address is one of the stack's own (or a wildcard). */
int ams_stack_owns(struct ams_stack *stack, const struct ams_endpoint *address);
/* 1 if the stack has a route to address. */
int ams_stack_routes(struct ams_stack *stack, const struct ams_endpoint *address);
/* The Ethernet address of a neighbour on the link: 1 and mac filled in if it
 * is known, 0 if it is being asked for, -AMS_EHOSTUNREACH if address is not
 * on the link. */
int ams_stack_neighbor(struct ams_stack *stack, const struct ams_endpoint *address, uint8_t *mac, uint64_t now);
/* Frames that the stack holds now (pool in use); 0 when nothing leaks. */
int ams_stack_frames(struct ams_stack *stack);
/* Ids in use by the application (orphans are in ams_stack_list only), and
 * connections in TIME-WAIT. */
int ams_stack_endpoints(struct ams_stack *stack);
int ams_stack_time_wait(struct ams_stack *stack);
/* Bytes of memory that the stack holds for all its tables and connections. */
uint64_t ams_stack_memory(struct ams_stack *stack);

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
/* Says where a received Ethernet frame goes. */
int ams_switch_route(struct ams_switch *sw, const char *frame, size_t length, uint64_t now);
/* Says whether port may send an Ethernet frame: 0 if it may, else the index
 * of the counter (ams_switch_counter_name) of the reason why not. */
int ams_switch_check(struct ams_switch *sw, int port, const char *frame, size_t length, uint64_t now);
/* Fills values[0..max) with the switch's counters; how many there are. */
int ams_switch_counters(struct ams_switch *sw, uint64_t *values, int max);
/* A counter's name and meaning; NULL past the end. */
const char *ams_switch_counter_name(int index);
const char *ams_switch_counter_text(int index);

/* ---- benchmarks ----------------------------------------------------------- */

#define AMS_BENCH_ACK 0         /* an acknowledgement of two segments */
#define AMS_BENCH_DATA 1        /* a data segment in order, read in place */
#define AMS_BENCH_SACK 2        /* a data segment of which every second one comes early */
#define AMS_BENCH_TRANSACTION 3 /* accept, request, response of 1 KB, close */

struct ams_bench_result {
    uint64_t operations;    /* segments, or transactions */
    uint64_t nanoseconds;   /* spent in the engine */
    uint64_t bytes;         /* payload that the application has read (ack: that was acknowledged) */
    uint64_t memory;        /* bytes that the idle connections took, all together */
    uint32_t endpoints;     /* at the end: connections and one listener */
    uint32_t reserved;
};

/* Measures the engine alone, without switch and port, with `connections`
 * (1 to 200000) that are served in turn, until at least `operations` are done.
 * Returns 0 or a status. */
int ams_bench_engine(int kind, uint32_t connections, uint64_t operations, struct ams_bench_result *result);

/* How a switch is loaded by ams_bench_switch(). */
struct ams_bench_switch_plan {
    uint32_t ports;         /* 1, or an even number */
    uint32_t size;          /* bytes of a frame, without its check sequence: 64 to 1518 */
    uint32_t v6;            /* 1: IPv6 */
    uint32_t spread;        /* 0: ports send to their neighbours; 1: each frame to another port */
    uint32_t slots;         /* of each ring; 0: the fabric's default */
    uint32_t duration_ms;
    uint64_t rate;          /* frames a second that are offered; 0: as many as go */
    uint32_t latency;       /* 1: send probes */
    uint32_t threaded;      /* 1: switch and load have a thread each; 0: they alternate */
    int32_t switch_cpu;     /* cores; -1: any */
    int32_t load_cpu;
};

struct ams_bench_switch_result {
    uint64_t frames;        /* received at the other end */
    uint64_t bytes;
    uint64_t nanoseconds;
    uint64_t switch_ns;     /* of them in the switch, if it has no thread */
    uint64_t dropped;
    uint64_t wakeups;       /* system calls that woke a client */
    uint64_t kicks;         /* and the switch */
    uint64_t sent;          /* frames */
    uint64_t probes;        /* of them, to measure latency by */
    uint64_t probes_lost;
    uint64_t samples;       /* of latency */
    uint64_t p50_ns;
    uint64_t p99_ns;
};

/* Measures a switch between ports in shared memory.  Returns 0 or a status,
 * with a sentence in error. */
int ams_bench_switch(const struct ams_bench_switch_plan *plan, struct ams_bench_switch_result *result, char *error,
                     size_t error_size);

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

#define AMS_CLAIM_GROUP 1 /* others may claim the same tuple for the same group */

/* Claims a tuple for a client, as ams_switch_claim(); with AMS_CLAIM_GROUP
 * for one member of a group: connections are spread over the members. */
int ams_fabric_claim(struct ams_fabric *fabric, int index, int protocol, const struct ams_endpoint *local, uint32_t flags);
/* The same for n port numbers from local's on: all of them, or none. */
int ams_fabric_claim_ports(struct ams_fabric *fabric, int index, int protocol, const struct ams_endpoint *local, int n,
                           uint32_t flags);
int ams_fabric_release(struct ams_fabric *fabric, int index, int protocol, const struct ams_endpoint *local);
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
/* Gives a frame to a port: 0, -AMS_EINVAL, -AMS_EAGAIN if it was full. */
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

/* What ams_bench_port() does with a port. */
#define AMS_BENCH_RECEIVE 1 /* receives and drops */
#define AMS_BENCH_SEND 2    /* sends one frame again and again */
#define AMS_BENCH_ECHO 3    /* sends back what it receives, the Ethernet addresses exchanged */

struct ams_bench_frames {
    uint64_t received;
    uint64_t sent;
    uint64_t nanoseconds;
};

/* Drives a port for a time, in batches, without Python; waits while there is
 * nothing to do.  frame is what AMS_BENCH_SEND sends.
 * Returns 0, -AMS_EINVAL, -AMS_EMSGSIZE, -AMS_ENOMEM, or the status of a port that broke. */
int ams_bench_port(struct ams_port *port, int what, const char *frame, size_t length, uint64_t nanoseconds, struct ams_bench_frames *result);

/* CFFI-END */

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif

#endif /* AIOMULTISTACK_H */
