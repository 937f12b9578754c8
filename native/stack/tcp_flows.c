/* SPDX-License-Identifier: BSD-2-Clause */
#include "stack/tcp_flows.h"

#include "core/alloc.h"

#define LINES_FIRST 32u
#define LINE_FLOWS 4u /* on average, before the table doubles */

/* Makes empty lines, in large pages if they fill some.
 * Return: NULL without memory.  Owns: the caller. */
static struct tcp_flow_line *lines_new(const struct tcp_flows *flows, uint32_t n)
{
    size_t size = n * sizeof(struct tcp_flow_line);
    bool large = size >= SLAB_REGION;
    struct tcp_flow_line *lines = mem_aligned(large ? SLAB_REGION : AMS_CACHE_LINE, size);
    if (!lines)
        return NULL;
    memset(lines, 0, size);
    if (large && flows->settle)
        flows->settle(lines, size);
    return lines;
}

int tcp_flows_init(struct tcp_flows *flows, const struct siphash_key *key, slab_settle settle)
{
    memset(flows, 0, sizeof(*flows));
    flows->settle = settle;
    hash_key_derive(&flows->key, key);
    flows->lines = lines_new(flows, LINES_FIRST);
    if (!flows->lines)
        return -AMS_ENOMEM;
    flows->n_lines = LINES_FIRST;
    return 0;
}

void tcp_flows_fini(struct tcp_flows *flows)
{
    mem_free(flows->lines);
    memset(flows, 0, sizeof(*flows));
}

size_t tcp_flows_memory(const struct tcp_flows *flows)
{
    return flows->n_lines * sizeof(struct tcp_flow_line);
}

/* Puts a flow with its hash into its line. */
static void line_add(struct tcp_flow_line *line, struct tcp_flow *flow)
{
    for (uint32_t way = 0; way < FLOW_WAYS; way++)
        if (!line->tags[way]) {
            line->tags[way] = tcp_flow_tag(flow->hash);
            line->flows[way] = flow;
            flow->hash_next = NULL;
            return;
        }
    flow->hash_next = line->more;
    line->more = flow;
}

/* Doubles the table; without memory the chains just get longer. */
static void flows_grow(struct tcp_flows *flows)
{
    struct tcp_flow_line *lines = lines_new(flows, flows->n_lines * 2);
    if (!lines)
        return;
    struct tcp_flows old = *flows;
    struct tcp_flow_walk walk = {0};
    flows->lines = lines;
    flows->n_lines *= 2;
    for (struct tcp_flow *flow; (flow = tcp_flows_walk(&old, &walk));)
        line_add(tcp_flow_line(flows, flow->hash), flow);
    mem_free(old.lines);
}

void tcp_flows_add(struct tcp_flows *flows, struct tcp_flow *flow)
{
    if (flows->n >= flows->n_lines * LINE_FLOWS)
        flows_grow(flows);
    flow->hash = tcp_flow_hash(flows, flow->local_ip, flow->local_port, flow->remote_ip, flow->remote_port,
                               flow->family);
    line_add(tcp_flow_line(flows, flow->hash), flow);
    flows->n++;
}

/* Takes a flow out of a line's chain.  Return: false if it wasn't in. */
static bool chain_remove(struct tcp_flow_line *line, struct tcp_flow *flow)
{
    for (struct tcp_flow **slot = &line->more; *slot; slot = &(*slot)->hash_next)
        if (*slot == flow) {
            *slot = flow->hash_next;
            flow->hash_next = NULL;
            return true;
        }
    return false;
}

bool tcp_flows_remove(struct tcp_flows *flows, struct tcp_flow *flow)
{
    struct tcp_flow_line *line = tcp_flow_line(flows, flow->hash);
    uint32_t way = 0;
    while (way < FLOW_WAYS && line->flows[way] != flow)
        way++;
    if (way == FLOW_WAYS) {
        if (!chain_remove(line, flow))
            return false;
    } else {
        line->tags[way] = 0;
        line->flows[way] = NULL;
        struct tcp_flow *heir = line->more;
        if (AMS_UNLIKELY(heir)) {
            line->more = heir->hash_next;
            line_add(line, heir);
        }
    }
    flows->n--;
    return true;
}

/* Of each line the chain comes first, then the ways from the last: so who moves
 * from the chain into a way that has become free has had its turn. */
struct tcp_flow *tcp_flows_walk(const struct tcp_flows *flows, struct tcp_flow_walk *walk)
{
    for (;;) {
        struct tcp_flow *flow = walk->chained;
        if (flow) {
            walk->chained = flow->hash_next;
            return flow;
        }
        while (walk->ways)
            if ((flow = flows->lines[walk->line - 1].flows[--walk->ways]) != NULL)
                return flow;
        if (walk->line == flows->n_lines)
            return NULL;
        walk->chained = flows->lines[walk->line++].more;
        walk->ways = FLOW_WAYS;
    }
}
