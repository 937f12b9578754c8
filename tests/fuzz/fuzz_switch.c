/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Fuzzes the switch, both directions.
 *
 * The input is a list of records: one byte that says what to do, two that
 * say how, a length, and that many bytes of frame.  Records share one switch,
 * so that fragments meet their firsts.  The first bytes of each frame may be
 * replaced by a sound Ethernet header, or the fuzzer would spend its time on
 * guessing our MAC address.
 *
 * What is checked beyond the sanitizers: a frame that passed has our source
 * MAC and, if it is IP, an address of ours or none; each frame is counted
 * exactly once; the same frame in pieces gets the same verdict unless its
 * headers are out of reach.
 */
#include "fuzz.h"
#include "packets.h"
#include "switch/switch.h"

#define FRAME_LIMIT 600

struct record {
    uint8_t what, how;
    uint16_t cut;
    uint32_t length;
    uint8_t frame[FRAME_LIMIT];
};

enum { RECEIVE = 1, SOUND_HEADER = 2, IPV6 = 4, ARP = 8, PIECES = 16, OFFLOAD = 32 };

static struct ams_switch *fuzz_switch(uint8_t policy)
{
    struct ams_switch *sw;
    struct ams_switch_config config = {.mtu = 1500, .flags = policy & 1,
                                       .unclaimed = AMS_SWITCH_TO_CONTROL - (policy >> 1) % 3};

    memcpy(config.mac, packets_us_mac, 6);
    FUZZ_ASSERT(ams_switch_new(&sw, &config) == 0);
    for (int v6 = 0; v6 < 2; v6++) {
        struct ams_ifaddr address = {packets_endpoint(v6, 1, 0), v6 ? 64 : 24};
        struct ams_endpoint any = packets_wildcard(v6, 0x2020), one = packets_endpoint(v6, 1, 0x3030);
        FUZZ_ASSERT(ams_switch_add_address(sw, &address) == 0);
        FUZZ_ASSERT(ams_switch_claim(sw, 1, PROTO_TCP, &any) == 0);
        FUZZ_ASSERT(ams_switch_claim(sw, 1, PROTO_UDP, &one) == 0);
    }
    return sw;
}

/* Takes the next record.  Return: bytes used, 0 at the end. */
static size_t next_record(const uint8_t *data, size_t size, struct record *record)
{
    if (size < 5)
        return 0;
    record->what = data[0];
    record->how = data[1];
    record->cut = load_be16(data + 2);
    record->length = data[4] * 2u;
    if (record->length > size - 5)
        record->length = (uint32_t)(size - 5);
    memcpy(record->frame, data + 5, record->length);
    if (record->what & SOUND_HEADER && record->length >= ETH_HEADER) {
        struct eth_repr eth = {.type = record->what & ARP ? ETHERTYPE_ARP
                                       : record->what & IPV6 ? ETHERTYPE_IPV6 : ETHERTYPE_IPV4};
        bool receive = record->what & RECEIVE;
        memcpy(eth.dst, receive ? packets_us_mac : packets_peer_mac, 6);
        memcpy(eth.src, receive ? packets_peer_mac : packets_us_mac, 6);
        eth_emit(record->frame, &eth);
    }
    return 5 + record->length;
}

static void check_passed(const struct record *record)
{
    static const uint8_t nobody[16];
    uint8_t us[16];

    FUZZ_ASSERT(record->length >= ETH_HEADER && memcmp(record->frame + 6, packets_us_mac, 6) == 0);
    uint16_t type = load_be16(record->frame + 12);
    if (type == ETHERTYPE_IPV4) {
        packets_ip(us, false, 1);
        FUZZ_ASSERT(memcmp(record->frame + 26, us + 12, 4) == 0);
    } else if (type == ETHERTYPE_IPV6) {
        packets_ip(us, true, 1);
        FUZZ_ASSERT(memcmp(record->frame + 22, us, 16) == 0 || memcmp(record->frame + 22, nobody, 16) == 0);
    } else {
        FUZZ_ASSERT(type == ETHERTYPE_ARP);
    }
}

static void fuzz_send(struct ams_switch *sw, const struct record *record, uint64_t now)
{
    uint16_t port = record->how & 1;
    uint32_t cut = record->what & PIECES && record->length ? record->cut % record->length : record->length;
    uint8_t *head = malloc(cut + 1), *rest = malloc(record->length - cut + 1);
    struct ams_tx tx = {.head = head, .head_len = cut, .total = record->length};
    uint8_t verdict, whole;

    FUZZ_ASSERT(head && rest);
    memcpy(head, record->frame, cut);
    memcpy(rest, record->frame + cut, record->length - cut);
    if (cut < record->length) {
        tx.n_frags = 1;
        tx.frags[0] = (struct ams_tx_frag){rest, record->length - cut};
    }
    if (record->what & OFFLOAD) {
        tx.flags = record->how >> 1 & 7;
        tx.csum_start = record->cut & 127;
        tx.csum_offset = record->how >> 4 & 16;
        tx.gso_size = record->how >> 5;
        tx.gso_hdr_len = record->cut >> 8;
    }
    int passed = switch_tx(sw, port, &tx, 1, &verdict, now);
    FUZZ_ASSERT(passed == (verdict == SWITCH_PASSED));
    if (passed)
        check_passed(record);
    if (!(record->what & OFFLOAD)) {
        whole = (uint8_t)ams_switch_check(sw, port, (const char *)record->frame, record->length, now);
        FUZZ_ASSERT(whole == verdict || verdict == SWITCH_TX_TRUNCATED);
    }
    free(head);
    free(rest);
}

static uint64_t counted(const struct ams_switch *sw)
{
    uint64_t sum = 0;

    for (int i = 0; i < SWITCH_COUNTERS; i++)
        sum += sw->counters[i];
    for (int i = SWITCH_RX_FRAGMENTS; i <= SWITCH_TX_FRAG_EVICTED; i++)
        sum -= sw->counters[i];
    return sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1)
        return 0;
    struct ams_switch *sw = fuzz_switch(data[0]);
    struct record record;
    uint64_t now = 1;
    size_t used = 1, step;

    while ((step = next_record(data + used, size - used, &record))) {
        uint64_t before = counted(sw);
        used += step;
        now += record.how * AMS_NS_PER_S / 8;
        if (record.what & RECEIVE) {
            int target = ams_switch_route(sw, (const char *)record.frame, record.length, now);
            FUZZ_ASSERT(target >= AMS_SWITCH_TO_NOBODY && target <= 1);
            FUZZ_ASSERT(counted(sw) == before + 1);
        } else {
            fuzz_send(sw, &record, now);
            FUZZ_ASSERT(counted(sw) == before + (record.what & OFFLOAD ? 1 : 2));
        }
    }
    ams_switch_free(sw);
    return 0;
}
