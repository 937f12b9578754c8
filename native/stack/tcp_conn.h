/* SPDX-License-Identifier: BSD-2-Clause
 *
 * tcp_conn.h - the transmission control block, and what else TCP keeps: flows,
 * records of what was sent, listeners, TIME-WAIT, the host's tables.
 *
 * tcp.h says how they work together.
 */
#ifndef AMS_STACK_TCP_CONN_H
#define AMS_STACK_TCP_CONN_H

#include "core/seq.h"
#include "core/slab.h"
#include "stack/stack.h"
#include "stack/tcp_cc.h"
#include "stack/tcp_flows.h"
#include "stack/tcp_option.h"
#include "wire/bytes.h"
#include "wire/tcp.h"

#define TCP_MSS_DEFAULT4 536u            /* RFC 9293 section 3.7.1 */
#define TCP_MSS_DEFAULT6 1220u
#define TCP_MSS_MIN 88u                  /* smaller offers are raised to this (SACK panic class) */
#define TCP_GSO_MAX 65000u               /* payload of a super-frame */
#define TCP_GSO_SEGMENTS 128u            /* and segments: whoever cuts it up has a limit, too */
#define TCP_RTO_INITIAL AMS_NS_PER_S     /* RFC 6298 section 2.1 */
#define TCP_RTO_MAX_S 120
#define TCP_RTO_MAX (TCP_RTO_MAX_S * AMS_NS_PER_S)
#define TCP_WINDOW_CLAMP_MIN 1152u       /* half of the least receive buffer, as Linux */
#define TCP_SYN_RETRIES 6                /* as Linux: 127 s in all */
#define TCP_SYNACK_RETRIES 5
#define TCP_SYN_BACKLOG 1024u            /* half-open connections of a listener */
#define TCP_BLACK_HOLE_TIMEOUTS 3u       /* R1 (RFC 9293 section 3.8.3): then something is wrong with the path */
#define TCP_BLACK_HOLE_MSS 1024u         /* RFC 4821 section 7.2 */
#define TCP_RETRIES2 15                  /* RFC 9293 section 3.8.3, R2 */
#define TCP_ORPHAN_RETRIES 8
#define TCP_FIN_WAIT_2_TIMEOUT 60 /* seconds, as Linux */
#define TCP_FIN_WAIT_2_MAX 120
#define TCP_KEEPIDLE_DEFAULT 7200u
#define TCP_KEEPINTVL_DEFAULT 75u
#define TCP_KEEPCNT_DEFAULT 9u
#define TCP_DUPTHRESH 3u                 /* RFC 5681 section 3.2 */
#define TCP_SNDBUF_DEFAULT (128u << 10)
#define TCP_SNDBUF_MAX (4u << 20)
#define TCP_RCVBUF_DEFAULT (128u << 10)
#define TCP_RCVBUF_MAX (6u << 20)
#define TCP_CHUNK_SMALL FRAME_SMALL      /* send chunk: a small frame without headroom */
#define TCP_RECS_INLINE 1u
#define TCP_RECS_LEAST 8u                /* records of the smallest other ring */
#define TCP_RECS_MAX 16384u
#define TCP_PACE_SLOW 150000u             /* bytes per second: 1.2 Mbit/s */
#define TCP_BOARDS 2u                    /* sizes of rings that come from slabs */
#define TCP_PACE_SLACK_MIN (4 * AMS_NS_PER_MS)
#define TCP_PACE_SLACK_MAX (20 * AMS_NS_PER_MS)
#define TCP_CHALLENGE_ACKS 100u          /* per second and stack (RFC 5961 section 7) */
#define TCP_CHALLENGE_MS 500u            /* and one in this time per connection, as Linux */
#define TCP_QUICKACKS 16u                /* segments acknowledged at once when data begins to flow, as Linux */
#define TCP_BLOB_DATA 16384u             /* a frame with more is not copied through the blob */

