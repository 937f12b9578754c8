"""Programs on our stack that talk over a TAP to the same programs on the kernel's stack, in a thread."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from interop.lab import KERNEL4, KERNEL6, STACK4, STACK6, Bench

DATA = bytes(range(250)) * 800
HOSTS = pytest.mark.parametrize("host", [KERNEL4, KERNEL6])


class Kernel:
    """An event loop on the kernel's stack, in a thread of the same network namespace."""

    def __init__(self) -> None:
        self.loop = asyncio.SelectorEventLoop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="kernel's")
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Runs a coroutine there and waits for it; not to be called on the other loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(60)

    def close(self) -> None:
        """Cancels what is left, and ends the thread."""
        self.run(self._finish())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    async def _finish(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.get_running_loop().shutdown_default_executor()


@pytest.fixture
def kernel(lab: None) -> Iterator[Kernel]:
    """The other side."""
    made = Kernel()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def server(kernel: Kernel, certificate: Path) -> Iterator[Callable[[bool], int]]:
    """Starts uvicorn on the kernel's stack, with TLS or without; returns its port."""
    uvicorn = pytest.importorskip("uvicorn")
    pytest.importorskip("starlette")
    pytest.importorskip("fastapi")
    from .asgi_app import app

    servers: list[Any] = []

    def start(tls: bool) -> int:
        async def serve() -> int:
            options = {"ssl_certfile": str(certificate)} if tls else {}
            config = uvicorn.Config(app, host="0.0.0.0", port=0, log_config=None, lifespan="off", **options)
            made = uvicorn.Server(config)
            made.config.load()
            made.lifespan = made.config.lifespan_class(made.config)
            await made.startup()
            servers.append(made)
            port: int = made.servers[0].sockets[0].getsockname()[1]
            return port

        return int(kernel.run(serve()))

    yield start
    for made in servers:
        kernel.run(made.shutdown())


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_httpx_and_websockets(
    bench: Bench, server: Callable[[bool], int], client_tls: ssl.SSLContext, tls: bool
) -> None:
    """HTTP/1.1 and WebSocket to uvicorn with Starlette and FastAPI."""
    httpx = pytest.importorskip("httpx")
    websockets = pytest.importorskip("websockets.asyncio.client")
    port = server(tls)
    host, scheme = ("10.99.0.1", "s" if tls else "")
    names = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    names.check_hostname = False  # the certificate is for our stack's addresses
    names.load_verify_locations(cadata=ssl.DER_cert_to_PEM_cert(client_tls.get_ca_certs(True)[0]))

    async def main() -> None:
        async with httpx.AsyncClient(verify=names, timeout=60) as client:
            url = f"http{scheme}://{host}:{port}"
            assert (await client.get(f"{url}/hello/world")).json() == {"hello": "world", "client": STACK4}
            answers = await asyncio.gather(*(client.post(f"{url}/digest", content=DATA) for _ in range(5)))
            assert {answer.text for answer in answers} == {hashlib.sha256(DATA).hexdigest()}
            async with client.stream("GET", f"{url}/stream?chunks=50") as answer:
                assert len(b"".join([part async for part in answer.aiter_bytes()])) == 50 * 6000
        context = names if tls else None
        async with websockets.connect(f"ws{scheme}://{host}:{port}/echo", ssl=context, max_size=None) as connection:
            for message in ("short", b"bytes", "x" * 300_000):
                await connection.send(message)
                assert await connection.recv() == message

    bench.run(main)


@HOSTS
def test_aioquic(bench: Bench, kernel: Kernel, certificate: Path, authority: Any, host: str) -> None:
    quic = pytest.importorskip("aioquic.asyncio")
    configuration = pytest.importorskip("aioquic.quic.configuration").QuicConfiguration
    theirs = configuration(is_client=False, alpn_protocols=["shout"])
    theirs.load_cert_chain(certificate, certificate)
    ours = configuration(is_client=True, alpn_protocols=["shout"], server_name="server")
    ours.load_verify_locations(cadata=authority.cert_pem.bytes())
    tasks: list[asyncio.Task[None]] = []

    async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.read())[::-1])
        writer.write_eof()

    async def serve() -> Any:
        def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            tasks.append(asyncio.ensure_future(shout(reader, writer)))

        return await quic.serve(host, 4433, configuration=theirs, stream_handler=handler)

    async def main() -> None:
        async with quic.connect(host, 4433, configuration=ours, local_port=0) as client:
            reader, writer = await client.create_stream()
            writer.write(DATA)
            writer.write_eof()
            assert await asyncio.wait_for(reader.read(), 30) == DATA[::-1]

    server = kernel.run(serve())
    bench.run(main)
    kernel.loop.call_soon_threadsafe(server.close)


@pytest.mark.parametrize("host", [STACK4, STACK6])
def test_aioftp(bench: Bench, kernel: Kernel, tmp_path: Path, host: str) -> None:
    """The server is ours; the client, on the kernel's stack, opens a connection for each transfer."""
    aioftp = pytest.importorskip("aioftp")
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    (tmp_path / "here" / "file").write_bytes(DATA)

    async def transfer() -> None:
        async with aioftp.Client.context(host, 2121) as client:
            await client.upload(tmp_path / "here" / "file")
            assert [str(path) for path, _ in await client.list()] == ["file"]
            await client.download("file", tmp_path / "back", write_into=True)

    async def main() -> None:
        server = aioftp.Server([aioftp.User(base_path=tmp_path / "there", permissions=[aioftp.Permission("/")])])
        await server.start(host, 2121)
        await asyncio.to_thread(kernel.run, transfer())
        await server.close()

    bench.run(main)
    assert (tmp_path / "there" / "file").read_bytes() == (tmp_path / "back").read_bytes() == DATA


@HOSTS
def test_anyio(bench: Bench, kernel: Kernel, host: str) -> None:
    """Our client, and a listener on the kernel's stack."""
    anyio = pytest.importorskip("anyio")
    data = b"anyio" * 20_000
    ports: asyncio.Queue[int] = asyncio.Queue()

    async def shout(stream: Any) -> None:
        async with stream:
            async for part in stream:
                await stream.send(part.upper())

    async def serve() -> None:
        async with await anyio.create_tcp_listener(local_host=host, local_port=0) as listener:
            ports.put_nowait(listener.extra(anyio.abc.SocketAttribute.local_port))
            await listener.serve(shout)

    async def main() -> None:
        async with await anyio.connect_tcp(host, port) as stream:
            async with anyio.create_task_group() as group:
                group.start_soon(stream.send, data)
                received = b""
                while len(received) < len(data):
                    received += await stream.receive()
        assert received == data.upper()

    asyncio.run_coroutine_threadsafe(serve(), kernel.loop)
    port = kernel.run(ports.get())
    bench.run(main)
