/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Fuzzes two engines that talk to each other over a link that the input rules.
 *
 * The input chooses how both are configured (Fast Open, SYN cookies, Accurate
 * ECN, options, congestion controls, one of them outside of the engine), and
 * then, record by record, who connects, perhaps both to each other, what
 * becomes of each segment in flight (delivered in order or out of it,
 * repeated, lost, damaged, marked), how long segments may be before the path
 * swallows them, how much memory is left, how time passes, and what the
 * applications do.  When it ends the link heals, memory is there again, the
 * applications read everything, and time runs on.
 *
 * What is checked beyond the sanitizers, besides what fuzz_stack.c checks:
 *
 *   - safety: what an application reads is what the other one wrote, byte by
 *     byte from the start, and never more; EOF comes after the last byte;
 *   - liveness: a connection that nobody aborted delivers everything within
 *     LIFE of the link's recovery, EOFs included;
 *   - after both applications have closed, nothing is left: no connection,
 *     no frame.
 *
 * Neighbour discovery is not subject to the input: tests of its own have it.
 */
#include "pair.h"

#define MAX_RECORDS 600
#define HOSTILE (15 * AMS_NS_PER_S) /* its echo in back-offs is shorter than any time-out that ends a connection */
#define LIFE (3000 * AMS_NS_PER_S)

/* ---- records: the link ---------------------------------------------------------------------------- */

static void do_deliver(struct fuzz *fuzz)
{
    uint8_t how = take8(&fuzz->input);
    int from = how & 1, count = 1 + (how >> 1) % 16;
    struct ams_frame *batch[16];
    int n = 0;
    for (; count > 0 && fuzz->links[from].count; count--) {
        if (how & 64) {
            deliver(fuzz, from, link_take(&fuzz->links[from], 0));
            settle(fuzz);
        } else {
            batch[n++] = link_take(&fuzz->links[from], 0);
        }
    }
    stack_input(fuzz->stack[1 - from], batch, n, fuzz->now); /* at once: trains (tcp_train.c) */
}

/* What becomes of one frame, wherever it is in line. */
static void do_frame(struct fuzz *fuzz)
{
    uint8_t how = take8(&fuzz->input), which = take8(&fuzz->input);
    struct link *link = &fuzz->links[how & 1];
    if (!link->count)
        return;
    int index = which % link->count;
    struct ams_frame *frame;
    switch (how >> 1 & 7) {
    case 0: case 1: deliver(fuzz, how & 1, link_take(link, index)); break;
    case 2: case 3: frame_free(link_take(link, index)); break;
    case 4:
        frame = copy_of(fuzz, link->frames[index]);
        if (frame)
            deliver(fuzz, how & 1, frame);
        break;
    case 5: damage(fuzz, link->frames[index]); break;
    case 6: mark(link->frames[index]); break;
    case 7: /* to the end of the line */
        frame = link_take(link, index);
        link->frames[link->count++] = frame;
        break;
    }
}

/* A path that swallows long packets without a word (RFC 2923), or no longer. */
static void do_path(struct fuzz *fuzz)
{
    static const uint16_t lengths[] = {1500, 1400, 1200, 576};
    fuzz->longest = lengths[take8(&fuzz->input) & 3];
}

/* From now on there is memory for so many frames more than there are. */
static void do_memory(struct fuzz *fuzz)
{
    static const uint16_t spare[] = {50000, 500, 100, 10};
    fuzz->pool.limit = fuzz->pool.in_use + spare[take8(&fuzz->input) & 3];
}

/* Loses all that is under way one way. */
static void do_outage(struct fuzz *fuzz)
{
    struct link *link = &fuzz->links[take8(&fuzz->input) & 1];
    while (link->count)
        frame_free(link_take(link, 0));
}

static void do_time(struct fuzz *fuzz)
{
    uint8_t how = take8(&fuzz->input);
    uint64_t step_ns = (how & 63) * (how & 128 ? 50 * AMS_NS_PER_MS : how & 64 ? AMS_NS_PER_MS : 20 * AMS_NS_PER_US);
    run_until(fuzz, ams_min_u64(fuzz->now + step_ns, fuzz->hostile_until));
}

