/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Fuzzes the parsers of the wire layer.
 *
 * The input's first byte picks the parser; the rest is copied to memory of
 * its own, so that a read behind its end is seen.  Beyond the sanitizers:
 * what a parser accepts and the emitter writes parses to the same again, and
 * the fast checksum agrees with the obvious one.
 */
#include "fuzz.h"
#include "wire/arp.h"
#include "wire/checksum.h"
#include "wire/eth.h"
#include "wire/icmp.h"
#include "wire/ipv4.h"
#include "wire/ipv6.h"
#include "wire/ndp.h"
#include "wire/router.h"
#include "wire/tcp.h"
#include "wire/udp.h"

static void fuzz_arp(const uint8_t *data, size_t size)
{
    struct arp_repr repr;
    uint8_t out[ARP_LENGTH];
    if (arp_parse(data, size, &repr) != WIRE_OK)
        return;
    arp_emit(out, &repr);
    FUZZ_ASSERT(memcmp(out, data, ARP_LENGTH) == 0);
}

static void fuzz_ipv4(const uint8_t *data, size_t size)
{
    struct ipv4_repr repr, again;
    uint8_t *out;
    bool whole = ipv4_parse(data, size, &again) == WIRE_OK;
    bool quoted = ipv4_parse_quoted(data, size, &repr) == WIRE_OK;
    FUZZ_ASSERT(quoted || !whole);
    if (!quoted)
        return;
    FUZZ_ASSERT(repr.header_len <= size && repr.header_len >= IP4_HEADER && repr.total_len >= repr.header_len);
    ipv4_check_options(data, repr.header_len);
    out = calloc(1, repr.total_len);
    FUZZ_ASSERT(out != NULL);
    ipv4_emit(out, &repr);
    FUZZ_ASSERT(ipv4_parse(out, repr.total_len, &again) == WIRE_OK);
    FUZZ_ASSERT(again.total_len == repr.total_len && again.frag_off == repr.frag_off && again.id == repr.id &&
                again.protocol == repr.protocol && again.tos == repr.tos && again.ttl == repr.ttl &&
                again.more_fragments == repr.more_fragments && again.dont_fragment == repr.dont_fragment);
    free(out);
}

static void fuzz_ipv6(const uint8_t *data, size_t size)
{
    struct ipv6_repr repr;
    uint8_t out[IP6_HEADER];
    if (ipv6_parse_quoted(data, size, &repr) != WIRE_OK)
        return;
    ipv6_emit(out, &repr);
    FUZZ_ASSERT(memcmp(out, data, IP6_HEADER) == 0);
    struct ipv6_walk walk = ipv6_walk_start(repr.next);
    enum ipv6_walk_result result = ipv6_walk(data, size, repr.dst[0] & 1, &walk);
    if (result == IPV6_WALK_UPPER)
        FUZZ_ASSERT(walk.offset <= size && walk.named_at < walk.offset);
    if (result == IPV6_WALK_FRAGMENT) {
        struct ipv6_fragment fragment;
        FUZZ_ASSERT(walk.offset <= size);
        ipv6_fragment_parse(data + walk.offset, size - walk.offset, &fragment);
    }
    if (result == IPV6_WALK_REJECT)
        FUZZ_ASSERT(walk.error_pointer < size);
}

static void fuzz_ndp(const uint8_t *data, size_t size)
{
    struct ndp_repr repr, again;
    uint8_t out[NDP_LENGTH_LLADDR];
    if (ndp_parse(data, size, &repr) != WIRE_OK)
        return;
    uint32_t len = ndp_emit(out, &repr);
    FUZZ_ASSERT(ndp_parse(out, len, &again) == WIRE_OK);
    FUZZ_ASSERT(again.flags == repr.flags && again.has_lladdr == repr.has_lladdr &&
                memcmp(again.target, repr.target, 16) == 0);
}

/* Router advertisements, their prefixes, and redirects: what they point at lies within the message. */
static void fuzz_router(const uint8_t *data, size_t size)
{
    struct router_advert advert;
    struct router_prefix prefix;
    struct router_redirect redirect;
    if (router_advert_parse(data, size, &advert) == WIRE_OK) {
        size_t at = 0, before = 0;
        while (router_advert_prefix(data, size, &at, &prefix)) {
            FUZZ_ASSERT(at > before && at <= size && prefix.length <= 128);
            for (unsigned bit = prefix.length; bit < 128; bit++)
                FUZZ_ASSERT(!(prefix.prefix[bit / 8] >> (7 - bit % 8) & 1));
            before = at;
        }
        FUZZ_ASSERT(advert.preference >= -1 && advert.preference <= 1);
    }
    if (router_redirect_parse(data, size, &redirect) == WIRE_OK && redirect.quoted)
        FUZZ_ASSERT(redirect.quoted >= data && redirect.quoted + redirect.quoted_len <= data + size);
}

static void fuzz_tcp(const uint8_t *data, size_t size)
{
    struct tcp_repr repr, again;
    uint8_t out[TCP_HEADER + TCP_OPTIONS_MAX];
    if (!tcp_parse(data, (uint32_t)size, &repr))
        return;
    FUZZ_ASSERT(repr.header_len >= TCP_HEADER && repr.header_len <= size && repr.n_sack <= TCP_SACK_BLOCKS);
    if (tcp_header_size(&repr) > sizeof(out))
        return; /* more options than one header holds */
    uint32_t len = tcp_emit(&repr, out);
    FUZZ_ASSERT(len == tcp_header_size(&repr) && len <= sizeof(out));
    FUZZ_ASSERT(tcp_parse(out, len, &again));
    FUZZ_ASSERT(again.seq == repr.seq && again.ack == repr.ack && again.flags == repr.flags &&
                again.n_sack == repr.n_sack && again.has_timestamps == repr.has_timestamps);
}

static void fuzz_checksum(const uint8_t *data, size_t size)
{
    uint64_t total = 0;
    for (size_t i = 0; i < size; i++)
        total += i & 1 ? data[i] : (uint64_t)data[i] << 8;
    while (total >> 16)
        total = (total & 0xffff) + (total >> 16);
    FUZZ_ASSERT(checksum_fold(checksum_add(0, data, size)) == total);
    size_t cut = size ? data[0] % size : 0;
    uint64_t pieces = checksum_add_at(checksum_add(0, data, cut), data + cut, size - cut, cut);
    FUZZ_ASSERT(checksum_fold(pieces) == total);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static void (*const targets[])(const uint8_t *, size_t) = {
        fuzz_arp, fuzz_ipv4, fuzz_ipv6, fuzz_ndp, fuzz_tcp, fuzz_checksum,
    };
    if (size < 1 || size > 70000)
        return 0;
    uint8_t *copy = malloc(size);
    FUZZ_ASSERT(copy != NULL);
    memcpy(copy, data + 1, size - 1);
    uint8_t *exact = realloc(copy, size - 1 ? size - 1 : 1);
    if (data[0] >= 0xf0) /* so that older inputs keep their meaning */
        fuzz_router(exact, size - 1);
    else
        targets[data[0] % (sizeof(targets) / sizeof(targets[0]))](exact, size - 1);
    struct eth_repr eth;
    eth_parse(exact, size - 1, &eth);
    struct udp_repr udp;
    udp_parse(exact, size - 1, &udp);
    free(exact);
    return 0;
}
