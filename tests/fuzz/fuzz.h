/* SPDX-License-Identifier: BSD-2-Clause
 *
 * fuzz.h - what the fuzz targets share: assertions, and input taken bit by bit.
 *
 * A target is one C file with LLVMFuzzerTestOneInput().  libFuzzer drives it
 * (Makefile), or replay.c, which gives it files that were found before.
 */
#ifndef AMS_TESTS_FUZZ_H
#define AMS_TESTS_FUZZ_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define FUZZ_ASSERT(condition) ((condition) ? (void)0 : abort())

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What is left of the input.  At its end all that is taken is zero. */
struct fuzz_input {
    const uint8_t *data;
    size_t left;
};

static inline uint8_t take8(struct fuzz_input *input)
{
    if (input->left == 0)
        return 0;
    input->left--;
    return *input->data++;
}

static inline uint16_t take16(struct fuzz_input *input)
{
    uint16_t high = take8(input);
    return (uint16_t)(high << 8 | take8(input));
}

/* Takes up to n bytes.  Return: how many. */
static inline uint32_t take_bytes(struct fuzz_input *input, uint8_t *out, uint32_t n)
{
    if (n > input->left)
        n = (uint32_t)input->left;
    if (n)
        memcpy(out, input->data, n);
    input->data += n;
    input->left -= n;
    return n;
}

#endif
