"""Random transfers over random bad links, seed by seed: bytes intact, nothing stalls, nothing leaks.

    cd tests; python -m sim.soak --seeds 1000              # with the engine as it is installed
    cd tests; python -m sim.soak --seeds 1000 --asan       # with one built for AddressSanitizer and UBSan

A seed decides everything, so `--first SEED --seeds 1` runs a failure again.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

TOP = Path(__file__).resolve().parents[2]
SANITIZE = "-O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined"
FORGIVING = 3600  # seconds of virtual time until a transfer counts as stalled


def run_seed(seed: int) -> None:
    """One transfer in both directions; raises AssertionError if anything is wrong with it."""
    from aiomultistack._native import ffi, lib
    from engine.world import MS, SECOND, World

    rng = random.Random(seed)
    link = _link(rng, MS)
    names = [ffi.new("char[]", rng.choice([b"reno", b"cubic", b"bbr"])) for _ in range(2)]
    sizes = [rng.choice([0, 1, 700, 5_000, 60_000, 400_000, 1_500_000]) for _ in range(2)]
    data = [rng.randbytes(size) for size in sizes]
    flags = lib.AMS_STACK_NO_DAD
    for bit in (lib.AMS_STACK_NO_SACK, lib.AMS_STACK_NO_TIMESTAMPS, lib.AMS_STACK_NO_WSCALE):
        flags |= bit if rng.random() < 0.2 else 0
    with World(seed, mtu=rng.choice([576, 1280, 1500, 9000]), **link) as world:
        client = world.host("10.1.0.1/24", congestion=names[0], flags=flags)
        server = world.host("10.1.0.2/24", congestion=names[1])
        server.listen()
        near = client.connect("10.1.0.2")
        while not world.run(400 * SECOND, lambda near=near: near.connected and server.accepted):
            near.close()  # SYNs and neighbour queries are lost, too
            near = client.connect("10.1.0.2")
        far = server.accepted[-1]
        for end, payload in ((near, data[0]), (far, data[1])):
            end.option(lib.AMS_OPT_NODELAY, rng.getrandbits(1))
            end.option(lib.AMS_OPT_PACING, rng.random() < 0.2)
            _write(end, payload, rng)
        _pauses(world, (near, far), rng, MS)
        for end in (near, far):
            end.shutdown()
        world.run(FORGIVING * SECOND, lambda: near.eof and far.eof)
        assert bytes(far.received) == data[0], f"{len(far.received)} of {sizes[0]} bytes arrived at the server"
        assert bytes(near.received) == data[1], f"{len(near.received)} of {sizes[1]} bytes arrived at the client"
        assert near.eof, "no EOF at the client"
        assert far.eof, "no EOF at the server"
        for end in (near, far):
            end.close()
        world.run(400 * SECOND)
        for host in world.hosts:
            assert lib.ams_stack_frames(host.stack) == 0, "frames are left"
        assert lib.ams_stack_endpoints(client.stack) == 0
        assert lib.ams_stack_endpoints(server.stack) == 1


def _link(rng: random.Random, ms: int) -> dict[str, Any]:
    """A bad link, but one that something gets through."""
    link: dict[str, Any] = {
        "delay_ns": int(rng.choice([0.05, 0.5, 5, 20, 80]) * ms),
        "loss": rng.choice([0, 0, 0.001, 0.01, 0.05, 0.12]),
        "reorder": rng.choice([0, 0, 0.01, 0.1, 0.3]),
        "duplicate": rng.choice([0, 0, 0.02]),
        "corrupt": rng.choice([0, 0, 0.01]),
        "jitter_ns": int(rng.choice([0, 0.2, 10]) * ms),
        "queue_frames": rng.choice([5, 20, 200]),
    }
    if rng.random() < 0.5:
        link["rate_bps"] = rng.choice([500_000, 5_000_000, 50_000_000])
    if rng.random() < 0.3:
        # a burst ends by frames, not by time: a longer one may outlast all that TCP and ARP repeat
        link.update(burst=0.005, burst_frames=rng.choice([2, 3]))
    if rng.random() < 0.3:
        link["reorder_delay_ns"] = int(rng.choice([0.3, 3, 30]) * ms)
    return link


def _write(end: Any, payload: bytes, rng: random.Random) -> None:
    """Hands the payload over in pieces."""
    while payload:
        cut = rng.choice([1, 100, 1448, 5000, 65536, len(payload)])
        end.send(payload[:cut])
        payload = payload[cut:]
        if cut <= 100 and rng.random() < 0.9:
            end.send(payload)
            return


def _pauses(world: Any, ends: tuple[Any, ...], rng: random.Random, ms: int) -> None:
    """Readers that stop reading now and then, so that windows close."""
    for _ in range(rng.choice([0, 0, 1, 3])):
        end = rng.choice(ends)
        end.pause()
        world.run(rng.choice([10, 300, 3000]) * ms)
        end.resume()
        world.run(rng.choice([1, 50]) * ms)


def _asan(arguments: list[str]) -> int:
    """Builds the native module with sanitizers, in a directory of its own, and runs there."""
    with tempfile.TemporaryDirectory(prefix="soak-") as directory:
        package = Path(directory, "aiomultistack")
        shutil.copytree(TOP / "aiomultistack", package, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
        shutil.copytree(TOP / "tests", Path(directory, "tests"), ignore=shutil.ignore_patterns("__pycache__"))
        build = [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", directory]
        build += ["--build-temp", str(Path(directory, "build"))]
        flags = {"AMS_CFLAGS": SANITIZE, "AMS_LDFLAGS": "-fsanitize=address,undefined"}
        subprocess.run(build, cwd=TOP, env={**os.environ, **flags}, check=True, stdout=subprocess.DEVNULL)
        libraries = [
            subprocess.check_output(["gcc", f"-print-file-name={name}"], text=True).strip()
            for name in ("libasan.so", "libubsan.so")
        ]
        # Python itself leaks at exit by design; frames are counted by the test
        environment = {"LD_PRELOAD": " ".join(libraries), "ASAN_OPTIONS": "detect_leaks=0", "PYTHONPATH": directory}
        command = [sys.executable, "-m", "sim.soak", *arguments]
        tests = Path(directory, "tests")
        return subprocess.run(command, cwd=tests, env={**os.environ, **environment}, check=False).returncode


def _failure(seed: int) -> str | None:
    try:
        run_seed(seed)
    except AssertionError as error:
        return str(error) or "an assertion failed"
    return None


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=200, help="how many (default: 200)")
    parser.add_argument("--first", type=int, default=0, help="the first one (default: 0)")
    parser.add_argument("--asan", action="store_true", help="build with sanitizers")
    options = parser.parse_args()
    if options.asan:
        return _asan(["--seeds", str(options.seeds), "--first", str(options.first)])
    failed = 0
    start = time.monotonic()
    for seed in range(options.first, options.first + options.seeds):
        wrong = _failure(seed)
        if wrong is not None:
            failed += 1
            print(f"seed {seed}: {wrong}", flush=True)
    print(f"{options.seeds} seeds, {failed} failed, {time.monotonic() - start:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
