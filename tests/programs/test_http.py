"""HTTP servers and clients: uvicorn with Starlette and FastAPI, hypercorn, aiohttp, httpx, websockets, h2load."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import re
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from interop.lab import STACK4, STACK6, configuration, environment, tap_name
from support import eventually

from aiomultistack.testing import Network

BODY = random.Random(2).randbytes(200_000)
LOSSY = pytest.mark.virtual_network(loss=0.02, delay=0.01, reorder=0.01)


@pytest.fixture
def asgi() -> Any:
    """The application; needs Starlette and FastAPI."""
    pytest.importorskip("starlette")
    pytest.importorskip("fastapi")
    from .asgi_app import app

    return app


@contextlib.asynccontextmanager
async def uvicorn(network: Network, app: Any, port: int = 80, **options: Any) -> AsyncIterator[None]:
    """uvicorn on the host "server"."""
    module = pytest.importorskip("uvicorn")
    config = module.Config(app, host="0.0.0.0", port=port, log_config=None, lifespan="on", **options)
    server = module.Server(config)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    task = network.host("server").start(server.serve())
    try:
        while not server.started:
            await asyncio.sleep(0.01)
        yield
    finally:
        server.should_exit = True
        await asyncio.wait_for(task, 60)
        assert {number: signal.getsignal(number) for number in handlers} == handlers


@LOSSY
@pytest.mark.parametrize("http", ["h11", "httptools"])
async def test_uvicorn_serves_httpx(virtual_network: Network, asgi: Any, http: str) -> None:
    httpx = pytest.importorskip("httpx")
    if http == "httptools":
        pytest.importorskip("httptools")
    async with uvicorn(virtual_network, asgi, http=http), httpx.AsyncClient(timeout=60) as client:
        answer = await client.get("http://server/hello/world")
        assert answer.json() == {"hello": "world", "client": virtual_network.local.addresses[0]}
        answers = await asyncio.gather(*(client.post("http://server/digest", content=BODY) for _ in range(5)))
        assert {answer.text for answer in answers} == {hashlib.sha256(BODY).hexdigest()}
        async with client.stream("GET", "http://server/stream?chunks=50") as answer:
            assert b"".join([part async for part in answer.aiter_bytes()]) == b"".join(
                b"%06d" % number * 1000 for number in range(50)
            )
        with pytest.raises(httpx.ReadTimeout):
            await client.get("http://server/slow", timeout=5)


@LOSSY
async def test_uvicorn_with_tls(
    virtual_network: Network, asgi: Any, certificate: Path, client_tls: ssl.SSLContext
) -> None:
    httpx = pytest.importorskip("httpx")
    async with uvicorn(virtual_network, asgi, 443, ssl_certfile=str(certificate)):
        async with httpx.AsyncClient(verify=client_tls, timeout=60) as client:
            answer = await client.post("https://server/digest", content=BODY)
            assert answer.text == hashlib.sha256(BODY).hexdigest()


@LOSSY
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_websockets(
    virtual_network: Network, asgi: Any, certificate: Path, client_tls: ssl.SSLContext, tls: bool
) -> None:
    client = pytest.importorskip("websockets.asyncio.client")
    options = {"ssl_certfile": str(certificate)} if tls else {}
    url = "wss://server/echo" if tls else "ws://server:443/echo"
    async with uvicorn(virtual_network, asgi, 443, **options):
        async with client.connect(url, ssl=client_tls if tls else None, max_size=None) as connection:
            for message in ("short", b"bytes", "x" * 100_000):
                await connection.send(message)
                assert await connection.recv() == message


async def test_a_websocket_s_pings_notice_a_partition(virtual_network: Network) -> None:
    """websockets' own keep-alive, twenty seconds and twenty more, in no time."""
    websockets = pytest.importorskip("websockets")
    server_module, client_module = pytest.importorskip("websockets.asyncio.server"), websockets.asyncio.client
    with virtual_network.host("server"):
        server = await server_module.serve(lambda connection: connection.wait_closed(), "0.0.0.0", 80)
    async with client_module.connect("ws://server/") as connection:
        await asyncio.sleep(100)
        virtual_network.partition("server")
        began = virtual_network.time()
        with pytest.raises(websockets.exceptions.ConnectionClosedError):
            await connection.recv()
        assert 20 < virtual_network.time() - began < 60
    virtual_network.heal()
    server.close()
    await server.wait_closed()


@LOSSY
async def test_aiohttp_both_ends(virtual_network: Network) -> None:
    aiohttp = pytest.importorskip("aiohttp")
    web = pytest.importorskip("aiohttp.web")

    async def digest(request: Any) -> Any:
        return web.Response(text=hashlib.sha256(await request.read()).hexdigest())

    app = web.Application(client_max_size=1 << 24)
    app.router.add_post("/digest", digest)
    runner = web.AppRunner(app)
    with virtual_network.host("server"):
        await runner.setup()
        await web.TCPSite(runner, "0.0.0.0", 80).start()
    async with aiohttp.ClientSession() as session:
        for _ in range(3):
            async with session.post("http://server/digest", data=BODY) as answer:
                assert await answer.text() == hashlib.sha256(BODY).hexdigest()
        timeout = aiohttp.ClientTimeout(total=7)
        with virtual_network.partition("server"), pytest.raises(asyncio.TimeoutError):
            await session.post("http://server/digest", data=BODY, timeout=timeout)
    await runner.cleanup()


