/* SPDX-License-Identifier: BSD-2-Clause */
#include "io/flows.h"

#include <string.h>

#include "wire/ipv6.h"
#include "wire/bytes.h"

_Static_assert((FLOWS_SLOTS & (FLOWS_SLOTS - 1)) == 0, "a mask");
_Static_assert(FLOWS_SLOTS % FLOWS_WINDOW == 0, "whole windows");

/* The words of a slot for a connection; the last one is not 0. */
static void flow_words(uint64_t words[FLOWS_WORDS], const struct ams_endpoint *local, const struct ams_endpoint *remote)
{
    memcpy(words, local->ip, 16);
    memcpy(words + 2, remote->ip, 16);
    words[4] = (uint64_t)local->port << 16 | remote->port;
}

/* The first slot of a connection's window.  Peers can fill a window if they
 * choose their ports for it, and gain that some connections aren't listed. */
static uint64_t *flow_window(uint64_t *table, const uint64_t words[FLOWS_WORDS])
{
    uint64_t hash = 0;

    for (uint32_t i = 0; i < FLOWS_WORDS; i++)
        hash = (hash ^ words[i]) * 0x9e3779b97f4a7c15u ^ hash >> 29;
    return table + (hash >> 32 & (FLOWS_SLOTS - FLOWS_WINDOW)) * FLOWS_WORDS;
}

void flows_add(uint64_t *table, const struct ams_endpoint *local, const struct ams_endpoint *remote)
{
    uint64_t words[FLOWS_WORDS];

    flow_words(words, local, remote);
    uint64_t *slot = flow_window(table, words);
    for (uint32_t i = 0; i < FLOWS_WINDOW; i++, slot += FLOWS_WORDS) {
        if (__atomic_load_n(&slot[4], __ATOMIC_RELAXED))
            continue;
        for (uint32_t word = 0; word < 4; word++)
            __atomic_store_n(&slot[word], words[word], __ATOMIC_RELAXED);
        __atomic_store_n(&slot[4], words[4], __ATOMIC_RELEASE);
        return;
    }
}

void flows_remove(uint64_t *table, const struct ams_endpoint *local, const struct ams_endpoint *remote)
{
    uint64_t words[FLOWS_WORDS];

    flow_words(words, local, remote);
    uint64_t *slot = flow_window(table, words);
    for (uint32_t i = 0; i < FLOWS_WINDOW; i++, slot += FLOWS_WORDS) {
        if (__atomic_load_n(&slot[4], __ATOMIC_RELAXED) != words[4] || memcmp(slot, words, 32) != 0)
            continue;
        __atomic_store_n(&slot[4], 0, __ATOMIC_RELEASE);
        return;
    }
}

/* Makes a connection of a slot's words.  Return: false if they can't be one. */
static bool flow_read(const uint64_t words[FLOWS_WORDS], struct ams_fabric_flow *out)
{
    uint64_t ports = words[4];

    memset(out, 0, sizeof(*out));
    memcpy(out->local.ip, words, 16);
    memcpy(out->remote.ip, words + 2, 16);
    out->local.port = (uint16_t)(ports >> 16);
    out->remote.port = (uint16_t)ports;
    bool v4 = ip_is4(out->local.ip);
    out->local.family = out->remote.family = v4 ? AMS_IPV4 : AMS_IPV6;
    return ports >> 32 == 0 && out->local.port && out->remote.port && v4 == ip_is4(out->remote.ip);
}

int flows_list(const uint64_t *table, struct ams_fabric_flow *out, int max)
{
    int n = 0;

    for (uint32_t i = 0; i < FLOWS_SLOTS && n < max; i++) {
        const uint64_t *slot = table + i * FLOWS_WORDS;
        uint64_t words[FLOWS_WORDS];
        words[4] = __atomic_load_n(&slot[4], __ATOMIC_ACQUIRE);
        if (!words[4])
            continue;
        for (uint32_t word = 0; word < 4; word++)
            words[word] = __atomic_load_n(&slot[word], __ATOMIC_RELAXED);
        n += flow_read(words, &out[n]);
    }
    return n;
}