/* A flow's local and remote endpoint. */
static inline struct ams_endpoint tcp_flow_local(const struct tcp_flow *flow)
{
    struct ams_endpoint out = {.port = flow->local_port, .family = flow->family};
    memcpy(out.ip, flow->local_ip, 16);
    return out;
}

static inline struct ams_endpoint tcp_flow_remote(const struct tcp_flow *flow)
{
    struct ams_endpoint out = {.port = flow->remote_port, .family = flow->family};
    memcpy(out.ip, flow->remote_ip, 16);
    return out;
}

/* A segment in flight, or lost, or SACKed: [seq, seq + len).  The last four
 * fields are what the connection looked like when it was sent (tcp_rate.c). */
struct tcp_rec {
    uint64_t sent_at;         /* latest transmission */
    uint32_t seq;
    uint32_t len;             /* sequence space: FIN counts one */
    uint32_t delivered;       /* conn->delivered, low bits */
    uint32_t delivered_ago;   /* sent_at - conn->delivered_at, in units of 1024 ns */
    uint32_t first_tx_ago;    /* sent_at - conn->first_tx_at, in units of 1024 ns */
    uint16_t unit;            /* payload of one segment of it, where it is a super-frame */
    uint8_t marks;            /* REC_* */
};

#define TCP_TS_AGE (4 * 3600 * AMS_NS_PER_S) /* 16 bits last for 29 years */

#define TCP_AGO_SHIFT 10      /* of times in units of 1024 ns: 32 bits last for 73 minutes */

#define REC_SACKED 1u
#define REC_LOST 2u           /* and not delivered as far as we know */
#define REC_RETRANS 4u        /* a retransmission of it is in flight */
#define REC_FIN 8u            /* the last sequence number is the FIN's */
#define REC_EVER_RETRANS 16u  /* no RTT sample (Karn) */
#define REC_PUSH 64u          /* ended what had been written: carries PSH, again too */
#define REC_APP_LIMITED 32u   /* sent while the application had too little to send */

/* Received data out of order, contiguous (tcp_reass.c). */
struct tcp_run {
    uint32_t seq;
    uint32_t end;             /* one past the last byte, FIN not counted */
    bool fin;                 /* the FIN follows at end */
    struct ams_frame *head, *tail;
};

enum tcp_ca_state { TCP_CA_OPEN, TCP_CA_DISORDER, TCP_CA_CWR, TCP_CA_RECOVERY, TCP_CA_LOSS };

/* conn->flags */
#define CONN_NODELAY (1u << 0)
#define CONN_CORK (1u << 1)
#define CONN_KEEPALIVE (1u << 2)
#define CONN_QUICKACK (1u << 3)
#define CONN_TS_OK (1u << 4)
#define CONN_SACK_OK (1u << 5)
#define CONN_WSCALE_OK (1u << 6)
#define CONN_FIN_QUEUED (1u << 7)   /* application is done sending */
#define CONN_FIN_SENT (1u << 8)
#define CONN_FIN_RECEIVED (1u << 9) /* in order: rcv_nxt is past it */
#define CONN_ACK_NOW (1u << 10)
#define CONN_SYN_NOW (1u << 11)     /* (re)send SYN or SYN-ACK */
#define CONN_PROBE_NOW (1u << 12)   /* send a window or keep-alive probe */
#define CONN_RST_NOW (1u << 13)     /* send RST, then free */
#define CONN_ORPHAN (1u << 14)      /* the application has closed */
#define CONN_PACING (1u << 15)      /* the application wants output paced */
#define CONN_ON_OUTPUT (1u << 16)
#define CONN_WANT_DRAIN (1u << 17)
#define CONN_CWND_LIMITED (1u << 18)
#define CONN_RCV_SHUT (1u << 19)    /* data that arrives is refused with RST */
#define CONN_DEAD (1u << 20)        /* CLOSED was or will be reported; no more segments */
#define CONN_SNDBUF_FIXED (1u << 21)
#define CONN_RCVBUF_FIXED (1u << 22)
#define CONN_PERSIST (1u << 23)     /* rexmit_at is the persist timer */
#define CONN_CLAIMED (1u << 25)     /* the local tuple is ours */
#define CONN_EOF_REPORTED (1u << 26)
#define CONN_DSACK (1u << 27)       /* dsack holds a range to report */
#define CONN_PINGPONG (1u << 24)    /* data flows both ways: ACKs wait to ride on it */
#define CONN_MORE (1u << 29)        /* the application has announced more: a short segment waits */
#define CONN_UNPUSHED (1u << 30)    /* and its last bytes carry no PSH */
#define CONN_PUSH (1u << 31)        /* what is queued goes out whatever Nagle and the cork say */
#define CONN_REXMIT_NOW (1u << 28)  /* the next retransmission may exceed cwnd (RFC 6675 section 5, 4.3) */

