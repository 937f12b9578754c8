"""The event loop: what is the user-space stack's goes there, the rest goes to the loop underneath.

`Loop` is a mixin over uvloop's loop or asyncio's selector loop.  It overrides the methods that take network
addresses, decides for each address whose it is, and calls super() for all that isn't the stack's:

- a bind on an address that a node owns is the node's; a wildcard bind is every node's, and with
  ``host_stack="also"`` the system's too;
- a connect to an address that a node routes is the node's, unless a local address of the system's is asked for;
- 127.0.0.0/8 and ::1 are the system's.  If a node's configuration has such addresses, both have them: a bind on one
  is the node's, and a connect goes to where somebody is bound to its port;
- a kernel socket that a library made itself and passes to `sock_connect` or `create_server(sock=)` is treated by
  its address in the same way.

A loop may drive several nodes (`loop.multistack.attach()`); a connection to an address that one of them owns
leaves through another one, if that has a route.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import ipaddress
import socket
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from . import _control, _tls
from ._addresses import (
    SockAddr,
    bind_shared,
    end_listening,
    is_global6,
    is_loopback,
    is_wildcard,
    numeric,
    plain,
    system_has,
)
from ._conduit import Conduit
from ._config import Config
from ._connect import AddressInfo, TLSOptions, check_timeouts, connect_any, open_transport
from ._datagram import DatagramTransport
from ._endpoints import Acceptor, Datagrams
from ._linger import linger
from ._names import Resolver
from ._network import NetworkInfo
from ._node import EndpointInfo, Node, lib
from ._pump import Pump
from ._selector import datagram_endpoint
from ._server import Server, ServerOptions, listen_on
from ._shadow import copy_options, endpoint_of, hand_over
from ._sockets import SocketMethods

if TYPE_CHECKING:
    import ssl as ssl_module

__all__ = ["Loop", "Multistack"]

_LEARNING_STEP = 0.05  # seconds between looks whether an address was learnt
_PORT_ATTEMPTS = 10  # for a port that is free on both stacks
_INET = (socket.AF_INET, socket.AF_INET6)


class Multistack:
    """What a loop tells about its user-space stack: ``loop.multistack``."""

    def __init__(self, loop: Loop, config: Config) -> None:
        self._loop = loop
        #: The configuration of the loop's first node.
        self.config = config

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The loop's nodes, one for each port."""
        return tuple(pump.node for pump in self._loop._pumps)

    def attach(self, config: Config) -> Node:
        """Opens another port and stack, driven by the same loop."""
        from ._factory import open_node

        node = open_node(config, self.nodes[0].clock)
        pump = Pump(self._loop, node)
        pump.join(self._loop._pumps)
        self._loop._pumps.append(pump)
        return node

    def counters(self) -> dict[str, int]:
        """Every counter of port, switch and stack by name, added up over the nodes."""
        total: dict[str, int] = {}
        for node in self.nodes:
            for name, value in node.counters().items():
                total[name] = total.get(name, 0) + value
        return total

    def endpoints(self) -> list[EndpointInfo]:
        """Every endpoint: listeners, connections, TIME-WAIT, UDP."""
        return [info for node in self.nodes for info in node.endpoints()]

    def connections(self) -> list[EndpointInfo]:
        """The TCP connections."""
        infos = self.endpoints()
        return [info for info in infos if info.protocol == socket.IPPROTO_TCP and info.state_name != "LISTEN"]

    def network(self) -> list[NetworkInfo]:
        """The nodes' addresses, prefixes on their links, routers and redirects, with lifetimes."""
        return [info for node in self.nodes for info in node.network()]

    async def addresses_learnt(self) -> None:
        """Waits until every node with `Config.autoconf` has an IPv6 address, or no router seems to be there.

        That takes a second or two with a router, some 13 without; connects wait for it by themselves.
        """
        while any(node.learning for node in self.nodes):  # noqa: ASYNC110 -- the engine has no event for it
            await asyncio.sleep(_LEARNING_STEP)

    @property
    def frames(self) -> int:
        """Frames that the nodes hold; 0 when they are idle."""
        return sum(node.frames for node in self.nodes)


