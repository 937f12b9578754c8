/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Fuzzes the fabric through what a client shares with it.
 *
 * The input is a list of writes into the villain's region: where, how many
 * bytes, the bytes; offsets are bent towards the places that matter.  Between
 * them the fabric works, and an honest pair exchanges a frame.
 *
 * What is checked beyond the sanitizers: each honest frame arrives, once and
 * as it was sent, unless the ring is full of what the villain may send there
 * (whose turn is first depends on the clock); what the villain gets out has our MAC address and a source
 * that is its own, and in a chain is a super-frame for one who takes them.
 */
#include <unistd.h>

#include "fuzz.h"
#include "io/fabric.h"
#include "packets.h"

#define ONE 1001
#define TWO 1002
#define VILLAIN 1003
#define SLOTS 72u /* room for more than two of the longest super-frames */

struct client {
    struct fabric_port *port;
    struct ring_region region;   /* the user's view of the same mapping */
    int index;
};

static struct client attach(struct ams_fabric *fabric, uint16_t number)
{
    struct client client;
    struct ams_fabric_link link;

    client.index = ams_fabric_attach(fabric, NULL, &link);
    FUZZ_ASSERT(client.index > 0);
    close(link.memory_fd);
    close(link.kick_fd);
    close(link.notify_fd);
    client.port = fabric->ports[client.index];
    FUZZ_ASSERT(ring_region_alias(&client.region, &client.port->region) == 0);
    for (int v6 = 0; v6 < 2; v6++) {
        struct ams_endpoint local = packets_endpoint(v6, 1, number);
        FUZZ_ASSERT(ams_fabric_claim(fabric, client.index, PROTO_UDP, &local, 0) == 0);
        FUZZ_ASSERT(ams_fabric_claim(fabric, client.index, PROTO_TCP, &local, 0) == 0);
    }
    return client;
}

/* A sound frame from one client's tuple to another's. */
static uint32_t sound_frame(uint8_t *frame, bool v6, uint16_t from, uint16_t to)
{
    struct packets_frame what = {.v6 = v6, .outgoing = true, .protocol = PROTO_UDP, .sport = from, .dport = to,
                                 .payload = 30};

    packets_ip(what.dst, v6, 1);
    uint32_t length = packets_build(frame, &what);
    memcpy(frame, packets_us_mac, 6);
    return length;
}

/* Puts a frame into a client's ring. */
static void client_put(struct client *client, const uint8_t *frame, uint32_t length)
{
    struct ring *tx = &client->region.tx;
    struct ring_item item;

    FUZZ_ASSERT(!ring_user_full(tx));
    uint8_t *buffer = ring_peek(tx, &item);
    FUZZ_ASSERT(buffer);
    memcpy(buffer, frame, length);
    ring_insert(tx, item, length, 0);
    ring_user_push(tx);
}

/* Takes all that has arrived.
 * @full: result: there was no room for more
 * Return: how many frames of the honest sender. */
static int client_take(struct client *client, const uint8_t *expected, uint32_t length, bool *full)
{
    struct ring *rx = &client->region.rx;
    uint32_t slots = 0;
    int honest = 0;

    while (!ring_user_empty(rx)) {
        struct ring_item first, item;
        bool sized = ring_super_size(&rx->slots[rx->next]) != 0;
        const uint8_t *data = ring_extract(rx, &first);
        uint32_t whole = first.len;
        struct packet packet;
        slots++;
        FUZZ_ASSERT(data && memcmp(data + 6, packets_us_mac, 6) == 0);
        for (item = first; item.flags & RING_MOREFRAG; whole += item.len) {
            FUZZ_ASSERT(rx->shared->flags & RING_TAKES_SUPER && first.flags & RING_SUPER && sized);
            FUZZ_ASSERT(ring_avail(rx) && ring_extract(rx, &item));
            slots++;
        }
        item = first;
        FUZZ_ASSERT(packet_parse(data, item.len, whole, &packet) == PACKET_OK && whole <= PORT_FRAME_MAX);
        FUZZ_ASSERT(whole <= 1514 || first.flags & RING_SUPER);
        if (packet.flags & PACKET_PORTS && packet.sport == ONE) {
            FUZZ_ASSERT(item.len == length && memcmp(data, expected, length) == 0);
            honest++;
        } else {
            FUZZ_ASSERT(!(packet.flags & PACKET_PORTS) || packet.sport == VILLAIN);
        }
    }
    ring_user_pull(rx);
    *full = slots == SLOTS - 1;
    return honest;
}

/* A super-frame of the villain's in up to eight slots, bent by what follows.
 * @data: of the record, with `length` bytes behind its head */
