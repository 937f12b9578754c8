/* SPDX-License-Identifier: BSD-2-Clause
 *
 * counters.c - the engine's counters under Linux's names, in a file that the
 * nstat in host/ shows: "<AMS_PD_STATE>/counters", one "name value" a line.
 * It is written anew whenever one of them has changed.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "world.h"

#define COUNTERS_MAX 512

/* Those that count the same thing. */
static const struct {
    const char *engine;
    const char *name;
} names[] = {
    {"stack.icmp_rx", "IcmpInMsgs"},
    {"stack.tcp_active_open", "TcpActiveOpens"},
    {"stack.tcp_passive_open", "TcpPassiveOpens"},
    {"stack.tcp_conn_failed", "TcpAttemptFails"},
    {"stack.tcp_conn_reset", "TcpEstabResets"},
    {"stack.tcp_rx", "TcpInSegs"},
    {"stack.tcp_tx", "TcpOutSegs"},
    {"stack.tcp_retrans", "TcpRetransSegs"},
    {"stack.tcp_rst_tx", "TcpOutRsts"},
    {"stack.tcp_cookie_tx", "TcpExtSyncookiesSent"},
    {"stack.tcp_cookie_ok", "TcpExtSyncookiesRecv"},
    {"stack.tcp_cookie_bad", "TcpExtSyncookiesFailed"},
    {"stack.tcp_icmp_out_of_window", "TcpExtOutOfWindowIcmps"},
    {"stack.tcp_paws", "TcpExtPAWSEstab"},
    {"stack.tcp_delayed_ack", "TcpExtDelayedACKs"},
    {"stack.tcp_accept_overflow", "TcpExtListenOverflows"},
    {"stack.tcp_rto", "TcpExtTCPTimeouts"},
    {"stack.tcp_tlp", "TcpExtTCPLossProbes"},
    {"stack.tcp_tlp_recovered", "TcpExtTCPLossProbeRecovery"},
    {"stack.tcp_ooo", "TcpExtTCPOFOQueue"},
    {"stack.tcp_challenge_ack", "TcpExtTCPChallengeACK"},
    {"stack.tcp_spurious_rto", "TcpExtTCPSpuriousRTOs"},
    {"stack.tcp_keepalive", "TcpExtTCPKeepAlive"},
    {"stack.tcp_fastopen_active", "TcpExtTCPFastOpenActive"},
    {"stack.tcp_fastopen_passive", "TcpExtTCPFastOpenPassive"},
    {"stack.tcp_mtu_probe_ok", "TcpExtTCPMTUPSuccess"},
    {"stack.tcp_mtu_probe_lost", "TcpExtTCPMTUPFail"},
};

#define N_NAMES (int)(sizeof(names) / sizeof(*names))

_Static_assert(sizeof(names) / sizeof(*names) <= PD_COUNTERS, "world.h has room for all");

/* Index of an engine's counter; -1: it has none of that name. */
static int counter_find(const char *name)
{
    for (int i = 0; ams_counter_name(i); i++)
        if (strcmp(ams_counter_name(i), name) == 0)
            return i;
    return -1;
}

/* Writes the file as a whole, so that no reader sees half of it. */
static void counters_write(const struct pd_world *world, const char *directory)
{
    char path[4096], fresh[4096 + 8];
    snprintf(path, sizeof(path), "%s/counters", directory);
    snprintf(fresh, sizeof(fresh), "%s.new", path);
    FILE *file = fopen(fresh, "w");
    if (!file)
        return;
    for (int i = 0; i < N_NAMES; i++)
        fprintf(file, "%s %llu\n", names[i].name, (unsigned long long)world->counters[i]);
    fclose(file);
    rename(fresh, path);
}

void counters_publish(struct pd_world *world)
{
    const char *directory = getenv("AMS_PD_STATE");
    uint64_t values[COUNTERS_MAX];
    bool changed = false;
    if (!directory || !world->node)
        return;
    int n = ams_node_counters(world->node, values, COUNTERS_MAX);
    for (int i = 0; i < N_NAMES; i++) {
        if (!world->counter_index[i])
            world->counter_index[i] = counter_find(names[i].engine) + 1;
        int index = world->counter_index[i] - 1;
        if (index < 0 || index >= n || values[index] == world->counters[i])
            continue;
        world->counters[i] = values[index];
        changed = true;
    }
    if (changed)
        counters_write(world, directory);
}
