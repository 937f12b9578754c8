/* SPDX-License-Identifier: BSD-2-Clause
 *
 * settings.c - the engine's configuration from the namespace's sysctls.
 *
 * Scripts set sysctls before they open their first socket; the engine is
 * made at the first bind, listen or connect, and reads them then.  Those that
 * may change later are read again before each connect, listen and packet in.
 * Words in --so_flags, separated by commas, say what no sysctl does: mtu=,
 * local4=, local6=.
 *
 * Scripts also call ip and ethtool, which know nothing of this stack.  Those
 * in host/ that run.py puts in front of them leave word in the directory that
 * AMS_PD_STATE names.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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

/* Looks for "--name=value" among words that `separator` ends. */
static bool option_find(FILE *file, const char *name, int separator, char *out, size_t size)
{
    char *word = NULL;
    size_t room = 0, n = strlen(name);
    bool found = false;
    while (getdelim(&word, &room, separator, file) > 0) {
        if (strncmp(word, "--", 2) != 0 || strncmp(word + 2, name, n) != 0 || word[2 + n] != '=')
            continue;
        snprintf(out, size, "%.*s", (int)strcspn(word + 3 + n, " \n/"), word + 3 + n);
        found = true;
    }
    free(word);
    return found;
}

/* The script is packetdrill's last argument. */
static bool script_path(char *out, size_t size)
{
    FILE *file = fopen("/proc/self/cmdline", "r");
    char *word = NULL;
    size_t room = 0;
    if (!file)
        return false;
    while (getdelim(&word, &room, 0, file) > 0)
        snprintf(out, size, "%s", word);
    free(word);
    fclose(file);
    return true;
}