/* conn->loss: flags of loss detection and recovery */
#define LOSS_REORDERED (1u << 0)    /* reordering was seen (RFC 8985 section 6.2.3) */
#define LOSS_DSACK_ROUND (1u << 1)  /* dsack_round is set */
#define LOSS_TLP_OUT (1u << 2)      /* a loss probe is out: tlp_end_seq is set */
#define LOSS_TLP_RETRANS (1u << 3)  /* and it was a retransmission */
#define LOSS_TLP_NOW (1u << 4)      /* send a loss probe */
#define LOSS_PROBE_TLP (1u << 5)    /* probe_at is the PTO; else the reordering timer */
#define LOSS_UNDO (1u << 6)         /* undo_* are set: the reduction may be undone */
#define LOSS_UNDO_SENT (1u << 7)    /* and something was retransmitted since */
#define LOSS_FRTO (1u << 8)         /* F-RTO has not yet decided (RFC 5682) */
#define LOSS_FRTO_NEW (1u << 9)     /* its step 2b: only new data may go now */
#define LOSS_RENO_HOLD (1u << 10)   /* no SACK: duplicate ACKs at `recover` mean nothing (RFC 6582 section 4.1) */
#define LOSS_PACE_WAIT (1u << 11)   /* output waits for pace_at */
#define LOSS_CC_HEAP (1u << 12)     /* cc_heap, not cc_words, is the congestion control's state */

/* conn->ecn (tcp_ecn.c) */
#define ECN_OK (1u << 0)         /* negotiated, with RFC 3168's feedback */
#define ECN_ASKED (1u << 1)      /* our SYN asked for that */
#define ECN_SEEN (1u << 2)       /* a packet with ECT or CE came */
#define ECN_ECHO (1u << 3)       /* ECE on our ACKs until the peer has sent CWR */
#define ECN_CWR (1u << 4)        /* CWR on the next new data */
#define ECN_ACCURATE (1u << 5)   /* negotiated, with RFC 9768's feedback: tcp_accecn_of() is there */
#define ECN_ECT (1u << 6)        /* new data is sent as ECT(0) */
#define ECN_ASKED_ACCURATE (1u << 7) /* the SYN asked for that */

/* conn->fastopen (tcp_fastopen.c) */
#define FO_ASKED (1u << 0)       /* the application wants it */
#define FO_WAIT (1u << 1)        /* the SYN waits for data */
#define FO_OPTION (1u << 2)      /* our SYN had the option */
#define FO_EXPERIMENTAL (1u << 3) /* in its experimental form */
#define FO_DATA (1u << 4)        /* our SYN carried data */
#define FO_ACCEPTED (1u << 5)    /* data in the SYN was accepted, here or there */
#define FO_CHILD (1u << 6)       /* passive, in use before its handshake is done */
#define FO_REPLY (1u << 7)       /* the SYN-ACK brings a cookie */

struct tcp_listener;

/* One connection.  Fields are grouped by who needs them at the same time, a
 * cache line (64 bytes) at a time, and connections begin on a line: with many
 * of them, what a segment costs is the lines that it has to fetch.  Data in
 * order that finds nothing in flight the other way needs the first six, an
 * ACK of data those from the second to the ninth and that of congestion
 * control; what follows is for sending, and for what seldom happens. */
