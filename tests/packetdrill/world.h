/* SPDX-License-Identifier: BSD-2-Clause
 *
 * world.h - packetdrill's shared-object mode on top of the engine: what the
 * parts of the adapter know of each other.
 *
 * Theory of operation.  packetdrill loads adapter.so, which carries the whole
 * engine, and drives it through a table of functions that look like system
 * calls.  The engine sits on a hub in memory; a bare port on the same hub is
 * the wire, where whole IP packets get and lose an Ethernet header and ARP
 * and neighbour solicitations are answered for everybody.
 *
 *   world.c     virtual time, the wire, events, waiting
 *   open.c      a socket's life, receive.c and send.c its data
 *   sendbuf.c   how much a socket takes, by Linux's books
 *   errqueue.c  its error queue: zero copy, timestamps
 *   segment.c   packets cut as devices cut them
 *   files.c     poll, epoll and pipes
 *   sockopt.c   getsockopt and setsockopt, struct tcp_info
 *   settings.c  the namespace's sysctls, as the engine's configuration
 *   counters.c  its counters, for scripts that ask nstat
 *   adapter.c   packets, the clock, the table of calls
 *   preload.c   a library of its own, for LD_PRELOAD: getsockopt() and
 *               close() that packetdrill calls in the C library
 *
 * Time is virtual.  It stands still but for three calls: usleep() and
 * netdev_receive() advance it from deadline to deadline, and each
 * gettimeofday() adds a microsecond (packetdrill spins on it just before an
 * event).
 *
 * Blocking calls run on a second thread of packetdrill's, which really sleeps
 * here until its condition holds.  The main thread looks after each step
 * whether one does, and then stands still until that thread has returned and
 * read the clock: so a call ends at the virtual instant that ended it.
 *
 * A descriptor is a real one (an eventfd), so that packetdrill can hand it to
 * the C library; it means nothing to the kernel.
 */
#ifndef PD_WORLD_H
#define PD_WORLD_H

#include <pthread.h>
#include <stdbool.h>
#include <sys/socket.h>

#include "aiomultistack.h"

#define PD_FDS 1024
#define PD_NS_PER_US 1000ull
#define PD_NS_PER_S 1000000000ull
#define PD_PACKET_MAX 65550

enum pd_kind { PD_FREE, PD_TCP, PD_EPOLL, PD_PIPE };
enum pd_state { PD_NEW, PD_LISTENING, PD_CONNECTING, PD_CONNECTED, PD_CLOSED };

#define PD_ACCEPT_QUEUE 256
#define PD_OPTIONS 32
#define PD_WATCHES 64
#define PD_COUNTERS 40

/* An option that was set before the engine knew the socket, or that it doesn't know. */
struct pd_option {
    int level;
    int name;
    int value;
};

struct pd_watch {
    int fd;
    uint32_t events;          /* as epoll_ctl() gave them */
    uint64_t data;
    uint32_t seen;            /* the socket's changes when last reported */
    bool spent;               /* EPOLLONESHOT has fired */
};

/* What Linux would call an sk_buff of the send queue: stream offsets. */
struct pd_buffer {
    uint64_t start, end;
    bool record;              /* MSG_EOR: nothing is added to it */
};

struct pd_sendbuf {
    struct pd_buffer *queue;  /* not yet acknowledged, oldest first */
    int n, room;
    uint32_t limit;           /* SO_SNDBUF; 0: not asked for yet */
    bool fixed;               /* the application has set it */
    bool refused;             /* a writer or poll() found it full: SOCK_NOSPACE */
    uint32_t window;          /* the largest that the peer has offered */
    uint64_t limited_since;   /* when it began to be all that holds the sender back, 0: it isn't */
    uint64_t limited_time;    /* what that took before */
};

/* Memory of an application that the engine refers to. */
struct pd_ref {
    char *data;
    uint32_t number;          /* of the call that it belongs to */
    bool last;                /* its last piece */
};

struct pd_mark {
    uint64_t end;             /* stream offset behind the byte to be timed */
    bool sent;
};

/* One report of the error queue. */
struct pd_note {
    uint8_t origin, code;
    int error;
    uint32_t info, data;
    uint64_t at;
};

#define PD_NOTES 64
#define PD_REFS 128

struct pd_errqueue {
    struct pd_note notes[PD_NOTES];
    int n;
    bool zerocopy;            /* SO_ZEROCOPY */
    uint32_t next_number;
    struct pd_ref refs[PD_REFS];
    int n_refs;
    uint32_t timestamping;    /* SOF_TIMESTAMPING_* */
    uint64_t first_key;       /* stream offset of key 0 */
    struct pd_mark marks[PD_NOTES];
    int n_marks;
};

