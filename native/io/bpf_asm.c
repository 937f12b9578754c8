/* SPDX-License-Identifier: BSD-2-Clause */
#include "io/bpf_asm.h"

#include <string.h>

void asm_init(struct bpf_asm *code)
{
    memset(code, 0, sizeof(*code));
}

/* Appends an instruction. */
static void asm_put(struct bpf_asm *code, int opcode, enum bpf_reg dst, enum bpf_reg src, int offset,
                                int32_t imm)
{
    AMS_ASSERT(code->n_insns < BPF_ASM_INSNS && offset >= INT16_MIN && offset <= INT16_MAX);
    struct bpf_insn *insn = &code->insns[code->n_insns++];
    insn->code = (uint8_t)opcode;
    insn->dst_reg = (uint8_t)dst & 15;
    insn->src_reg = (uint8_t)src & 15;
    insn->off = (int16_t)offset;
    insn->imm = imm;
}

int asm_label(struct bpf_asm *code)
{
    AMS_ASSERT(code->n_labels < BPF_ASM_LABELS);
    code->places[code->n_labels] = -1;
    return (int)code->n_labels++;
}

void asm_place(struct bpf_asm *code, int label)
{
    AMS_ASSERT(label >= 0 && (uint32_t)label < code->n_labels && code->places[label] < 0);
    code->places[label] = (int32_t)code->n_insns;
}

uint32_t asm_finish(struct bpf_asm *code)
{
    for (uint32_t i = 0; i < code->n_insns; i++) {
        if (!code->targets[i])
            continue;
        int32_t place = code->places[code->targets[i] - 1];
        int32_t distance = place - (int32_t)i - 1;
        AMS_ASSERT(place >= 0 && distance >= INT16_MIN && distance <= INT16_MAX);
        code->insns[i].off = (int16_t)distance;
    }
    return code->n_insns;
}

void asm_mov(struct bpf_asm *code, enum bpf_reg dst, enum bpf_reg src)
{
    asm_put(code, BPF_ALU64 | BPF_MOV | BPF_X, dst, src, 0, 0);
}

void asm_mov_imm(struct bpf_asm *code, enum bpf_reg dst, int32_t imm)
{
    asm_put(code, BPF_ALU64 | BPF_MOV | BPF_K, dst, R0, 0, imm);
}

void asm_alu(struct bpf_asm *code, int op, enum bpf_reg dst, enum bpf_reg src)
{
    asm_put(code, BPF_ALU64 | op | BPF_X, dst, src, 0, 0);
}

void asm_alu_imm(struct bpf_asm *code, int op, enum bpf_reg dst, int32_t imm)
{
    asm_put(code, BPF_ALU64 | op | BPF_K, dst, R0, 0, imm);
}

void asm_load(struct bpf_asm *code, int size, enum bpf_reg dst, enum bpf_reg src, int offset)
{
    asm_put(code, BPF_LDX | BPF_MEM | size, dst, src, offset, 0);
}

void asm_store(struct bpf_asm *code, int size, enum bpf_reg dst, int offset, enum bpf_reg src)
{
    asm_put(code, BPF_STX | BPF_MEM | size, dst, src, offset, 0);
}

void asm_store_imm(struct bpf_asm *code, int size, enum bpf_reg dst, int offset, int32_t imm)
{
    asm_put(code, BPF_ST | BPF_MEM | size, dst, R0, offset, imm);
}

/* A load of 64 bits takes two instructions. */
static void asm_load_fd(struct bpf_asm *code, enum bpf_reg dst, int kind, int fd)
{
    asm_put(code, BPF_LD | BPF_DW | BPF_IMM, dst, (enum bpf_reg)kind, 0, fd);
    asm_put(code, 0, R0, R0, 0, 0);
}

void asm_map(struct bpf_asm *code, enum bpf_reg dst, int fd)
{
    asm_load_fd(code, dst, BPF_PSEUDO_MAP_FD, fd);
}

void asm_map_value(struct bpf_asm *code, enum bpf_reg dst, int fd)
{
    asm_load_fd(code, dst, BPF_PSEUDO_MAP_VALUE, fd);
}

/* Notes where the instruction that was put last jumps to. */
static void asm_target(struct bpf_asm *code, int label)
{
    AMS_ASSERT(label >= 0 && (uint32_t)label < code->n_labels);
    code->targets[code->n_insns - 1] = (uint16_t)(label + 1);
}

void asm_jump(struct bpf_asm *code, int label)
{
    asm_put(code, BPF_JMP | BPF_JA, R0, R0, 0, 0);
    asm_target(code, label);
}

void asm_jump_if(struct bpf_asm *code, int op, enum bpf_reg dst, enum bpf_reg src, int label)
{
    asm_put(code, BPF_JMP | op | BPF_X, dst, src, 0, 0);
    asm_target(code, label);
}

void asm_jump_imm(struct bpf_asm *code, int op, enum bpf_reg dst, int32_t imm, int label)
{
    asm_put(code, BPF_JMP | op | BPF_K, dst, R0, 0, imm);
    asm_target(code, label);
}

void asm_call(struct bpf_asm *code, int helper)
{
    asm_put(code, BPF_JMP | BPF_CALL, R0, R0, 0, helper);
}

void asm_exit(struct bpf_asm *code)
{
    asm_put(code, BPF_JMP | BPF_EXIT, R0, R0, 0, 0);
}
