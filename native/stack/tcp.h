/* SPDX-License-Identifier: BSD-2-Clause
 *
 * tcp.h - TCP's inside: who does what with the transmission control block (tcp_conn.h).
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

#include "stack/tcp_conn.h"

struct tcp_delivery;

/* ---- tcp_table.c -------------------------------------------------------------- */
struct tcp_flow *tcp_flow_find(struct ams_stack *stack, const uint8_t local_ip[16], uint16_t local_port,
                               const uint8_t remote_ip[16], uint16_t remote_port, uint8_t family);
/* The same for a received segment: they come in trains, so the flow of the
 * latest is looked at first. */
struct tcp_flow *tcp_flow_next(struct ams_stack *stack, const struct ams_frame *frame, const struct ip_info *ip,
                               uint16_t local_port, uint16_t remote_port);
#define TCP_MARK_HASHED 0x40u /* frame->marks: a received segment; aux is its hash, aux16 where its header begins */
#define TCP_MARK_DATA 0x20u   /* and it seems to bring payload */
#define TCP_MARK_HOLE 0x10u   /* but not the next, or not all that is missing */
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

/* ---- tcp_handshake.c ----------------------------------------------------------------- */
/* A received segment on its way through the steps. */
struct tcp_segment {
    const struct tcp_repr *tcp;
    const struct ip_info *ip;
    struct ams_frame *frame;  /* window on the payload; NULL once consumed */
    uint32_t payload;
    uint32_t seq_len;         /* payload and SYN and FIN */
};

/* Sets what the SYN's options agreed on. */
void tcp_negotiate(struct ams_stack *stack, struct tcp_conn *conn, const struct tcp_repr *syn);
void tcp_established(struct ams_stack *stack, struct tcp_conn *conn, uint64_t now);
/* A segment in SYN_SENT.  Return: true if its payload and FIN are to be processed. */
bool tcp_syn_sent_input(struct ams_stack *stack, struct tcp_conn *conn, const struct tcp_segment *seg, uint64_t now);
/* The ACK of our SYN-ACK.  Return: false: the segment goes no further. */
bool tcp_syn_received_ack(struct ams_stack *stack, struct tcp_conn *conn, const struct tcp_segment *seg, uint64_t now);

/* ---- tcp_input.c --------------------------------------------------------------------- */
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
/* A ring of records with what only a larger scoreboard needs.  A cache line
 * has two records: an ACK of two segments finds both in one, mostly. */
struct tcp_board {
    struct tcp_sack_block cache[TCP_SACK_BLOCKS]; /* blocks of the last ACK, already marked */
    _Alignas(AMS_CACHE_LINE) struct tcp_rec recs[];
};
/* The ring's allocation; only where it is not the inline one. */
static inline struct tcp_board *tcp_board_of(const struct tcp_conn *conn)
{
    return AMS_CONTAINER_OF(conn->recs, struct tcp_board, recs);
}
/* Rings come and go with each burst.  Those that an initial window needs come from slabs. */
void tcp_boards_init(struct ams_stack *stack);
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
void tcp_update_mss(struct tcp_conn *conn);
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

/* ---- tcp_burst.c: how much leaves at once, and when ----------------------------------------- */
/* The longest payload of one descriptor. */
uint32_t tcp_segment_limit(const struct ams_stack *stack, const struct tcp_conn *conn, uint32_t mss);
/* How much new data may go now: windows, Nagle, SWS avoidance.
 * @avail: bytes queued and not sent */
uint32_t tcp_burst_room(struct ams_stack *stack, struct tcp_conn *conn, uint32_t avail, uint32_t mss, uint64_t now);
/* Bytes that a paced connection may send at once: what it sends in about a
 * millisecond, two segments at least; one where an algorithm that paces itself
 * is slow, as BBR in Linux. */
static inline uint32_t tcp_paced_burst(const struct tcp_conn *conn)
{
    bool slow = conn->cc->flags & TCP_CC_PACED && conn->pacing_rate < TCP_PACE_SLOW;
    uint32_t burst = (uint32_t)ams_min_u64(conn->pacing_rate >> 10, TCP_GSO_MAX);
    return ams_max_u32(burst, slow ? conn->snd_mss : 2 * conn->snd_mss);
}
/* Lateness of a paced segment that later ones make up for, so that a loop
 * that was busy doesn't lower the rate: half a round trip, within bounds. */
static inline uint64_t tcp_pace_slack(const struct tcp_conn *conn)
{
    return ams_min_u64(ams_max_u64(conn->srtt / 2, TCP_PACE_SLACK_MIN), TCP_PACE_SLACK_MAX);
}
/* The wait for pace_at is over.  A loop that was busy for long makes up for
 * some of it. */
static inline void tcp_pace_due(struct tcp_conn *conn, uint64_t now)
{
    if (conn->loss & LOSS_PACE_WAIT)
        conn->pace_at = ams_max_u64(conn->pace_at, now - tcp_pace_slack(conn));
    conn->loss &= (uint16_t)~LOSS_PACE_WAIT;
}
bool tcp_paced_waits(struct ams_stack *stack, struct tcp_conn *conn, uint64_t now);
void tcp_paced_sent(struct tcp_conn *conn, uint32_t len, uint64_t now);
/* True if a paced connection must wait; asks to be woken then.  Once it waits
 * it does until its time has come, even if the burst could have gone on. */
static inline bool tcp_pace_waits(struct ams_stack *stack, struct tcp_conn *conn, uint64_t now)
{
    return AMS_UNLIKELY(conn->pacing_rate) && tcp_paced_waits(stack, conn, now);
}
/* So many bytes leave.  A wake-up that came a little late does not lower the
 * rate: the clock goes on from where it should have been. */
static inline void tcp_pace_sent(struct tcp_conn *conn, uint32_t len, uint64_t now)
{
    if (AMS_UNLIKELY(conn->pacing_rate))
        tcp_paced_sent(conn, len, now);
}

/* ---- tcp_output.c ------------------------------------------------------------------------- */
void tcp_want_output(struct ams_stack *stack, struct tcp_conn *conn);
void tcp_unlink_output(struct ams_stack *stack, struct tcp_conn *conn);
/* The MSS that our SYN offers. */
uint32_t tcp_advertised_mss(const struct ams_stack *stack, const struct tcp_conn *conn);
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
