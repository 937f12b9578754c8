/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Gives a fuzz target the files that its arguments name, or those of a
 * directory: corpora are replayed where libFuzzer is not to be had.
 */
#include <dirent.h>
#include <stdbool.h>
#include <stdio.h>

#include "fuzz.h"

#define INPUT_MAX 65536

#ifdef AMS_TEST_ALLOC
bool ams_test_fail_alloc(void);
bool ams_test_fail_alloc(void)
{
    return false;
}
#endif

/* Runs one file.  Return: false if it can't be read. */
static bool run_file(const char *path)
{
    FILE *file = fopen(path, "rb");
    uint8_t *data = malloc(INPUT_MAX);
    bool ok = file && data;
    if (ok) {
        size_t size = fread(data, 1, INPUT_MAX, file);
        fprintf(stderr, "%s\n", path); /* the last one that is named is the one that failed */
        uint8_t *exact = realloc(data, size ? size : 1);
        data = exact ? exact : data;
        LLVMFuzzerTestOneInput(data, size);
    } else {
        perror(path);
    }
    free(data);
    if (file)
        fclose(file);
    return ok;
}

/* Runs a directory's files.  Return: how many, -1 if one failed. */
static int run_directory(DIR *directory, const char *path)
{
    const struct dirent *entry;
    int count = 0;
    while ((entry = readdir(directory)) != NULL) {
        char name[4096];
        if (entry->d_name[0] == '.')
            continue;
        snprintf(name, sizeof(name), "%s/%s", path, entry->d_name);
        if (!run_file(name))
            return -1;
        count++;
    }
    return count;
}

int main(int argc, char **argv)
{
    int total = 0;
    for (int i = 1; i < argc; i++) {
        DIR *directory = opendir(argv[i]);
        int count = directory ? run_directory(directory, argv[i]) : run_file(argv[i]) ? 1 : -1;
        if (directory)
            closedir(directory);
        if (count < 0)
            return 1;
        total += count;
    }
    printf("%d inputs\n", total);
    return total ? 0 : 1;
}
