/* SPDX-License-Identifier: BSD-2-Clause
 *
 * tcp.h - TCP's inside: the transmission control block and who does what.
 *
 * Theory of operation.  A connection's TCB is struct tcp_conn; TIME-WAIT
 * without an application is the much smaller struct tcp_tw.  Both contain a
 * struct tcp_flow, the 4-tuple and hash link, and live in one hash table.
 * Listeners live in a table by port.
 *
 * Sending.  Application bytes wait in a list of frames (snd_head..snd_tail;
 * frame->seq is the sequence number of its first byte), some copied, some
 * only referenced.  Nothing is emitted when data is queued or an ACK
 * arrives: the connection is put on the output list (tcp_want_output) and
 * tcp_output() builds its segments when the ring has room.  Each segment
 * sent (a super-frame counts as one) has a record (struct tcp_rec) with its
 * range, send time and SACK/loss marks: the scoreboard of RFC 6675, and what
 * RACK (RFC 8985) needs.  snd_nxt never goes back: retransmission is a
 * record marked lost.  tcp_sack.c keeps the scoreboard, tcp_rack.c says what
 * is lost, tcp_recovery.c what to do about it, tcp_rate.c measures how fast
 * data is delivered, and a congestion control (tcp_cc.h) sets cwnd and
 * pacing rate.
 *
 * Receiving.  In-order payload stays in its frames (rcv_head..); the rest
 * waits in runs (tcp_reass.c).  The application is told through its sock.
 *
 * Timers.  A connection has several deadlines (rexmit_at, probe_at, pace_at,
 * delack_at, keep_at) and one wheel timer that is never later than the
 * earliest of them; it is only moved when a deadline gets earlier, and checks
 * what is really due when it fires.  So a segment costs no wheel
 * operation.
 *
 * States (RFC 9293 section 3.3.2), numbered as AMS_TCP_*; what the
 * application may still do, and what may be sent:
 *
 *   state         app may send  app may read  we send        FIN sent/acked
 *   SYN_SENT      queue only    no            SYN            no
 *   SYN_RECEIVED  queue only    no            SYN-ACK        no
 *   ESTABLISHED   yes           yes           data           no
 *   CLOSE_WAIT    yes           what is left  data           no
 *   FIN_WAIT_1    no            yes           data, FIN      sent
 *   FIN_WAIT_2    no            yes           ACKs           acked
 *   CLOSING       no            what is left  FIN            sent
 *   LAST_ACK      no            what is left  data, FIN      sent
 *   TIME_WAIT     no            what is left  ACKs           acked
 *   CLOSED        no            no            RST at most    -
 *
 * FIN_WAIT_1, CLOSING and LAST_ACK are entered when the FIN is *queued*
 * (as Linux does), so data may still go out before it.
 */
#ifndef AMS_STACK_TCP_H
#define AMS_STACK_TCP_H

#include "core/seq.h"
#include "core/slab.h"
#include "stack/stack.h"
#include "stack/tcp_cc.h"
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
#define TCP_RECS_MAX 16384u
#define TCP_PACE_SLACK_MIN (4 * AMS_NS_PER_MS)
#define TCP_PACE_SLACK_MAX (20 * AMS_NS_PER_MS)
#define TCP_CHALLENGE_ACKS 100u          /* per second and stack (RFC 5961 section 7) */
#define TCP_CHALLENGE_MS 500u            /* and one in this time per connection, as Linux */
#define TCP_QUICKACKS 16u                /* segments acknowledged at once when data begins to flow, as Linux */
#define TCP_BLOB_DATA 16384u             /* a frame with more is not copied through the blob */

/* ---- the table ------------------------------------------------------------- */

/* What a look-up needs; part of conn and tw. */
struct tcp_flow {
    struct tcp_flow *hash_next;
    uint32_t hash;
    uint16_t local_port;
    uint16_t remote_port;
    uint8_t local_ip[16];
    uint8_t remote_ip[16];
    bool is_tw;
    uint8_t family;
};

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
    uint32_t delivered_ago;   /* sent_at - conn->delivered_at, in TCP_AGO units */
    uint32_t first_tx_ago;    /* sent_at - conn->first_tx_at, in TCP_AGO units */
    uint16_t unit;            /* payload of one segment of it, where it is a super-frame */
    uint8_t marks;            /* REC_* */
};

#define TCP_TS_AGE (256 * AMS_NS_PER_S) /* 16 bits last for 194 days */

