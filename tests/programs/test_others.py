"""Mail, files, QUIC, Dask and anyio."""

from __future__ import annotations

import asyncio
import smtplib
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from interop.lab import STACK4, Bench

import aiomultistack
from aiomultistack.testing import Network

LOSSY = pytest.mark.virtual_network(loss=0.02, delay=0.01, reorder=0.01)


def test_aiosmtpd(bench: Bench) -> None:
    """Python's own smtplib, on the kernel's TCP, delivers to aiosmtpd."""
    smtp = pytest.importorskip("aiosmtpd.smtp")
    mails: list[Any] = []
    text = "Subject: long\n\n" + "".join(f"line {number}\n" for number in range(20_000))

    class Handler:
        async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802 -- aiosmtpd's name
            mails.append(envelope)
            return "250 OK"

    def send() -> None:
        with smtplib.SMTP(STACK4, 25, timeout=30) as client:
            for _ in range(3):
                client.sendmail("from@example.com", ["to@example.com"], text)

    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(lambda: smtp.SMTP(Handler()), STACK4, 25)
        await asyncio.to_thread(send)
        server.close()

    bench.run(main)
    assert [mail.content.decode().replace("\r\n", "\n") for mail in mails] == [text] * 3


@LOSSY
async def test_aiosmtpd_and_aiosmtplib(virtual_network: Network, certificate: Path, client_tls: ssl.SSLContext) -> None:
    """With STARTTLS in the middle."""
    smtp = pytest.importorskip("aiosmtpd.smtp")
    smtplib_ = pytest.importorskip("aiosmtplib")
    mails: list[Any] = []
    text = "Subject: long\r\n\r\n" + "".join(f"line {number}\r\n" for number in range(20_000))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    class Handler:
        async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802 -- aiosmtpd's name
            mails.append(envelope)
            return "250 OK"

    with virtual_network.host("server"):
        server = await asyncio.get_running_loop().create_server(
            lambda: smtp.SMTP(Handler(), tls_context=context, require_starttls=True, hostname="server"), "0.0.0.0", 25
        )
    async with smtplib_.SMTP(
        hostname="server", port=25, start_tls=True, tls_context=client_tls, local_hostname="client"
    ) as client:
        for _ in range(3):
            await client.sendmail("from@example.com", ["to@example.com"], text)
    server.close()
    assert [mail.content.decode() for mail in mails] == [text] * 3


@LOSSY
async def test_aioftp(virtual_network: Network, tmp_path: Path) -> None:
    """A connection for commands, one for each transfer."""
    aioftp = pytest.importorskip("aioftp")
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    data = bytes(range(256)) * 2000
    (tmp_path / "here" / "file").write_bytes(data)
    server = aioftp.Server([aioftp.User(base_path=tmp_path / "there", permissions=[aioftp.Permission("/")])])
    with virtual_network.host("server"):
        await server.start("10.0.0.2", 21)
    async with aioftp.Client.context("server", 21) as client:
        await client.upload(tmp_path / "here" / "file")
        assert [str(path) for path, _ in await client.list()] == ["file"]
        await client.download("file", tmp_path / "back", write_into=True)
    assert (tmp_path / "there" / "file").read_bytes() == (tmp_path / "back").read_bytes() == data
    await server.close()


@pytest.mark.parametrize("address", ["fd00::2", "10.0.0.2"])
@pytest.mark.virtual_network(loss=0.05, delay=0.02, reorder=0.02, ipv6=True)
async def test_aioquic(virtual_network: Network, certificate: Path, authority: Any, address: str) -> None:
    """QUIC repairs what the link loses, over UDP of ours at both ends; its client's sockets are IPv6's always."""
    quic = pytest.importorskip("aioquic.asyncio")
    configuration = pytest.importorskip("aioquic.quic.configuration").QuicConfiguration
    data = bytes(range(256)) * 1000

    async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.read())[::-1])
        writer.write_eof()

    ours = configuration(is_client=False, alpn_protocols=["shout"])
    ours.load_cert_chain(certificate, certificate)
    theirs = configuration(is_client=True, alpn_protocols=["shout"], server_name="server")
    theirs.load_verify_locations(cadata=authority.cert_pem.bytes())
    tasks: list[asyncio.Task[None]] = []

    def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.append(asyncio.ensure_future(shout(reader, writer)))

    with virtual_network.host("server"):
        server = await quic.serve("::", 4433, configuration=ours, stream_handler=handler)
    async with quic.connect(address, 4433, configuration=theirs) as client:
        for _ in range(2):
            reader, writer = await client.create_stream()
            writer.write(data)
            writer.write_eof()
            assert await reader.read() == data[::-1]
        await client.ping()
    server.close()
    assert any(frame.protocol == "UDP" and frame.fate == "lost" for frame in virtual_network.trace())