/* ---- records: the applications ------------------------------------------------------------------------ */

/* Both connect, from and to fixed ports: SYNs that cross (RFC 9293 section 3.5). */
static void cross(struct fuzz *fuzz, int k)
{
    struct ams_endpoint ends[HOSTS];
    for (int host = 0; host < HOSTS; host++)
        ends[host] = packets_endpoint(fuzz->how & IPV6, (uint8_t)(1 + host), (uint16_t)(180 + k));
    for (int host = 0; host < HOSTS; host++) {
        fuzz->ends[host][k].used = true;
        fuzz->ends[host][k].id = ams_tcp_connect(fuzz->stack[host], &ends[host], &ends[1 - host], fuzz->now);
        FUZZ_ASSERT(fuzz->ends[host][k].id >= 0);
    }
}

static void do_connect(struct fuzz *fuzz)
{
    uint8_t how = take8(&fuzz->input);
    int k = how % CONNS;
    struct end *end = &fuzz->ends[CLIENT][k];
    struct ams_endpoint remote = packets_endpoint(fuzz->how & IPV6, 2, (uint16_t)(80 + k));
    if (end->used)
        return;
    if (how & 128) {
        cross(fuzz, k);
        return;
    }
    end->used = true;
    end->id = ams_tcp_connect(fuzz->stack[CLIENT], NULL, &remote, fuzz->now);
    FUZZ_ASSERT(end->id >= 0);
    if (how & 96)
        ams_tcp_setopt(fuzz->stack[CLIENT], end->id, AMS_OPT_FASTOPEN_CONNECT, how & 64 ? 1 : 2);
}

/* Who acts: the end that the byte names; NULL if it isn't there. */
static struct end *actor(struct fuzz *fuzz, uint8_t how, int *host, int *k)
{
    *host = how & 1;
    *k = (how >> 1 & 3) % CONNS;
    return fuzz->ends[*host][*k].id >= 0 ? &fuzz->ends[*host][*k] : NULL;
}

static void do_send(struct fuzz *fuzz)
{
    static const uint16_t units[] = {1, 100, 1460, 20000};
    uint8_t how = take8(&fuzz->input);
    uint32_t length = take8(&fuzz->input) * (uint32_t)units[how >> 4 & 3] / 8 + 1;
    int host, k;
    struct end *end = actor(fuzz, how, &host, &k);
    if (!end || end->shut)
        return;
    length = ams_min_u32(length, STREAM - end->written);
    const char *data = (const char *)streams[k][host] + end->written;
    if (!length)
        return;
    int result = how & 8 ? ams_tcp_send_ref(fuzz->stack[host], end->id, data, length)
                         : ams_tcp_send(fuzz->stack[host], end->id, data, length);
    FUZZ_ASSERT(result >= 0 || broken(fuzz, k) || (result == -AMS_ENOBUFS && fuzz->pool.limit < FRAMES));
    if (result < 0) { /* all or nothing */
        fuzz->refused[host] += result == -AMS_ENOBUFS;
        return;
    }
    end->written += length;
    end->refs += how & 8 ? 1 : 0;
    if (how & 128)
        ams_tcp_want_drain(fuzz->stack[host], end->id, 1000);
}

static void do_read(struct fuzz *fuzz)
{
    uint8_t how = take8(&fuzz->input);
    uint16_t most = take16(&fuzz->input);
    int host, k;
    if (actor(fuzz, how, &host, &k) && !fuzz->ends[host][k].eof)
        read_some(fuzz, host, k, most + 1u);
}

