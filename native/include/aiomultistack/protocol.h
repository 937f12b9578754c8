/* SPDX-License-Identifier: BSD-2-Clause
 *
 * protocol.h - what the switch daemon and its clients say to each other.  A part of aiomultistack.h.
 */
#ifndef AIOMULTISTACK_PROTOCOL_H
#define AIOMULTISTACK_PROTOCOL_H

#include "port.h"

/* CFFI-BEGIN */

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

/* CFFI-END */

#endif /* AIOMULTISTACK_PROTOCOL_H */
