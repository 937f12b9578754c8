"""Sockets on which a program has the kernel listen before our loop takes them, as gunicorn does.

The kernel would accept its own clients into a backlog that nobody reads: it must refuse them instead, and keep the
port.  That shutdown() makes a listening socket an unconnected one that is still bound is Linux'; it is proved here.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import socket
from typing import Any

import pytest

import aiomultistack

_numbers = itertools.count()
HOST = "10.9.0.1"


def run(main: Any, **fields: Any) -> None:
    """Runs a coroutine function on a loop with a server's stack and a client's."""
    config = aiomultistack.Config(f"mem:listening-{next(_numbers)}", [f"{HOST}/24"], control=False, **fields)
    loop = aiomultistack.new_event_loop(config)
    try:
        loop.multistack.attach(config.replace(addresses=["10.9.0.2/24"]))
        loop.run_until_complete(asyncio.wait_for(main(), 30))
    finally:
        loop.close()


def listening() -> socket.socket:
    """What the arbiter of a prefork server makes."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("0.0.0.0", 0))
    sock.listen(10)
    sock.setblocking(False)
    return sock


def connects(port: int) -> bool:
    """Whether a client on the kernel's stack gets a connection; it must not have to wait for the answer."""
    try:
        socket.create_connection(("127.0.0.1", port), 10).close()
    except ConnectionRefusedError:
        return False
    return True


def refusal(port: int) -> str:
    """How the kernel refuses a socket of another program the port, whatever the options."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            other.bind(("0.0.0.0", port))
        except OSError as error:
            return errno.errorcode[error.errno or 0]
    return "bound"


async def answer(host: str, port: int) -> bytes:
    """What a server says first."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        return await reader.read()
    finally:
        writer.close()


async def hello(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"hello")
    writer.close()


class Wrapper:
    """A socket as gunicorn passes it: not one, but with all its methods, one of them another one."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def bind(self, sock: socket.socket) -> None:
        raise AssertionError("this is not socket.bind()")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


@pytest.mark.parametrize("wrapped", [False, True], ids=["socket", "wrapper"])
def test_a_server_takes_it_over(wrapped: bool) -> None:
    async def main() -> None:
        sock = listening()
        port = sock.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port), 10) as early:
            server = await asyncio.start_server(hello, sock=Wrapper(sock) if wrapped else sock)  # type: ignore[arg-type]
            with pytest.raises(ConnectionResetError):  # it waited in the backlog
                early.recv(1)
        assert not connects(port)
        assert refusal(port) == "EADDRINUSE"
        assert await answer(HOST, port) == b"hello"
        server.close()
        await server.wait_closed()

    run(main)


def test_sock_accept_takes_it_over() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with listening() as sock:
            port = sock.getsockname()[1]
            accepting = loop.create_task(loop.sock_accept(sock))
            asking = loop.create_task(answer(HOST, port))
            made, _ = await accepting
            assert not connects(port)
            assert refusal(port) == "EADDRINUSE"
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1  # the truth: the stack's
            await loop.sock_sendall(made, b"hello")
            made.close()
            assert await asking == b"hello"

    run(main)


def test_both_stacks_listen() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        sock = listening()
        port = sock.getsockname()[1]
        async with await asyncio.start_server(hello, sock=sock):
            assert await answer("127.0.0.1", port) == b"hello"
            assert await answer(HOST, port) == b"hello"
        with listening() as sock:
            asking = [loop.create_task(answer(host, sock.getsockname()[1])) for host in ("127.0.0.1", HOST)]
            for _ in asking:
                made, _ = await loop.sock_accept(sock)
                await loop.sock_sendall(made, b"hello")
                made.close()
            assert await asyncio.gather(*asking) == [b"hello", b"hello"]

    run(main, host_stack="also")


def test_listening_on_an_address_of_the_kernel_s_goes_on() -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as sock:
            async with await asyncio.start_server(hello, sock=sock):
                assert await answer("127.0.0.1", sock.getsockname()[1]) == b"hello"

    run(main)
