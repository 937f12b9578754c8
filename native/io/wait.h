/* SPDX-License-Identifier: BSD-2-Clause
 *
 * wait.h - waiting for many descriptors, and where a thread runs: what
 * systems do differently.
 */
#ifndef AMS_IO_WAIT_H
#define AMS_IO_WAIT_H

#include <pthread.h>

#include "core/base.h"

/* A set of descriptors to wait for, itself a descriptor; or a status. */
int wait_new(void);
/* Adds a descriptor: `token` is reported when it is readable.
 * @edge: only when it becomes so again, whether or not it was read
 * Return: 0 or a status. */
int wait_add(int set, int fd, uint64_t token, bool edge);
void wait_remove(int set, int fd);
/* Waits up to timeout ms (-1: for ever).
 * Return: how many tokens. */
int wait_for(int set, uint64_t *tokens, int max, int timeout);
/* Lets a thread that is to be made run on one core.  Return: 0 or a status. */
int wait_pin(pthread_attr_t *attr, int cpu);

#endif
