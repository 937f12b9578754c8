/* SPDX-License-Identifier: BSD-2-Clause */
#define _GNU_SOURCE /* SOCK_CLOEXEC under -std=c11 */

#include "io/netlink.h"

#include <errno.h>
#include <linux/if_arp.h>
#include <linux/if_link.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "wire/bytes.h"

#ifndef SOL_NETLINK
#define SOL_NETLINK 270
#endif

#define NEIGHBOR_CERTAIN (NUD_REACHABLE | NUD_PERMANENT | NUD_NOARP)
#define NEIGHBOR_KNOWN (NEIGHBOR_CERTAIN | NUD_STALE | NUD_DELAY | NUD_PROBE)

struct netlink_request {
    struct nlmsghdr header;
    union {
        struct ifinfomsg link;
        struct ndmsg neighbor;
        char body[64];      /* either, with attributes behind it */
    };
};

int netlink_open(bool news)
{
    struct sockaddr_nl address;
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE);

    if (fd < 0)
        return -errno;
    memset(&address, 0, sizeof(address));
    address.nl_family = AF_NETLINK;
    address.nl_groups = news ? RTMGRP_LINK : 0;
    if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
        int number = errno;
        close(fd);
        return -number;
    }
    return fd;
}

int netlink_join_neighbors(int fd)
{
    int group = RTNLGRP_NEIGH;

    return setsockopt(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof(group)) < 0 ? -errno : 0;
}

/* ---- messages ------------------------------------------------------------------- */

/* Walks attributes.  @visit: called for each of them */
typedef void attribute_visitor(void *ctx, int type, const char *data, size_t length);

static void attributes_walk(const char *data, size_t length, attribute_visitor *visit, void *ctx)
{
    struct rtattr attribute;

    while (length >= sizeof(attribute)) {
        memcpy(&attribute, data, sizeof(attribute));
        if (attribute.rta_len < sizeof(attribute) || attribute.rta_len > length)
            return;
        visit(ctx, attribute.rta_type & NLA_TYPE_MASK, data + sizeof(attribute),
              attribute.rta_len - sizeof(attribute));
        size_t step = RTA_ALIGN(attribute.rta_len);
        if (step >= length)
            return;
        data += step;
        length -= step;
    }
}

/* Sends a request and reads its answer: one message, or an error.
 * @body: result: its payload behind the fixed part of `fixed` bytes
 * Return: the length of body, or -errno. */
static int netlink_ask(int fd, struct netlink_request *request, char *buffer, size_t size, size_t fixed,
                       const char **body)
{
    struct nlmsghdr header;
    struct nlmsgerr error;
    ssize_t got;

    request->header.nlmsg_flags |= NLM_F_REQUEST;
    do {
        got = send(fd, request, request->header.nlmsg_len, 0);
    } while (got < 0 && errno == EINTR);
    if (got < 0)
        return -errno;
    do {
        got = recv(fd, buffer, size, 0);
    } while (got < 0 && errno == EINTR);
    if (got < 0)
        return -errno;
    if ((size_t)got < sizeof(header))
        return -EPROTO;
    memcpy(&header, buffer, sizeof(header));
    if (header.nlmsg_type == NLMSG_ERROR) {
        memcpy(&error, buffer + NLMSG_HDRLEN, sizeof(error.error));
        return error.error;
    }
    if (header.nlmsg_len > (size_t)got || header.nlmsg_len < NLMSG_HDRLEN + fixed)
        return -EPROTO;
    *body = buffer + NLMSG_HDRLEN;
    return (int)(header.nlmsg_len - NLMSG_HDRLEN);
}

/* ---- links ---------------------------------------------------------------------- */

static void link_xdp_attribute(void *ctx, int type, const char *data, size_t length)
{
    struct netlink_link *link = ctx;

    if ((type == IFLA_XDP_PROG_ID || type == IFLA_XDP_DRV_PROG_ID || type == IFLA_XDP_SKB_PROG_ID) && length >= 4)
        memcpy(&link->program, data, 4);
}

