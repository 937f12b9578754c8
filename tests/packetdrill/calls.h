/* SPDX-License-Identifier: BSD-2-Clause
 *
 * calls.h - the calls on sockets, as packetdrill's table has them but
 * without the lock, and what the files that make them up share.
 */
#ifndef PD_CALLS_H
#define PD_CALLS_H

#include "world.h"

/* ---- open.c */
int do_socket(void *userdata, int domain, int type, int protocol);
int do_bind(void *userdata, int fd, const struct sockaddr *address, socklen_t len);
int do_listen(void *userdata, int fd, int backlog);
int do_accept(void *userdata, int fd, struct sockaddr *address, socklen_t *len);
int do_connect(void *userdata, int fd, const struct sockaddr *address, socklen_t len);
int do_shutdown(void *userdata, int fd, int how);
int do_close(void *userdata, int fd);
int do_fcntl(void *userdata, int fd, int command, ...);
int do_ioctl(void *userdata, int fd, unsigned long request, ...);
/* True if a call on the file must not sleep. */
bool must_not_wait(const struct pd_file *file, int flags);
/* Starts an active open.  Return: 0 or -1 with errno. */
int connect_start(struct pd_world *world, struct pd_file *file, const struct ams_endpoint *remote);
/* A condition for world_wait(): the open has ended, either way. */
bool connect_ready(struct pd_file *file, void *arg);
/* The outcome of an open that has ended.  Return: 0 or -1 with errno. */
int connect_result(struct pd_file *file);
/* Asks for Fast Open.  Return: the bytes that the SYN can carry; -1: no SYN waits. */
int fastopen_wait(struct pd_world *world, struct pd_file *file, int how);

/* ---- receive.c */
ssize_t do_recv(void *userdata, int fd, void *buffer, size_t size, int flags);
ssize_t do_recvfrom(void *userdata, int fd, void *buffer, size_t size, int flags, struct sockaddr *address,
                    socklen_t *len);
ssize_t do_readv(void *userdata, int fd, const struct iovec *iov, int count);
ssize_t do_recvmsg(void *userdata, int fd, struct msghdr *msg, int flags);

/* ---- send.c */
ssize_t do_send(void *userdata, int fd, const void *data, size_t size, int flags);
ssize_t do_sendto(void *userdata, int fd, const void *data, size_t size, int flags, const struct sockaddr *address,
                  socklen_t len);
ssize_t do_sendmsg(void *userdata, int fd, const struct msghdr *msg, int flags);
ssize_t do_writev(void *userdata, int fd, const struct iovec *iov, int count);

/* ---- errqueue.c */
/* recvmsg() with MSG_ERRQUEUE.  Return: 0, or -1 with errno. */
int errqueue_take(struct pd_world *world, struct pd_file *file, struct msghdr *msg);

/* ---- adapter.c */
/* The virtual time as the script's clock shows it. */
struct timespec;
void clock_at(uint64_t at, struct timespec *out);

#endif
