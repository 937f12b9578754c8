"""Servers and clients for the tests: plain asyncio, as users write it."""

from __future__ import annotations

import asyncio


async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers each line in capitals."""
    try:
        while line := await reader.readline():
            writer.write(line.upper())
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


async def serve(host: str | None = None, port: int = 7) -> None:
    """Serves for ever."""
    server = await asyncio.start_server(shout, host, port)
    async with server:
        await server.serve_forever()


async def ask(host: str, text: bytes = b"hello\n", port: int = 7) -> bytes:
    """One question."""
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(text)
    answer = await reader.readline()
    writer.close()
    await writer.wait_closed()
    return answer


class Datagrams(asyncio.DatagramProtocol):
    """Collects datagrams and errors."""

    def __init__(self, echo: bool = False) -> None:
        self.received: asyncio.Queue[bytes] = asyncio.Queue()
        self.errors: list[Exception] = []
        self._echo = echo

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.received.put_nowait(data)
        if self._echo:
            self.transport.sendto(data.upper(), addr)  # type: ignore[attr-defined]

    def error_received(self, exc: Exception) -> None:
        self.errors.append(exc)
