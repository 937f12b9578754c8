"""With IP_FREEBIND a socket holds a port of an address that the system doesn't have, against others who try.

Relied on by native/io/daemon_grants_linux.c and native/io/claims_linux.c: addresses that only the user-space stack
has are proved and held by the same means as shared ones.
"""

import errno
import socket

from system import refused, set_up

IP_FREEBIND, IPV6_FREEBIND = 15, 78

set_up("lo")  # a system that has no IPv4 address at all lets any be bound

for family, level, option, address in (
    (socket.AF_INET, socket.IPPROTO_IP, IP_FREEBIND, "192.0.2.1"),
    (socket.AF_INET6, socket.IPPROTO_IPV6, IPV6_FREEBIND, "2001:db8::1"),
):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with refused(errno.EADDRNOTAVAIL):
            socket.socket(family, kind).bind((address, 4711))
        first, second = socket.socket(family, kind), socket.socket(family, kind)
        for sock in (first, second):
            sock.setsockopt(level, option, 1)
        first.bind((address, 4711))
        with refused(errno.EADDRINUSE):
            second.bind((address, 4711))
