"""An unchanged aiohttp server under ``aiomultistack run``; its clients are on the kernel's TCP: curl, requests,
aiohttp on a plain loop, ping.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import hashlib
import ssl
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import aiohttp
import pytest
import requests
import trustme
from support import PATIENCE, eventually

from .app import CHUNK
from .lab import STACK4, STACK6, Program, command, kernel_host, namespace, stack_host, url_host

_T = TypeVar("_T")
APP = Path(__file__).with_name("app.py")
PORT, TLS_PORT = 8080, 8443
FILE = CHUNK * 3 + b"the end"
FAMILIES = pytest.mark.parametrize("family", [4, 6])

Tool = Callable[[str], str]


@dataclass
class Site:
    """The server, and what its clients need."""

    program: Program
    authority: Path

    def url(self, family: int, path: str, scheme: str = "http") -> str:
        """The URL of a path."""
        port = TLS_PORT if scheme == "https" else PORT
        return f"{scheme}://{url_host(stack_host(family))}:{port}{path}"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Static files, a certificate, and the authority that issued it."""
    path = tmp_path_factory.mktemp("site")
    (path / "static").mkdir()
    (path / "static" / "file").write_bytes(FILE)
    authority = trustme.CA()
    authority.cert_pem.write_to_path(path / "authority.pem")
    authority.issue_cert(STACK4, STACK6).private_key_and_cert_chain_pem.write_to_path(path / "server.pem")
    return path


@contextlib.contextmanager
def serving(directory: Path, log: str) -> Iterator[Site]:
    """The application in a process, on IPv4 and IPv6, with and without TLS."""
    arguments = [str(PORT), str(directory / "static"), STACK4, STACK6, "--tls", str(TLS_PORT),
                 str(directory / "server.pem")]  # fmt: skip
    with contextlib.closing(Program(directory / log, APP, arguments)) as program:
        program.wait_until_open(STACK6, PORT)
        yield Site(program, directory / "authority.pem")


@pytest.fixture(scope="module")
def site(lab: None, directory: Path) -> Iterator[Site]:
    """One server for the module's tests; none of them may leave a connection, or make it complain."""
    with serving(directory, "module.log") as site:
        eventually(lambda: not site.program.connections(), "the connections of the start are gone")
        before = site.program.steady_descriptor_count()
        yield site
        eventually(lambda: not site.program.connections(), "no connection is left")
        eventually(lambda: site.program.descriptor_count() == before, "no descriptor is left")
        site.program.terminate()
        assert site.program.wait() == 0
        assert site.program.output == "cleaned up\n"


def on_plain_loop(main: Callable[[], Awaitable[_T]], timeout: float = 60.0) -> _T:
    """Runs a client on asyncio's own loop, and so on the kernel's TCP."""
    loop = asyncio.SelectorEventLoop()
    try:
        return loop.run_until_complete(asyncio.wait_for(main(), timeout))
    finally:
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.wait(left))
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


def curl(tool: Tool, *arguments: str) -> str:
    """What curl prints."""
    return command(tool("curl"), "--silent", "--show-error", "--noproxy", "*", *arguments)


def get(url: str, **options: object) -> requests.Response:
    """One GET on a connection of its own."""
    with requests.Session() as session:
        session.trust_env = False
        return session.get(url, timeout=PATIENCE, **options)  # type: ignore[arg-type]


# ---- ping ------------------------------------------------------------------------------------------------


@FAMILIES
@pytest.mark.parametrize("size", [0, 56, 1472, 4000, 20000])
def test_ping(site: Site, tool: Tool, family: int, size: int) -> None:
    """Also what the kernel must cut into fragments, and what the stack must."""
    pattern = "a55a0ff0"  # ping compares what comes back with what it sent
    output = command(tool("ping"), f"-{family}", "-n", "-c", "3", "-i", "0.01", "-W", "5", "-s", str(size), "-p",
                     pattern, stack_host(family))  # fmt: skip
    assert "3 received, 0% packet loss" in output
    assert "wrong data" not in output


@FAMILIES
def test_flood_ping(site: Site, tool: Tool, family: int) -> None:
    output = command(tool("ping"), f"-{family}", "-n", "-q", "-f", "-c", "500", "-W", "5", stack_host(family))
    assert "500 received, 0% packet loss" in output


# ---- curl ------------------------------------------------------------------------------------------------


@FAMILIES
def test_curl_get(site: Site, tool: Tool, family: int) -> None:
    assert curl(tool, site.url(family, "/")) == f"hello {kernel_host(family)} over HTTP/1.1"
    assert curl(tool, "--http1.0", site.url(family, "/")) == f"hello {kernel_host(family)} over HTTP/1.0"


