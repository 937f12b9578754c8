/* SPDX-License-Identifier: BSD-2-Clause
 *
 * settings.c - the engine's configuration from the namespace's sysctls.
 *
 * Scripts set sysctls before they open their first socket; the engine is
 * made at the first bind, listen or connect, and reads them then.  Words in
 * --so_flags, separated by commas, say what no sysctl does: mtu=, local4=,
 * local6=.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "world.h"

bool settings_flag(const struct pd_world *world, const char *key, char *out, size_t size)
{
    size_t n = strlen(key);
    for (const char *word = world->so_flags; word && *word; word = strchr(word, ',')) {
        word += *word == ',';
        if (strncmp(word, key, n) != 0 || word[n] != '=')
            continue;
        snprintf(out, size, "%.*s", (int)strcspn(word + n + 1, ","), word + n + 1);
        return true;
    }
    return false;
}

/* A TCP sysctl's text.  Return: false if there is none of that name. */
static bool sysctl_text(const char *name, char *out, int size)
{
    char path[128];
    snprintf(path, sizeof(path), "/proc/sys/net/ipv4/%s", name);
    FILE *file = fopen(path, "r");
    if (!file)
        return false;
    bool got = fgets(out, size, file) != NULL;
    fclose(file);
    return got;
}

/* The index-th number of a sysctl, or `missing`. */
static long sysctl_number(const char *name, int index, long missing)
{
    char text[256];
    if (!sysctl_text(name, text, sizeof(text)))
        return missing;
    char *at = text;
    long value = missing;
    for (int i = 0; i <= index; i++) {
        char *end;
        value = strtol(at, &end, 0);
        if (end == at)
            return missing;
        at = end;
    }
    return value;
}

static void read_buffers(struct ams_stack_config *config)
{
    config->sndbuf = (uint32_t)sysctl_number("tcp_wmem", 1, 0);
    config->sndbuf_max = (uint32_t)sysctl_number("tcp_wmem", 2, 0);
    config->rcvbuf = (uint32_t)sysctl_number("tcp_rmem", 1, 0);
    config->rcvbuf_max = (uint32_t)sysctl_number("tcp_rmem", 2, 0);
}

void settings_read(const struct pd_world *world, struct ams_stack_config *config, struct ams_port_config *port)
{
    static char congestion[32];
    char mtu[16];
    port->mtu = settings_flag(world, "mtu", mtu, sizeof(mtu)) ? (uint32_t)atoi(mtu) : 1500;
    read_buffers(config);
    config->flags |= (sysctl_number("tcp_timestamps", 0, 1) ? 0 : AMS_STACK_NO_TIMESTAMPS) |
                     (sysctl_number("tcp_sack", 0, 1) ? 0 : AMS_STACK_NO_SACK) |
                     (sysctl_number("tcp_window_scaling", 0, 1) ? 0 : AMS_STACK_NO_WSCALE) |
                     (sysctl_number("tcp_slow_start_after_idle", 0, 1) ? 0 : AMS_STACK_NO_IDLE_RESTART);
    config->syn_retries = (uint32_t)sysctl_number("tcp_syn_retries", 0, 0);
    config->synack_retries = (uint32_t)sysctl_number("tcp_synack_retries", 0, 0);
    if (sysctl_text("tcp_congestion_control", congestion, sizeof(congestion))) {
        congestion[strcspn(congestion, "\n")] = 0;
        for (int i = 0; ams_congestion_name(i); i++)
            if (strcmp(ams_congestion_name(i), congestion) == 0)
                config->congestion = ams_congestion_name(i);
    }
}
