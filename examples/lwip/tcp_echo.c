/* SPDX-License-Identifier: BSD-2-Clause
 *
 * tcp_echo.c - lwIP on a switch: a TCP echo server on a stack that somebody
 * else has written, beside aiomultistack's and the operating system's.
 *
 *   tcp_echo SWITCH_SOCKET PORT
 *
 * It attaches to a running `aiomultistack switch`, claims TCP port PORT of the
 * switch's first IPv4 address, and gives lwIP a network interface of which the
 * two functions link_output() and link_input() are all there is.  The switch
 * answers lwIP's ARP requests, gives it no frames but those for its port, and
 * lets it send no others.  It serves the network and the system; what comes
 * from a stack on the switch has the same address, which lwIP takes for itself.
 *
 * On Debian, with liblwip-dev, and hidden symbols since both have a tcp_init():
 *   cc -std=gnu11 -fvisibility=hidden -Inative -Inative/include \
 *     $(pkg-config --cflags lwip) -o tcp_echo examples/lwip/tcp_echo.c \
 *     $(ls native/[a-z]*[a-z]/[a-z]*.c | grep -v _freebsd) -llwip -lpthread -lm
 */
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "aiomultistack.h"

#include <lwip/etharp.h>
#include <lwip/init.h>
#include <lwip/netif.h>
#include <lwip/tcp.h>
#include <lwip/timeouts.h>
#include <netif/ethernet.h>

#define FRAME_MAX 65549
#define POLL_MAX 250 /* ms: lwIP's own timers have no finer grain */

struct link {
    struct ams_port *port;
    struct ams_port_identity identity;
    struct ams_port_info info;
    char frame[FRAME_MAX];
};

/* ---- the network interface ----------------------------------------------------- */

/* lwIP has a frame to send.  What finds no room is lost, as on a wire. */
static err_t link_output(struct netif *netif, struct pbuf *packet)
{
    struct link *link = netif->state;
    u16_t length = pbuf_copy_partial(packet, link->frame, packet->tot_len, 0);

    return ams_port_send(link->port, link->frame, length, AMS_NOW) < 0 ? ERR_IF : ERR_OK;
}

/* Gives lwIP what has arrived.  Return: false if nothing has, or the port is gone for good. */
static bool link_input(struct netif *netif, int *status)
{
    struct link *link = netif->state;
    int length = ams_port_recv(link->port, link->frame, sizeof(link->frame), AMS_NOW);

    *status = length;
    if (length < 0)
        return false;
    struct pbuf *packet = pbuf_alloc(PBUF_RAW, (u16_t)length, PBUF_RAM);
    if (!packet)
        return true;
    pbuf_take(packet, link->frame, (u16_t)length);
    if (netif->input(packet, netif) != ERR_OK)
        pbuf_free(packet);
    return true;
}

static err_t link_init(struct netif *netif)
{
    const struct link *link = netif->state;

    netif->name[0] = 'm';
    netif->name[1] = 's';
    netif->mtu = (u16_t)link->info.mtu;
    netif->hwaddr_len = 6;
    memcpy(netif->hwaddr, link->identity.mac, 6);
    netif->flags = NETIF_FLAG_BROADCAST | NETIF_FLAG_ETHERNET | NETIF_FLAG_ETHARP | NETIF_FLAG_LINK_UP;
    netif->linkoutput = link_output;
    netif->output = etharp_output;
    return ERR_OK;
}

static ip4_addr_t ip4_of(const struct ams_endpoint *endpoint)
{
    ip4_addr_t address;
    memcpy(&address.addr, endpoint->ip + 12, 4);
    return address;
}

/* Adds the interface with an address of the switch's. */
static void link_attach(struct netif *netif, struct link *link, const struct ams_ifaddr *served)
{
    ip4_addr_t address = ip4_of(&served->address), mask, gateway = {0};

    mask.addr = lwip_htonl(served->prefix_len ? UINT32_MAX << (32 - served->prefix_len) : 0);
    if (link->identity.gateway4.family == AMS_IPV4)
        gateway = ip4_of(&link->identity.gateway4);
    netif_add(netif, &address, &mask, &gateway, link, link_init, ethernet_input);
    netif_set_default(netif);
    netif_set_up(netif);
}

/* ---- the echo ------------------------------------------------------------------------ */

/* A connection.  lwIP's own states say too early that the peer has ended: before it gives the data that came with the
 * FIN. */
struct echo {
    struct pbuf *waiting; /* has arrived, and found no room to be sent */
    bool ended;           /* nothing more arrives */
};

