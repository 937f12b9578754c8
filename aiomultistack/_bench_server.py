"""The server process of `aiomultistack bench http`: one program on different event loops.

Run as `python -m aiomultistack._bench_server SPEC`, SPEC being a `ServerSpec` in JSON.  It talks to the
benchmark over its standard input and output, a line of JSON each way:

  <- {"event": "isolated"}    it has a namespace of its own; the benchmark may give it a link
  -> anything                 the link `eth0` is there
  <- {"event": "ready"}       it listens
  -> anything                 asks for its tally
  <- {"event": "tally", ...}  requests answered, CPU used

End of input ends it.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, cast

PORT = 80

#: Our loop over a TAP, and over AF_XDP on one end of a veth pair; those on the kernel's TCP.
FLAVOURS = ("multistack", "multistack-xdp", "uvloop", "asyncio")


@dataclass
class ServerSpec:
    """What a server process is told to be."""

    flavour: str  # one of `FLAVOURS`
    address: str  # the server's, with prefix length
    client: str  # the client's side of the link, with prefix length
    sizes: list[int]  # response bodies, bytes
    app: str = "protocol"  # or "aiohttp"
    cpu: int | None = None  # the core to run on
    tap: str = "ams0"
    config: dict[str, Any] = field(default_factory=dict)  # more fields of Config

    @property
    def isolated(self) -> bool:
        """True for a server at the end of a veth pair, in a namespace of its own."""
        return self.flavour != "multistack"

    @property
    def host(self) -> str:
        """The server's address without its prefix length."""
        return self.address.partition("/")[0]


@dataclass
class Tally:
    """What a server has done so far."""

    requests: int = 0
    connections: int = 0

    def report(self) -> dict[str, float]:
        """The tally with the CPU time of this process: user and system, all threads, in µs."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return {
            "requests": self.requests,
            "connections": self.connections,
            "user_us": usage.ru_utime * 1e6,
            "system_us": usage.ru_stime * 1e6,
            "cpu_us": (usage.ru_utime + usage.ru_stime) * 1e6,
        }


def make_responses(sizes: list[int]) -> dict[bytes, tuple[bytes, bytes]]:
    """For each target ("/1024") the whole response, as keep-alive and as the last of its connection."""
    responses = {}
    for size in sizes:
        head = f"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {size}\r\n"
        body = b"x" * size
        responses[f"/{size}".encode()] = (
            head.encode() + b"\r\n" + body,
            head.encode() + b"Connection: close\r\n\r\n" + body,
        )
    return responses


class Responder(asyncio.Protocol):
    """The least HTTP server that a benchmark can be honest with: finds requests' ends, honours
    `Connection: close`, answers GET with bytes prepared beforehand."""

    __slots__ = ("_partial", "_responses", "_tally", "_transport")

    _transport: asyncio.Transport

    def __init__(self, responses: dict[bytes, tuple[bytes, bytes]], tally: Tally) -> None:
        self._responses = responses
        self._tally = tally
        self._partial = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self._transport = cast(asyncio.Transport, transport)
        self._tally.connections += 1

    def data_received(self, data: bytes) -> None:
        """Answers the requests that are complete."""
        if self._partial:
            data = self._partial + data
            self._partial = b""
        start = 0
        while True:
            end = data.find(b"\r\n\r\n", start)
            if end < 0:
                if start < len(data):
                    self._partial = data[start:]
                return
            self._tally.requests += 1
            target = data[start + 4 : data.find(b" ", start + 4)]
            prepared = self._responses.get(target)
            if prepared is None or not data.startswith(b"GET ", start):
                self._transport.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                self._transport.close()
                return
            if data.find(b"\r\nConnection: close", start, end) >= 0:
                self._transport.write(prepared[1])
                self._transport.close()
                return
            self._transport.write(prepared[0])
            start = end + 4
            if start == len(data):
                return


async def _serve_protocol(spec: ServerSpec, tally: Tally) -> asyncio.AbstractServer:
    responses = make_responses(spec.sizes)
    loop = asyncio.get_running_loop()
    return await loop.create_server(lambda: Responder(responses, tally), spec.host, PORT, backlog=4096)


async def _serve_aiohttp(spec: ServerSpec, tally: Tally) -> object:
    from aiohttp import web

    bodies = {str(size): b"x" * size for size in spec.sizes}

    async def handle(request: web.Request) -> web.Response:
        tally.requests += 1
        return web.Response(body=bodies[request.match_info["size"]], content_type="text/plain")

    app = web.Application()
    app.router.add_get("/{size}", handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, spec.host, PORT, backlog=4096).start()
    return runner


def say(event: str, **values: object) -> None:
    """Writes one line to the benchmark."""
    sys.stdout.write(json.dumps({"event": event, **values}) + "\n")
    sys.stdout.flush()


async def _main(spec: ServerSpec) -> None:
    tally = Tally()
    server = await (_serve_aiohttp if spec.app == "aiohttp" else _serve_protocol)(spec, tally)
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()

    def on_input() -> None:
        asked = os.read(0, 4096)
        if not asked:
            loop.remove_reader(0)
            ended.set()
        for _ in range(asked.count(b"\n")):
            say("tally", **tally.report())

    loop.add_reader(0, on_input)
    say("ready")
    await ended.wait()
    del server


def _loop_factory(spec: ServerSpec) -> Callable[[], asyncio.AbstractEventLoop]:
    """Makes the loop of the flavour."""
    if spec.flavour.startswith("multistack"):
        import aiomultistack

        tap = spec.flavour == "multistack"
        config = aiomultistack.Config(
            port=f"tap:{spec.tap}" if tap else "xdp:eth0",
            addresses=[spec.address],
            host_addresses=[spec.client] if tap else [],
            **spec.config,
        )
        return lambda: aiomultistack.new_event_loop(config)
    if spec.flavour == "uvloop":
        import uvloop

        return uvloop.new_event_loop
    return asyncio.SelectorEventLoop


def command(spec: ServerSpec) -> list[str]:
    """The command line that runs a server as `spec` says."""
    return [sys.executable, "-m", "aiomultistack._bench_server", json.dumps(asdict(spec))]


def main() -> None:
    """The process's main function."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ^C is the benchmark's; it closes our input
    spec = ServerSpec(**json.loads(sys.argv[1]))
    if spec.cpu is not None:
        os.sched_setaffinity(0, {spec.cpu})
    if spec.isolated:
        from aiomultistack import _netns

        _netns.unshare()
        _netns.sysctl("net.core.somaxconn", "4096")
        _netns.sysctl("net.ipv4.tcp_max_syn_backlog", "4096")
        say("isolated")
        if not os.read(0, 4096):
            return
        _netns.configure("eth0", [] if spec.flavour == "multistack-xdp" else [spec.address])
    loop = _loop_factory(spec)()
    try:
        loop.run_until_complete(_main(spec))
    finally:
        loop.close()


if __name__ == "__main__":
    main()
