/* SPDX-License-Identifier: BSD-2-Clause
 *
 * bpf.h - the bpf(2) system call, as far as the XDP driver needs it.
 *
 * Descriptors of maps, programs and links are the caller's to close().  A
 * map or program lives as long as somebody refers to it; a link takes the
 * program off its interface when its last descriptor is gone, however the
 * process ends.
 *
 * Return values: >= 0 a descriptor or success; < 0 is a negative errno.
 */
#ifndef AMS_IO_BPF_H
#define AMS_IO_BPF_H

#include <stddef.h>
#include <stdint.h>

struct bpf_insn;

/* What a program is loaded with. */
struct bpf_source {
    const struct bpf_insn *insns;
    uint32_t n_insns;
    const char *name;      /* at most 15 characters, letters, digits, '_' and '.' */
    uint32_t flags;        /* BPF_F_* */
};

/* Makes a map.  @type: BPF_MAP_TYPE_* */
int bpf_map_new(int type, const char *name, uint32_t key_size, uint32_t value_size, uint32_t entries, uint32_t flags);
/* Sets key's value. */
int bpf_map_put(int map, const void *key, const void *value);
int bpf_map_remove(int map, const void *key);

/* Loads an XDP program.
 * @log: where the verifier says what it refuses, on failure; may be NULL */
int bpf_program_load(const struct bpf_source *source, char *log, uint32_t log_size);
/* Runs a program on a packet.
 * @repeat: how often; 0: once
 * @ns: average time of a run; may be NULL
 * Return: what the program returned. */
int bpf_program_run(int program, const void *packet, uint32_t length, uint32_t repeat, uint32_t *ns);
/* Attaches an XDP program to an interface.  @flags: XDP_FLAGS_* */
int bpf_link_xdp(int program, uint32_t ifindex, uint32_t flags);
/* The name of a loaded program, by its id; "" if it can't be told. */
void bpf_program_name(uint32_t id, char name[16]);

#endif
