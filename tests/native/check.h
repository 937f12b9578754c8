/* SPDX-License-Identifier: BSD-2-Clause
 *
 * check.h - assertions for the native tests, and allocations that fail.
 *
 * A test program is one C file: functions that CHECK, and a main() that RUNs
 * them and returns check_report().  A failed check prints where and what, and
 * ends the program, so that a sanitizer's report is never buried.
 *
 *   static void test_something(void) { CHECK_EQ(1 + 1, 2); }
 *   int main(void) { RUN(test_something); return check_report(); }
 */
#ifndef AMS_TESTS_CHECK_H
#define AMS_TESTS_CHECK_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int check_tests;

#define CHECK(condition)                                                                  \
    do {                                                                                  \
        if (!(condition))                                                                 \
            check_fail(__FILE__, __LINE__, #condition, 0, 0, false);                      \
    } while (0)

#define CHECK_EQ(actual, expected)                                                        \
    do {                                                                                  \
        long long check_a = (long long)(actual), check_b = (long long)(expected);         \
        if (check_a != check_b)                                                           \
            check_fail(__FILE__, __LINE__, #actual " == " #expected, check_a, check_b, true); \
    } while (0)

#define CHECK_MEM(actual, expected, length) CHECK(memcmp(actual, expected, length) == 0)

#define RUN(test)                         \
    do {                                  \
        printf("  %s\n", #test);          \
        fflush(stdout);                   \
        test();                           \
        check_tests++;                    \
    } while (0)

static inline void check_fail(const char *file, int line, const char *text, long long a, long long b, bool values)
{
    if (values)
        fprintf(stderr, "%s:%d: %s: it is %lld, not %lld\n", file, line, text, a, b);
    else
        fprintf(stderr, "%s:%d: %s: false\n", file, line, text);
    exit(1);
}

static inline int check_report(void)
{
    printf("  %d tests passed\n", check_tests);
    return check_tests ? 0 : 1;
}

/* ---- allocations that fail (native/core/alloc.h) --------------------------- */

#ifdef AMS_TEST_ALLOC

/* The allocation that fails: 1 is the next one; 0: none does. */
static long check_fail_at;

bool ams_test_fail_alloc(void);
bool ams_test_fail_alloc(void)
{
    return check_fail_at > 0 && --check_fail_at == 0;
}

/* Runs body again and again, letting the first, second, third, ... allocation
 * fail, until it gets through without a failure.
 * @body: returns true if it succeeded; it must leave nothing behind
 * Return: how many allocations there were to fail. */
static inline long check_every_allocation(bool (*body)(void))
{
    for (long nth = 1;; nth++) {
        check_fail_at = nth;
        bool succeeded = body();
        bool reached = check_fail_at == 0;
        check_fail_at = 0;
        if (!reached) {
            CHECK(succeeded);
            return nth - 1;
        }
        CHECK(nth < 100000);
    }
}

#endif

#endif