class Loop(SocketMethods):
    """The part of our event loops that doesn't depend on the loop underneath."""

    #: The user-space stack: counters, connections, configuration.
    multistack: Multistack

    def __init__(self, node: Node, *args: Any) -> None:
        self._names = Resolver(node.config, self._routes) if node.config.dns else None
        super().__init__(*args)
        self.multistack = Multistack(self, node.config)
        self._pumps: list[Pump] = []
        try:
            self._pumps.append(Pump(self, node))
        except BaseException:
            super().close()
            raise
        self._control = _control.start(self, self.multistack) if node.config.control else None

    @property
    def multistack_config(self) -> Config:
        """The configuration, for the control socket."""
        return self.multistack.config

    def close(self) -> None:
        """Closes the loop; connections of the user-space stack that are still open are reset.

        Those that were closed in good order get the time to deliver what was written: see `_linger`.
        """
        if not self.is_running() and not self.is_closed():
            _control.stop(self._control)
            try:
                linger(self._pumps)
            finally:  # also when a second Ctrl-C ends the wait
                try:
                    for pump in self._pumps:
                        pump.close()
                finally:
                    super().close()
        else:
            super().close()

    # ---- whose address is it ------------------------------------------------------------------------------

    def _pump_to(
        self, remote: tuple[Any, ...], local: tuple[Any, ...] | None = None, kind: int = socket.SOCK_STREAM
    ) -> Pump | None:
        """The node that connects to a numeric address, None if the system does."""
        if "%" in remote[0] or (len(remote) > 3 and remote[3]):
            return None  # a zone of the system's
        remote, local = plain(remote), None if local is None else plain(local)
        host, pumps = remote[0], self._pumps
        if local is not None and not is_wildcard(local[0]):
            pumps = [pump for pump in pumps if pump.node.owns((local[0], 0))]
        if is_loopback(host):
            return next((pump for pump in pumps if pump.node.owns(remote) and pump.serves(kind, remote)), None)
        if ipaddress.ip_address(host).is_unspecified:
            return None
        routing = [pump for pump in pumps if pump.node.routes(remote)]
        if any(pump.node.shared and pump.node.elsewhere(remote, kind) for pump in routing):
            return None  # an address that the system has too, and a port that is the system's
        others = [pump for pump in routing if not pump.node.owns(remote)]
        return next(iter(others or routing), None)

    async def _addresses_learnt(self, remotes: Iterable[tuple[Any, ...]]) -> None:
        """Waits for an IPv6 address to be learnt, if nothing but that would do for one of the numeric addresses."""
        if not any(pump.node.learning for pump in self._pumps):
            return
        candidates = list(remotes)
        waiting = [remote for remote in candidates if is_global6(remote[0]) and not self._pumps_at(remote)]
        if waiting and not any(self._pump_to(remote) for remote in candidates if remote not in waiting):
            await self.multistack.addresses_learnt()

    def _pumps_at(self, address: tuple[Any, ...]) -> list[Pump]:
        """The nodes on which a bind on a numeric address takes place; empty: the system's."""
        if len(address) > 3 and address[3]:
            return []
        return [pump for pump in self._pumps if pump.node.owns(plain(address))]

    def _listens_on_host(self, address: tuple[Any, ...]) -> bool:
        """True if a bind on an address of the stack is one on the system's stack too."""
        if self.multistack.config.host_stack != "also":
            return False
        host = plain(address)[0]
        if is_wildcard(host) or is_loopback(host):
            return True
        return any(pump.node.shared for pump in self._pumps_at(address)) and system_has(host)

    def _routes(self, address: SockAddr) -> bool:
        """True if a node routes a numeric address."""
        return any(pump.node.routes(address) for pump in self._pumps)

    # ---- names --------------------------------------------------------------------------------------------

    async def getaddrinfo(
        self, host: Any, port: Any, *, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
    ) -> list[Any]:
        """`loop.getaddrinfo()`: by the nameservers of `Config.dns` if there are any."""
        if self._names is not None:
            return await self._names.getaddrinfo(host, port, family, type, proto, flags)
        return await super().getaddrinfo(host, port, family=family, type=type, proto=proto, flags=flags)

    async def getnameinfo(self, sockaddr: Any, flags: int = 0) -> tuple[str, str]:
        """`loop.getnameinfo()`: by the nameservers of `Config.dns` if there are any."""
        if self._names is not None:
            return await self._names.getnameinfo(sockaddr, flags)
        return await super().getnameinfo(sockaddr, flags)

    async def _resolve(self, address: tuple[Any, ...], kind: int, family: int, proto: int, flags: int) -> list[Any]:
        """Rows of getaddrinfo(), without asking it for what is a number already."""
        host, port = address[:2]
        found = numeric(host, port, family) if len(address) == 2 else None
        if found is not None:
            protocol = socket.IPPROTO_TCP if kind == socket.SOCK_STREAM else socket.IPPROTO_UDP
            return [(found[0], kind, protocol, "", found[1])]
        infos = await self.getaddrinfo(host, port, family=family, type=kind, proto=proto, flags=flags)
        if not infos:
            raise OSError(f"getaddrinfo({host!r}) returned empty list")
        return list(infos)

    # ---- create_connection --------------------------------------------------------------------------------

    async def create_connection(  # type: ignore[override]  # one signature for all versions of Python
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        host: str | None = None,
        port: int | str | None = None,
        *,
        ssl: ssl_module.SSLContext | bool | None = None,
        family: int = 0,
        proto: int = 0,
        flags: int = 0,
        sock: socket.socket | None = None,
        local_addr: tuple[str, int] | None = None,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        happy_eyeballs_delay: float | None = None,
        interleave: int | None = None,
        all_errors: bool = False,
    ) -> tuple[asyncio.Transport, asyncio.BaseProtocol]:
        """`loop.create_connection()`: to the user-space stack if it routes the address."""
        tls = TLSOptions(ssl, server_hostname, ssl_handshake_timeout, ssl_shutdown_timeout)
        base: Any = super().create_connection
        if sock is not None:
            conduit = self._endpoint(sock) if host is None and port is None else None
            if not isinstance(conduit, Conduit):
                return await base(protocol_factory, host, port, sock=sock, **tls.arguments())  # type: ignore[no-any-return]
            tls = _check_tls(tls, None)
            hand_over(sock)
            return await open_transport(self, conduit, protocol_factory, tls)
        infos: list[AddressInfo] = []
        if host is not None or port is not None:
            infos = await self._resolve((host, port), socket.SOCK_STREAM, family, proto, flags)
        await self._addresses_learnt(row[4] for row in infos)
        locals_: list[AddressInfo] | None = None
        if local_addr is not None:
            locals_ = await self._resolve(local_addr, socket.SOCK_STREAM, family, proto, flags)
        if not any(self._pump_to(row[4], _same_family(locals_, row)) for row in infos):
            options = _given(
                family=family, proto=proto, flags=flags, local_addr=local_addr, interleave=interleave,
                happy_eyeballs_delay=happy_eyeballs_delay, all_errors=all_errors,
            )  # fmt: skip
            return await base(protocol_factory, host, port, **options, **tls.arguments())  # type: ignore[no-any-return]
        tls = _check_tls(tls, host)
        if happy_eyeballs_delay is not None and interleave is None:
            interleave = 1
        winner = await connect_any(self, infos, locals_, happy_eyeballs_delay, interleave, all_errors)
        if isinstance(winner, Conduit):
            return await open_transport(self, winner, protocol_factory, tls)
        return await base(protocol_factory, sock=winner, **tls.arguments())  # type: ignore[no-any-return]

    async def start_tls(  # one signature for all versions of Python
        self,
        transport: Any,
        protocol: asyncio.BaseProtocol,
        sslcontext: ssl_module.SSLContext,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> asyncio.Transport | None:
        """`loop.start_tls()`."""
        if _tls.is_ours(transport):
            return await _tls.start_tls(
                self, transport, protocol, sslcontext, server_side=server_side, server_hostname=server_hostname,
                handshake_timeout=ssl_handshake_timeout, shutdown_timeout=ssl_shutdown_timeout,
            )  # fmt: skip
        options = _given(ssl_handshake_timeout=ssl_handshake_timeout, ssl_shutdown_timeout=ssl_shutdown_timeout)
        return await super().start_tls(
            transport, protocol, sslcontext, server_side=server_side, server_hostname=server_hostname, **options
        )

    # ---- create_server ------------------------------------------------------------------------------------

    async def create_server(  # type: ignore[override]  # one signature for all versions of Python
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        host: str | Iterable[str] | None = None,
        port: int | None = None,
        *,
        family: int = socket.AF_UNSPEC,
        flags: int = socket.AI_PASSIVE,
        sock: socket.socket | None = None,
        backlog: int = 100,
        ssl: ssl_module.SSLContext | None = None,
        reuse_address: bool | None = None,
        reuse_port: bool | None = None,
        keep_alive: bool | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        start_serving: bool = True,
    ) -> asyncio.Server | Server:
        """`loop.create_server()`: on the user-space stack where the addresses are its own."""
        if isinstance(ssl, bool):
            raise TypeError("ssl argument must be an SSLContext or None")
        check_timeouts(TLSOptions(ssl, None, ssl_handshake_timeout, ssl_shutdown_timeout))
        options = ServerOptions(
            protocol_factory, backlog, ssl, ssl_handshake_timeout, ssl_shutdown_timeout, reuse_address is not False,
            bool(keep_alive), bool(reuse_port),
        )  # fmt: skip
        base = functools.partial(
            super().create_server, protocol_factory, backlog=backlog, start_serving=start_serving,
            **_given(ssl=ssl, reuse_address=reuse_address, reuse_port=reuse_port, keep_alive=keep_alive,
                     ssl_handshake_timeout=ssl_handshake_timeout, ssl_shutdown_timeout=ssl_shutdown_timeout),
        )  # fmt: skip
        if sock is not None and host is None and port is None:
            addresses = _socket_addresses(sock)
        elif sock is None and (host is not None or port is not None):
            addresses = await self._server_addresses(host, port, family, flags)
        else:
            return await base(host, port, sock=sock)  # for its exception
        stack = [address for address in addresses if self._pumps_at(address)]
        if not stack:
            if sock is not None:
                return await base(sock=sock)
            return await base(host, port, family=family, flags=flags)
        if sock is not None:
            options = options.of_socket(sock)
        for pump in self._pumps:
            await pump.between_batches()
        shared = [pump for pump in self._pumps if pump.node.shared]
        for attempt in range(_PORT_ATTEMPTS, -1, -1):
            server = Server(self, options)
            try:
                if shared:
                    await self._listen_shared(server, base, shared, list(stack), sock, bool(reuse_port))
                else:
                    self._listen(server, stack, sock)
                await self._listen_on_host(server, base, addresses, stack, sock, bool(shared))
                break
            except OSError as error:
                server.close()
                if port or not attempt or error.errno != errno.EADDRINUSE:
                    raise
            except BaseException:
                server.close()
                raise
        if start_serving:
            try:
                server._start()
                await asyncio.sleep(0)
            except BaseException:  # nobody gets to know of the server
                server.close()
                raise
        return server

    async def _server_addresses(self, host: Any, port: Any, family: int, flags: int) -> list[SockAddr]:
        """The addresses that create_server()'s host and port stand for, each once."""
        hosts = [None] if host == "" else [host] if isinstance(host, str) or host is None else list(host)
        rows = await asyncio.gather(
            *(self._resolve((item, port), socket.SOCK_STREAM, family, 0, flags) for item in hosts)
        )
        return list(dict.fromkeys(row[4] for infos in rows for row in infos))

    def _listen(self, server: Server, addresses: list[SockAddr], sock: socket.socket | None) -> None:
        """Listens on addresses of the user-space stack."""
        acceptor = None if sock is None else self._endpoint(sock)
        if not isinstance(acceptor, Acceptor):
            acceptor = None
        done = [listen_on(server, self._pumps_at(address), address, acceptor) for address in addresses]
        if not any(done):
            raise OSError(f"could not bind on any address out of {addresses!r}")
        if sock is not None and acceptor is None:
            for listener in server._listeners or ():
                copy_options(sock, listener.socket)

    async def _listen_shared(
        self,
        server: Server,
        base: Callable[..., Any],
        shared: list[Pump],
        stack: list[SockAddr],
        sock: socket.socket | None,
        reuse_port: bool,
    ) -> None:
        """Listens where other stacks have the addresses too: a bound kernel socket shows who may have the port.

        That is the application's own, or one of the system's listeners if it is to listen too; with reuse_port it is
        made here, and several processes may share the port.  Otherwise the port makes one by itself.
        """
        proofs = [] if sock is None else [sock]
        made: list[socket.socket] = []
        try:
            for number, address in enumerate(stack if sock is None else ()):
                if self._listens_on_host(address):
                    part = await base(address[0], address[1])
                    server._parts.append(part)
                    proofs += part.sockets
                    stack[number] = (address[0], part.sockets[0].getsockname()[1], *address[2:])
                elif reuse_port:
                    made.append(bind_shared(address))
                    stack[number] = made[-1].getsockname()
            for pump in shared:
                for proof in proofs + made:
                    pump.node.show(proof)
            self._listen(server, stack, sock)
        finally:
            for own in made:
                own.close()

    async def _listen_on_host(
        self,
        server: Server,
        base: Callable[..., Any],
        addresses: list[SockAddr],
        stack: list[SockAddr],
        sock: socket.socket | None,
        shared: bool,
    ) -> None:
        """Listens where the system's stack has a part in it, and takes care of the kernel's socket.

        shared: `_listen_shared` did so already where both stacks listen.
        """
        also = self.multistack.config.host_stack == "also"
        if sock is not None:
            if also:
                server._parts.append(await base(sock=sock))
            elif server._listeners:
                if endpoint_of(sock) is None:
                    end_listening(sock)
                server._listeners[0].kernel_socket = sock
            return
        wanted = [
            address for address in addresses
            if address not in stack or (not shared and self._listens_on_host(address))
        ]  # fmt: skip
        names = [listener.sockname for listener in server._listeners or () if listener.sockname]
        for address in wanted:
            name = f"{address[0]}%{address[3]}" if len(address) == 4 and address[3] else address[0]
            same = next((sockname[1] for sockname in names if sockname[0] == address[0]), 0)
            server._parts.append(await base(name, address[1] or same))

    # ---- datagrams ----------------------------------------------------------------------------------------

    async def create_datagram_endpoint(  # type: ignore[override]  # one signature for all versions of Python
        self,
        protocol_factory: Callable[[], asyncio.DatagramProtocol],
        local_addr: Any = None,
        remote_addr: Any = None,
        *,
        family: int = 0,
        proto: int = 0,
        flags: int = 0,
        reuse_port: bool | None = None,
        allow_broadcast: bool | None = None,
        sock: socket.socket | None = None,
    ) -> tuple[asyncio.DatagramTransport, asyncio.DatagramProtocol]:
        """`loop.create_datagram_endpoint()`."""
        pairs: list[tuple[Pump, SockAddr | None, SockAddr | None]] = []
        if sock is not None and not (
            local_addr or remote_addr or family or proto or flags or reuse_port or allow_broadcast
        ):
            datagrams = await self._datagrams_of(sock, handed_over=True)
            if isinstance(datagrams, Datagrams):
                self._check_socket(sock)
                broadcast = socket.socket.getsockopt(sock, socket.SOL_SOCKET, socket.SO_BROADCAST)
                hand_over(sock)
                return await self._datagram_transport(datagrams, protocol_factory, bool(broadcast))
            if self._base_lacks_methods and sock.family not in (*_INET, socket.AF_UNIX):
                return await datagram_endpoint(self, protocol_factory, sock)
        if sock is None and (local_addr or remote_addr) and family in (0, *_INET):
            pairs = await self._datagram_pairs(local_addr, remote_addr, family, proto, flags)
        if not pairs:
            options = _given(
                family=family, proto=proto, flags=flags, reuse_port=reuse_port, allow_broadcast=allow_broadcast,
                sock=sock,
            )  # fmt: skip
            return await super().create_datagram_endpoint(
                protocol_factory, local_addr, remote_addr, **options
            )
        error: OSError | None = None
        for pump, local, remote in pairs:
            await pump.between_batches()
            try:
                datagrams = Datagrams(pump, local, remote, lib.AMS_LISTEN_REUSEPORT if reuse_port else 0)
            except OSError as exc:
                error = error or exc
                continue
            return await self._datagram_transport(datagrams, protocol_factory, bool(allow_broadcast))
        assert error is not None
        raise error

    async def _datagram_transport(
        self, datagrams: Datagrams, protocol_factory: Callable[[], asyncio.DatagramProtocol], broadcast: bool
    ) -> tuple[asyncio.DatagramTransport, asyncio.DatagramProtocol]:
        """Makes an endpoint a transport, and waits until its protocol is told."""
        try:
            protocol = protocol_factory()
        except BaseException:
            datagrams.close()
            raise
        waiter = self.create_future()
        transport = DatagramTransport(datagrams, protocol, broadcast, waiter)
        try:
            await waiter
        except BaseException:
            transport.close()
            raise
        return transport, protocol

    async def _datagram_pairs(
        self, local_addr: Any, remote_addr: Any, family: int, proto: int, flags: int
    ) -> list[tuple[Pump, SockAddr | None, SockAddr | None]]:
        """The ways to make a datagram endpoint on the user-space stack; none: it is the system's."""
        for address in (local_addr, remote_addr):
            if address is not None and not (isinstance(address, tuple) and len(address) == 2):
                raise TypeError("2-tuple is expected")
        rows: list[list[Any]] = [
            await self._resolve(address, socket.SOCK_DGRAM, family, proto, flags) if address else [(0, 0, 0, "", None)]
            for address in (local_addr, remote_addr)
        ]
        await self._addresses_learnt(row[4] for row in rows[1] if row[4])
        pairs = []
        for local in rows[0]:
            for remote in rows[1]:
                if local[4] and remote[4] and local[0] != remote[0]:
                    continue
                if remote[4]:
                    pump = self._pump_to(remote[4], local[4], socket.SOCK_DGRAM)
                else:
                    pump = next(iter(self._pumps_at(local[4])), None)
                if pump is not None:
                    pairs.append((pump, local[4], remote[4]))
        return pairs


def _given(**options: Any) -> dict[str, Any]:
    """The options that differ from their defaults: older Pythons and uvloop don't know all of them."""
    return {name: value for name, value in options.items() if value or (value is not None and value is not False)}


def _check_tls(tls: TLSOptions, host: str | None) -> TLSOptions:
    """Checks create_connection()'s TLS arguments as asyncio does; host is the default of server_hostname."""
    if tls.server_hostname is not None and not tls.context:
        raise ValueError("server_hostname is only meaningful with ssl")
    if tls.server_hostname is None and tls.context:
        if not host:
            raise ValueError("You must set server_hostname when using ssl without a host")
        tls = TLSOptions(tls.context, host, tls.handshake_timeout, tls.shutdown_timeout)
    check_timeouts(tls)
    return tls


def _same_family(infos: list[AddressInfo] | None, row: AddressInfo) -> tuple[Any, ...] | None:
    """The first local address of a candidate's family."""
    return next((info[4] for info in infos or () if info[0] == row[0]), None)


def _socket_addresses(sock: socket.socket) -> list[SockAddr]:
    """A bound TCP socket's address as a list; empty if it is none that the stack could have."""
    if sock.type != socket.SOCK_STREAM or sock.family not in _INET:
        return []
    address: SockAddr = sock.getsockname()
    return [address] if address[1] else []
