/* SPDX-License-Identifier: BSD-2-Clause
 *
 * events.c - endpoint ids and the way of events to the application.
 *
 * Theory of operation.  The application knows an endpoint by a small id, an
 * index into stack->socks; freed ids form a LIFO list, so that the
 * application's own tables stay dense.  An endpoint with something to tell
 * is on the ready list exactly once, its pending events being a bit set;
 * stack_events() drains the list into plain int32 words and one blob of
 * data, so that a batch costs one crossing into Python.
 */
#include <string.h>

#include "core/alloc.h"
#include "stack/stack.h"

#define SOCKS_FIRST 64u

/* Doubles the id table.  Return: 0, -AMS_ENOMEM, -AMS_EMFILE. */
static int socks_grow(struct ams_stack *stack)
{
    uint32_t old = stack->n_socks;
    uint32_t size = old ? old * 2 : SOCKS_FIRST;
    if (size > stack->socks_limit)
        size = stack->socks_limit;
    if (size <= old)
        return -AMS_EMFILE;
    struct sock **socks = mem_realloc(stack->socks, size * sizeof(*socks));
    if (!socks)
        return -AMS_ENOMEM;
    stack->socks = socks;
    int32_t *links = mem_realloc(stack->sock_links, size * sizeof(*links));
    if (!links)
        return -AMS_ENOMEM;
    stack->sock_links = links;
    memset(socks + old, 0, (size - old) * sizeof(*socks));
    for (uint32_t i = old; i < size; i++)
        links[i] = i + 1 < size ? (int32_t)i + 1 : stack->free_sock;
    stack->free_sock = (int32_t)old;
    stack->n_socks = size;
    return 0;
}

int sock_register(struct ams_stack *stack, struct sock *sock, enum sock_kind kind)
{
    if (stack->free_sock < 0) {
        int status = socks_grow(stack);
        if (status < 0)
            return status;
    }
    int32_t id = stack->free_sock;
    stack->free_sock = stack->sock_links[id];
    stack->socks[id] = sock;
    stack->socks_used++;
    sock->id = id;
    sock->kind = (uint8_t)kind;
    return 0;
}

uint64_t sock_weight(const struct ams_stack *stack, const struct sock *sock, const uint8_t remote_ip[16],
                     uint16_t remote_port)
{
    uint64_t words[3];
    memcpy(words, remote_ip, 16);
    words[2] = (uint64_t)(uint32_t)sock->id << 16 | remote_port;
    return siphash13(&stack->key, words, 3);
}

void sock_unregister(struct ams_stack *stack, struct sock *sock)
{
    if (sock->id < 0)
        return;
    stack->socks[sock->id] = NULL;
    stack->sock_links[sock->id] = stack->free_sock;
    stack->free_sock = sock->id;
    stack->socks_used--;
    sock->id = -1;
    sock_forget(stack, sock);
}

struct sock *sock_find(struct ams_stack *stack, int id, enum sock_kind kind)
{
    if (id < 0 || (uint32_t)id >= stack->n_socks)
        return NULL;
    struct sock *sock = stack->socks[id];
    return sock && sock->kind == kind ? sock : NULL;
}

void sock_event(struct ams_stack *stack, struct sock *sock, uint32_t events)
{
    if (sock->id < 0)
        return;
    sock->events |= events;
    if (sock->ready)
        return;
    sock->ready = true;
    sock->ready_next = NULL;
    sock->ready_prev = stack->ready_tail;
    if (stack->ready_tail)
        stack->ready_tail->ready_next = sock;
    else
        stack->ready_head = sock;
    stack->ready_tail = sock;
}

/* Takes sock out of the ready list, where it is. */
static void ready_unlink(struct ams_stack *stack, struct sock *sock)
{
    if (sock->ready_prev)
        sock->ready_prev->ready_next = sock->ready_next;
    else
        stack->ready_head = sock->ready_next;
    if (sock->ready_next)
        sock->ready_next->ready_prev = sock->ready_prev;
    else
        stack->ready_tail = sock->ready_prev;
    sock->ready_next = sock->ready_prev = NULL;
    sock->ready = false;
}

void sock_forget(struct ams_stack *stack, struct sock *sock)
{
    sock->events = 0;
    if (sock->ready)
        ready_unlink(stack, sock);
}

/* Puts sock back at the front: it was not done. */
static void ready_push_front(struct ams_stack *stack, struct sock *sock)
{
    sock->ready = true;
    sock->ready_prev = NULL;
    sock->ready_next = stack->ready_head;
    if (stack->ready_head)
        stack->ready_head->ready_prev = sock;
    else
        stack->ready_tail = sock;
    stack->ready_head = sock;
}

/* A connection reports at most this many events at a time. */
#define EVENTS_PER_SOCK 4

int stack_events(struct ams_stack *stack, int32_t *events, int max, char *blob, size_t blob_size)
{
    int count = 0;
    size_t blob_used = 0;
    while (stack->ready_head && max - count >= EVENTS_PER_SOCK) {
        struct sock *sock = stack->ready_head;
        if (sock->id >= 0)
            AMS_PREFETCH(&stack->socks[sock->id]); /* the application will ask by id */
        ready_unlink(stack, sock);
        int32_t *out = events + count * AMS_EVENT_WORDS;
        int n;
        if (sock->kind == SOCK_TCP)
            n = tcp_report(stack, sock, out, blob, blob_size, &blob_used);
        else
            n = udp_report(sock, out);
        if (n < 0) { /* the blob is full: this one goes first next time */
            ready_push_front(stack, sock);
            break;
        }
        count += n;
    }
    return count;
}