#define TCP_AGO_SHIFT 10      /* 1024 ns: 32 bits last for 73 minutes */

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
 * ACK of data the first nine; what follows is for sending, and for what
 * seldom happens. */
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
    uint32_t rcv_rtt;         /* as the peer's data shows it, TCP_AGO units, 0: not yet known */
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
    uint32_t rack_rtt;        /* its round-trip time, TCP_AGO units */
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
    uint32_t rate_interval;   /* in this time, TCP_AGO units */
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
    uint32_t drain_low;
    uint32_t refs_held;
    struct tcp_listener *listener; /* until the application has accepted */
    struct tcp_conn *child_next, *child_prev;

    /* statistics that seldom change */
    uint64_t created;
    uint64_t bytes_retrans;
    uint64_t busy_time, rwnd_time; /* ns, see busy_since and rwnd_since */
    uint32_t segs_retrans, dsack_dups;
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
    const struct tcp_cc_ops *cc;
    struct tcp_conn *children;     /* embryonic or waiting */
};

#define TCP_LISTENER_BUCKETS 256u
#define TCP_AHEAD_FLOWS 512u     /* fewer are in the caches anyway */
#define TCP_HEADS 64u            /* segments between two tcp_output_done() */
#define TCP_HEAD_SIZE (FRAME_HEADROOM + TX_HEAD_MAX)