/* Options that are seldom used.  Some of them end a connection whose peer isn't heard for a while. */
static void rare_option(struct fuzz *fuzz, int host, int k, uint8_t which, uint8_t value)
{
    static const uint8_t options[] = {AMS_OPT_NOTSENT_LOWAT, AMS_OPT_MAXSEG, AMS_OPT_LINGER2, AMS_OPT_LINGER,
                                      AMS_OPT_KEEPINTVL,     AMS_OPT_KEEPCNT, AMS_OPT_SYNCNT, AMS_OPT_USER_TIMEOUT};
    static const uint8_t factors[] = {50, 9, 1, 1, 1, 1, 1, 100};
    fuzz->fragile[k] = fuzz->fragile[k] || which >= 4;
    ams_tcp_setopt(fuzz->stack[host], fuzz->ends[host][k].id, options[which], value * factors[which]);
}

static void do_option(struct fuzz *fuzz)
{
    static const uint8_t options[] = {AMS_OPT_NODELAY, AMS_OPT_CORK, AMS_OPT_QUICKACK, AMS_OPT_PACING,
                                      AMS_OPT_RCVBUF,  AMS_OPT_SNDBUF, AMS_OPT_KEEPALIVE, AMS_OPT_KEEPIDLE};
    uint8_t how = take8(&fuzz->input), value = take8(&fuzz->input);
    int host, k;
    struct end *end = actor(fuzz, how, &host, &k);
    if (!end)
        return;
    uint8_t option = value & 64 ? AMS_OPT_WINDOW_CLAMP : options[how >> 3 & 7];
    if (how & 64)
        rare_option(fuzz, host, k, how >> 3 & 7, value);
    else if (value & 128 && how & 128)
        ams_tcp_set_reading(fuzz->stack[host], end->id, value & 3);
    else if (value & 128)
        ams_tcp_set_congestion(fuzz->stack[host], end->id,
                               value & 4 ? "outside" : value & 1 ? "reno" : value & 2 ? "bbr" : "cubic");
    else
        ams_tcp_setopt(fuzz->stack[host], end->id, option,
                       option == AMS_OPT_RCVBUF || option == AMS_OPT_WINDOW_CLAMP ? value << 9 : value & 3);
}

static void do_close(struct fuzz *fuzz)
{
    uint8_t how = take8(&fuzz->input);
    int host, k;
    struct end *end = actor(fuzz, how, &host, &k);
    if (!end)
        return;
    if ((how & 0xc0) != 0xc0) { /* mostly in peace */
        FUZZ_ASSERT(end->shut || ams_tcp_shutdown(fuzz->stack[host], end->id) == 0 || broken(fuzz, k));
        end->shut = true;
        return;
    }
    fuzz->fragile[k] = true;
    end->shut = true;
    int gone = how & 32 ? ams_tcp_close(fuzz->stack[host], end->id) : ams_tcp_abort(fuzz->stack[host], end->id);
    FUZZ_ASSERT(gone >= 0);
    end->id = -1;
}

/* What a running stack may be told. */
static void do_stack(struct fuzz *fuzz, int host)
{
    static const uint16_t fastopen[] = {AMS_FASTOPEN_OFF, AMS_FASTOPEN_CLIENT, AMS_FASTOPEN_SERVER,
                                        AMS_FASTOPEN_CLIENT | AMS_FASTOPEN_CLIENT_NO_COOKIE | AMS_FASTOPEN_SERVER |
                                            AMS_FASTOPEN_SERVER_NO_COOKIE | AMS_FASTOPEN_LISTENERS};
    uint8_t what = take8(&fuzz->input), value = take8(&fuzz->input);
    switch (what % 6) {
    case 0: ams_stack_set(fuzz->stack[host], AMS_SET_FLAGS, value & 0xfe); break;
    case 1: ams_stack_set(fuzz->stack[host], AMS_SET_FASTOPEN, fastopen[value & 3]); break;
    case 2: ams_stack_set(fuzz->stack[host], AMS_SET_ECN, value & 7); break;
    case 3: ams_stack_set(fuzz->stack[host], AMS_SET_ACCECN, value & 7); break;
    case 4: ams_stack_set(fuzz->stack[host], AMS_SET_FORGET, 0); break;
    case 5: ams_stack_set_congestion(fuzz->stack[host], value & 1 ? "outside" : value & 2 ? "bbr" : "cubic"); break;
    }
}

