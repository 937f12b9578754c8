"""An echo server with asyncio's streams, and a client that talks to it.

    aiomultistack run --port mem:echo --addresses 10.9.0.2/24 examples/stream_echo.py 10.9.0.2

Without `aiomultistack run` it does the same on the kernel's TCP: `python examples/stream_echo.py 127.0.0.1`.
"""

import asyncio
import sys


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Sends back line by line what comes in."""
    try:
        while line := await reader.readline():
            writer.write(line)
            await writer.drain()
    finally:
        writer.close()


async def main(host: str) -> None:
    """Serves, connects, says a few words."""
    server = await asyncio.start_server(echo, host, 0)
    address = server.sockets[0].getsockname()
    reader, writer = await asyncio.open_connection(address[0], address[1])
    for word in ("one", "two", "three"):
        writer.write(f"{word}\n".encode())
        answer = await reader.readline()
        print(f"{address[0]}:{address[1]} says {answer.decode().strip()}")
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1"))