struct tcp_conn {
    /* line 0: the application's side */
    struct sock sock;         /* first: sock_find() gives it */
    struct ams_frame *rcv_head, *rcv_tail;
    uint32_t rcv_queued;      /* bytes in order, not yet consumed */
    uint32_t rcv_copied;      /* consumed since rcv_space_at */
    uint32_t rcvbuf;
    uint32_t refs_released;   /* not yet reported */

    /* line 1: the look-up, and modes */
    struct tcp_flow flow;
    uint32_t flags;
    uint8_t state;
    uint8_t ca_state;
    uint8_t snd_wscale;       /* shift of windows that the peer sends */
    uint8_t rcv_wscale;       /* shift of windows that we send */

    /* line 2: sequence spaces (RFC 9293 section 3.3.1) */
    uint32_t snd_una;
    uint32_t snd_nxt;
    uint32_t snd_wnd;         /* bytes */
    uint32_t snd_wl1;
    uint32_t snd_wl2;
    uint32_t snd_end;         /* one past the last byte queued */
    uint32_t max_snd_wnd;     /* largest window seen (RFC 9293 section 3.8.6.2.1) */
    uint32_t rcv_nxt;
    uint32_t rcv_adv;         /* right edge of the advertised window */
    uint32_t last_ack_sent;
    uint16_t rcv_mss;         /* estimate of the peer's segment size */
    uint16_t mss_cap;         /* of a path that seems to swallow longer segments, 0: none (tcp_mtu.c) */
    uint32_t ts_recent;       /* RFC 7323 */
    uint32_t segs_in;
    uint32_t data_segs_in;
    uint16_t n_runs;
    uint16_t mtu_probe;       /* the length that is being tried, 0: none */
    uint8_t ecn;              /* ECN_* */
    uint8_t quickacks;        /* ACKs to send without delay */
    uint8_t acks_owed;        /* duplicate ACKs to send one by one (no SACK) */
    uint8_t probes;           /* keep-alive or window probes unanswered */

    /* line 3: arrival */
    struct tcp_conn *out_next, *out_prev;
    uint64_t last_rcv_at;
    uint64_t data_rcv_at;     /* of the latest payload in order, 0: none yet */
    uint64_t rto;             /* RFC 6298, ns */
    uint64_t bytes_received;
    uint64_t rcv_space_at;
    struct tcp_ext *ext;      /* states of options (tcp_option.c), NULL: none */

    /* line 4: timers, absolute ns, 0: off */
    struct ams_timer timer;
    uint64_t rexmit_at;
    uint64_t probe_at;        /* PTO or reordering timer (RFC 8985) */
    uint64_t delack_at;
    uint64_t keep_at;

    /* line 5: what each segment that leaves needs */
    struct ip_path path;
    uint64_t pacing_rate;     /* bytes per second, 0: not paced */
    uint32_t lost_bytes;      /* marked LOST, SACKED ones excluded */
    uint32_t retrans_bytes;   /* LOST and RETRANS */
    uint32_t snd_mss;         /* payload per segment, options deducted */
    uint32_t segs_out;
    uint32_t window_clamp;    /* TCP_WINDOW_CLAMP, 0: none */
    uint16_t loss;            /* LOSS_* */
    uint16_t ts_recent_age;   /* when ts_recent was set, TCP_TS_AGE units, low bits */
    uint32_t ts_offset;
    uint32_t rcv_space;       /* the most that was consumed in a round trip, 0: not yet known */
    uint32_t rcv_rtt;         /* as the peer's data shows it, in units of 1024 ns, 0: not yet known */
    uint32_t rcv_rtt_echo;    /* the echo that it was measured by last */

