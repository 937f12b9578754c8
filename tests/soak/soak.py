"""Soak tests: random mixed load for a long time, and nothing left behind.

    python tests/soak/soak.py virtual --minutes 30        # a lossy link, in virtual time
    python tests/soak/soak.py tap --minutes 3             # the kernel's TCP, in real time; needs root

The run is cut into epochs.  After each one the load rests, and everything is counted: frames, endpoints, bytes of the
engine's, tasks, descriptors, objects of Python's.  What grows from epoch to epoch leaks.  The engine's memory is back
at what it was before the first connection, but for the stock of free frames that each stack keeps for the next one.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import gc
import itertools
import os
import ssl
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import trustme

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

import aiomultistack
from aiomultistack._virtual import new_virtual_loop
from soak.load import Load

WORKERS = 8
EPOCHS = 6
REST = 150.0  # seconds; TIME-WAIT is over, and orphans have given up
_STOCK = 512 << 10  # bytes, for each stack: cached frames and connections, tables that have grown
_OBJECTS = 60  # objects of Python's that an epoch may add: caches, interned strings


@dataclass(frozen=True)
class Census:
    """What is there while nothing happens."""

    frames: int
    endpoints: int
    memory: int  # bytes of C
    tasks: int
    descriptors: int
    objects: int


def tls_contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's and a client's."""
    authority = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.issue_cert("server").configure_cert(server)
    authority.configure_trust(client)
    return server, client


def count(loop: Any) -> Census:
    """Counts; called on the loop."""
    gc.collect()
    nodes = loop.multistack.nodes
    return Census(
        frames=sum(node.frames for node in nodes),
        endpoints=sum(node.endpoint_count for node in nodes),
        memory=sum(node.memory for node in nodes),
        tasks=len(asyncio.all_tasks(loop)),
        descriptors=len(os.listdir("/proc/self/fd")),
        objects=len(gc.get_objects()),
    )


def check(fresh: Census, censuses: list[Census], stacks: int) -> None:
    """Fails if something is left behind, or grows.  The first epoch fills Python's caches.

    fresh: before the first connection.
    """
    for number, census in enumerate(censuses):
        assert census.memory <= fresh.memory + stacks * _STOCK, f"epoch {number}: {census}, and fresh {fresh}"
        assert census.frames == 0, f"epoch {number}: {census.frames} frames are held"
        assert (census.endpoints, census.tasks) == (censuses[0].endpoints, 1), f"epoch {number}: {census}"
        assert census.descriptors == censuses[0].descriptors, f"epoch {number}: {census}"
    settled = censuses[1:]
    if len(settled) > 2:
        growth = [later.objects - earlier.objects for earlier, later in itertools.pairwise(settled)]
        assert min(growth) < _OBJECTS, f"objects of Python's grow: {[census.objects for census in censuses]}"


def report(tally: collections.Counter[str], counters: dict[str, int], censuses: list[Census]) -> None:
    """Prints what happened."""
    for name, number in sorted(tally.items()):
        print(f"  {name:32} {number:>8,}")
    for name, value in counters.items():
        if value and name.startswith("stack.tcp_"):
            print(f"  {name:32} {value:>8,}")
    for number, census in enumerate(censuses):
        print(f"  epoch {number}: {asdict(census)}")


