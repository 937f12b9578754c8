/* SPDX-License-Identifier: BSD-2-Clause
 *
 * bpf_asm.h - a small instruction builder for BPF programs.
 *
 * Theory of operation.  Instructions are appended to an array, one call
 * each; the calls are named after what they do, with the destination first.
 * A jump names a label, which may be placed before or after it; asm_finish()
 * fills in the distances.  What can go wrong (too many instructions, a label
 * that is never placed) is a mistake in the caller's code and traps.
 */
#ifndef AMS_IO_BPF_ASM_H
#define AMS_IO_BPF_ASM_H

#include <linux/bpf.h>

#include "core/base.h"

#define BPF_ASM_INSNS 2048u
#define BPF_ASM_LABELS 512u

enum bpf_reg { R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10 };

struct bpf_asm {
    struct bpf_insn insns[BPF_ASM_INSNS];
    uint16_t targets[BPF_ASM_INSNS];  /* label that an instruction jumps to, plus one; 0: it doesn't */
    int32_t places[BPF_ASM_LABELS];   /* where a label is; -1: not placed yet */
    uint32_t n_insns;
    uint32_t n_labels;
};

/* Prepares an empty program. */
void asm_init(struct bpf_asm *code);
/* Resolves all jumps.  Return: the number of instructions. */
uint32_t asm_finish(struct bpf_asm *code);

/* A new label, to be placed once.  Return: its number. */
int asm_label(struct bpf_asm *code);
/* The next instruction is where label's jumps go. */
void asm_place(struct bpf_asm *code, int label);

/* dst = src, dst = imm, in 64 bits. */
void asm_mov(struct bpf_asm *code, enum bpf_reg dst, enum bpf_reg src);
void asm_mov_imm(struct bpf_asm *code, enum bpf_reg dst, int32_t imm);
/* dst = dst op operand in 64 bits.
 * @op: BPF_ADD, BPF_AND, BPF_OR, BPF_LSH, BPF_RSH, ... */
void asm_alu(struct bpf_asm *code, int op, enum bpf_reg dst, enum bpf_reg src);
void asm_alu_imm(struct bpf_asm *code, int op, enum bpf_reg dst, int32_t imm);
/* dst = the BPF_B, BPF_H, BPF_W or BPF_DW at src + offset, in the machine's byte order. */
void asm_load(struct bpf_asm *code, int size, enum bpf_reg dst, enum bpf_reg src, int offset);
/* That at dst + offset = src, or = imm. */
void asm_store(struct bpf_asm *code, int size, enum bpf_reg dst, int offset, enum bpf_reg src);
void asm_store_imm(struct bpf_asm *code, int size, enum bpf_reg dst, int offset, int32_t imm);
/* dst = the map behind a descriptor; dst = the address of an array map's only value. */
void asm_map(struct bpf_asm *code, enum bpf_reg dst, int fd);
void asm_map_value(struct bpf_asm *code, enum bpf_reg dst, int fd);
/* Goes to label: always; if dst op src; if dst op imm.
 * @op: BPF_JEQ, BPF_JNE, BPF_JGT, BPF_JGE, BPF_JLT, BPF_JLE, BPF_JSET */
void asm_jump(struct bpf_asm *code, int label);
void asm_jump_if(struct bpf_asm *code, int op, enum bpf_reg dst, enum bpf_reg src, int label);
void asm_jump_imm(struct bpf_asm *code, int op, enum bpf_reg dst, int32_t imm, int label);
/* R0 = a helper's result; R1 to R5 are lost.
 * @helper: BPF_FUNC_* */
void asm_call(struct bpf_asm *code, int helper);
/* Ends the program with R0. */
void asm_exit(struct bpf_asm *code);

#endif
