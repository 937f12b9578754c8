"""Network namespaces for the demo and the benchmark.

Namespaces here have no name: a process leaves its own behind with unshare(2), and the kernel takes the
new one away, with all its links, when its last process ends.  So nothing on the machine is disturbed
and nothing is left behind, whatever becomes of us.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path
from typing import Any

_CLONE_NEWNET = 0x40000000


def why_not() -> str | None:
    """What keeps this process from making namespaces and TAPs; None if nothing does."""
    if not sys.platform.startswith("linux"):
        return "network namespaces need Linux"
    if os.geteuid() != 0:
        return "not root"
    if not os.path.exists("/dev/net/tun"):
        return "/dev/net/tun is missing (try: modprobe tun; in a container: --device /dev/net/tun)"
    return None


def unshare() -> None:
    """Moves this process into a new network namespace whose loopback is up.

    To be called before any thread is started.  Raises PermissionError without CAP_SYS_ADMIN.
    """
    if sys.version_info >= (3, 12):
        os.unshare(os.CLONE_NEWNET)
    else:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(_CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), "unshare(CLONE_NEWNET)")
    configure("lo", [])


def _iproute() -> Any:
    from pyroute2 import IPRoute

    return IPRoute()


def veth(name: str, peer: str, pid: int) -> None:
    """Makes a veth pair: `name` here, `peer` in the namespace of process `pid`."""
    with _iproute() as ip:
        ip.link("add", ifname=name, kind="veth", peer={"ifname": peer, "net_ns_pid": pid})


def configure(name: str, addresses: list[str]) -> None:
    """Gives a link of this namespace its addresses ("10.0.0.1/24", "fd00::1/64") and sets it up."""
    with _iproute() as ip:
        (index,) = ip.link_lookup(ifname=name)
        for address in addresses:
            host, _, length = address.partition("/")
            # IFA_F_NODAD: usable at once; duplicates are out of the question in here
            flags = {"IFA_FLAGS": 0x02} if ":" in host else {}
            ip.addr("add", index=index, address=host, prefixlen=int(length), **flags)
        ip.link("set", index=index, state="up")


def sysctl(name: str, value: str) -> bool:
    """Sets a sysctl of this namespace, e.g. ("net.ipv4.tcp_tw_reuse", "1"); False if it won't be set."""
    try:
        Path("/proc/sys", *name.split(".")).write_text(value)
    except OSError:
        return False
    return True


def widen_ports() -> None:
    """Lets clients of this namespace open connections at a high rate.

    Without it a benchmark of one connection per transaction measures port exhaustion.
    """
    sysctl("net.ipv4.ip_local_port_range", "1024 65535")
    sysctl("net.ipv4.tcp_tw_reuse", "1")