static void link_attribute(void *ctx, int type, const char *data, size_t length)
{
    struct netlink_link *link = ctx;

    if (type == IFLA_MTU && length >= 4)
        memcpy(&link->mtu, data, 4);
    else if (type == IFLA_ADDRESS && length == 6)
        memcpy(link->mac, data, 6);
    else if (type == IFLA_XDP)
        attributes_walk(data, length, link_xdp_attribute, link);
}

int netlink_get_link(int fd, uint32_t ifindex, struct netlink_link *link)
{
    struct netlink_request request;
    struct ifinfomsg info;
    char buffer[16384];
    const char *body;

    memset(&request, 0, sizeof(request));
    memset(link, 0, sizeof(*link));
    request.header.nlmsg_type = RTM_GETLINK;
    request.header.nlmsg_len = NLMSG_LENGTH(sizeof(request.link));
    request.link.ifi_index = (int)ifindex;
    int length = netlink_ask(fd, &request, buffer, sizeof(buffer), sizeof(info), &body);
    if (length < 0)
        return length;
    memcpy(&info, body, sizeof(info));
    link->flags = info.ifi_flags;
    link->ethernet = info.ifi_type == ARPHRD_ETHER || info.ifi_type == ARPHRD_LOOPBACK;
    attributes_walk(body + NLMSG_ALIGN(sizeof(info)), (size_t)length - NLMSG_ALIGN(sizeof(info)), link_attribute,
                    link);
    return 0;
}

/* ---- neighbours ------------------------------------------------------------------ */

/* What the attributes of a neighbour say. */
struct neighbor_facts {
    uint8_t dst[16];
    size_t dst_length;
    uint8_t mac[6];
    bool has_mac;
};

static void neighbor_attribute(void *ctx, int type, const char *data, size_t length)
{
    struct neighbor_facts *facts = ctx;

    if (type == NDA_DST && length <= sizeof(facts->dst)) {
        memcpy(facts->dst, data, length);
        facts->dst_length = length;
    } else if (type == NDA_LLADDR && length == 6) {
        memcpy(facts->mac, data, 6);
        facts->has_mac = true;
    }
}

/* Starts a request about a neighbour. */
static void neighbor_request(struct netlink_request *request, int type, uint32_t ifindex, const struct ams_endpoint *ip)
{
    bool v4 = ip->family == AMS_IPV4;
    size_t length = v4 ? 4 : 16;
    struct rtattr attribute = {(unsigned short)RTA_LENGTH(length), NDA_DST};

    memset(request, 0, sizeof(*request));
    request->header.nlmsg_type = (uint16_t)type;
    request->header.nlmsg_len = (uint32_t)(NLMSG_LENGTH(sizeof(request->neighbor)) + RTA_SPACE(length));
    request->neighbor.ndm_family = v4 ? AF_INET : AF_INET6;
    request->neighbor.ndm_ifindex = (int)ifindex;
    char *at = request->body + NLMSG_ALIGN(sizeof(request->neighbor));
    memcpy(at, &attribute, sizeof(attribute));
    memcpy(at + RTA_LENGTH(0), v4 ? ip->ip + 12 : ip->ip, length);
}

int netlink_get_neighbor(int fd, uint32_t ifindex, const struct ams_endpoint *ip, uint8_t mac[6], bool *certain)
{
    struct netlink_request request;
    struct neighbor_facts facts = {.has_mac = false};
    struct ndmsg info;
    char buffer[2048];
    const char *body;

    neighbor_request(&request, RTM_GETNEIGH, ifindex, ip);
    int length = netlink_ask(fd, &request, buffer, sizeof(buffer), sizeof(info), &body);
    if (length < 0)
        return length;
    memcpy(&info, body, sizeof(info));
    attributes_walk(body + NLMSG_ALIGN(sizeof(info)), (size_t)length - NLMSG_ALIGN(sizeof(info)),
                    neighbor_attribute, &facts);
    if (!facts.has_mac || !(info.ndm_state & NEIGHBOR_KNOWN))
        return -ENOENT;
    memcpy(mac, facts.mac, 6);
    *certain = info.ndm_state & NEIGHBOR_CERTAIN;
    return 0;
}