static void do_setting(struct fuzz *fuzz)
{
    uint8_t which = take8(&fuzz->input);
    if (which & 1)
        do_path(fuzz);
    else if (which >= 128)
        do_stack(fuzz, which >> 1 & 1);
    else
        do_memory(fuzz);
}

/* ---- the end ------------------------------------------------------------------------------------------------- */

/* True if a connection has done all that it should. */
static bool complete(const struct fuzz *fuzz, int k)
{
    for (int host = 0; host < HOSTS; host++)
        if (!fuzz->ends[host][k].eof || fuzz->ends[host][k].read != fuzz->ends[1 - host][k].written)
            return false;
    return true;
}

/* Both applications want to be done with everything that is open. */
static void wind_up(struct fuzz *fuzz)
{
    for (int host = 0; host < HOSTS; host++)
        for (int k = 0; k < CONNS; k++) {
            struct end *end = &fuzz->ends[host][k];
            if (end->id < 0)
                continue;
            ams_tcp_setopt(fuzz->stack[host], end->id, AMS_OPT_CORK, 0);
            ams_tcp_set_reading(fuzz->stack[host], end->id, AMS_READ_BLOB);
            if (!end->eof)
                read_some(fuzz, host, k, STREAM);
            if (!end->shut)
                ams_tcp_shutdown(fuzz->stack[host], end->id);
            end->shut = true;
        }
}

static void close_all(struct fuzz *fuzz)
{
    for (int host = 0; host < HOSTS; host++)
        for (int k = 0; k < CONNS; k++)
            if (fuzz->ends[host][k].id >= 0) {
                fuzz->fragile[k] = true;
                ams_tcp_close(fuzz->stack[host], fuzz->ends[host][k].id);
                fuzz->ends[host][k].id = -1;
            }
}

static void heal(struct fuzz *fuzz)
{
    uint64_t end = fuzz->now + LIFE;
    bool waits = true;
    fuzz->healed = true;
    fuzz->longest = 1500;
    fuzz->pool.limit = FRAMES;
    carry(fuzz);
    while (waits) {
        wind_up(fuzz); /* also what was accepted since */
        run_until(fuzz, fuzz->now + AMS_NS_PER_S);
        waits = false;
        for (int k = 0; k < CONNS; k++)
            waits = waits || (fuzz->ends[CLIENT][k].id >= 0 && !broken(fuzz, k) && !complete(fuzz, k));
        FUZZ_ASSERT(fuzz->now < end);
    }
    close_all(fuzz);
    run_until(fuzz, fuzz->now + LIFE);
    close_all(fuzz); /* what was accepted after its client had closed */
    run_until(fuzz, fuzz->now + LIFE);
    for (int host = 0; host < HOSTS; host++) {
        FUZZ_ASSERT(ams_stack_endpoints(fuzz->stack[host]) == (host == SERVER ? CONNS : 0));
        FUZZ_ASSERT(fuzz->stack[host]->tcp->flows.n == 0);
    }
    FUZZ_ASSERT(fuzz->pool.in_use == 0);
}

/* ---- set-up ---------------------------------------------------------------------------------------------------- */