@FAMILIES
def test_curl_keeps_alive_or_closes(site: Site, tool: Tool, family: int) -> None:
    show = ["--output", "/dev/null", "--write-out", "%{response_code} %{num_connects}\n"]
    urls = [word for _ in range(5) for word in (*show, site.url(family, "/"))]
    assert curl(tool, *urls).split("\n")[:5] == ["200 1", *["200 0"] * 4]
    assert curl(tool, "--header", "Connection: close", *urls).split("\n")[:5] == ["200 1"] * 5


@FAMILIES
@pytest.mark.parametrize("size", [0, 1, 1460, 65536, 3_000_000])
def test_curl_post(site: Site, tool: Tool, family: int, size: int, tmp_path: Path) -> None:
    body = (CHUNK * 3)[:size]
    (tmp_path / "body").write_bytes(body)
    answer = curl(tool, "--data-binary", f"@{tmp_path / 'body'}", site.url(family, "/digest"))
    assert answer == f'{{"length": {size}, "sha256": "{hashlib.sha256(body).hexdigest()}"}}'


@FAMILIES
def test_curl_uploads_chunked(site: Site, tool: Tool, family: int, tmp_path: Path) -> None:
    (tmp_path / "body").write_bytes(FILE)
    answer = curl(tool, "--header", "Transfer-Encoding: chunked", "--upload-file", str(tmp_path / "body"),
                  site.url(family, "/digest"))  # fmt: skip
    assert hashlib.sha256(FILE).hexdigest() in answer


@FAMILIES
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_curl_downloads_100_megabytes(site: Site, tool: Tool, family: int, scheme: str, tmp_path: Path) -> None:
    expected = hashlib.sha256(CHUNK * 100).hexdigest()
    for query in ("", "?length=1"):
        curl(tool, "--cacert", str(site.authority), "--output", str(tmp_path / "body"), "--fail",
             site.url(family, f"/stream/100{query}", scheme))  # fmt: skip
        assert hashlib.sha256((tmp_path / "body").read_bytes()).hexdigest() == expected


@FAMILIES
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_curl_uploads_100_megabytes(site: Site, tool: Tool, family: int, scheme: str, tmp_path: Path) -> None:
    (tmp_path / "body").write_bytes(CHUNK * 100)
    answer = curl(tool, "--cacert", str(site.authority), "--upload-file", str(tmp_path / "body"),
                  site.url(family, "/digest", scheme))  # fmt: skip
    assert answer == f'{{"length": {100 << 20}, "sha256": "{hashlib.sha256(CHUNK * 100).hexdigest()}"}}'


@FAMILIES
def test_curl_static_file(site: Site, tool: Tool, family: int, tmp_path: Path) -> None:
    curl(tool, "--output", str(tmp_path / "body"), site.url(family, "/static/file"))
    assert (tmp_path / "body").read_bytes() == FILE
    for span, expected in (("0-0", FILE[:1]), ("1000-1999", FILE[1000:2000]), (f"{len(CHUNK)}-", FILE[len(CHUNK) :]),
                           ("-7", b"the end")):  # fmt: skip
        curl(tool, "--range", span, "--fail", "--output", str(tmp_path / "part"), site.url(family, "/static/file"))
        assert (tmp_path / "part").read_bytes() == expected


# ---- requests --------------------------------------------------------------------------------------------


@FAMILIES
def test_requests_keep_alive(site: Site, family: int) -> None:
    with requests.Session() as session:
        session.trust_env = False
        for size in (0, 1, 1000, 65536, 1 << 20, 5_000_001) * 3:
            response = session.get(site.url(family, f"/bytes/{size}"), timeout=PATIENCE)
            assert response.content == (CHUNK * 5)[:size]
            response = session.post(site.url(family, "/digest"), data=response.content, timeout=PATIENCE)
            assert response.json()["length"] == size
        states = [row["state"] for row in site.program.connections() if row["remote"][0] == kernel_host(family)]
        assert states.count(1) == 1  # one connection did all of that


@FAMILIES
def test_requests_connection_close(site: Site, family: int) -> None:
    for _ in range(20):
        response = get(site.url(family, "/"), headers={"Connection": "close"})
        assert response.headers["Connection"] == "close"
        assert response.text.startswith("hello ")


@FAMILIES
@pytest.mark.parametrize("query", ["", "?length=1"])
def test_requests_streaming_response(site: Site, family: int, query: str) -> None:
    digest = hashlib.sha256()
    with get(site.url(family, f"/stream/20{query}"), stream=True) as response:
        assert ("Transfer-Encoding" in response.headers) is (query == "")
        for data in response.iter_content(100_000):
            digest.update(data)
    assert digest.digest() == hashlib.sha256(CHUNK * 20).digest()


@FAMILIES
def test_requests_chunked_upload(site: Site, family: int) -> None:
    with requests.Session() as session:
        session.trust_env = False
        body = (CHUNK[start : start + 9999] for start in range(0, len(CHUNK), 9999))
        response = session.post(site.url(family, "/digest"), data=body, timeout=PATIENCE)
    assert response.json() == {"length": len(CHUNK), "sha256": hashlib.sha256(CHUNK).hexdigest()}