struct pd_file {
    enum pd_kind kind;
    enum pd_state state;
    int fd;
    int family;               /* AF_INET, AF_INET6 */
    int flags;                /* O_NONBLOCK */
    int id;                   /* the engine's, -1: none */
    struct ams_endpoint local;
    struct ams_endpoint remote;
    bool bound;
    bool v6only;
    bool eof;                 /* the peer's FIN was reported */
    bool told;                /* a final error was returned once */
    bool in_progress;         /* connect() has said so, and the next one will say how it ended */
    bool read_shut, write_shut;
    uint32_t notsent_lowat;   /* TCP_NOTSENT_LOWAT, 0: the sysctl's */
    uint64_t written;         /* bytes that the engine was given */
    uint64_t pushed;          /* those before the last push */
    struct pd_sendbuf sendbuf;
    struct pd_errqueue errors;
    bool inq;                 /* TCP_INQ */
    uint64_t connected_at;
    uint8_t fastopen_key[16]; /* TCP_FASTOPEN_KEY */
    bool fastopen_keyed;
    bool fastopen_connect;    /* TCP_FASTOPEN_CONNECT: connect() waits for data */
    bool deferred;            /* such a connect() has returned */
    int error;                /* errno that ended it */
    uint32_t changes;         /* counts events, for edge-triggered watches */
    struct pd_option options[PD_OPTIONS];
    int n_options;
    bool lingers;             /* SO_LINGER was set: */
    int linger;               /* seconds, -1: off */
    char congestion[16];
    struct pd_file *accepted[PD_ACCEPT_QUEUE]; /* a listener's */
    int n_accepted;
    struct pd_watch watches[PD_WATCHES]; /* an epoll's */
    int n_watches;
    char *pipe_data;          /* a pipe's: what was written and not read */
    size_t pipe_len;
    struct pd_file *pipe_peer;
};

/* A thread that waits for something to become true. */
struct pd_waiter {
    bool (*ready)(struct pd_file *file, void *arg);
    struct pd_file *file;
    void *arg;
    uint64_t deadline;        /* UINT64_MAX: none */
    bool go;
    bool clock_read;
    pthread_t thread;
    struct pd_waiter *next;
};

struct pd_packet {
    struct pd_packet *next;
    uint64_t at;
    size_t len;
    char data[];
};

struct pd_world {
    pthread_mutex_t lock;
    pthread_cond_t woken;     /* a waiter may go */
    pthread_cond_t returned;  /* it has read the clock */
    pthread_t main_thread;
    struct pd_waiter *waiters;
    char *so_flags;
    char congestion[32];      /* the sysctl's value before the script's set-up ran */
    struct ams_hub *hub;
    struct ams_node *node;    /* NULL until the first address is known */
    struct ams_stack *stack;
    struct ams_port *wire;
    uint64_t now;
    bool handed_over;         /* a thread has returned and may want packetdrill's own lock */
    struct pd_packet *out_head, *out_tail;
    uint64_t counters[PD_COUNTERS];   /* as nstat was told last */
    int counter_index[PD_COUNTERS];   /* the engine's, and one; 0: not yet looked for */
    struct pd_ref *pinned;    /* memory of closed sockets that the engine may still refer to */
    int n_pinned;
    bool offload;             /* the device segments: packets are not cut */
    struct pd_file *by_fd[PD_FDS];
    struct pd_file **by_id;
    int n_by_id;
};

/* ---- world.c */

/* Makes the node, once, with `local` among its addresses.
 * Return: 0, or -1 with errno. */
int world_start(struct pd_world *world, const struct ams_endpoint *local);
void world_stop(struct pd_world *world);
/* Lets everything happen that can happen now. */
void world_settle(struct pd_world *world);
/* Advances time to `until`, or, if packets is true, to the next packet out. */
void world_run(struct pd_world *world, uint64_t until, bool packets);
/* Sends an IP packet to the engine.  Return: 0 or -1 with errno. */
int world_inject(struct pd_world *world, const void *packet, size_t len);
/* Sleeps until ready(file, arg) or the deadline.  Return: true if ready. */
bool world_wait(struct pd_world *world, struct pd_file *file, bool (*ready)(struct pd_file *, void *), void *arg,
                uint64_t deadline);
/* Notes that the calling thread, back from a wait, has read the clock.
 * Return: false if it was not back from a wait. */
bool world_clock_read(struct pd_world *world);
/* A new descriptor.  Return: NULL with errno. */
struct pd_file *world_file_new(struct pd_world *world, enum pd_kind kind);
/* The file of a descriptor of that kind; NULL with errno. */
struct pd_file *world_file(struct pd_world *world, int fd, enum pd_kind kind);
/* Closes as the application would. */
int world_close(struct pd_world *world, int fd);
/* Ties an engine id to a file. */
void world_bind_id(struct pd_world *world, struct pd_file *file, int id);
/* errno for a negative status.  Return: -1. */
int world_fail(int status);

