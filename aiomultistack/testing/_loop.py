"""The event loop of a virtual network: one loop and one clock for all hosts.

What distinguishes it from a `VirtualLoop` is whose stack a call means: the one of the host that the calling task
runs on (`_hosts`).  No address is the real system's, and no name is looked up outside.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
from typing import TYPE_CHECKING, Any, NoReturn

from .._addresses import SockAddr, is_loopback, is_wildcard, numeric
from .._conduit import Conduit
from .._datagram import DatagramTransport
from .._errors import MultistackError
from .._node import Node
from .._pump import NOBODY, Pump
from .._server import Listener
from .._transport import Transport
from .._virtual import VirtualLoop, VirtualSelector
from ._hosts import Life, current_life

if TYPE_CHECKING:
    from ._network import Network

__all__ = ["NetworkLoop"]

_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
_KINDS = ((socket.SOCK_STREAM, socket.IPPROTO_TCP), (socket.SOCK_DGRAM, socket.IPPROTO_UDP))


class NetworkLoop(VirtualLoop):
    """An asyncio event loop in virtual time whose network is a `Network`."""

    #: The network; `Network` sets it.
    network: Network

    def __init__(self, network: Network, node: Node, selector: VirtualSelector) -> None:
        self.network = network
        super().__init__(node, selector)

    # ---- hosts --------------------------------------------------------------------------------------------

    def _life(self) -> Life:
        """Whose code is running."""
        life = current_life()
        if life is None or life.host.network is not self.network:
            return self.network.local.life
        return life

    def _own_pump(self) -> Pump:
        """The running code's stack; raises OSError if there is none any more."""
        life = self._life()
        pump = life.host.pump
        if life.ended or pump is None:
            raise OSError(errno.ENETDOWN, f"Network is down: host {life.host.name!r} has stopped")
        return pump

    def add_pump(self, node: Node) -> Pump:
        """Drives one more node."""
        pump = Pump(self, node)
        self._pumps.append(pump)
        return pump

    def remove_pump(self, pump: Pump) -> None:
        """Drops a node with all its connections."""
        for endpoint in pump.endpoints:
            _silence(endpoint)
            if isinstance(endpoint, (Transport, DatagramTransport)):
                endpoint._closing = True  # nobody is left to close it
        pump.close()
        self._pumps.remove(pump)

    def close_endpoints(self, pump: Pump) -> None:
        """Closes whatever an application has open, as the system does when a process ends."""
        for endpoint in list(pump.endpoints):
            if isinstance(endpoint, (Transport, DatagramTransport)):
                _silence(endpoint)
                endpoint.set_protocol(asyncio.Protocol() if isinstance(endpoint, Transport) else _NULL_DATAGRAM)
                endpoint.close()
            elif isinstance(endpoint, (Listener, Conduit)):
                endpoint.close()

    def cancel_timers(self, life: Life) -> None:
        """Cancels the timers that a life's code has set; those that drive the network stay."""
        for handle in list(self._scheduled):  # type: ignore[attr-defined]
            owner = getattr(handle._callback, "__self__", None)
            if not isinstance(owner, Pump) and owner is not self.network and current_life(handle._context) is life:
                handle.cancel()

    def create_task(self, coro: Any, **options: Any) -> asyncio.Task[Any]:
        """`loop.create_task()`; the task belongs to the host on which it is made."""
        task: asyncio.Task[Any] = super().create_task(coro, **options)
        life = current_life(options.get("context"))
        if life is not None:
            life.adopt(task)
            if life.ended:
                task.cancel()
        return task

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """`loop.call_exception_handler()`; that a task was cancelled is no error (early 3.11 took it for one)."""
        if not isinstance(context.get("exception"), asyncio.CancelledError):
            super().call_exception_handler(context)

    # ---- addresses ----------------------------------------------------------------------------------------

    def _pump_to(
        self, remote: tuple[Any, ...], local: tuple[Any, ...] | None = None, kind: int = socket.SOCK_STREAM
    ) -> Pump | None:
        return self._own_pump()

    def _pumps_at(self, address: tuple[Any, ...]) -> list[Pump]:
        pump = self._own_pump()
        if not is_wildcard(address[0]) and not pump.node.owns(address):
            reason = f"error while attempting to bind on address {address!r}: cannot assign requested address"
            raise OSError(errno.EADDRNOTAVAIL, reason)
        return [pump]

    async def _resolve(self, address: tuple[Any, ...], kind: int, family: int, proto: int, flags: int) -> list[Any]:
        rows = await super()._resolve(address, kind, family, proto, flags)
        return [(*row[:4], self._inside(row[4])) for row in rows]

    def _inside(self, address: SockAddr) -> SockAddr:
        """A host's loopback addresses stand for its own one: they lead to itself."""
        if not is_loopback(address[0]):
            return address
        version = ipaddress.ip_address(address[0]).version
        own = next((ip for ip in self._life().host.addresses if ipaddress.ip_address(ip).version == version), None)
        return address if own is None else (own, *address[1:])

    async def getaddrinfo(
        self, host: Any, port: Any, *, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
    ) -> list[tuple[Any, Any, int, str, Any]]:
        """`loop.getaddrinfo()`: the network's names, and addresses in numbers."""
        if isinstance(host, bytes):
            host = host.decode("ascii")
        number = _port_number(port)
        if host is None:
            wild = flags & socket.AI_PASSIVE
            found = [ipaddress.ip_address(text) for text in (("0.0.0.0", "::") if wild else ("127.0.0.1", "::1"))]
        elif (row := numeric(host, number)) is not None:
            found = [ipaddress.ip_address(row[1][0])]
        elif flags & socket.AI_NUMERICHOST:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        else:
            found = [ipaddress.ip_address(text) for text in await self.network.lookup(host)]
        kinds = [row for row in _KINDS if type in (0, row[0]) and proto in (0, row[1])]
        rows: list[tuple[Any, Any, int, str, Any]] = []
        for ip in found:
            if family in (0, _FAMILIES[ip.version]):
                address = (str(ip), number) if ip.version == 4 else (str(ip), number, 0, 0)
                rows += [(_FAMILIES[ip.version], kind, protocol, "", address) for kind, protocol in kinds]
        if not rows:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return rows

    async def getnameinfo(self, sockaddr: Any, flags: int = 0) -> tuple[str, str]:
        """`loop.getnameinfo()`: hosts by their names."""
        name = self.network.name_of(sockaddr[0])
        if name is None and flags & socket.NI_NAMEREQD:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return (sockaddr[0] if name is None or flags & socket.NI_NUMERICHOST else name), str(sockaddr[1])

    async def create_datagram_endpoint(
        self, protocol_factory: Any, local_addr: Any = None, remote_addr: Any = None, **options: Any
    ) -> Any:
        """`loop.create_datagram_endpoint()`; also one that is told no address is on the network."""
        family = options.get("family", 0)
        if not (local_addr or remote_addr or options.get("sock")) and family in _FAMILIES.values():
            local_addr = ("0.0.0.0" if family == socket.AF_INET else "::", 0)
        return await super().create_datagram_endpoint(protocol_factory, local_addr, remote_addr, **options)

    # ---- what virtual time rules out ----------------------------------------------------------------------

    async def subprocess_exec(self, *args: Any, **options: Any) -> Any:
        """Refused: see the exception."""
        _refuse_subprocess()

    async def subprocess_shell(self, *args: Any, **options: Any) -> Any:
        """Refused: see the exception."""
        _refuse_subprocess()

    def watches_others(self) -> bool:
        """True if somebody waits for a descriptor that isn't the network's: a pipe, a Unix socket."""
        own = {self._ssock.fileno()}  # type: ignore[attr-defined]
        own |= {pump._fd for pump in self._pumps}
        own |= {host.port.fileno() for host in self.network.hosts.values()}
        return any(key.fd not in own for key in self._virtual.get_map().values())

    def close(self) -> None:
        """Closes the loop; the network can't be used any more."""
        if not self.is_running() and not self.is_closed():
            self.network._loop_closes()
        super().close()


class _NullDatagram(asyncio.DatagramProtocol):
    """Takes the place of a dead program's protocol."""


_NULL_DATAGRAM = _NullDatagram()


def _silence(endpoint: Any) -> None:
    """Keeps the transport of a dead program from complaining that nobody closed it."""
    if endpoint is NOBODY or not isinstance(endpoint, Transport):
        return
    layer = getattr(endpoint.get_protocol(), "_app_transport", None)
    if layer is not None:
        layer._closed = True


def _port_number(port: Any) -> int:
    if port in (None, "", b""):
        return 0
    text = port.decode() if isinstance(port, bytes) else str(port)
    if text.isdigit():
        return int(text)
    try:
        return socket.getservbyname(text)
    except OSError:
        raise socket.gaierror(socket.EAI_SERVICE, "Servname not supported for ai_socktype") from None


def _refuse_subprocess() -> NoReturn:
    raise MultistackError(
        "a subprocess runs in real time, and this loop's time is virtual: it would seem to take no time at all, "
        "or for ever.  Start it before the test, or test this part on an ordinary loop"
    )
