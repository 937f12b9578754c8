/* SPDX-License-Identifier: BSD-2-Clause
 *
 * test_wire_checksum.c - the fast checksum against the obvious one.
 */
#include "check.h"
#include "core/hash.h"
#include "wire/bytes.h"
#include "wire/checksum.h"

#define SIZE 4096u

static uint8_t data[SIZE + 64];

/* RFC 1071 section 1, word by word. */
static uint16_t naive(uint32_t sum, const uint8_t *bytes, size_t length)
{
    uint64_t total = sum;
    for (size_t i = 0; i < length; i++)
        total += i & 1 ? bytes[i] : (uint64_t)bytes[i] << 8;
    while (total >> 16)
        total = (total & 0xffff) + (total >> 16);
    return (uint16_t)total;
}

static void fill(uint64_t seed)
{
    struct ams_rng rng;
    rng_init(&rng, seed, 1);
    for (size_t i = 0; i < sizeof(data); i++)
        data[i] = (uint8_t)rng_next(&rng);
}

static void test_every_length_and_alignment(void)
{
    fill(1);
    for (size_t start = 0; start < 33; start++)
        for (size_t length = 0; length < 300; length++)
            CHECK_EQ(checksum_fold(checksum_add(0, data + start, length)), naive(0, data + start, length));
    for (size_t length = 300; length <= SIZE; length += 61)
        CHECK_EQ(checksum_fold(checksum_add(0, data, length)), naive(0, data, length));
}

/* Carries out of every position. */
static void test_extreme_bytes(void)
{
    for (unsigned value = 0; value < 256; value += 0xff) {
        memset(data, (int)value, sizeof(data));
        for (size_t length = 0; length <= SIZE; length++)
            CHECK_EQ(checksum_fold(checksum_add(0, data, length)), naive(0, data, length));
    }
    memset(data, 0xff, sizeof(data));
    CHECK_EQ(checksum_fold(checksum_add(~0ull, data, 8)), 0xffff);
    CHECK_EQ(checksum_fold(checksum_add(~0ull, data, 9)), naive(0xffff, data, 9));
}

static void test_all_sixteen_bit_sums(void)
{
    for (uint32_t sum = 0; sum <= 0xffff; sum++) {
        uint8_t word[2];
        store_be16(word, sum);
        CHECK_EQ(checksum_fold(checksum_add(0, word, 2)), sum);
        CHECK_EQ(checksum_finish(checksum_add(0, word, 2)), sum ^ 0xffff);
    }
}

/* Pieces of every size and offset give the sum of the whole. */
static void test_pieces(void)
{
    fill(2);
    for (size_t first = 0; first < 70; first++) {
        for (size_t second = 0; second < 70; second++) {
            size_t total = first + second + 37;
            uint64_t sum = checksum_add_at(0, data, first, 0);
            sum = checksum_add_at(sum, data + first, second, first);
            sum = checksum_add_at(sum, data + first + second, 37, first + second);
            CHECK_EQ(checksum_fold(sum), naive(0, data, total));
        }
    }
}

static void test_pseudo_header(void)
{
    fill(3);
    for (int i = 0; i < 1000; i++) {
        uint8_t pseudo6[40] = {0}, pseudo4[12] = {0};
        const uint8_t *src = data + i, *dst = data + 2 * i + 16;
        uint8_t protocol = data[3 * i];
        uint32_t length = load_be32(data + i + 7) & 0xfffff;
        memcpy(pseudo6, src, 16);
        memcpy(pseudo6 + 16, dst, 16);
        store_be32(pseudo6 + 32, length);
        pseudo6[39] = protocol;
        CHECK_EQ(checksum_fold(checksum_pseudo(src, dst, protocol, length)), naive(0, pseudo6, 40));

        uint8_t src4[16], dst4[16];
        ip_map4(src4, src);
        ip_map4(dst4, dst);
        memcpy(pseudo4, src, 4);
        memcpy(pseudo4 + 4, dst, 4);
        pseudo4[9] = protocol;
        store_be16(pseudo4 + 10, length & 0xffff);
        uint16_t expected = naive(0, pseudo4, 12), actual;
        actual = checksum_fold(checksum_pseudo(src4, dst4, protocol, length & 0xffff));
        /* 0 and 0xffff are one number; a packet is never all zero */
        CHECK(actual == expected || (expected == 0 && actual == 0xffff));
    }
}

/* What is sent with a checksum verifies. */
static void test_round_trip(void)
{
    fill(4);
    for (size_t length = 2; length < 2000; length++) {
        store_be16(data, 0);
        store_be16(data, checksum_finish(checksum_add(0, data, length)));
        CHECK_EQ(checksum_fold(checksum_add(0, data, length)), 0xffff);
        data[length - 1] ^= 0x10;
        CHECK(checksum_fold(checksum_add(0, data, length)) != 0xffff);
    }
}

int main(void)
{
    RUN(test_every_length_and_alignment);
    RUN(test_extreme_bytes);
    RUN(test_all_sixteen_bit_sums);
    RUN(test_pieces);
    RUN(test_pseudo_header);
    RUN(test_round_trip);
    return check_report();
}