    /* line 6: what an ACK tells */
    struct tcp_rec *recs;     /* the scoreboard: a ring, oldest first */
    uint16_t rec_cap;         /* a power of two */
    uint16_t rec_head;
    uint16_t rec_count;
    uint8_t backoff;
    uint8_t dupacks;
    uint32_t sacked_bytes;    /* without SACK: what duplicate ACKs stand for */
    uint32_t recover;         /* RFC 6582: snd_nxt when recovery began */
    uint64_t rack_sent_at;    /* send time of the latest-sent segment known delivered, 0: none */
    uint32_t rack_end_seq;
    uint32_t rack_rtt;        /* its round-trip time, in units of 1024 ns */
    uint64_t rttvar;
    uint64_t min_rtt;
    uint64_t first_unacked_at; /* since when nothing new was acknowledged */

    /* line 7: the send queue and its window, in bytes */
    struct ams_frame *snd_head, *snd_tail;
    struct ams_frame *snd_cursor; /* holds snd_nxt, or NULL */
    uint32_t sndbuf;
    uint32_t cwnd;
    uint32_t ssthresh;
    uint32_t cwnd_used;       /* most bytes in flight in this or the last window */
    const struct tcp_cc_ops *cc;
    uint64_t delivered;       /* bytes, SACKed ones included */
    uint64_t delivered_at;

    /* line 8: delivery rate (tcp_rate.c), statistics */
    uint64_t first_tx_at;     /* when the segment was sent that was delivered last */
    uint32_t app_limited;     /* `delivered` (low bits) up to which samples are app-limited, 0: none */
    uint32_t rate_delivered;  /* the latest sample: bytes */
    uint32_t rate_interval;   /* in this time, in units of 1024 ns */
    uint32_t lost_total;      /* bytes ever marked lost, low bits */
    uint64_t srtt;            /* ns */
    uint64_t bytes_acked;
    uint32_t delivered_segs;  /* segments that `delivered` came in, SYNs apart */
    uint32_t high_sacked;     /* one past the highest SACKed byte */
    uint64_t busy_since;      /* since when there is data to send or in flight, 0: there is none */
    uint64_t rwnd_since;      /* and no room for it in the peer's window */

    /* line 9: what data that leaves needs besides */
    uint64_t last_sent_at;    /* of the latest payload, SYN or FIN */
    uint64_t bytes_sent;
    uint64_t pace_at;         /* the next paced segment may go then */
    uint64_t cwnd_at;         /* when the window was last used, or changed otherwise */
    uint32_t cwnd_used_seq;   /* end of this window */
    uint32_t data_segs_out;
    uint32_t prr_out;
    uint32_t snd_short;       /* end of the latest segment that was not full */
    uint32_t lost_hint;       /* originals before it have been judged */
    uint32_t rexmit_hint;     /* nothing to retransmit before it */
    uint32_t tlp_end_seq;
    uint32_t notsent_lowat;   /* TCP_NOTSENT_LOWAT, 0: none */

    /* congestion control, and the scoreboard of who has one segment in flight */
    union {
        uint64_t cc_words[TCP_CC_WORDS]; /* the algorithm's state, */
        void *cc_heap;                   /* or where it is */
    };
    struct tcp_rec recs_inline[TCP_RECS_INLINE];

    /* data out of order */
    struct tcp_run *runs;     /* NULL: none */
    uint32_t ooo_bytes;
    uint32_t ooo_frames;
    uint32_t sack_recent[TCP_SACK_BLOCKS]; /* a sequence number in each of the latest runs */
    struct tcp_sack_block dsack;
    uint16_t runs_cap;
    uint8_t n_sack_recent;

