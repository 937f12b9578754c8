/* SPDX-License-Identifier: BSD-2-Clause
 *
 * waitset.h - one descriptor that is readable while any of several are:
 * epoll(7) or kqueue(2), level-triggered.
 */
#ifndef AMS_IO_WAITSET_H
#define AMS_IO_WAITSET_H

/* Makes an empty set.  Return: its descriptor, or a negative errno.  Owns:
 * the caller, who closes it. */
int waitset_new(void);
/* Puts a descriptor into the set.  One that is closed leaves it by itself.
 * Return: 0 or a negative errno. */
int waitset_add(int set, int fd);
/* Takes it out again.  Return: 0 or a negative errno. */
int waitset_remove(int set, int fd);

#endif
