"""asyncpg and redis-py on our stack, PostgreSQL and Redis on the kernel's, over a TAP."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from interop.lab import KERNEL4, KERNEL6, Bench, url_host
from support import eventually

from .conftest import daemon

HOSTS = pytest.mark.parametrize("host", [KERNEL4, KERNEL6])


def listens(address: tuple[str, int]) -> bool:
    """True if a server of this namespace accepts connections."""
    try:
        socket.create_connection(address, 1).close()
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def postgres(lab: None, tool: Callable[..., str]) -> Iterator[None]:
    """PostgreSQL on all addresses of the namespace."""
    initdb = tool("initdb", "postgresql", "usr/lib/postgresql/*/bin/initdb")
    server = str(Path(initdb).with_name("postgres"))
    try:
        user = pwd.getpwnam("postgres" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name)
    except KeyError:
        pytest.skip("PostgreSQL doesn't run as root, and there is no user postgres")
    directory = Path(tempfile.mkdtemp(prefix="ams-postgres-"))
    try:
        shutil.chown(directory, user.pw_uid, user.pw_gid)
        data = directory / "data"
        command = [initdb, "-D", str(data), "-A", "trust", "-U", "tester", "--no-sync"]
        subprocess.run(command, user=user.pw_uid, group=user.pw_gid, cwd=directory, check=True, capture_output=True)
        with (data / "pg_hba.conf").open("a") as file:
            file.write("host all all 0.0.0.0/0 trust\nhost all all ::/0 trust\n")
        command = [server, "-D", str(data), "-c", "listen_addresses=*", "-c", "fsync=off", "-k", str(directory)]
        with daemon(*command, log=directory / "log", user=user.pw_name):
            eventually(lambda: listens(("127.0.0.1", 5432)), "PostgreSQL listens")
            yield
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@HOSTS
def test_asyncpg(postgres: None, bench: Bench, host: str) -> None:
    asyncpg = pytest.importorskip("asyncpg")

    async def main() -> None:
        options = {"host": host, "user": "tester", "database": "postgres", "ssl": False}
        pool = await asyncpg.create_pool(**options, min_size=2, max_size=5)
        async with pool.acquire() as connection:
            assert await connection.fetchval("select 6 * 7") == 42
            await connection.execute("create temporary table word (number integer primary key, text text)")
            rows = [(number, f"word {number}") for number in range(5000)]
            await connection.copy_records_to_table("word", records=rows)
            assert [tuple(row) for row in await connection.fetch("select * from word order by number")] == rows
            async with connection.transaction():
                total = 0
                async for row in connection.cursor("select number from word"):
                    total += row["number"]
            assert total == sum(range(5000))
            await connection.execute("drop table word")
            with pytest.raises(asyncpg.UniqueViolationError):
                await connection.execute("create temporary table one (n int unique); insert into one values (1), (1)")
        assert await asyncio.gather(*(pool.fetchval("select $1::int + 1", n) for n in range(50))) == list(range(1, 51))
        await notifications(asyncpg, host)
        with pytest.raises(asyncio.TimeoutError):  # asyncpg cancels over a connection of its own
            await pool.fetchval("select pg_sleep(60)", timeout=0.2)
        assert await pool.fetchval("select repeat('x', 3000000)") == "x" * 3_000_000
        await asyncio.wait_for(pool.close(), 30)

    bench.run(main)


async def notifications(asyncpg: Any, host: str) -> None:
    """LISTEN on one connection, NOTIFY on another."""
    heard = asyncio.get_running_loop().create_future()
    connections = [await asyncpg.connect(host=host, user="tester", database="postgres", ssl=False) for _ in range(2)]
    await connections[0].add_listener("news", lambda *event: heard.done() or heard.set_result(event[-1]))
    await connections[1].execute("notify news, 'hot'")
    assert await asyncio.wait_for(heard, 10) == "hot"
    await connections[0].remove_listener("news", heard.result)
    for connection in connections:
        await connection.close()


@pytest.fixture(scope="module")
def redis_server(lab: None, tool: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Redis on all addresses of the namespace."""
    path = tmp_path_factory.mktemp("redis")
    command = tool("redis-server", "redis-server"), "--protected-mode", "no", "--save", "", "--dir", str(path)
    with daemon(*command, "--bind", "*", "-::*", log=path / "log"):
        eventually(lambda: listens(("127.0.0.1", 6379)), "Redis listens")
        yield


@HOSTS
def test_redis(redis_server: None, bench: Bench, host: str) -> None:
    redis = pytest.importorskip("redis.asyncio")

    async def main() -> None:
        client = redis.from_url(f"redis://{url_host(host)}", max_connections=10)
        assert await client.ping()
        blob = os.urandom(1_000_000)
        await client.set("blob", blob)
        assert await client.get("blob") == blob
        async with client.pipeline(transaction=True) as pipe:
            for number in range(1000):
                pipe.rpush("list", number)
            assert (await pipe.execute())[-1] == 1000
        assert [int(item) for item in await client.lrange("list", 0, -1)] == list(range(1000))
        assert await asyncio.gather(*(client.incr("counter") for _ in range(10)))
        async with client.pubsub() as subscription:
            await subscription.subscribe("news")
            assert (await subscription.get_message(timeout=5))["type"] == "subscribe"
            await client.publish("news", "hot")
            assert (await subscription.get_message(timeout=5))["data"] == b"hot"
        impatient = redis.from_url(f"redis://{url_host(host)}", socket_timeout=0.2, retry=None)
        with pytest.raises(redis.TimeoutError):
            await impatient.blpop("nothing", timeout=30)
        await impatient.aclose()
        await client.flushall()
        await client.aclose()

    bench.run(main)
