/* SPDX-License-Identifier: BSD-2-Clause
 *
 * status.h - the one table of status codes.
 *
 * A status is a negative int: -AMS_ENOMEM and so on.  Each row gives the
 * name, the errno that a socket user knows it by, and a phrase.  Numbers
 * are our own (1, 2, 3, ...) and the same on every platform.
 */
#ifndef AMS_CORE_STATUS_H
#define AMS_CORE_STATUS_H

#define AMS_STATUS_TABLE(X)                                                      \
    X(ENOMEM, "out of memory")                                                   \
    X(EINVAL, "invalid argument")                                                \
    X(EBADF, "no such endpoint")                                                 \
    X(EAGAIN, "not now: try again")                                              \
    X(EADDRINUSE, "address already in use")                                      \
    X(EADDRNOTAVAIL, "address is not one of this stack's")                       \
    X(EAFNOSUPPORT, "address family not supported")                              \
    X(ENETUNREACH, "no route to that network")                                   \
    X(EHOSTUNREACH, "host does not answer")                                      \
    X(ECONNREFUSED, "connection refused")                                        \
    X(ECONNRESET, "connection reset by peer")                                    \
    X(ECONNABORTED, "connection aborted")                                        \
    X(ETIMEDOUT, "connection timed out")                                         \
    X(ENOTCONN, "endpoint is not connected")                                     \
    X(EISCONN, "endpoint is already connected")                                  \
    X(EPIPE, "the sending side is shut down")                                    \
    X(EMSGSIZE, "message too long")                                              \
    X(ENOBUFS, "no buffer space")                                                \
    X(EPERM, "operation not permitted")                                          \
    X(EACCES, "permission denied")                                               \
    X(ENODEV, "no such device")                                                  \
    X(EBUSY, "device is busy")                                                   \
    X(EIO, "input/output error")                                                 \
    X(EOPNOTSUPP, "operation not supported")                                     \
    X(EPROTO, "protocol error")                                                  \
    X(ENETDOWN, "the link is down")                                              \
    X(EMFILE, "too many endpoints")                                              \
    X(ENOPROTOOPT, "no such option")

enum ams_status {
    AMS_OK = 0,
#define AMS_STATUS_ENUM(name, text) AMS_##name,
    AMS_STATUS_TABLE(AMS_STATUS_ENUM)
#undef AMS_STATUS_ENUM
    AMS_STATUS_END
};

#endif
