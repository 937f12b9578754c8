"""Two event loops in two threads, each with a TCP/IP stack of its own, on one Ethernet in memory.

    python examples/mem_two_loops.py

Needs no permission and no network device: this is how to test a server and its clients with real TCP in
between, in one process.
"""

import asyncio
import threading

import aiomultistack

SERVER = aiomultistack.Config(port="mem:lab", addresses=["10.9.0.2/24", "fd09::2/64"])
CLIENT = aiomultistack.Config(port="mem:lab", addresses=["10.9.0.1/24", "fd09::1/64"])


async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers everything in capitals."""
    writer.write((await reader.read()).upper())
    writer.close()


async def serve(ready: threading.Event, stop: asyncio.Event) -> None:
    """Serves on both addresses until it is told to stop."""
    server = await asyncio.start_server(shout, ["10.9.0.2", "fd09::2"], 7)
    ready.set()
    await stop.wait()
    server.close()


async def ask(host: str) -> str:
    """One question."""
    reader, writer = await asyncio.open_connection(host, 7)
    writer.write(b"hello from the other stack")
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    return answer.decode()


def main() -> None:
    """Runs the server in a thread, the client here."""
    ready, stop = threading.Event(), asyncio.Event()
    loop = aiomultistack.new_event_loop(SERVER)
    thread = threading.Thread(target=lambda: loop.run_until_complete(serve(ready, stop)))
    thread.start()
    ready.wait()
    for host in ("10.9.0.2", "fd09::2"):
        print(f"{host}: {aiomultistack.run(ask(host), config=CLIENT)}")
    loop.call_soon_threadsafe(stop.set)
    thread.join()
    loop.close()


if __name__ == "__main__":
    main()