static void super_chain(struct client *villain, const uint8_t *data, size_t length)
{
    const struct ring_region *region = &villain->region;
    struct packets_frame what = {.v6 = data[0] & 16, .outgoing = true, .sport = VILLAIN, .dport = TWO};
    uint32_t slots = 1 + (data[2] & 7), slot = data[3] % SLOTS, payload = slots * 1000u + data[2];
    uint8_t frame[PACKETS_MAX];

    packets_ip(what.dst, what.v6, 1);
    uint32_t header = packets_build(frame, &what);
    memcpy(frame, packets_us_mac, 6);
    store_be16(frame + (what.v6 ? 18 : 16), payload + header - (what.v6 ? 54 : ETH_HEADER));
    for (size_t i = 0; i + 1 < length; i += 2)
        frame[data[4 + i] % header] = data[5 + i];
    ring_note_super(&region->tx.slots[slot], data[0] & 64 ? load_be16(data + 2) : 500);
    for (uint32_t i = 0; i < slots; i++, slot = (slot + 1) % SLOTS) {
        uint32_t part = i ? 1000 : 1000 + data[2] + header;
        struct ring_item item = {.buf_idx = 1 + slot, .len = (uint16_t)part, .flags = i ? 0 : RING_SUPER};
        uint8_t *buffer = ring_buffer(&region->tx, item.buf_idx);
        if (i + 1 < slots)
            item.flags |= RING_MOREFRAG;
        memset(buffer, 0x55, part);
        if (!i)
            memcpy(buffer, frame, header);
        ring_store(&region->tx.slots[slot], item);
    }
    region->tx.shared->head = slot;
}

/* One write.  Return: bytes of input used. */
static size_t scribble(struct client *villain, const uint8_t *data, size_t size)
{
    const struct ring_region *region = &villain->region;
    size_t length = ams_min_u32(data[1] & 63, (uint32_t)(size - 4)), at = (size_t)load_be16(data + 2) * 4;
    const struct ring *ring = data[0] & 8 ? &region->rx : &region->tx;

    switch (data[0] & 7) {
    case 0: at = (size_t)((uint8_t *)&ring->shared->head - region->base) + at % 16; break;
    case 1: at = (size_t)((uint8_t *)ring->slots - region->base) + at % (SLOTS * 16); break;
    case 2: at = (size_t)((uint8_t *)region->device_bell - region->base) + at % 128; break;
    case 3: { /* a sound frame, bent by what follows */
        uint8_t frame[PACKETS_MAX];
        uint32_t whole = sound_frame(frame, data[0] & 16, data[0] & 32 ? ONE : VILLAIN, TWO);
        for (size_t i = 0; i + 1 < length; i += 2)
            frame[data[4 + i] % whole] = data[5 + i];
        uint32_t slot = data[3] % SLOTS;
        struct ring_item item = {.buf_idx = 1 + slot, .len = (uint16_t)whole};
        memcpy(ring_buffer(&region->tx, item.buf_idx), frame, whole);
        ring_store(&region->tx.slots[slot], item);
        region->tx.shared->head = (slot + 1) % SLOTS;
        return 4 + length;
    }
    case 4: super_chain(villain, data, length); return 4 + length;
    default: break;
    }
    at %= region->size - 64;
    memcpy(region->base + at, data + 4, length);
    return 4 + length;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct ams_fabric_config config = {.cpu = -1, .seed = {1, 2}, .tx_slots = SLOTS, .rx_slots = SLOTS,
                                       .max_clients = 4, .punt_frames = 8, .max_flows = 64};
    struct ams_fabric *fabric;
    uint8_t frame[PACKETS_MAX];
    char error[256];

    memcpy(config.mac, packets_us_mac, 6);
    FUZZ_ASSERT(ams_fabric_new(&fabric, &config, error, sizeof(error)) == 0);
    for (int v6 = 0; v6 < 2; v6++) {
        struct ams_ifaddr address = {packets_endpoint(v6, 1, 0), v6 ? 64 : 24};
        FUZZ_ASSERT(ams_fabric_add_address(fabric, &address) == 0);
    }
    struct client one = attach(fabric, ONE), two = attach(fabric, TWO), villain = attach(fabric, VILLAIN);
    two.region.rx.shared->flags = size & 2 ? RING_TAKES_SUPER : 0;
    while (size >= 4) {
        size_t used = scribble(&villain, data, size);
        data += used;
        size -= used;
        uint32_t length = sound_frame(frame, size & 1, ONE, TWO);
        client_put(&one, frame, length);
        fabric_activate(fabric, one.port);
        fabric_activate(fabric, villain.port);
        for (int round = 0; round < 3; round++)
            FUZZ_ASSERT(ams_fabric_poll(fabric, AMS_NOW) >= 0);
        bool full;
        int honest = client_take(&two, frame, length, &full);
        FUZZ_ASSERT(honest == 1 || (honest == 0 && full));
    }
    ams_fabric_free(fabric);
    return 0;
}