    /* repair */
    uint64_t retrans_oldest;  /* no retransmission in flight was sent before */
    uint16_t reordering;      /* furthest that a segment came late, in segments, from DupThresh up */
    uint8_t reo_mult;         /* reordering window in quarters of the minimum RTT */
    uint8_t reo_persist;      /* recoveries until it shrinks again */
    uint32_t dsack_round;     /* no further widening before snd_una reaches it */
    /* the current reduction of cwnd: PRR (RFC 9937) and undo (RFC 4015), bytes */
    uint32_t prr_flight;      /* RecoverFS */
    uint32_t prr_delivered;
    uint32_t undo_cwnd;
    uint32_t undo_ssthresh;
    uint32_t undo_marker;     /* snd_una when it began */
    uint32_t undo_retrans;    /* retransmitted since, and not reported as duplicate */
    uint32_t retrans_ts;      /* our timestamp of the first retransmission that may be in flight */
    uint32_t retrans_high;    /* one past the highest byte retransmitted */

    /* set-up, options, the path's MTU */
    uint32_t iss;
    uint32_t irs;
    uint32_t challenge_ms;    /* when the last unasked-for ACK was owed, 0: never */
    uint32_t maxseg;          /* TCP_MAXSEG, 0: none */
    uint16_t mss_peer;        /* MSS option received */
    uint16_t mss_high;        /* the longest that isn't known to be swallowed, 0: no search */
    uint16_t mtu_probe_len;   /* payload of the probe */
    uint8_t syn_retries;      /* TCP_SYNCNT, 0: the stack's */
    uint8_t fastopen;         /* FO_* */
    uint32_t mtu_probe_seq;
    uint32_t mtu_search_ms;   /* when the next search may begin */
    bool deferred;            /* TCP_DEFER_ACCEPT: the handshake is done, but no data has come */
    uint8_t keepcnt;
    uint16_t keepidle;        /* seconds */
    uint16_t keepintvl;
    int16_t linger;           /* seconds, -1: off */
    int16_t linger2;          /* TCP_LINGER2, seconds, -1: no FIN-WAIT-2 without an application, 0: default */
    uint32_t user_timeout_ms;
    int32_t error;            /* soft or final status */
    uint32_t segs_retrans, dsack_dups;
    struct tcp_listener *listener; /* until the application has accepted */
    struct tcp_conn *child_next, *child_prev;

    uint64_t created;
    uint64_t bytes_retrans;
    /* what changes when all is acknowledged */
    uint64_t busy_time, rwnd_time; /* ns, see busy_since and rwnd_since */
    uint32_t drain_low;
    uint32_t refs_held;
};