@LOSSY
async def test_anyio(virtual_network: Network, certificate: Path, client_tls: ssl.SSLContext) -> None:
    """anyio's streams, TLS included, against a server of asyncio's."""
    anyio = pytest.importorskip("anyio")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.readexactly(50_000))[::-1])
        await writer.drain()
        writer.close()

    data = bytes(range(250)) * 200
    with virtual_network.host("server"):
        servers = [
            await asyncio.start_server(shout, None, 80),
            await asyncio.start_server(shout, None, 443, ssl=context),
        ]
    for port, options in ((80, {}), (443, {"tls": True, "ssl_context": client_tls, "tls_standard_compatible": False})):
        async with await anyio.connect_tcp("server", port, **options) as stream:
            await stream.send(data)
            received = b""
            while len(received) < len(data):
                received += await stream.receive()
            assert received == data[::-1]
    with anyio.move_on_after(5) as scope, virtual_network.partition("server"):
        await anyio.connect_tcp("server", 80)
    assert scope.cancelled_caught
    for server in servers:
        server.close()


@LOSSY
async def test_anyio_listener(virtual_network: Network) -> None:
    """anyio makes its listening sockets itself, and accepts with `loop.sock_accept()`."""
    anyio = pytest.importorskip("anyio")

    async def shout(stream: Any) -> None:
        async with stream:
            async for data in stream:
                await stream.send(data.upper())

    with virtual_network.host("server"):
        listener = await anyio.create_tcp_listener(local_host="0.0.0.0", local_port=0)
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    task = virtual_network.host("server").start(listener.serve(shout))
    async with await anyio.connect_tcp("server", port) as stream:
        await stream.send(b"hello")
        assert await stream.receive() == b"HELLO"
    await asyncio.sleep(1)
    task.cancel()
    await asyncio.wait([task])
    await listener.aclose()


@pytest.fixture(params=["tap", "mem"])
def stack(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """A loop on a TAP, or on a hub in memory; neither in virtual time."""
    if request.param == "tap":
        yield request.getfixturevalue("bench")
        return
    made = Bench(aiomultistack.Config("mem:programs", [f"{STACK4}/24"], time_wait=0.05, control=False))
    try:
        yield made
    finally:
        made.close()


def test_dask_distributed(stack: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scheduler, two workers and a client, with Dask's comms on asyncio's transports, on one loop of ours."""
    distributed = pytest.importorskip("distributed")
    comms = pytest.importorskip("distributed.comm.asyncio_tcp", reason="this Dask has tornado's comms only")
    monkeypatch.setitem(distributed.comm.registry.backends, "tcp", comms.TCPBackend())

    def double(number: int) -> int:
        return number * 2

    async def main() -> None:
        options = {"host": STACK4, "dashboard_address": "127.0.0.1:0"}  # the dashboard is tornado's, on the kernel
        async with distributed.Scheduler(**options, port=0, dashboard=False) as scheduler:
            address = scheduler.address
            assert STACK4 in address
            async with distributed.Worker(address, nthreads=1, **options):
                async with distributed.Client(address, asynchronous=True) as client:
                    futures = client.map(double, range(100))
                    assert await client.gather(futures) == [2 * number for number in range(100)]
                    data = bytes(range(256)) * 20_000
                    (future,) = await client.scatter([data])
                    assert await client.submit(len, future) == len(data)

    stack.run(main)
