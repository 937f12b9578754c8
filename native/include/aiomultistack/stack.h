/* SPDX-License-Identifier: BSD-2-Clause
 *
 * stack.h - nodes and stacks: TCP and UDP endpoints.  A part of aiomultistack.h.
 */
#ifndef AIOMULTISTACK_STACK_H
#define AIOMULTISTACK_STACK_H

#include "port.h"

/* CFFI-BEGIN */

/* ---- node: port + switch + stack --------------------------------------- */

struct ams_node;
struct ams_stack;

struct ams_stack_config {
    uint8_t mac[6];                     /* all zero: made from seed */
    uint8_t reserved[2];
    uint64_t seed[2];                   /* ISNs, ports, hash keys */
    const struct ams_ifaddr *addresses; /* at least one, but with AMS_STACK_AUTOCONF; copied */
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
    uint32_t rto_max_ms;                /* at least rto_min_ms; 0: 120000 */
    uint32_t delack_ms;                 /* 0: 40 */
    uint16_t ephemeral_low;             /* 0: 32768 */
    uint16_t ephemeral_high;            /* 0: 60999 */
    uint32_t flags;                     /* AMS_STACK_* */
    uint32_t syn_retries;               /* 0: 6 */
    uint32_t synack_retries;            /* 0: 5 */
    uint32_t ecn;                       /* AMS_ECN_* */
    uint32_t accecn_options;            /* AMS_ACCECN_* */
    uint32_t syn_linear_timeouts;       /* our SYN's first timeouts that don't back off; 0: RFC 6298 */
    uint32_t syn_cookies;               /* AMS_SYN_COOKIES_* */
    uint32_t syn_backlog;               /* half-open connections of a listener; 0: 1024 */
    uint32_t min_tso_segs;              /* least segments of a super-frame on slow paths; 0: 2 */
    uint32_t fastopen;                  /* AMS_FASTOPEN_*; 0: client and server */
    uint8_t fastopen_key[16];           /* of the server's cookies; all zero: from seed */
    uint64_t now;                       /* when the node is made, for virtual time; AMS_NOW: the clock's */
    uint64_t autoconf_key[2];           /* secret of the addresses that are made of prefixes (RFC 7217); 0: from seed */
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

/* When segments of connections with accurate feedback have its TCP option (RFC 9768 section 3.2.3.3). */
#define AMS_ACCECN_CHANGES 0 /* when a counter has changed since the last one */
#define AMS_ACCECN_ALWAYS 1  /* all segments to peers that send it, too: as Linux by default */
#define AMS_ACCECN_NEVER 2

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
#define AMS_STACK_QUIET 0x4000     /* somebody else speaks for the addresses: as AMS_IDENTITY_QUIET */
#define AMS_STACK_NO_LINK_LOCAL 0x2000 /* no IPv6 link-local address is made: somebody else has it */
#define AMS_STACK_HAIRPIN 0x100    /* other stacks on the link have the same addresses: as AMS_IDENTITY_HAIRPIN */
#define AMS_STACK_NO_REPORTS 0x200 /* nobody is told of multicast groups: no routers, no snooping switches */
#define AMS_STACK_AUTOCONF 0x400   /* learns routers, IPv6 addresses (RFC 4862); not where addresses are shared */
#define AMS_STACK_REDIRECTS4 0x800 /* heeds ICMP redirects (RFC 1122 section 3.2.2.2) */
#define AMS_STACK_REDIRECTS6 0x1000 /* heeds those of IPv6 (RFC 4861 section 8) */

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
#define AMS_EV_CLOSED 128   /* connection is gone; aux: status (0: orderly).  Comes after what was received, unless
                               reading is paused and there was excess (ams_tcp_excess()): what lies unread stays */
#define AMS_EV_CONGESTION 512 /* ams_cc_report has something to tell */
#define AMS_EV_RELEASED 256 /* the id is no longer the application's */

/* Opens config's port and builds switch and stack over it. */
int ams_node_new(struct ams_node **node, const struct ams_port_config *port,
                 const struct ams_stack_config *config, char *error, size_t error_size);
/* Aborts what is open (peers get RST), flushes, closes the port. */
void ams_node_free(struct ams_node *node);
/* The node's own stack and port, until it is freed. */
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
#define AMS_SET_FLAGS 1        /* AMS_STACK_NO_*; AMS_STACK_NO_DAD and what routers teach are as they were */
#define AMS_SET_FASTOPEN 2     /* AMS_FASTOPEN_* */
#define AMS_SET_ECN 3          /* AMS_ECN_* */
#define AMS_SET_SYN_COOKIES 4  /* AMS_SYN_COOKIES_* */
#define AMS_SET_ACCECN 6       /* AMS_ACCECN_* */
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
 * Returns the connection's id; AMS_EV_CONNECTED or AMS_EV_CLOSED follows.
 * -AMS_ENETUNREACH: no route, or a broadcast or multicast address. */
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
/* Copies out up to size bytes, which stay where they are; returns the count. */
int ams_tcp_copy(struct ams_stack *stack, int id, char *buffer, size_t size);
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

/* The addresses of a connection, or a listener's own; -AMS_EBADF for other
 * ids, -AMS_ENOTCONN for a listener's remote one. */
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
/* Of what is sent over IPv4 (AMS_OPT_TOS, AMS_OPT_TTL) and over IPv6; of UDP
 * endpoints, too (ams_udp_setopt).  An endpoint keeps both pairs, as a listener
 * may get peers of both kinds. */
#define AMS_OPT_TOS 23           /* traffic class: DSCP in the upper six bits; lower ones are UDP's only */
#define AMS_OPT_TTL 24           /* 1 to 255; -1: the default, 64 */
#define AMS_OPT_TCLASS 25        /* 0 to 255; -1: 0 */
#define AMS_OPT_HOPS 26          /* 0 to 255; -1: the default, 64 or as routers say */
/* Options of a connection or a listener (whose connections inherit). */
int ams_tcp_setopt(struct ams_stack *stack, int id, int option, int value);
int ams_tcp_getopt(struct ams_stack *stack, int id, int option, int *value);
/* A listener's own key for Fast Open cookies, as TCP_FASTOPEN_KEY; without, it
 * has the stack's.  -AMS_EINVAL unless length is 16. */
int ams_tcp_fastopen_key(struct ams_stack *stack, int id, const uint8_t *key, size_t length);
/* Chooses the congestion control by name (TCP_CONGESTION). */
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
    uint32_t delivered_segs; /* the segments that they were, and the SYN */
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
/* All that is known of a connection or a listener; -AMS_EBADF for other ids. */
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
int ams_udp_open(struct ams_stack *stack, const struct ams_endpoint *local, const struct ams_endpoint *remote,
                 uint32_t flags);
/* Sends one datagram; to may be NULL on a connected endpoint.
 * -AMS_EMSGSIZE, -AMS_EAGAIN (queue full), -AMS_ENETUNREACH, a pending ICMP error. */
int ams_udp_send(struct ams_stack *stack, int id, const struct ams_endpoint *to, const char *data, size_t length,
                 uint64_t now);
/* The same with a traffic class and a hop limit of the datagram's own, 0 to 255;
 * -1: the endpoint's. */
int ams_udp_send_as(struct ams_stack *stack, int id, const struct ams_endpoint *to, const char *data, size_t length,
                    int tos, int hops, uint64_t now);
/* Receives one datagram: its length (which may exceed size: then it was
 * cut), or -AMS_EAGAIN, or a pending error. */
int ams_udp_recv(struct ams_stack *stack, int id, struct ams_endpoint *from, char *buffer, size_t size);
/* Returns 1: the id is free at once. */
int ams_udp_close(struct ams_stack *stack, int id);
/* The address that an endpoint is bound to. */
int ams_udp_local(struct ams_stack *stack, int id, struct ams_endpoint *out);
/* Joins a multicast group (its port is ignored), until the endpoint leaves it
 * or is closed.  -AMS_EADDRINUSE (it is in it), -AMS_EADDRNOTAVAIL (it isn't),
 * -AMS_EINVAL, -AMS_ENOBUFS (20 per endpoint); -AMS_EOPNOTSUPP where somebody
 * else speaks for the addresses (AMS_IDENTITY_QUIET). */
int ams_udp_join(struct ams_stack *stack, int id, const struct ams_endpoint *group, uint64_t now);
int ams_udp_leave(struct ams_stack *stack, int id, const struct ams_endpoint *group, uint64_t now);
#define AMS_UDP_MULTICAST_HOPS 1 /* 0 to 255; -1: the default, 1 */
#define AMS_UDP_MULTICAST_LOOP 2 /* 1 (the default): a stack that is in the group receives what it sends to it */
#define AMS_UDP_RECEIVED_TOS 3   /* read only: traffic class of the datagram that ams_udp_recv gave last */
#define AMS_UDP_RECEIVED_HOPS 4  /* and its hop limit */
/* AMS_UDP_*, or those of AMS_OPT_* that are said to be UDP's, too. */
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

/* CFFI-END */

#endif /* AIOMULTISTACK_STACK_H */
