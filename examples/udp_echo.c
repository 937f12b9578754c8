/* SPDX-License-Identifier: BSD-2-Clause
 *
 * udp_echo.c - a stack of one's own, in a hundred lines: UDP echo on raw
 * frames, beside aiomultistack's TCP and the operating system's stack.
 *
 *   udp_echo SWITCH_SOCKET PORT
 *
 * It attaches to a running `aiomultistack switch`, claims UDP port PORT of
 * the switch's first IPv4 address, and sends back what it receives there.
 * The switch gives it no other frames, and lets no others pass.
 *
 * On Linux: cc -std=c11 -Inative -Inative/include -o udp_echo \
 *     examples/udp_echo.c $(ls native/[a-z]*[a-z]/[a-z]*.c | grep -v _freebsd) -lpthread -lm
 */
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "aiomultistack.h"

#define ETHERNET 14 /* bytes of header */
#define IPV4 20
#define UDP 8
#define FRAME_MAX 65549

/* RFC 1071. */
static unsigned checksum(const unsigned char *data, size_t length)
{
    unsigned sum = 0;

    for (size_t i = 0; i < length; i += 2)
        sum += (unsigned)data[i] << 8 | (i + 1 < length ? data[i + 1] : 0);
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return ~sum & 0xffff;
}

static void swap(unsigned char *a, unsigned char *b, size_t length)
{
    unsigned char kept[6];

    memcpy(kept, a, length);
    memcpy(a, b, length);
    memcpy(b, kept, length);
}

/* Turns a datagram into its echo.  Return: false if it is no whole UDP/IPv4 packet. */
static bool echo(unsigned char *frame, size_t length, const unsigned char mac[6])
{
    unsigned char *ip = frame + ETHERNET, *udp = ip + IPV4;

    if (length < ETHERNET + IPV4 + UDP || frame[12] != 0x08 || frame[13] != 0x00 || ip[0] != 0x45 || ip[9] != 17 ||
        (ip[6] & 0x3f) || ip[7]) /* options and fragments are for bigger stacks */
        return false;
    memcpy(frame, frame + 6, 6); /* back to where it came from: no neighbour has to be asked for */
    memcpy(frame + 6, mac, 6);
    swap(ip + 12, ip + 16, 4);
    swap(udp, udp + 2, 2);
    ip[8] = 64;
    ip[10] = ip[11] = 0;
    unsigned sum = checksum(ip, IPV4);
    ip[10] = (unsigned char)(sum >> 8);
    ip[11] = (unsigned char)sum;
    return true; /* the UDP checksum stays as it is: its sum doesn't know an order */
}

/* Waits for frames and answers them; a switch that ends is waited for.  Return: why it cannot go on. */
static int serve(struct ams_port *port, const unsigned char mac[6])
{
    static char frame[FRAME_MAX];
    struct ams_port_info info;

    ams_port_info(port, &info);
    for (;;) {
        int length = ams_port_recv(port, frame, sizeof(frame), AMS_NOW);
        if (length >= 0 && (size_t)length <= sizeof(frame) && echo((unsigned char *)frame, (size_t)length, mac))
            length = ams_port_send(port, frame, (size_t)length, AMS_NOW);
        if (length < 0 && strcmp(ams_status_name(length), "EAGAIN") != 0)
            return length;
        if (length < 0)
            poll(&(struct pollfd){.fd = info.fd, .events = POLLIN}, 1, 1000);
    }
}

int main(int argc, char **argv)
{
    char spec[256], error[256];
    struct ams_port_config config = {.spec = spec};
    struct ams_port_identity identity;
    struct ams_port *port;

    if (argc != 3) {
        fprintf(stderr, "usage: %s SWITCH_SOCKET PORT\n", argv[0]);
        return 2;
    }
    snprintf(spec, sizeof(spec), "switch:%s", argv[1]);
    if (ams_port_open(&port, &config, error, sizeof(error)) < 0) {
        fprintf(stderr, "%s\n", error);
        return 1;
    }
    ams_port_identity(port, &identity);
    struct ams_endpoint local = {.family = 0};
    for (unsigned i = 0; i < identity.n_addresses && local.family != AMS_IPV4; i++)
        local = identity.addresses[i].address;
    local.port = (uint16_t)atoi(argv[2]);
    int status = ams_port_claim(port, 17, &local);
    if (status == 0) {
        puts("serving");
        fflush(stdout);
        status = serve(port, identity.mac);
    }
    fprintf(stderr, "%s\n", ams_status_text(status));
    ams_port_close(port);
    return 1;
}