#define TCP_CONN_LINE(field, line)                                                                     \
    _Static_assert(sizeof(void *) != 8 || offsetof(struct tcp_conn, field) == (line) * AMS_CACHE_LINE, \
                   "line " #line " begins with " #field)
TCP_CONN_LINE(flow, 1);
TCP_CONN_LINE(snd_una, 2);
TCP_CONN_LINE(out_next, 3);
TCP_CONN_LINE(timer, 4);
TCP_CONN_LINE(path, 5);
TCP_CONN_LINE(recs, 6);
TCP_CONN_LINE(snd_head, 7);
TCP_CONN_LINE(first_tx_at, 8);
TCP_CONN_LINE(last_sent_at, 9);
TCP_CONN_LINE(cc_words, 10);
TCP_CONN_LINE(recs_inline, 11);
#undef TCP_CONN_LINE

static inline struct tcp_conn *tcp_conn_of(struct tcp_flow *flow)
{
    return AMS_CONTAINER_OF(flow, struct tcp_conn, flow);
}

_Static_assert(sizeof(struct tcp_conn) <= 15 * AMS_CACHE_LINE, "an idle connection costs at most 1 KiB, tables included");

/* TIME-WAIT without an application (RFC 9293 section 3.6.1). */
struct tcp_tw {
    struct tcp_flow flow;
    struct ams_timer timer;
    struct tcp_tw *older, *newer; /* by age: what goes first at the limit */
    uint32_t snd_nxt;
    uint32_t rcv_nxt;
    uint32_t ts_recent;
    uint32_t ts_offset;
    uint32_t window;          /* as sent, unscaled */
    bool ts_ok;
    bool challenged;          /* a SYN too old to be let in was acknowledged */
    uint16_t ecn_flags;       /* of our ACKs (RFC 9768 section 3.2.2) */
};

struct tcp_listener {
    struct sock sock;
    struct tcp_listener *hash_next;
    struct ams_endpoint local;
    uint32_t flags;           /* AMS_LISTEN_* */
    uint32_t backlog;
    uint32_t embryonic;       /* connections in SYN_RECEIVED */
    uint32_t waiting;         /* established, not yet reported */
    uint32_t fastopen_limit;  /* AMS_OPT_FASTOPEN */
    uint32_t fastopen_pending; /* children in use whose handshake is not done */
    bool fastopen_own_key;
    struct siphash_key fastopen_key; /* if so */
    /* options that connections inherit */
    uint32_t conn_flags;
    uint16_t keepidle, keepintvl;
    uint8_t keepcnt;
    uint8_t syn_retries;
    int16_t linger;
    uint32_t user_timeout_ms;
    uint32_t notsent_lowat, window_clamp;
    int16_t linger2;
    uint8_t defer_accept;     /* SYN-ACKs to send in wait for data, 0: doesn't wait */
    uint32_t sndbuf, rcvbuf, maxseg;
    struct ip_service service;     /* of its own segments (cookies), too */
    const struct tcp_cc_ops *cc;
    struct tcp_conn *children;     /* embryonic or waiting */
};

#define TCP_LISTENER_BUCKETS 256u
#define TCP_AHEAD_FLOWS 512u     /* so many are in the caches anyway */
#define TCP_AHEAD_WAYS 4u
#define TCP_AHEAD_SETS (TCP_AHEAD_FLOWS / TCP_AHEAD_WAYS)
#define TCP_HEADS 64u            /* segments between two tcp_output_done() */
#define TCP_HEAD_SIZE (FRAME_HEADROOM + TX_HEAD_MAX)

struct tcp_host {
    struct tcp_flows flows;
    struct tcp_flow *latest;  /* of the latest segment; NULL: gone, or none */
    bool ahead_always;        /* tests: look ahead however little there is to gain (tcp_ahead.c) */
    uint32_t ahead_warmth;    /* how many of the latest segments were of connections that had some shortly before */
    uint32_t ahead_turn;      /* which segments of a batch tell */
    uint32_t ahead_recent[TCP_AHEAD_SETS][TCP_AHEAD_WAYS]; /* hashes of those, the latest first */
    uint32_t n_conns;
    struct tcp_listener *listeners[TCP_LISTENER_BUCKETS];
    uint32_t n_listeners;
    struct tcp_conn *out_head, *out_tail;
    uint8_t *heads;           /* header scratch, TCP_HEADS times TCP_HEAD_SIZE */
    uint32_t heads_used;
    struct slab conns;        /* where they lie */
    struct slab boards[TCP_BOARDS]; /* and their scoreboards of 8 and 16 records */
    struct tcp_tw *tw_oldest, *tw_newest;
    struct tcp_tw *free_tws;
    uint32_t n_free_tws;
    uint32_t n_tw;
    struct siphash_key isn_key;
    struct siphash_key port_key;
    struct siphash_key fastopen_key;
    struct siphash_key cookie_key;
    uint64_t cookies_until;   /* a SYN cookie may come back until then */
    struct tcp_fastopen_entry *fastopen_cache; /* NULL until something is learnt */
    const struct tcp_cc_ops *cc_default;
    struct tcp_cc_external *external[TCP_CC_EXTERNAL_MAX];
    int n_external;
    const struct tcp_option_ops *options[TCP_OPTIONS_KNOWN];
    uint16_t option_offset[TCP_OPTIONS_KNOWN]; /* of their states, 64-bit words */
    uint32_t n_options;
    uint32_t ext_words;       /* of all their states */
    uint8_t option_of_kind[256]; /* index into options and one; 0: none */
    uint64_t challenge_epoch; /* second of the count below */
    uint32_t challenge_count;
    uint64_t memory;          /* bytes allocated for TCBs, tables, scoreboards */
};

#endif
