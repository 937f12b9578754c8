/* SPDX-License-Identifier: BSD-2-Clause
 *
 * daemon.h - a client's connection to the switch daemon, and its claims.
 *
 * The messages are in aiomultistack.h.  daemon_linux.c sends and receives
 * them, daemon_grants_linux.c remembers what was claimed, and
 * daemon_port_linux.c is the driver `switch:PATH` over both and the rings.
 */
#ifndef AMS_IO_DAEMON_H
#define AMS_IO_DAEMON_H

#include "io/port.h"

/* ---- the connection (daemon_linux.c) ------------------------------------------------- */

#define DAEMON_PATIENCE_MS 5000 /* an answer later than this does not come */
#define DAEMON_FDS 3

struct daemon {
    int fd;                   /* the socket; -1: not connected */
    uint32_t serial;          /* of the last request */
};

/* What came: a message's bytes, and descriptors, which are the receiver's. */
struct daemon_message {
    union {
        struct ams_msg head;
        struct ams_msg_welcome welcome;
        struct ams_msg_tuple tuple;
        struct ams_msg_range range;
        char bytes[AMS_MSG_SIZE];
    } u;
    size_t length;
    int fds[DAEMON_FDS];
    int n_fds;
};

/* Connects to the socket at path.
 * Return: 0 or a status, with *error saying what to do. */
int daemon_connect(struct daemon *daemon, const char *path, struct port_error *error);
void daemon_disconnect(struct daemon *daemon);
/* Sends a request; waits only while the socket's buffer is full.
 * @head: the message, whose version, type and serial are filled in
 * @fd: passed along; -1: none
 * Return: 0, -AMS_ENETDOWN, -AMS_ETIMEDOUT. */
int daemon_send(struct daemon *daemon, struct ams_msg *head, uint16_t type, size_t length, int fd);
/* Receives one message, without waiting.
 * Return: 0, -AMS_EAGAIN, -AMS_ENETDOWN when the daemon is gone or not one of ours. */
int daemon_receive(struct daemon *daemon, struct daemon_message *message);
/* Sends a request and waits for its answer.
 * @answer: the whole message; descriptors that came with it are the caller's
 * Return: the answer's status, -AMS_ENETDOWN, -AMS_ETIMEDOUT. */
int daemon_call(struct daemon *daemon, struct ams_msg *head, uint16_t type, size_t length, int fd,
                struct daemon_message *answer);
/* Closes the descriptors that came with a message. */
void daemon_message_fini(struct daemon_message *message);
/* The sentence behind a refusal, zero-terminated; "" if there is none. */
const char *daemon_reason(struct daemon_message *message);

/* ---- claims (daemon_grants_linux.c) ---------------------------------------------------- */

#define DAEMON_BUCKETS 256u
#define DAEMON_RANGES 16
#define DAEMON_SHOWN 32

/* One tuple that the daemon knows to be ours. */
struct daemon_claim {
    struct daemon_claim *next;
    struct ams_endpoint local;
    uint32_t refs;            /* claims of the stack that it stands for */
    int fd;                   /* the kernel socket that proves it */
    uint8_t protocol;
};

struct daemon_range {
    uint16_t low;
    uint16_t high;
};

/* All that one client was granted; zeros: nothing. */
struct daemon_grants {
    struct daemon_claim *buckets[DAEMON_BUCKETS];
    struct daemon_range ranges[DAEMON_RANGES]; /* of ephemeral ports */
    uint32_t n_ranges;
    int shown[DAEMON_SHOWN];  /* sockets that wait to prove a claim, oldest first */
    uint32_t n_shown;
};

/* Forgets everything; the daemon is not told. */
void grants_fini(struct daemon_grants *grants);
/* Claims a tuple, at the daemon if it is not covered by what was granted.
 * Return: 0 or a status. */
int grants_add(struct daemon_grants *grants, struct daemon *daemon, uint8_t protocol, const struct ams_endpoint *local);
/* Undoes one grants_add(); the last one tells the daemon. */
void grants_remove(struct daemon_grants *grants, struct daemon *daemon, uint8_t protocol,
                   const struct ams_endpoint *local);
/* Keeps a duplicate of a bound kernel socket as proof of claims to come.
 * Return: 0, -AMS_EINVAL if it is none, -AMS_EMFILE. */
int grants_show(struct daemon_grants *grants, int fd);
/* Borrows a range of ephemeral ports.  Return: 0 or a status. */
int grants_lend(struct daemon_grants *grants, struct daemon *daemon, uint16_t *low, uint16_t *high);
/* Claims everything anew, from a daemon that knows us not.
 * Return: 0 or the first status that was not 0. */
int grants_renew(struct daemon_grants *grants, struct daemon *daemon);

#endif
