"""A client, as one writes it first, and as it should be."""

import asyncio


async def naive_fetch(host: str, key: str) -> str:
    """Asks a server for a value: works on every developer's machine."""
    reader, writer = await asyncio.open_connection(host, 4000)
    writer.write(f"get {key}\n".encode())
    answer = await reader.readline()
    writer.close()
    return answer.decode().strip()


async def fetch(host: str, key: str, *, patience: float = 5.0, attempts: int = 3) -> str:
    """The same with a time limit, another attempt after a failure, and a look at what came back."""
    for attempt in range(attempts):
        try:
            answer = await asyncio.wait_for(_ask(host, key), patience)
        except (OSError, asyncio.TimeoutError):  # noqa: PERF203 -- the loop is there for it
            if attempt == attempts - 1:
                raise
        else:
            return answer.decode().strip()
    raise ValueError("attempts must be positive")


async def _ask(host: str, key: str) -> bytes:
    reader, writer = await asyncio.open_connection(host, 4000)
    try:
        writer.write(f"get {key}\n".encode())
        return await reader.readuntil(b"\n")
    except asyncio.IncompleteReadError:
        raise ConnectionError("the server went away in mid-answer") from None
    finally:
        writer.close()