def virtual(seed: int, minutes: float, epochs: int = EPOCHS, workers: int = WORKERS) -> tuple[Any, ...]:
    """Two stacks on a bad link, in virtual time.  Returns the tally, the counters and the censuses."""
    name = f"soak-{os.getpid()}-{seed}"
    hub = aiomultistack.Hub(
        name, seed=seed, loss=0.01, reorder=0.01, duplicate=0.005, corrupt=0.002, delay=0.01, jitter=0.005, rate=2e7
    )
    config = aiomultistack.Config(f"mem:{name}", ["10.9.0.1/24"], seed=seed)
    loop = new_virtual_loop(config)
    loop.multistack.attach(config.replace(addresses=["10.9.0.2/24"]))
    contexts: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: contexts.append(context))
    load = Load(f"{seed}", "10.9.0.1", "10.9.0.1", tls_contexts())
    fresh: list[Census] = []
    censuses: list[Census] = []

    async def main() -> None:
        await load.open()
        fresh.append(count(loop))
        for _ in range(epochs):
            end = loop.time() + max(1.0, minutes * 60 / epochs - REST)
            await asyncio.gather(*(load.work(end) for _ in range(workers)))
            await asyncio.sleep(REST / 2)
            load.hang_up()
            await asyncio.sleep(REST / 2)
            censuses.append(count(loop))
            unexpected(contexts)
        await load.close()
        await asyncio.sleep(REST)
        last = count(loop)
        assert last.endpoints == last.frames == 0, f"left behind: {loop.multistack.endpoints()}"

    try:
        loop.run_until_complete(main())
        counters = loop.multistack.counters()
    finally:
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        del hub
    check(fresh[0], censuses, 2)
    return load.tally, counters, censuses


def unexpected(contexts: list[dict[str, Any]]) -> None:
    """Fails for what an exception handler was called with; asyncio reports TLS connections that are cut there."""
    for context in contexts:
        error = context.get("exception")
        if not isinstance(error, (ConnectionError, TimeoutError, ssl.SSLError, asyncio.CancelledError)):
            raise AssertionError(f"the loop's exception handler was called: {context}") from error
    contexts.clear()


def tap(seed: int, minutes: float, epochs: int = EPOCHS, workers: int = WORKERS) -> tuple[Any, ...]:
    """Our stack and the kernel's, each with servers and clients, in real time."""
    from interop.lab import KERNEL4, STACK4, namespace, stack_loop

    contexts: list[dict[str, Any]] = []
    fresh: list[Census] = []
    censuses: list[Census] = []
    tls = tls_contexts()
    with contextlib.suppress(ImportError):  # libuv opens some descriptors once, and keeps them
        import uvloop

        warm = uvloop.new_event_loop()
        warm.run_until_complete(asyncio.sleep(0))
        warm.close()
    with namespace(), stack_loop(time_wait=1.0) as bench:
        ours = Load(f"{seed} ours", STACK4, KERNEL4, tls, 2_000_000 // 2)
        theirs = Load(f"{seed} theirs", KERNEL4, STACK4, tls, 2_000_000 // 2)
        other = asyncio.new_event_loop()
        thread = threading.Thread(target=other.run_forever)

        def call(work: Any) -> Any:
            return asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, other))

        async def work(load: Load, seconds: float) -> None:
            end = asyncio.get_running_loop().time() + seconds
            await asyncio.gather(*(load.work(end) for _ in range(workers)))

        async def main() -> None:
            await call(theirs.open())
            await ours.open()
            fresh.append(count(bench.loop))
            for _ in range(epochs):
                seconds = max(2.0, minutes * 60 / epochs - 8)
                await asyncio.gather(work(ours, seconds), call(work(theirs, seconds)))
                await asyncio.sleep(4)
                ours.hang_up()
                other.call_soon_threadsafe(theirs.hang_up)
                await asyncio.sleep(4)
                censuses.append(count(bench.loop))
                unexpected(contexts)
            await ours.close()
            await call(theirs.close())

        bench.loop.set_exception_handler(lambda _, context: contexts.append(context))
        other.set_exception_handler(lambda _, context: contexts.append(context))
        thread.start()
        try:
            bench.loop.run_until_complete(main())
            counters = bench.loop.multistack.counters()
        finally:
            other.call_soon_threadsafe(other.stop)
            thread.join()
            other.close()
    check(fresh[0], censuses, 1)
    return ours.tally + theirs.tally, counters, censuses


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("kind", choices=("virtual", "tap"))
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=WORKERS)
    options = parser.parse_args()
    began = time.monotonic()
    kind = virtual if options.kind == "virtual" else tap
    report(*kind(options.seed, options.minutes, workers=options.workers))
    seconds = time.monotonic() - began
    print(f"{options.minutes:g} minutes of {options.kind} load in {seconds:.0f} s: nothing is left behind")


if __name__ == "__main__":
    main()
