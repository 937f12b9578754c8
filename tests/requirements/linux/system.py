"""What the programs beside this one need to ask a Linux kernel."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

TUNSETIFF = 0x400454CA
TUNSETOFFLOAD = 0x400454D0
IFF_TUN, IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x0001, 0x0002, 0x1000, 0x4000
TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6 = 1, 2, 4
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _SIOCSIFADDR, _SIOCSIFNETMASK = 0x8913, 0x8914, 0x8916, 0x891C
_IFF_UP = 1
_SIOCGIFHWADDR = 0x8927
_SYS_BPF = 321  # x86-64
_BPF_PROG_LOAD, _BPF_LINK_CREATE = 5, 28
_BPF_PROG_TYPE_XDP, _BPF_XDP = 6, 37


def cannot_tell(reason: str) -> NoReturn:
    """Ends the program: this machine doesn't let it find out."""
    print(reason)
    sys.exit(77)


@contextmanager
def refused(*numbers: int) -> Iterator[None]:
    """What is done within must fail with one of these values of errno."""
    try:
        yield
    except OSError as error:
        if error.errno not in numbers:
            raise
    else:
        raise AssertionError(f"it was not refused with {', '.join(errno.errorcode[number] for number in numbers)}")


def open_tap(name: str, flags: int = 0, kind: int = IFF_TAP) -> int:
    """A TAP device (or another kind, IFF_TUN) of this process's: its descriptor, not blocking."""
    try:
        tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        cannot_tell("there is no /dev/net/tun")
    fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", name.encode(), kind | IFF_NO_PI | flags))
    return tap


def set_up(name: str, address: str | None = None) -> None:
    """Sets an interface up, with an IPv4 address of a /24."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        if address is not None:
            for request, value in ((_SIOCSIFADDR, address), (_SIOCSIFNETMASK, "255.255.255.0")):
                sockaddr = struct.pack("=HH4s8x", socket.AF_INET, 0, socket.inet_aton(value))
                fcntl.ioctl(sock, request, struct.pack("16s16s8x", name.encode(), sockaddr))
        flags = struct.unpack_from("16xH", fcntl.ioctl(sock, _SIOCGIFFLAGS, struct.pack("16s24x", name.encode())))[0]
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sH22x", name.encode(), flags | _IFF_UP))


def hardware_address(name: str) -> bytes:
    """An interface's MAC address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        answer = fcntl.ioctl(sock, _SIOCGIFHWADDR, struct.pack("16s24x", name.encode()))
    return bytes(answer[18:24])


def has_interface(name: str) -> bool:
    """True if there is an interface of this name."""
    return name in (each for _, each in socket.if_nameindex())


def ipv4(source: str, destination: str, protocol: int, payload: bytes, tos: int = 0) -> bytes:
    """An IPv4 packet."""
    head = struct.pack(
        "!BBHHHBBH4s4s", 0x45, tos, 20 + len(payload), 1, 0, 64, protocol, 0,
        socket.inet_aton(source), socket.inet_aton(destination),
    )  # fmt: skip
    return head[:10] + struct.pack("!H", ones_complement(head)) + head[12:] + payload


def ones_complement(data: bytes, initial: int = 0) -> int:
    """The Internet checksum (RFC 1071) of data."""
    total = initial + sum(struct.unpack(f"!{len(data) // 2}H", data[: len(data) // 2 * 2]))
    if len(data) % 2:
        total += data[-1] << 8
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def pseudo_header(source: str, destination: str, protocol: int, length: int) -> int:
    """The sum, not complemented, of an IPv4 pseudo-header: what a checksum to be completed begins with."""
    data = socket.inet_aton(source) + socket.inet_aton(destination) + struct.pack("!HH", protocol, length)
    return ~ones_complement(data) & 0xFFFF


# ---- BPF ------------------------------------------------------------------------------------------------


def _bpf(command: int, attributes: bytes) -> int:
    """bpf(2); raises OSError."""
    if os.uname().machine != "x86_64":
        cannot_tell("the number of bpf(2) is known here for x86-64 only")
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(attributes.ljust(128, b"\0"), 128)
    result = libc.syscall(_SYS_BPF, command, buffer, 128)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int(result)


def xdp_program(verdict: int) -> int:
    """A program that says `verdict` (1: drop, 2: pass) of each frame: its descriptor."""
    code = ctypes.create_string_buffer(struct.pack("=BBhi", 0xB7, 0, 0, verdict) + struct.pack("=BBhi", 0x95, 0, 0, 0))
    licence = ctypes.create_string_buffer(b"BSD")
    return _bpf(
        _BPF_PROG_LOAD,
        struct.pack("=IIQQ", _BPF_PROG_TYPE_XDP, 2, ctypes.addressof(code), ctypes.addressof(licence)),
    )


def attach_xdp(program: int, name: str, flags: int = 0) -> int:
    """Attaches an XDP program to an interface by a BPF link: the link's descriptor."""
    return _bpf(_BPF_LINK_CREATE, struct.pack("=IIII", program, socket.if_nametoindex(name), _BPF_XDP, flags))
