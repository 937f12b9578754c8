/* SPDX-License-Identifier: BSD-2-Clause */
#define _GNU_SOURCE /* syscall() under -std=c11 */

#include "io/bpf.h"

#include <errno.h>
#include <linux/bpf.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define LOG_LEVEL 1u

/* Calls bpf(2), again when it was interrupted.  Return: its result or -errno. */
static int bpf_call(int command, union bpf_attr *attr)
{
    long result;

    do {
        result = syscall(__NR_bpf, command, attr, sizeof(*attr));
    } while (result < 0 && (errno == EINTR || (errno == EAGAIN && command == BPF_PROG_LOAD)));
    return result < 0 ? -errno : (int)result;
}

static uint64_t bpf_pointer(const void *pointer)
{
    return (uint64_t)(uintptr_t)pointer;
}

int bpf_map_new(int type, const char *name, uint32_t key_size, uint32_t value_size, uint32_t entries, uint32_t flags)
{
    union bpf_attr attr;

    memset(&attr, 0, sizeof(attr));
    attr.map_type = (uint32_t)type;
    attr.key_size = key_size;
    attr.value_size = value_size;
    attr.max_entries = entries;
    attr.map_flags = flags;
    strncpy(attr.map_name, name, sizeof(attr.map_name) - 1);
    return bpf_call(BPF_MAP_CREATE, &attr);
}

/* The commands on one element have their arguments in common. */
static int bpf_element(int command, int map, const void *key, const void *value)
{
    union bpf_attr attr;

    memset(&attr, 0, sizeof(attr));
    attr.map_fd = (uint32_t)map;
    attr.key = bpf_pointer(key);
    attr.value = bpf_pointer(value);
    return bpf_call(command, &attr);
}

int bpf_map_put(int map, const void *key, const void *value)
{
    return bpf_element(BPF_MAP_UPDATE_ELEM, map, key, value);
}

int bpf_map_remove(int map, const void *key)
{
    return bpf_element(BPF_MAP_DELETE_ELEM, map, key, NULL);
}

int bpf_program_load(const struct bpf_source *source, char *log, uint32_t log_size)
{
    union bpf_attr attr;

    memset(&attr, 0, sizeof(attr));
    attr.prog_type = BPF_PROG_TYPE_XDP;
    attr.expected_attach_type = BPF_XDP;
    attr.insns = bpf_pointer(source->insns);
    attr.insn_cnt = source->n_insns;
    attr.license = bpf_pointer("BSD");
    attr.prog_flags = source->flags;
    strncpy(attr.prog_name, source->name, sizeof(attr.prog_name) - 1);
    int result = bpf_call(BPF_PROG_LOAD, &attr);
    if (result >= 0 || !log || !log_size)
        return result;
    /* Once more, for the reason.  The kernel cuts a long log's end, where the reason is, with ENOSPC. */
    log[0] = '\0';
    attr.log_level = LOG_LEVEL;
    attr.log_buf = bpf_pointer(log);
    attr.log_size = log_size;
    int again = bpf_call(BPF_PROG_LOAD, &attr);
    return again >= 0 ? again : result;
}

int bpf_program_run(int program, const void *packet, uint32_t length, uint32_t repeat, uint32_t *ns)
{
    union bpf_attr attr;

    memset(&attr, 0, sizeof(attr));
    attr.test.prog_fd = (uint32_t)program;
    attr.test.data_in = bpf_pointer(packet);
    attr.test.data_size_in = length;
    attr.test.repeat = repeat;
    int result = bpf_call(BPF_PROG_TEST_RUN, &attr);
    if (result < 0)
        return result;
    if (ns)
        *ns = attr.test.duration;
    return (int)attr.test.retval;
}

int bpf_link_xdp(int program, uint32_t ifindex, uint32_t flags)
{
    union bpf_attr attr;

    memset(&attr, 0, sizeof(attr));
    attr.link_create.prog_fd = (uint32_t)program;
    attr.link_create.target_ifindex = ifindex;
    attr.link_create.attach_type = BPF_XDP;
    attr.link_create.flags = flags;
    return bpf_call(BPF_LINK_CREATE, &attr);
}

void bpf_program_name(uint32_t id, char name[16])
{
    union bpf_attr attr;
    struct bpf_prog_info info;

    name[0] = '\0';
    memset(&attr, 0, sizeof(attr));
    attr.prog_id = id;
    int fd = bpf_call(BPF_PROG_GET_FD_BY_ID, &attr);
    if (fd < 0)
        return;
    memset(&attr, 0, sizeof(attr));
    memset(&info, 0, sizeof(info));
    attr.info.bpf_fd = (uint32_t)fd;
    attr.info.info = bpf_pointer(&info);
    attr.info.info_len = sizeof(info);
    if (bpf_call(BPF_OBJ_GET_INFO_BY_FD, &attr) == 0) {
        memcpy(name, info.name, 15);
        name[15] = '\0';
    }
    close(fd);
}