bool settings_option(const char *name, char *out, size_t size)
{
    char path[4096] = "";
    FILE *script = script_path(path, sizeof(path)) ? fopen(path, "r") : NULL;
    bool found = script && option_find(script, name, '\n', out, size);
    if (script)
        fclose(script);
    FILE *arguments = found ? NULL : fopen("/proc/self/cmdline", "r");
    if (arguments) {
        found = option_find(arguments, name, 0, out, size);
        fclose(arguments);
    }
    return found;
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

uint32_t settings_fastopen(const struct pd_world *world)
{
    (void)world;
    long value = sysctl_number("tcp_fastopen", 0, AMS_FASTOPEN_CLIENT);
    uint32_t bits = (uint32_t)value & (AMS_FASTOPEN_CLIENT | AMS_FASTOPEN_SERVER | AMS_FASTOPEN_CLIENT_NO_COOKIE |
                                       AMS_FASTOPEN_SERVER_NO_COOKIE | AMS_FASTOPEN_LISTENERS);
    return bits ? bits : AMS_FASTOPEN_OFF;
}

/* The key as the sysctl writes it: four 32-bit numbers in hexadecimal. */
bool settings_fastopen_key(uint8_t out[16])
{
    char text[256];
    unsigned words[4];
    if (!sysctl_text("tcp_fastopen_key", text, sizeof(text)) ||
        sscanf(text, "%8x-%8x-%8x-%8x", &words[0], &words[1], &words[2], &words[3]) != 4)
        return false;
    for (int i = 0; i < 16; i++)
        out[i] = (uint8_t)(words[i / 4] >> 8 * (i % 4));
    return true;
}

static uint32_t read_flags(void)
{
    return (sysctl_number("tcp_timestamps", 0, 1) ? 0 : AMS_STACK_NO_TIMESTAMPS) |
           (sysctl_number("tcp_sack", 0, 1) ? 0 : AMS_STACK_NO_SACK) |
           (sysctl_number("tcp_window_scaling", 0, 1) ? 0 : AMS_STACK_NO_WSCALE) |
           (sysctl_number("tcp_mtu_probing", 0, 0) ? 0 : AMS_STACK_NO_BLACK_HOLE) |
           (sysctl_number("tcp_slow_start_after_idle", 0, 1) ? 0 : AMS_STACK_NO_IDLE_RESTART);
}

uint32_t settings_wmem(int index)
{
    static const long missing[] = {4096, 16384, 4194304};
    return (uint32_t)sysctl_number("tcp_wmem", index, missing[index]);
}

uint32_t settings_rmem(int index)
{
    static const long missing[] = {4096, 131072, 6291456};
    return (uint32_t)sysctl_number("tcp_rmem", index, missing[index]);
}

long settings_number(const char *name, long missing)
{
    return sysctl_number(name, 0, missing);
}

uint32_t settings_notsent_lowat(void)
{
    long value = sysctl_number("tcp_notsent_lowat", 0, UINT32_MAX);
    return value > 0 && value <= UINT32_MAX ? (uint32_t)value : UINT32_MAX;
}

/* Linux: 0 off, 1 asks and accepts, 2 accepts; from 3 on with accurate feedback. */
static uint32_t read_ecn(void)
{
    static const uint32_t modes[] = {AMS_ECN_OFF, AMS_ECN_ASK, AMS_ECN_ACCEPT, AMS_ECN_ACCURATE,
                                     AMS_ECN_ACCURATE_CLASSIC, AMS_ECN_ACCURATE_ACCEPT};
    long value = sysctl_number("tcp_ecn", 0, 2);
    return value >= 0 && value <= 5 ? modes[value] : AMS_ECN_ACCEPT;
}

/* Linux: 0 never, 1 what is needed, 2 always. */
static uint32_t read_accecn(void)
{
    long value = sysctl_number("tcp_ecn_option", 0, 2);
    return value <= 0 ? AMS_ACCECN_NEVER : value == 1 ? AMS_ACCECN_CHANGES : AMS_ACCECN_ALWAYS;
}

/* Linux: 0 never, 1 when the queue is full, 2 always. */
static uint32_t read_syn_cookies(void)
{
    long value = sysctl_number("tcp_syncookies", 0, 1);
    return value == 0 ? AMS_SYN_COOKIES_NEVER : value == 2 ? AMS_SYN_COOKIES_ALWAYS : AMS_SYN_COOKIES_AUTO;
}

/* Has a tool in host/ left that word?  It is taken down. */
static bool word_taken(const char *name)
{
    const char *directory = getenv("AMS_PD_STATE");
    char path[4096];
    if (!directory)
        return false;
    snprintf(path, sizeof(path), "%s/%s", directory, name);
    return unlink(path) == 0;
}

bool settings_pacing(void)
{
    const char *directory = getenv("AMS_PD_STATE");
    char path[4096];
    if (!directory)
        return false;
    snprintf(path, sizeof(path), "%s/pacing", directory);
    return access(path, F_OK) == 0;
}

bool settings_offload(void)
{
    return !word_taken("no-offload");
}

void settings_remember(struct pd_world *world)
{
    sysctl_text("tcp_congestion_control", world->congestion, sizeof(world->congestion));
}

void settings_renew(struct pd_world *world)
{
    if (word_taken("flush"))
        ams_stack_set(world->stack, AMS_SET_FORGET, 0);
    ams_stack_set(world->stack, AMS_SET_FLAGS, read_flags());
    ams_stack_set(world->stack, AMS_SET_FASTOPEN, settings_fastopen(world));
    ams_stack_set(world->stack, AMS_SET_ECN, read_ecn());
    ams_stack_set(world->stack, AMS_SET_ACCECN, read_accecn());
    ams_stack_set(world->stack, AMS_SET_SYN_COOKIES, read_syn_cookies());
}

void settings_read(const struct pd_world *world, struct ams_stack_config *config, struct ams_port_config *port)
{
    static char congestion[32];
    char mtu[16];
    bool given = settings_flag(world, "mtu", mtu, sizeof(mtu)) || settings_option("mtu", mtu, sizeof(mtu));
    port->mtu = given ? (uint32_t)atoi(mtu) : 1500;
    read_buffers(config);
    config->flags |= read_flags();
    config->fastopen = settings_fastopen(world);
    config->ecn = read_ecn();
    config->accecn_options = read_accecn();
    config->syn_linear_timeouts = (uint32_t)sysctl_number("tcp_syn_linear_timeouts", 0, 0);
    config->syn_cookies = read_syn_cookies();
    config->syn_backlog = (uint32_t)sysctl_number("tcp_max_syn_backlog", 0, 0);
    settings_fastopen_key(config->fastopen_key);
    config->syn_retries = (uint32_t)sysctl_number("tcp_syn_retries", 0, 0);
    config->synack_retries = (uint32_t)sysctl_number("tcp_synack_retries", 0, 0);
    config->rto_max_ms = (uint32_t)sysctl_number("tcp_rto_max_ms", 0, 0);
    config->min_tso_segs = (uint32_t)sysctl_number("tcp_min_tso_segs", 0, 0);
    /* A namespace may not choose CUBIC unless the host allows it to: what the
     * script didn't change is what scripts are written for. */
    if (sysctl_text("tcp_congestion_control", congestion, sizeof(congestion)) &&
        strcmp(congestion, world->congestion) != 0) {
        congestion[strcspn(congestion, "\n")] = 0;
        for (int i = 0; ams_congestion_name(i); i++)
            if (strcmp(ams_congestion_name(i), congestion) == 0)
                config->congestion = ams_congestion_name(i);
    }
}