/* ---- sendbuf.c */
/* Bytes that the buffer being filled, or the next one, takes; 0: full. */
size_t sendbuf_room(struct pd_world *world, struct pd_file *file);
/* The engine has taken n bytes; record: they end one. */
void sendbuf_wrote(struct pd_world *world, struct pd_file *file, size_t n, bool record);
/* Would poll() say POLLOUT? */
bool sendbuf_writable(struct pd_world *world, struct pd_file *file);
/* A segment has come: a writer that was refused may be let in. */
void sendbuf_input(struct pd_world *world, struct pd_file *file);
/* The connection is there: the limit that its segment size asks for. */
void sendbuf_start(struct pd_world *world, struct pd_file *file);
/* Output is done: is it the buffer that a writer and the sender wait for? */
void sendbuf_watch(struct pd_world *world, struct pd_file *file);
/* For how long it has been, ns. */
uint64_t sendbuf_limited(const struct pd_world *world, const struct pd_file *file);
/* SO_SNDBUF: as getsockopt() reports it, and as setsockopt() gets it. */
uint32_t sendbuf_limit(struct pd_file *file);
void sendbuf_set(struct pd_file *file, int bytes);
/* Memory in use: payload not acknowledged, and what each buffer costs. */
uint32_t sendbuf_used(const struct pd_file *file);

/* ---- errqueue.c */
/* Keeps bytes of a MSG_ZEROCOPY call in place.  Return: them, NULL: too many pieces. */
const char *errqueue_pin(struct pd_file *file, const char *data, size_t size, bool last);
/* The call ends with what it has pinned so far. */
void errqueue_cut(struct pd_file *file);
/* The engine has released so many pieces. */
void errqueue_released(struct pd_file *file, int count);
/* The last byte written is to be timed, if the socket wants that. */
void errqueue_mark(struct pd_file *file);
/* Reports what has been sent and acknowledged since. */
void errqueue_progress(struct pd_world *world, struct pd_file *file);
/* SO_TIMESTAMPING.  Return: 0 or -1 with errno. */
int errqueue_timestamping(struct pd_world *world, struct pd_file *file, int flags);

/* ---- segment.c */
typedef int segment_emit(struct pd_world *world, const void *packet, size_t len);
/* Hands a packet on, cut into segments of mss bytes (0: whole).  Return: 0 or -1 with errno. */
int segment_cut(struct pd_world *world, const void *packet, size_t len, size_t mss, segment_emit *emit);
/* The TCP port that a packet goes to; 0: none. */
uint16_t segment_remote_port(const void *packet, size_t len);
/* Bytes of a packet's TCP options; 0 where it is no TCP. */
size_t segment_options(const void *packet, size_t len);

/* ---- files.c */
struct packetdrill_interface;
void files_install(struct packetdrill_interface *interface);
ssize_t files_read_pipe(struct pd_file *file, void *buffer, size_t size);
ssize_t files_write_pipe(struct pd_file *file, const void *data, size_t size);
/* Bytes that a pipe's writing end takes. */
size_t files_pipe_room(const struct pd_file *file);
/* Unsent bytes from which on a socket is not writable. */
uint32_t file_lowat(const struct pd_file *file);
/* poll() events that hold for a file now. */
short file_ready(struct pd_world *world, struct pd_file *file);

/* ---- sockopt.c */
int sockopt_get(struct pd_world *world, int fd, int level, int name, void *value, socklen_t *len);
int sockopt_set(struct pd_world *world, int fd, int level, int name, const void *value, socklen_t len);
/* Applies what was set before the id existed. */
void sockopt_apply(struct pd_world *world, struct pd_file *file);

/* ---- settings.c */
/* Fills in what sysctls and the adapter's flags say. */
void settings_read(const struct pd_world *world, struct ams_stack_config *config, struct ams_port_config *port);
/* Notes what the sysctls say before the script's set-up runs. */
void settings_remember(struct pd_world *world);
/* False if the script has switched segmentation by the device off. */
bool settings_offload(void);
/* True if the script has put a queue that paces (fq) under the stack. */
bool settings_pacing(void);
/* The sysctls that a running stack follows. */
void settings_renew(struct pd_world *world);
uint32_t settings_notsent_lowat(void);
/* The index-th number of tcp_wmem, tcp_rmem. */
uint32_t settings_wmem(int index);
uint32_t settings_rmem(int index);
/* A TCP sysctl that is one number, or `missing`. */
long settings_number(const char *name, long missing);
uint32_t settings_fastopen(const struct pd_world *world);
/* The key of all listeners that have none of their own.  Return: false if there is none. */
bool settings_fastopen_key(uint8_t out[16]);
/* An option that packetdrill was given, on its command line or in the script. */
bool settings_option(const char *name, char *out, size_t size);
/* The value of a word `key=value` in the adapter's flags.  Return: false if there is none. */
bool settings_flag(const struct pd_world *world, const char *key, char *out, size_t size);

/* ---- counters.c */
/* Lets nstat see what has changed. */
void counters_publish(struct pd_world *world);

/* The calling convention: sockaddr <-> endpoint. */
bool address_in(const struct sockaddr *address, socklen_t len, struct ams_endpoint *out);
void address_out(int family, const struct ams_endpoint *endpoint, struct sockaddr *address, socklen_t *len);

#endif