@LOSSY
async def test_hypercorn_and_httpx_with_http2(virtual_network: Network, asgi: Any) -> None:
    """Many streams on one connection; hypercorn makes its listening socket itself."""
    httpx = pytest.importorskip("httpx")
    pytest.importorskip("h2")
    asyncio_, config_ = pytest.importorskip("hypercorn.asyncio"), pytest.importorskip("hypercorn.config")
    config = config_.Config()
    config.bind = ["0.0.0.0:28080"]
    over = asyncio.Event()
    task = virtual_network.host("server").start(asyncio_.serve(asgi, config, shutdown_trigger=over.wait))
    await asyncio.sleep(1)
    async with httpx.AsyncClient(http1=False, http2=True, timeout=60) as client:
        answers = await asyncio.gather(
            *(client.post("http://server:28080/digest", content=BODY) for _ in range(10)),
            *(client.get("http://server:28080/hello/world") for _ in range(10)),
        )
    assert {answer.http_version for answer in answers} == {"HTTP/2"}
    assert {answer.text for answer in answers[:10]} == {hashlib.sha256(BODY).hexdigest()}
    assert all(answer.json()["hello"] == "world" for answer in answers[10:])
    over.set()
    await asyncio.wait_for(task, 60)


# ---- over a TAP ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def serving(log: Path, port: int, *command: str) -> Iterator[None]:
    """A server's own command, with our loop; checks that SIGTERM ends it well."""
    config = configuration(tap_name())
    variables = {
        "AIOMULTISTACK_PORT": config.port,
        "AIOMULTISTACK_ADDRESSES": ",".join(config.addresses),
        "AIOMULTISTACK_HOST_ADDRESSES": ",".join(config.host_addresses),
        "AIOMULTISTACK_CONTROL": "0",
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *command], stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            env=environment(**variables), cwd=Path(__file__).parent,
        )  # fmt: skip
    try:

        def is_open() -> bool:
            assert process.poll() is None, log.read_text()
            with contextlib.suppress(OSError):
                socket.create_connection((STACK4, port), 1.0).close()
                return True
            return False

        eventually(is_open, "the server listens")
        yield
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) in (0, -signal.SIGTERM), log.read_text()
        assert "Traceback" not in log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def fetch(*arguments: str) -> str:
    """curl on the kernel's TCP."""
    return subprocess.run(["curl", "-sSf", *arguments], capture_output=True, text=True, check=True, timeout=60).stdout


@pytest.mark.parametrize("host", [STACK4, STACK6])
def test_uvicorn_command(
    lab: None, asgi: Any, tool: Callable[..., str], tmp_path: Path, authority: Any, certificate: Path, host: str
) -> None:
    """``uvicorn --loop aiomultistack:new_event_loop``, with TLS; curl on the kernel's side."""
    tool("curl", "curl")
    pytest.importorskip("uvicorn")
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    (tmp_path / "body").write_bytes(BODY)
    command = (
        "-m", "uvicorn", "asgi_app:app", "--host", "", "--port", "443", "--loop", "aiomultistack:new_event_loop",
        "--ssl-certfile", str(certificate),
    )  # fmt: skip
    with serving(tmp_path / "log", 443, *command):
        url = f"https://[{host}]" if ":" in host else f"https://{host}"
        trust = "--cacert", str(tmp_path / "authority.pem")
        assert '"hello":"world"' in fetch(*trust, f"{url}/hello/world")
        answer = fetch(*trust, "--data-binary", f"@{tmp_path / 'body'}", f"{url}/digest")
        assert answer == hashlib.sha256(BODY).hexdigest()


def test_hypercorn_with_http2(lab: None, asgi: Any, tool: Callable[..., str], tmp_path: Path) -> None:
    """h2load, many streams on few connections."""
    pytest.importorskip("hypercorn")
    h2load = tool("h2load", "nghttp2-client")
    script = tmp_path / "serve.py"
    script.write_text(
        "import asyncio, signal, sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import aiomultistack\n"
        "from asgi_app import app\n"
        "from hypercorn.asyncio import serve\n"
        "from hypercorn.config import Config\n"
        "config = Config()\n"
        "config.bind = ['0.0.0.0:8080']\n"
        "aiomultistack.run(serve(app, config), config=aiomultistack.Config.load())\n"
    )
    with serving(tmp_path / "log", 8080, str(script)):
        done = subprocess.run(
            [h2load, "-n", "300", "-c", "4", "-m", "10", f"http://{STACK4}:8080/hello/world"],
            capture_output=True, text=True, check=True, timeout=60,
        ).stdout  # fmt: skip
    assert re.search(r"300 total, 300 started, 300 done, 300 succeeded, 0 failed", done), done

