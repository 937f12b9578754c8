"""Ten megabytes across a bad link: losses, duplicates, reordering and flipped bits, all from one seed.

    python examples/lossy_link.py

The hub between the two stacks does the harm; TCP repairs it, and the counters tell how.
"""

import asyncio
import hashlib
import os
import threading
import time

import aiomultistack

HUB = aiomultistack.Hub("bad", seed=7, loss=0.02, reorder=0.02, duplicate=0.01, corrupt=0.001, delay=0.002)
SENDER = aiomultistack.Config(port="mem:bad", addresses=["10.9.0.1/24"])
RECEIVER = aiomultistack.Config(port="mem:bad", addresses=["10.9.0.2/24"])
DATA = os.urandom(10 << 20)


async def receive(ready: threading.Event) -> str:
    """Accepts one connection; returns the SHA-256 of what it brings."""
    digest = hashlib.sha256()
    done = asyncio.Event()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(1 << 16):
            digest.update(chunk)
        writer.close()
        done.set()

    async with await asyncio.start_server(connected, "10.9.0.2", 9):
        ready.set()
        await done.wait()
    return digest.hexdigest()


async def send() -> dict[str, int]:
    """Sends everything; returns the stack's counters."""
    reader, writer = await asyncio.open_connection("10.9.0.2", 9)
    writer.write(DATA)
    writer.write_eof()
    await reader.read()
    writer.close()
    loop = asyncio.get_running_loop()
    return dict(loop.multistack.counters())  # type: ignore[attr-defined]


def main() -> None:
    """Receives in a thread, sends here."""
    ready = threading.Event()
    received: list[str] = []
    thread = threading.Thread(target=lambda: received.append(aiomultistack.run(receive(ready), config=RECEIVER)))
    thread.start()
    ready.wait()
    start = time.perf_counter()
    counters = aiomultistack.run(send(), config=SENDER)
    thread.join()
    seconds = time.perf_counter() - start
    intact = received[0] == hashlib.sha256(DATA).hexdigest()
    print(f"{len(DATA) >> 20} MB in {seconds:.1f} s, {'intact' if intact else 'DAMAGED'}")
    for name, value in counters.items():
        if value:
            print(f"  {name:32} {value:>10}")


if __name__ == "__main__":
    main()