/* Sends back what waits, as far as there is room.  Ends the connection after the last of it. */
static void echo_send(struct echo *echo, struct tcp_pcb *pcb)
{
    while (echo->waiting
           && tcp_write(pcb, echo->waiting->payload, echo->waiting->len, TCP_WRITE_FLAG_COPY) == ERR_OK) {
        struct pbuf *sent = echo->waiting;
        tcp_recved(pcb, sent->len);
        echo->waiting = sent->next;
        if (echo->waiting)
            pbuf_ref(echo->waiting);
        pbuf_free(sent);
    }
    tcp_output(pcb);
    if (echo->ended && !echo->waiting && tcp_shutdown(pcb, 0, 1) == ERR_OK) {
        tcp_arg(pcb, NULL);
        free(echo);
    }
}

/* The peer has acknowledged something. */
static err_t echo_sent(void *arg, struct tcp_pcb *pcb, u16_t length)
{
    (void)length;
    if (arg)
        echo_send(arg, pcb);
    return ERR_OK;
}

/* Now and then: memory that was short may be there again, without anything of this connection on its way. */
static err_t echo_poll(void *arg, struct tcp_pcb *pcb)
{
    if (arg)
        echo_send(arg, pcb);
    return ERR_OK;
}

/* @packet: data, or NULL at its end */
static err_t echo_received(void *arg, struct tcp_pcb *pcb, struct pbuf *packet, err_t error)
{
    struct echo *echo = arg;

    (void)error;
    if (!echo) {
        if (packet)
            pbuf_free(packet);
        return ERR_OK;
    }
    if (!packet)
        echo->ended = true;
    else if (echo->waiting)
        pbuf_cat(echo->waiting, packet);
    else
        echo->waiting = packet;
    echo_send(echo, pcb);
    return ERR_OK;
}

/* The connection was reset, and is gone. */
static void echo_lost(void *arg, err_t error)
{
    struct echo *echo = arg;

    (void)error;
    if (echo && echo->waiting)
        pbuf_free(echo->waiting);
    free(echo);
}

static err_t echo_accepted(void *arg, struct tcp_pcb *pcb, err_t error)
{
    struct echo *echo = pcb && error == ERR_OK ? calloc(1, sizeof(*echo)) : NULL;

    (void)arg;
    if (!echo)
        return ERR_MEM;
    tcp_arg(pcb, echo);
    tcp_recv(pcb, echo_received);
    tcp_sent(pcb, echo_sent);
    tcp_poll(pcb, echo_poll, 1);
    tcp_err(pcb, echo_lost);
    return ERR_OK;
}

/* Lets lwIP work; a switch that ends is waited for.  Return: why it cannot go on. */
static int serve(struct netif *netif)
{
    const struct link *link = netif->state;
    int status;

    for (;;) {
        while (link_input(netif, &status))
            ;
        if (strcmp(ams_status_name(status), "EAGAIN") != 0)
            return status;
        sys_check_timeouts();
        poll(&(struct pollfd){.fd = link->info.fd, .events = POLLIN}, 1, POLL_MAX);
    }
}

int main(int argc, char **argv)
{
    static struct link link;
    static struct netif netif;
    char spec[256], error[256];
    struct ams_port_config config = {.spec = spec};
    uint32_t i = 0;

    if (argc != 3) {
        fprintf(stderr, "usage: %s SWITCH_SOCKET PORT\n", argv[0]);
        return 2;
    }
    snprintf(spec, sizeof(spec), "switch:%s", argv[1]);
    if (ams_port_open(&link.port, &config, error, sizeof(error)) < 0) {
        fprintf(stderr, "%s\n", error);
        return 1;
    }
    ams_port_identity(link.port, &link.identity);
    ams_port_info(link.port, &link.info);
    while (i < link.identity.n_addresses && link.identity.addresses[i].address.family != AMS_IPV4)
        i++;
    struct ams_ifaddr served = link.identity.addresses[i < AMS_PORT_ADDRESSES ? i : 0];
    served.address.port = (uint16_t)atoi(argv[2]);
    int status = ams_port_claim(link.port, 6, &served.address);
    if (status == 0) {
        lwip_init();
        link_attach(&netif, &link, &served);
        struct tcp_pcb *pcb = tcp_new();
        if (!pcb || tcp_bind(pcb, &netif.ip_addr, served.address.port) != ERR_OK)
            abort(); /* lwIP has no other */
        pcb = tcp_listen(pcb);
        tcp_accept(pcb, echo_accepted);
        puts("serving");
        fflush(stdout);
        status = serve(&netif);
    }
    fprintf(stderr, "%s\n", ams_status_text(status));
    ams_port_close(link.port);
    return 1;
}