static struct ams_stack *make_host(struct fuzz *fuzz, int host, uint16_t how)
{
    static const char *const congestion[] = {"cubic", "reno", "bbr", "cubic"};
    static const uint8_t ecn[] = {AMS_ECN_ACCEPT, AMS_ECN_ASK, AMS_ECN_ACCURATE_ACCEPT, AMS_ECN_ACCURATE};
    struct ams_ifaddr addresses[2] = {{packets_endpoint(false, (uint8_t)(1 + host), 0), 24},
                                      {packets_endpoint(true, (uint8_t)(1 + host), 0), 64}};
    struct ams_stack_config config = {
        .mac = {2, 0, 0, 0, 0, (uint8_t)(1 + host)}, .seed = {how, (uint64_t)host}, .addresses = addresses,
        .n_addresses = 2, .time_wait_ms = 2000, .flags = AMS_STACK_NO_DAD, .congestion = congestion[how & 3],
        .ecn = ecn[(how >> 2 & 1) | (how >> 3 & 2)], .rcvbuf = how & 8 ? 6000 : 0,
        .syn_cookies = fuzz->cookies ? AMS_SYN_COOKIES_ALWAYS : AMS_SYN_COOKIES_AUTO,
    };
    if (fuzz->how & FASTOPEN)
        config.fastopen = AMS_FASTOPEN_CLIENT | AMS_FASTOPEN_SERVER | AMS_FASTOPEN_LISTENERS |
                          (fuzz->how & NO_COOKIE ? AMS_FASTOPEN_CLIENT_NO_COOKIE | AMS_FASTOPEN_SERVER_NO_COOKIE : 0);
    config.flags |= (fuzz->how & USER_TIMEOUT ? AMS_STACK_USER_TIMEOUT_OPTION : 0);
    config.flags |= (how & 32 ? AMS_STACK_NO_TIMESTAMPS : 0) | (how & 64 ? AMS_STACK_NO_SACK : 0) |
                    (how & 128 ? AMS_STACK_NO_WSCALE : 0);
    struct stack_link link = {.mtu = 1500, .pool = &fuzz->pool,
                              .caps = fuzz->how & OFFLOAD ? AMS_CAP_CSUM_TX | AMS_CAP_TSO4 | AMS_CAP_TSO6 : 0};
    int status;
    struct ams_stack *stack = stack_new(&config, &link, fuzz->now, &status);
    FUZZ_ASSERT(stack);
    stack->tcp->ahead_always = true;
    FUZZ_ASSERT(ams_congestion_register(stack, "outside") >= 0);
    if (fuzz->how & EXTERNAL)
        FUZZ_ASSERT(ams_stack_set_congestion(stack, "outside") == 0);
    return stack;
}

static void fuzz_init(struct fuzz *fuzz)
{
    make_streams();
    frame_pool_init(&fuzz->pool, FRAMES, false);
    fuzz->longest = 1500;
    fuzz->now = 1000 * AMS_NS_PER_S;
    fuzz->hostile_until = fuzz->now + HOSTILE;
    fuzz->how = take8(&fuzz->input);
    fuzz->cookies = (fuzz->how & COOKIES) == COOKIES;
    for (int host = 0; host < HOSTS; host++)
        fuzz->stack[host] = make_host(fuzz, host, take8(&fuzz->input));
    for (int k = 0; k < CONNS; k++) {
        struct ams_endpoint any = packets_wildcard(fuzz->how & IPV6, (uint16_t)(80 + k));
        fuzz->listeners[k] = ams_tcp_listen(fuzz->stack[SERVER], &any, 4, AMS_LISTEN_V6ONLY);
        FUZZ_ASSERT(fuzz->listeners[k] >= 0);
        fuzz->ends[CLIENT][k].id = fuzz->ends[SERVER][k].id = -1;
    }
    settle(fuzz);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static void (*const actions[])(struct fuzz *) = {
        do_deliver, do_deliver, do_deliver, do_frame, do_frame, do_frame, do_outage, do_time,
        do_time,    do_connect, do_send,    do_send,  do_read,  do_option, do_close, do_setting,
    };
    struct fuzz fuzz = {.input = {data, size}};
    fuzz_init(&fuzz);
    for (int record = 0; record < MAX_RECORDS && fuzz.input.left; record++) {
        actions[take8(&fuzz.input) % (sizeof(actions) / sizeof(actions[0]))](&fuzz);
        settle(&fuzz);
    }
    heal(&fuzz);
    for (int host = 0; host < HOSTS; host++)
        stack_free(fuzz.stack[host]);
    frame_pool_fini(&fuzz.pool);
    return 0;
}
