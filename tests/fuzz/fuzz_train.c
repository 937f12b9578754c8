/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Fuzzes what an engine makes of batches: two stacks get the same segments,
 * one in batches and the other one by one, and must not differ in anything
 * (twin_fixture.h).  The input decides on their configuration, on each
 * segment, and on what the applications and the clock do meanwhile.
 */
#include <stdio.h>

#include "fuzz.h"

#define TWIN_CHECK(condition) FUZZ_ASSERT(condition)
#include "twin_fixture.h"

#define MAX_STEPS 100

/* A number below bound, a byte of the input at a time. */
static uint32_t choose(void *arg, uint32_t bound)
{
    struct fuzz_input *input = arg;
    return (bound > 256 ? take16(input) : take8(input)) % bound;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input input = {data, size};
    static struct twin twin;
    uint8_t how = take8(&input), limits = take8(&input);
    twin_init(&twin, how & 63, limits & 1 ? 150 : 4096, limits & 2 ? 12000 : 0);
    for (int step = 0; step < MAX_STEPS && input.left; step++)
        twin_random_step(&twin, choose, &input);
    twin_fini(&twin);
    return 0;
}