struct tcp_host {
    struct tcp_flow **buckets;
    uint32_t n_buckets;       /* power of two */
    struct tcp_flow *latest;  /* of the latest segment; NULL: gone, or none */
    uint32_t n_flows;
    uint32_t ahead_flows;     /* with so many it is worth while to look ahead (tcp_ahead.c) */
    uint32_t n_conns;
    struct tcp_listener *listeners[TCP_LISTENER_BUCKETS];
    uint32_t n_listeners;
    struct tcp_conn *out_head, *out_tail;
    uint8_t *heads;           /* header scratch, TCP_HEADS times TCP_HEAD_SIZE */
    uint32_t heads_used;
    struct slab conns;        /* where they lie */
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

struct tcp_delivery;

/* ---- tcp_table.c -------------------------------------------------------------- */
struct tcp_flow *tcp_flow_find(struct ams_stack *stack, const uint8_t local_ip[16], uint16_t local_port,
                               const uint8_t remote_ip[16], uint16_t remote_port, uint8_t family);
/* The same for a received segment: they come in trains, so the flow of the
 * latest is looked at first. */
struct tcp_flow *tcp_flow_next(struct ams_stack *stack, const struct ams_frame *frame, const struct ip_info *ip,
                               uint16_t local_port, uint16_t remote_port);
/* The hash that chooses a flow's bucket. */
uint32_t tcp_flow_hash4(const struct ams_stack *stack, const uint8_t local_ip[4], uint16_t local_port,
                        const uint8_t remote_ip[4], uint16_t remote_port);
uint32_t tcp_flow_hash6(const struct ams_stack *stack, const uint8_t local_ip[16], uint16_t local_port,
                        const uint8_t remote_ip[16], uint16_t remote_port);
#define TCP_MARK_HASHED 0x40u /* frame->marks: a received segment, frame->aux is that hash */
int tcp_flow_insert(struct ams_stack *stack, struct tcp_flow *flow);
void tcp_flow_remove(struct ams_stack *stack, struct tcp_flow *flow);
/* Has the caches trimmed if the last connection has gone, TIME-WAIT included. */
void tcp_idle(struct ams_stack *stack);
/* A blank TCB with the stack's defaults, not in any table.  NULL: no memory. */
struct tcp_conn *tcp_conn_new(struct ams_stack *stack, uint64_t now);
/* Takes a TCB out of every list and table and frees all that it holds. */
void tcp_conn_free(struct ams_stack *stack, struct tcp_conn *conn);
/* The listener that takes a connection; the remote end matters where several share the port. */
struct tcp_listener *tcp_listener_find(struct ams_stack *stack, const uint8_t local_ip[16], uint16_t port,
                                       const uint8_t remote_ip[16], uint16_t remote_port, uint8_t family);
int tcp_claim(struct ams_stack *stack, struct tcp_conn *conn);
/* ISN by keyed hash and clock (RFC 6528). */
uint32_t tcp_isn(struct ams_stack *stack, const struct tcp_flow *flow, uint64_t now);
/* Leaves the books of the listener that it came from; NULL listener is legal. */
void tcp_listener_forget(struct tcp_conn *conn);
/* Picks a local port for flow's other three (RFC 6056 section 3.3.3), or, if
 * flow has one already, the next that is free behind it. */
int tcp_ephemeral_port(struct ams_stack *stack, struct tcp_flow *flow);

/* ---- tcp_listen.c ---------------------------------------------------------------- */
/* @frame: the payload; taken (then *frame is NULL) if the SYN's data is
 * accepted.  frame itself may be NULL. */
void tcp_listen_input(struct ams_stack *stack, struct tcp_listener *listener, const struct tcp_repr *seg,
                      const struct ip_info *ip, struct ams_frame **frame, uint32_t min_iss, uint64_t now);
/* Makes a connection in SYN_RECEIVED from a SYN.  NULL: no memory, no route. */
struct tcp_conn *tcp_listen_child(struct ams_stack *stack, struct tcp_listener *listener, const struct tcp_repr *seg,
                                  const struct ip_info *ip, uint32_t min_iss, uint64_t now);
/* True if no more may wait to be accepted. */
bool tcp_listener_full(const struct tcp_listener *listener);
/* Answers a segment that belongs to no connection (RFC 9293 section 3.10.7.1). */
void tcp_send_reset(struct ams_stack *stack, const struct tcp_repr *seg, const struct ip_info *ip, uint32_t payload,
                    uint64_t now);
/* One header-only segment outside of a connection's output (TIME-WAIT, RST). */
void tcp_send_bare(struct ams_stack *stack, const struct tcp_flow *flow, const struct tcp_repr *repr, uint64_t now);
/* An embryonic connection became ESTABLISHED: puts it up for accept. */
bool tcp_listener_established(struct ams_stack *stack, struct tcp_conn *conn, uint64_t now);

/* Gives back what the listener has claimed. */
void tcp_listener_release(struct ams_stack *stack, const struct tcp_listener *listener);
/* ams_tcp_close() of a listener. */
int tcp_listener_close(struct ams_stack *stack, int id);

/* ---- tcp_fastopen.c ---------------------------------------------------------------------- */
/* AMS_OPT_FASTOPEN_CONNECT.  Return: 0, -AMS_EINVAL (the SYN has gone), -AMS_EOPNOTSUPP. */
int tcp_fastopen_ask(struct ams_stack *stack, struct tcp_conn *conn, int value);
/* True while the SYN waits for data. */
bool tcp_fastopen_waits(const struct tcp_conn *conn);
/* Bytes that the first SYN can carry. */
uint32_t tcp_fastopen_room(struct ams_stack *stack, const struct tcp_conn *conn);
/* Puts the option into the first SYN.  Return: the data bytes that go with it. */
uint32_t tcp_fastopen_syn(struct ams_stack *stack, struct tcp_conn *conn, struct tcp_repr *repr);
/* The SYN-ACK came: learns from it and repeats what it left out.
 * @repeated: the SYN was retransmitted */
void tcp_fastopen_synack(struct ams_stack *stack, struct tcp_conn *conn, const struct tcp_repr *seg, bool repeated,
                         uint64_t now);
/* A child's SYN came: opens it at once if the cookie is good. */
void tcp_fastopen_child(struct ams_stack *stack, struct tcp_listener *listener, struct tcp_conn *conn,
                        const struct tcp_repr *seg, struct ams_frame **frame, uint64_t now);
/* True of a child that nobody has read from or written to: as good as not
 * accepted (an error that ends a half-open connection may end it). */
static inline bool tcp_fastopen_untouched(const struct tcp_conn *conn)
{
    return conn->fastopen & FO_CHILD && conn->rcv_queued == conn->bytes_received && conn->snd_end == conn->iss + 1;
}
/* Puts the cookie into a SYN-ACK that owes one. */
void tcp_fastopen_reply(struct ams_stack *stack, const struct tcp_conn *conn, struct tcp_repr *repr);
/* The child's handshake is done, or the child is gone. */
void tcp_fastopen_settled(struct ams_stack *stack, struct tcp_conn *conn);
/* Empties the table of servers. */
void tcp_fastopen_forget(struct ams_stack *stack);
void tcp_fastopen_fini(struct ams_stack *stack);
/* A key from 16 bytes. */
void tcp_fastopen_key(const uint8_t given[16], struct siphash_key *key);

/* ---- tcp_cookie.c ----------------------------------------------------------------------------- */
/* Answers a SYN for which there is no room, keeping nothing. */
void tcp_cookie_send(struct ams_stack *stack, const struct tcp_listener *listener, const struct tcp_repr *syn,
                     const struct ip_info *ip, uint64_t now);
/* Makes the connection, in SYN_RECEIVED, of an ACK that brings a cookie back.
 * @child: it; the segment is then its.  NULL: none, or there is no room for it
 * now: the peer, which believes in it, is left to try again
 * Return: false if the ACK brings no cookie. */
bool tcp_cookie_accept(struct ams_stack *stack, struct tcp_listener *listener, const struct tcp_repr *ack,
                       const struct ip_info *ip, struct tcp_conn **child, uint64_t now);

/* ---- tcp_ecn.c ------------------------------------------------------------------------------ */
/* The ECN flags of our SYN. */
uint16_t tcp_ecn_syn(const struct ams_stack *stack, struct tcp_conn *conn, bool first);
/* The flags of a SYN-ACK for this SYN, by somebody who keeps no state. */
uint16_t tcp_ecn_answer(const struct ams_stack *stack, const struct tcp_repr *syn, uint8_t tos);
/* Does the ACK of such a SYN-ACK tell that it was about Accurate ECN (RFC 9768 section 5.1)? */
bool tcp_ecn_answered_accurately(const struct ams_stack *stack, const struct tcp_repr *ack);
/* The peer's SYN asked, or not. */
void tcp_ecn_passive(struct ams_stack *stack, struct tcp_conn *conn, const struct tcp_repr *syn, uint8_t tos);
/* It came again.  Return: false if it contradicts the first (RFC 9768 section
 * 3.1.5): the connection must be reset. */
bool tcp_ecn_syn_again(struct ams_stack *stack, struct tcp_conn *conn, const struct tcp_repr *syn, uint8_t tos);
/* The flags of our SYN-ACK. */
uint16_t tcp_ecn_synack(struct tcp_conn *conn);
/* The answer to our SYN; once the connection is established, tcp_ecn_opened(). */
void tcp_ecn_active(struct ams_stack *stack, struct tcp_conn *conn, const struct tcp_repr *synack, uint8_t tos);
void tcp_ecn_opened(struct ams_stack *stack, struct tcp_conn *conn, uint64_t now);
/* The ACK of our SYN-ACK came, and the connection is established. */
void tcp_ecn_third(struct ams_stack *stack, struct tcp_conn *conn, const struct tcp_repr *ack, uint32_t payload,
                   uint64_t now);
/* The SYN-ACK came again; it will be acknowledged. */
void tcp_ecn_synack_again(struct tcp_conn *conn, uint8_t tos);
/* In AccECN mode: must a pure ACK leave before anything else (RFC 9768
 * section 3.2.2.1)? */
bool tcp_ecn_handshake_ack(const struct tcp_conn *conn);
/* The flags of a segment that is no SYN.  @handshake: it is that ACK */
uint16_t tcp_ecn_ack_flags(struct tcp_conn *conn, bool handshake);
/* In AccECN mode: would a port that cuts super-frames spoil the flags?  It
 * clears CWR on all parts but the first (RFC 9768 section 3.3.4). */
bool tcp_ecn_unsplittable(const struct tcp_conn *conn);
/* In AccECN mode: payload came that was acknowledged already. */
void tcp_ecn_duplicate(struct tcp_conn *conn);
/* A retransmission timeout. */
void tcp_ecn_timeout(struct tcp_conn *conn);
/* An acceptable segment came, with this TOS or traffic class.
 * @segment: payload of the segments that were merged into it, 0: none were */
void tcp_ecn_arrived(struct tcp_conn *conn, const struct tcp_repr *seg, uint8_t tos, uint32_t payload,
                     uint32_t segment);
/* What is expected of a segment that says nothing new about congestion.
 * @tos: of its forerunner
 * @flags: set to the flags among AE, CWR and ECE that it has
 * Return: false: nothing is known, or each segment is to be looked at. */
bool tcp_ecn_predict(const struct tcp_conn *conn, uint8_t tos, uint16_t *flags);
/* Such segments came.
 * @payload: of all
 * @tsval: of the last */
void tcp_ecn_predicted(struct tcp_conn *conn, uint8_t tos, uint32_t payload, uint32_t tsval);
/* An ACK came: what does it tell about congestion? */
void tcp_ecn_ack(struct ams_stack *stack, struct tcp_conn *conn, const struct tcp_repr *seg, uint32_t payload,
                 const struct tcp_delivery *delivery, uint64_t now);

/* ---- tcp_option_timeout.c -------------------------------------------------------------------- */
/* The application has set TCP_USER_TIMEOUT: the peer may be told. */
void tcp_user_timeout_changed(struct ams_stack *stack, struct tcp_conn *conn);

/* ---- tcp_user.c ------------------------------------------------------------------------ */
/* ISS, timestamp offset, what we offer. */
/* Window scale that lets a buffer be offered (RFC 7323 section 2.2). */
uint8_t tcp_choose_wscale(uint32_t rcvbuf_max);
/* What our timestamps start from: one offset per pair of hosts (RFC 7323 section 5.4). */
uint32_t tcp_ts_offset(const struct ams_stack *stack, const struct tcp_flow *flow);
void tcp_conn_start(struct ams_stack *stack, struct tcp_conn *conn, uint64_t now);
/* Takes a connection away from its listener or application and resets it. */
void tcp_orphan_reset(struct ams_stack *stack, struct tcp_conn *conn);

/* ---- tcp_input.c --------------------------------------------------------------------- */
/* Sets what the SYN's options agreed on. */
void tcp_negotiate(struct ams_stack *stack, struct tcp_conn *conn, const struct tcp_repr *syn);
void tcp_established(struct ams_stack *stack, struct tcp_conn *conn, uint64_t now);
/* The connection ends now: status 0 or negative is reported, then it goes. */
void tcp_drop(struct ams_stack *stack, struct tcp_conn *conn, int status);
/* Sends an RST at the next output, then drops it without a report. */
void tcp_reset(struct ams_stack *stack, struct tcp_conn *conn);
void tcp_challenge_ack(struct ams_stack *stack, struct tcp_conn *conn, uint64_t now);

/* The record that a delivery-rate sample starts from. */
struct tcp_rate_mark {
    bool valid;
    bool app_limited;
    uint32_t end_seq;
    uint32_t delivered;       /* conn->delivered when it was sent, low bits */
    uint64_t sent_at;
    uint64_t delivered_at;
    uint64_t send_elapsed;
};

/* ---- tcp_ack.c ------------------------------------------------------------------------ */
/* Handles the acknowledgement part of a segment.  Return: false if the
 * segment must not be processed further. */
bool tcp_process_ack(struct ams_stack *stack, struct tcp_conn *conn, const struct tcp_repr *seg, uint32_t payload,
                     uint64_t now);
void tcp_rtt_sample(struct ams_stack *stack, struct tcp_conn *conn, uint64_t rtt);
void tcp_update_window(struct tcp_conn *conn, const struct tcp_repr *seg);
/* Bytes believed to be in the network (RFC 6675 "pipe"). */
static inline uint32_t tcp_pipe(const struct tcp_conn *conn)
{
    return conn->snd_nxt - conn->snd_una - conn->sacked_bytes - conn->lost_bytes + conn->retrans_bytes;
}

/* ---- tcp_sack.c: the scoreboard ----------------------------------------------------------- */
/* A ring of records with what only a larger scoreboard needs. */
struct tcp_board {
    struct tcp_sack_block cache[TCP_SACK_BLOCKS]; /* blocks of the last ACK, already marked */
    struct tcp_rec recs[];
};
struct tcp_rec *tcp_rec_at(struct tcp_conn *conn, uint32_t index);
/* Appends a record.  NULL: no memory or too many. */
struct tcp_rec *tcp_rec_push(struct ams_stack *stack, struct tcp_conn *conn);
/* True if tcp_rec_push() will succeed. */
bool tcp_rec_reserve(struct ams_stack *stack, struct tcp_conn *conn, uint32_t more);
/* Cuts record index in two at seq (inside it).  Return: false: no memory. */
bool tcp_rec_split(struct ams_stack *stack, struct tcp_conn *conn, uint32_t index, uint32_t seq);
/* Index of the record that holds seq; rec_count if it lies beyond. */
uint32_t tcp_rec_search(struct tcp_conn *conn, uint32_t seq);
void tcp_recs_fini(struct ams_stack *stack, struct tcp_conn *conn);
/* What one ACK told about deliveries. */
struct tcp_delivery {
    uint32_t acked;           /* bytes by cumulative ACK */
    uint32_t sacked;          /* bytes newly SACKed */
    uint32_t delivered;       /* bytes newly delivered either way */
    uint32_t dsacked;         /* bytes reported as duplicates, 0: no D-SACK */
    uint32_t dsack_end;       /* where they end */
    uint32_t prior_pipe;      /* in flight before this ACK */
    uint32_t prior_lost;      /* lost_total before this ACK */
    uint32_t fack;            /* one past the highest byte known delivered before this ACK */
    uint32_t tsecr;           /* echoed timestamp, 0: none */
    uint64_t rtt;             /* of the latest segment acknowledged, 0: none; void if `repaired` */
    uint64_t sack_rtt;        /* of the latest segment newly SACKed, 0: none */
    bool repaired;            /* the cumulative ACK covers retransmitted data: what lay behind the
                                 hole arrived before, so its age is no round-trip time */
    bool original;            /* never retransmitted data below `recover` was delivered */
    bool duplicate;           /* a duplicate ACK (RFC 5681 section 2) */
    uint64_t repaired_at;     /* when such data was sent last */
    struct tcp_rate_mark mark; /* the record that the rate sample starts from */
};
void tcp_recs_ack(struct ams_stack *stack, struct tcp_conn *conn, uint32_t ack, struct tcp_delivery *out, uint64_t now);
void tcp_recs_sack(struct ams_stack *stack, struct tcp_conn *conn, const struct tcp_repr *seg,
                   struct tcp_delivery *out, uint64_t now);
/* Marks one record lost, unless it is SACKed. */
void tcp_rec_mark_lost(struct tcp_conn *conn, struct tcp_rec *rec);
/* A retransmission of a lost record was lost, too. */
void tcp_rec_mark_relost(struct tcp_conn *conn, struct tcp_rec *rec);
/* Nothing is lost after all. */
void tcp_recs_unmark_lost(struct tcp_conn *conn);
/* The receiver dropped what it had SACKed (RFC 2018 section 8). */
void tcp_recs_forget_sacks(struct tcp_conn *conn);

/* ---- tcp_rack.c: loss detection (RFC 8985) ------------------------------------------------- */
/* A record was delivered: RACK's newest send time, its RTT, reordering.
 * @tsecr: what was echoed for it, 0: not known
 * Return: an RTT sample in ns, 0 if the record gives none (Karn). */
uint64_t tcp_rack_delivered(struct tcp_conn *conn, const struct tcp_rec *rec, const struct tcp_delivery *delivery,
                            uint32_t tsecr, uint64_t now);
/* An ACK with a D-SACK came, or recovery is over: the reordering window. */
void tcp_rack_dsack(struct tcp_conn *conn);
void tcp_rack_recovered(struct tcp_conn *conn);
/* Marks what is lost now; sets the reordering timer for what may be soon. */
void tcp_rack_detect(struct ams_stack *stack, struct tcp_conn *conn, uint64_t now);
/* True if a record is due to be declared lost at a timeout (section 6.3). */
bool tcp_rack_expired(const struct tcp_conn *conn, const struct tcp_rec *rec, uint64_t now);
/* Arms the probe timeout if a tail loss probe may be needed (section 7.2). */
void tcp_tlp_schedule(struct ams_stack *stack, struct tcp_conn *conn, uint64_t now);
/* An ACK arrived while a probe was out (section 7.4).  Return: true if the
 * probe has repaired a loss that nothing else showed. */
bool tcp_tlp_ack(struct tcp_conn *conn, const struct tcp_delivery *delivery);
/* probe_at has come. */
void tcp_probe_timeout(struct ams_stack *stack, struct tcp_conn *conn, uint64_t now);

/* ---- tcp_recovery.c --------------------------------------------------------------------- */
/* Decides what is lost; enters, runs and leaves recovery. */
void tcp_recovery_step(struct ams_stack *stack, struct tcp_conn *conn, const struct tcp_delivery *delivery,
                       uint64_t now);
/* Without SACK: what duplicate and new ACKs say was delivered. */
void tcp_reno_account(struct tcp_conn *conn, struct tcp_delivery *delivery);
/* Loss was found outside of an ACK (reordering timer). */
void tcp_recovery_detected(struct ams_stack *stack, struct tcp_conn *conn, uint64_t now);
/* True while cwnd is being reduced by PRR. */
static inline bool tcp_reducing(const struct tcp_conn *conn)
{
    return conn->ca_state == TCP_CA_RECOVERY || conn->ca_state == TCP_CA_CWR;
}
/* PRR's cwnd after an ACK (RFC 9937 section 6). */
void tcp_prr_ack(struct tcp_conn *conn, const struct tcp_delivery *delivery);
/* A record is about to be retransmitted. */
void tcp_recovery_sent(struct tcp_conn *conn, struct tcp_rec *rec, uint32_t len, uint64_t now);
/* Retransmission timeout: all that is not SACKed is lost. */
void tcp_recovery_rto(struct ams_stack *stack, struct tcp_conn *conn, uint64_t now);
/* Congestion was signalled without loss (ECN); once per window has an effect. */
void tcp_cc_ecn(struct ams_stack *stack, struct tcp_conn *conn, uint64_t now);
/* The first record to retransmit, its index in *index; NULL: none. */
struct tcp_rec *tcp_recovery_next(struct tcp_conn *conn, uint32_t *index);
/* Sends all that is not SACKed again, without congestion being the reason. */
void tcp_recovery_resend(struct ams_stack *stack, struct tcp_conn *conn, uint64_t now);
/* The path MTU fell: segments above it are sent again (RFC 1191 section 6.4). */
void tcp_mtu_reduced(struct ams_stack *stack, struct tcp_conn *conn, uint64_t now);

/* ---- tcp_rate.c ---------------------------------------------------------------------------- */
/* A record is sent, for the first time or again. */
void tcp_rate_sent(struct tcp_conn *conn, struct tcp_rec *rec, uint64_t now);
/* A record was delivered. */
void tcp_rate_delivered(struct tcp_conn *conn, const struct tcp_rec *rec, struct tcp_rate_mark *mark);
/* The ACK has been taken in: the sample that it gives. */
void tcp_rate_sample(struct tcp_conn *conn, const struct tcp_delivery *delivery, struct tcp_cc_sample *out,
                     uint64_t now);
/* The application has nothing more to send although it could. */
void tcp_rate_app_limited(struct tcp_conn *conn);

/* ---- tcp_train.c: segments that bring nothing but the next bytes ------------------------- */
/* A segment has gone through TCP: takes those behind it in the batch that can be
 * predicted from it.
 * @ip: its network header */
void tcp_train(struct ams_stack *stack, struct tcp_conn *conn, const struct ip_info *ip, uint64_t now);
/* At a glance: has the next frame of the batch the right sequence number? */
static inline bool tcp_train_likely(const struct ams_stack *stack, const struct tcp_conn *conn, const struct ip_info *ip)
{
    if (stack->rx_next == stack->rx_end)
        return false;
    const struct ams_frame *frame = *stack->rx_next;
    return frame->len >= ip->l4_off + TCP_HEADER && load_be32(frame->data + ip->l4_off + 4) == conn->rcv_nxt;
}

/* ---- tcp_reass.c: received data --------------------------------------------------------- */
/* Takes in-order or out-of-order payload; consumes frame (data/len is the
 * payload window).  fin: the segment ends with FIN. */
void tcp_receive(struct ams_stack *stack, struct tcp_conn *conn, struct ams_frame *frame, uint32_t seq, bool fin,
                 uint64_t now);
/* Appends payload to the in-order queue; consumes frame.  rcv_nxt is the caller's affair. */
void tcp_receive_append(struct tcp_conn *conn, struct ams_frame *frame);
/* rcv_nxt has moved: is an ACK to be sent now, or later?
 * @segment: payload of the latest segment */
void tcp_ack_policy(struct ams_stack *stack, struct tcp_conn *conn, uint32_t segment, uint64_t now);
void tcp_receive_fini(struct ams_stack *stack, struct tcp_conn *conn);
/* Notes a duplicate to be reported (RFC 2883): the first since the last ACK,
 * and what touches it. */
void tcp_dsack_note(struct tcp_conn *conn, uint32_t start, uint32_t end);
/* Fills in SACK blocks for an ACK.
 * @room: blocks at most */
void tcp_sack_blocks(struct tcp_conn *conn, struct tcp_repr *repr, int room);

/* ---- tcp_rcvbuf.c: the receive buffer and its window ------------------------------------ */
/* Three quarters of the frames that there may be are in use: nothing grows. */
bool tcp_frames_short(const struct ams_stack *stack);
/* Seven eighths of them are: data is dropped. */
bool tcp_receive_scarce(const struct ams_stack *stack);
/* Is data at seq to be dropped, because frames are needed elsewhere? */
bool tcp_receive_refused(const struct ams_stack *stack, const struct tcp_conn *conn, uint32_t seq);
/* Full-sized data came that echoes a new timestamp of ours. */
void tcp_receive_rtt(struct tcp_conn *conn, uint32_t tsecr, uint64_t now);
/* The window to advertise now, in bytes (never shrinks the right edge). */
uint32_t tcp_receive_window(const struct ams_stack *stack, const struct tcp_conn *conn);
/* The application took n bytes: window update, auto-tuning. */
void tcp_receive_consumed(struct ams_stack *stack, struct tcp_conn *conn, uint32_t n, uint64_t now);

/* ---- tcp_mtu.c: how long segments may be ------------------------------------------------- */
/* The MSS that path and peer allow, options not deducted. */
uint32_t tcp_mss_limit(const struct tcp_conn *conn);
/* Recomputes snd_mss from that, from what the path swallows, and options. */
void tcp_update_mss(struct ams_stack *stack, struct tcp_conn *conn);
/* The retransmission timer expired: perhaps segments are too long. */
void tcp_mtu_timeout(struct ams_stack *stack, struct tcp_conn *conn, uint64_t now);
/* Payload of a probe that is to be sent now instead of a segment of mss
 * bytes, and is noted as sent; 0: none.
 * @avail: bytes queued and not sent */
uint32_t tcp_mtu_probe(struct ams_stack *stack, struct tcp_conn *conn, uint32_t avail, uint32_t mss, uint64_t now);
/* snd_una has moved while a probe was out. */
void tcp_mtu_acked(struct ams_stack *stack, struct tcp_conn *conn);
/* Something is lost while a probe was out.  Return: true if it is the probe
 * and nothing else. */
bool tcp_mtu_lost(struct ams_stack *stack, struct tcp_conn *conn);
static inline bool tcp_mtu_is_probe(const struct tcp_conn *conn, uint32_t seq, uint32_t payload)
{
    return AMS_UNLIKELY(conn->mtu_probe) && seq == conn->mtu_probe_seq && payload == conn->mtu_probe_len;
}

/* ---- tcp_output.c ------------------------------------------------------------------------- */
void tcp_want_output(struct ams_stack *stack, struct tcp_conn *conn);
void tcp_unlink_output(struct ams_stack *stack, struct tcp_conn *conn);
/* The MSS that our SYN offers. */
uint32_t tcp_advertised_mss(const struct ams_stack *stack, const struct tcp_conn *conn);
/* Bytes that a paced connection may send at once: what it sends in about a
 * millisecond, two segments at least. */
static inline uint32_t tcp_paced_burst(const struct tcp_conn *conn)
{
    uint32_t burst = (uint32_t)ams_min_u64(conn->pacing_rate >> 10, TCP_GSO_MAX);
    return ams_max_u32(burst, 2 * conn->snd_mss);
}
/* Lateness of a paced segment that later ones make up for, so that a loop
 * that was busy doesn't lower the rate: half a round trip, within bounds. */
static inline uint64_t tcp_pace_slack(const struct tcp_conn *conn)
{
    return ams_min_u64(ams_max_u64(conn->srtt / 2, TCP_PACE_SLACK_MIN), TCP_PACE_SLACK_MAX);
}
static inline uint32_t tcp_timestamp(const struct tcp_conn *conn, uint64_t now)
{
    return (uint32_t)(now / AMS_NS_PER_MS) + conn->ts_offset;
}

/* ---- tcp_timer.c ---------------------------------------------------------------------------- */
/* Makes sure that the wheel wakes the connection at its earliest deadline. */
void tcp_timer_update(struct ams_stack *stack, struct tcp_conn *conn);
/* (Re)starts or stops the retransmission timer after a send or an ACK. */
void tcp_rexmit_restart(struct ams_stack *stack, struct tcp_conn *conn, uint64_t now);
/* An application that has let go waits for the peer's FIN, but not for ever
 * (TCP_LINGER2). */
void tcp_fin_wait_2_start(struct ams_stack *stack, struct tcp_conn *conn, uint64_t now);
/* (Re)starts the keep-alive clock. */
void tcp_keepalive_restart(struct ams_stack *stack, struct tcp_conn *conn, uint64_t now);

/* ---- tcp_tw.c ----------------------------------------------------------------------------------- */
/* Turns a connection in TIME_WAIT into its small form and frees the TCB; if
 * there is no memory the connection is just freed. */
void tcp_tw_from(struct ams_stack *stack, struct tcp_conn *conn, uint64_t now);
void tcp_tw_input(struct ams_stack *stack, struct tcp_tw *tw, const struct tcp_repr *seg, const struct ip_info *ip,
                  uint32_t payload, uint64_t now);
void tcp_tw_free(struct ams_stack *stack, struct tcp_tw *tw);

/* ---- tcp_send.c: the send queue ------------------------------------------------------------------- */
uint32_t tcp_excess(const struct tcp_conn *conn);
/* Tells the application that its excess has fallen, if it waits for that. */
void tcp_send_drained(struct ams_stack *stack, struct tcp_conn *conn);
/* Bytes queued and not acknowledged, and not yet sent; a FIN is not counted. */
static inline uint32_t tcp_unacked(const struct tcp_conn *conn)
{
    return seq_gt(conn->snd_end, conn->snd_una) ? conn->snd_end - conn->snd_una : 0;
}
static inline uint32_t tcp_unsent(const struct tcp_conn *conn)
{
    return conn->flags & CONN_FIN_SENT ? 0 : conn->snd_end - conn->snd_nxt;
}
/* Drops bytes up to snd_una from the send queue; tells the application. */
void tcp_send_acked(struct ams_stack *stack, struct tcp_conn *conn, uint32_t una);
void tcp_send_fini(struct ams_stack *stack, struct tcp_conn *conn);
/* Describes [seq, seq + length) as frags.  Return: the bytes described, less
 * than length where TX_FRAGS ran out or a record ends. */
uint32_t tcp_send_gather(struct tcp_conn *conn, uint32_t seq, uint32_t length, struct ams_tx *tx);
/* True if what was gathered last, up to end, ends a record that is to be pushed. */
bool tcp_send_pushed(const struct tcp_conn *conn, uint32_t end);

#endif
