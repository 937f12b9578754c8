/* SPDX-License-Identifier: BSD-2-Clause
 *
 * flows.h - which connections a process has, where others find it after its death.
 *
 * Theory of operation.  A kernel tells the peers of a process that dies; a
 * user-space stack that dies can't.  So it keeps a list of its connections in
 * the memory that it shares with the switch, which reads it when the process
 * has gone.
 *
 * The list is a hash table of slots in groups of FLOWS_WINDOW, changed only
 * when a connection begins or ends.  Nothing in it ever moves, so that a
 * process may be killed between any two stores: a slot counts once its last
 * word, which holds the ports, is not 0, and that is stored last, and cleared
 * first.  A connection that finds its window full is not listed.
 *
 * The reader doesn't trust it: it loads each word once, and all that it learns
 * is a list of addresses and ports of its reader's to judge.
 */
#ifndef AMS_IO_FLOWS_H
#define AMS_IO_FLOWS_H

#include "aiomultistack.h"
#include "core/base.h"

#define FLOWS_SLOTS ((uint32_t)AMS_FABRIC_FLOWS) /* a power of two */
#define FLOWS_WINDOW 16u
#define FLOWS_WORDS 5u         /* of 64 bits: local address, remote address, ports */
#define FLOWS_SIZE (FLOWS_SLOTS * FLOWS_WORDS * 8u) /* bytes of the table; zeroed, it is empty */

/* Notes a connection that begins.
 * @table: FLOWS_SIZE bytes, aligned to 8 */
void flows_add(uint64_t *table, const struct ams_endpoint *local, const struct ams_endpoint *remote);
/* And that it has ended; nothing happens if it isn't listed. */
void flows_remove(uint64_t *table, const struct ams_endpoint *local, const struct ams_endpoint *remote);
/* Reads a table that somebody else may be writing to.
 * Return: how many there are in out[0..max). */
int flows_list(const uint64_t *table, struct ams_fabric_flow *out, int max);

#endif