int netlink_use_neighbor(int fd, uint32_t ifindex, const struct ams_endpoint *ip)
{
    struct netlink_request request;
    char buffer[1024];
    const char *body;

    neighbor_request(&request, RTM_NEWNEIGH, ifindex, ip);
    request.header.nlmsg_flags = NLM_F_CREATE | NLM_F_ACK;
    request.neighbor.ndm_flags = NTF_USE;
    int length = netlink_ask(fd, &request, buffer, sizeof(buffer), 0, &body);
    return length < 0 ? length : 0;
}

/* ---- news ------------------------------------------------------------------------ */

/* What a message about a neighbour says.  @body: a struct ndmsg with its attributes */
static enum netlink_news news_neighbor(const struct netlink_reader *reader, const char *body, size_t length,
                                       struct netlink_event *event)
{
    struct neighbor_facts facts = {.has_mac = false};
    struct ndmsg info;

    if (length < sizeof(info))
        return NETLINK_OTHER;
    memcpy(&info, body, sizeof(info));
    attributes_walk(body + NLMSG_ALIGN(sizeof(info)), length - NLMSG_ALIGN(sizeof(info)), neighbor_attribute, &facts);
    bool v4 = info.ndm_family == AF_INET;
    if ((uint32_t)info.ndm_ifindex != reader->ifindex || !(info.ndm_state & NEIGHBOR_CERTAIN) || !facts.has_mac ||
        (!v4 && info.ndm_family != AF_INET6) || facts.dst_length != (v4 ? 4u : 16u))
        return NETLINK_OTHER;
    memset(&event->ip, 0, sizeof(event->ip));
    event->ip.family = v4 ? AMS_IPV4 : AMS_IPV6;
    if (v4)
        ip_map4(event->ip.ip, facts.dst);
    else
        memcpy(event->ip.ip, facts.dst, 16);
    memcpy(event->mac, facts.mac, 6);
    return NETLINK_NEIGHBOR;
}

/* What a message about a link says. */
static enum netlink_news news_link(const struct netlink_reader *reader, bool gone, const char *body, size_t length,
                                   struct netlink_event *event)
{
    struct ifinfomsg info;

    if (length < sizeof(info))
        return NETLINK_OTHER;
    memcpy(&info, body, sizeof(info));
    /* AF_BRIDGE: it left a bridge */
    if ((uint32_t)info.ifi_index != reader->ifindex || info.ifi_family != AF_UNSPEC)
        return NETLINK_OTHER;
    event->flags = info.ifi_flags;
    return gone ? NETLINK_LINK_GONE : NETLINK_LINK;
}

enum netlink_news netlink_read(int fd, struct netlink_reader *reader, struct netlink_event *event)
{
    struct nlmsghdr header;

    if (reader->next + sizeof(header) > reader->length) {
        ssize_t got = recv(fd, reader->buffer, sizeof(reader->buffer), MSG_DONTWAIT);
        reader->next = reader->length = 0;
        if (got < 0)
            return errno == ENOBUFS ? NETLINK_LOST : NETLINK_NOTHING;
        reader->length = (size_t)got;
        if (reader->length < sizeof(header))
            return NETLINK_OTHER;
    }
    memcpy(&header, reader->buffer + reader->next, sizeof(header));
    size_t left = reader->length - reader->next;
    if (header.nlmsg_len < NLMSG_HDRLEN || header.nlmsg_len > left) {
        reader->next = reader->length;
        return NETLINK_OTHER;
    }
    const char *body = reader->buffer + reader->next + NLMSG_HDRLEN;
    size_t length = header.nlmsg_len - NLMSG_HDRLEN;
    reader->next += NLMSG_ALIGN(header.nlmsg_len);
    switch (header.nlmsg_type) {
    case RTM_NEWLINK: return news_link(reader, false, body, length, event);
    case RTM_DELLINK: return news_link(reader, true, body, length, event);
    case RTM_NEWNEIGH: return news_neighbor(reader, body, length, event);
    default: return NETLINK_OTHER;
    }
}