@FAMILIES
def test_requests_https(site: Site, family: int) -> None:
    with requests.Session() as session:
        session.trust_env = False
        session.verify = str(site.authority)
        for path, expected in ((f"/bytes/{len(CHUNK)}", CHUNK), ("/static/file", FILE)):
            assert session.get(site.url(family, path, "https"), timeout=PATIENCE).content == expected
        response = session.post(site.url(family, "/digest", "https"), data=FILE, timeout=PATIENCE)
        assert response.json()["sha256"] == hashlib.sha256(FILE).hexdigest()


@FAMILIES
def test_200_concurrent_requests(site: Site, family: int) -> None:
    """Each on a connection of its own, all at once."""
    def one(number: int) -> bool:
        return get(site.url(family, f"/bytes/{number * 500}")).content == CHUNK[: number * 500]

    with concurrent.futures.ThreadPoolExecutor(200) as pool:
        assert all(pool.map(one, range(200)))


# ---- aiohttp's client on a plain loop --------------------------------------------------------------------


@FAMILIES
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_websocket(site: Site, family: int, scheme: str) -> None:
    context = ssl.create_default_context(cafile=str(site.authority))

    async def main() -> None:
        connector = aiohttp.TCPConnector(ssl=context)
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.ws_connect(site.url(family, "/websocket", scheme), max_msg_size=16 << 20) as socket,
        ):
            await socket.send_str("echo")
            assert await socket.receive_str() == "ECHO"
            for size in (0, 1, 125, 126, 70_000, 1 << 20):
                await socket.send_bytes(CHUNK[:size])
                assert await socket.receive_bytes() == CHUNK[:size][::-1]
            for number in range(200):  # as many as the connection takes, before an answer is read
                await socket.send_str(f"message {number}")
            for number in range(200):
                assert await socket.receive_str() == f"MESSAGE {number}"

    on_plain_loop(main)


@FAMILIES
def test_200_concurrent_sessions(site: Site, family: int) -> None:
    """All connections open at once, several requests on each."""
    async def main() -> None:
        connector = aiohttp.TCPConnector(limit=200)
        async with aiohttp.ClientSession(connector=connector) as session:

            async def one(number: int) -> None:
                for _ in range(3):
                    async with session.get(site.url(family, f"/bytes/{number * 300}")) as response:
                        assert await response.read() == CHUNK[: number * 300]

            await asyncio.gather(*(one(number) for number in range(200)))

    on_plain_loop(main)


@FAMILIES
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_clients_disconnect_in_mid_response(site: Site, family: int, scheme: str) -> None:
    """The server notices each, and is rid of their connections and tasks."""
    before = get(site.url(family, "/status")).json()

    def status() -> dict[str, object]:
        answer = get(site.url(family, "/status")).json()
        return {"gone": len(answer["gone"]) - len(before["gone"]), "tasks": answer["tasks"]}

    for _ in range(5):
        with get(site.url(family, "/endless", scheme), stream=True, verify=str(site.authority)) as response:
            assert len(response.raw.read(100_000)) == 100_000
    eventually(lambda: status() == {"gone": 5, "tasks": before["tasks"]}, "the server noticed that its clients left")
    eventually(lambda: not site.program.connections(), "their connections are gone")


# ---- its end ---------------------------------------------------------------------------------------------


@FAMILIES
def test_graceful_shutdown_under_load(directory: Path, family: int) -> None:
    """After SIGTERM: no new connection, and 50 requests in flight get their answers, downloads among them."""
    with namespace(), serving(directory, f"shutdown{family}.log") as site:

        async def main() -> None:
            connector = aiohttp.TCPConnector(limit=0)
            async with aiohttp.ClientSession(connector=connector) as session:

                async def slow() -> bool:
                    async with session.get(site.url(family, "/slow")) as response:
                        return await response.text() == "finished"

                async def download(response: aiohttp.ClientResponse) -> bool:
                    async with response:
                        return hashlib.sha256(await response.read()).digest() == hashlib.sha256(CHUNK * 20).digest()

                waiting = [asyncio.ensure_future(slow()) for _ in range(40)]
                started = [await session.get(site.url(family, "/stream/20")) for _ in range(10)]
                while len([row for row in site.program.connections() if row["state"] == 1]) < 50:
                    await asyncio.sleep(0.02)
                site.program.terminate()
                await asyncio.to_thread(_until_refused, site, family)
                assert all(await asyncio.gather(*waiting, *map(download, started)))

        on_plain_loop(main)
        assert site.program.wait() == 0
        assert site.program.output == "cleaned up\n"


def _until_refused(site: Site, family: int) -> None:
    """Waits until the server doesn't accept connections any more."""

    def refused() -> bool:
        try:
            get(site.url(family, "/"), headers={"Connection": "close"})
        except requests.ConnectionError:
            return True
        return False

    eventually(refused, "new connections are refused")
