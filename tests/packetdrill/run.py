#!/usr/bin/env python3
"""Runs packetdrill scripts against the engine, each in a network namespace of its own.

    tests/packetdrill/run.py --packetdrill ~/packetdrill/gtests/net/packetdrill ~/packetdrill/gtests/net/tcp

The Linux kernel's scripts (tools/testing/selftests/net/packetdrill) are run in the same way, those of
freebsd-net/tcp-testsuite with --freebsd, which leaves out what only FreeBSD has (freebsd.py).

Needs root (namespaces), packetdrill's source directory with the program built in it, bash, iproute2 and procps.
Builds the adapter first.  Prints a line for each failure and a table by folder; the exit status is the
number of failures, at most 100.  --results writes the table, with the reasons of what fails (reasons.txt), to a
file.

A script's commands find a private copy of the network's sysctls, where they may set what the kernel below doesn't
know or allow: it is the adapter that reads them.
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

try:
    from .freebsd import translate_tree
except ImportError:  # run as a program
    from freebsd import translate_tree  # type: ignore[import-not-found, no-redef]

HERE = Path(__file__).resolve().parent

# What the scripts' authors run them with; the names in -D are what the scripts use.
VARIANTS = {
    "ipv4": [
        "--ip_version=ipv4",
        "--local_ip=192.168.0.1",
        "--gateway_ip=192.168.0.1",
        "--netmask_ip=255.255.0.0",
        "--remote_ip=192.0.2.1",
        "-D",
        "TFO_COOKIE=3021b9d889017eeb",
        "-D",
        "TFO_COOKIE_ZERO=b7c12350a90dc8f5",
        "-D",
        "CODE=host_unreachable",
        "-D",
        "CMSG_LEVEL_IP=SOL_IP",
        "-D",
        "LEVEL=SOL_IP",
        "-D",
        "TRAFFIC_CLASS=IP_TOS",
        "-D",
        "HOP_LIMIT=IP_TTL",
        "-D",
        "CMSG_TYPE_RECVERR=IP_RECVERR",
    ],
    "ipv6": [
        "--ip_version=ipv6",
        "--mtu=1520",
        "--local_ip=fd3d:0a0b:17d6::1",
        "--gateway_ip=fd3d:0a0b:17d6:8888::1",
        "--remote_ip=fd3d:fa7b:d17d::1",
        "-D",
        "TFO_COOKIE=c1d1e9742a47a9bc",
        "-D",
        "TFO_COOKIE_ZERO=82af1a8f9a205c34",
        "-D",
        "CODE=address_unreachable",
        "-D",
        "LEVEL=SOL_IPV6",
        "-D",
        "TRAFFIC_CLASS=IPV6_TCLASS",
        "-D",
        "HOP_LIMIT=16",  # IPV6_UNICAST_HOPS, which packetdrill has no name for
        "-D",
        "CMSG_LEVEL_IP=SOL_IPV6",
        "-D",
        "CMSG_TYPE_RECVERR=IPV6_RECVERR",
    ],
    "mapped": [
        "--ip_version=ipv4-mapped-ipv6",
        "--local_ip=192.168.0.1",
        "--gateway_ip=192.168.0.1",
        "--netmask_ip=255.255.0.0",
        "--remote_ip=192.0.2.1",
        "-D",
        "TFO_COOKIE=3021b9d889017eeb",
        "-D",
        "TFO_COOKIE_ZERO=b7c12350a90dc8f5",
        "-D",
        "CODE=host_unreachable",
        "-D",
        "LEVEL=SOL_IP",
        "-D",
        "TRAFFIC_CLASS=IP_TOS",
        "-D",
        "HOP_LIMIT=IP_TTL",
        "-D",
        "CMSG_LEVEL_IP=SOL_IPV6",
        "-D",
        "CMSG_TYPE_RECVERR=IPV6_RECVERR",
    ],
}
FLAGS = {
    "ipv4": "mtu=1500,local4=192.168.0.1",
    "ipv6": "mtu=1520,local6=fd3d:a0b:17d6::1",
    "mapped": "mtu=1500,local4=192.168.0.1",
}
# What google/packetdrill's scripts were written for, where Linux has changed since (6.5).
GOOGLE_SYSCTLS = "tcp_syn_linear_timeouts=0"
# Scripts' set-up addresses a device of that name; the stack itself uses none.  Their commands are bash's,
# though packetdrill gives them to sh.
NAMESPACE = (
    'mount --bind "$(readlink -f "$(command -v bash)")" /bin/sh 2>/dev/null;'
    'mkdir "$AMS_PD_STATE/ipv4"; cp /proc/sys/net/ipv4/* "$AMS_PD_STATE/ipv4" 2>/dev/null;'
    "for setting in tcp_ecn_option=2 tcp_ecn_option_beacon=3 tcp_rto_max_ms=120000 tcp_shrink_window=0; do"
    '  [ -e "$AMS_PD_STATE/ipv4/${setting%=*}" ] || echo "${setting#*=}" >"$AMS_PD_STATE/ipv4/${setting%=*}"; done;'
    'for setting in $AMS_PD_SYSCTLS; do echo "${setting#*=}" >"$AMS_PD_STATE/ipv4/${setting%=*}"; done;'
    'mount --bind "$AMS_PD_STATE/ipv4" /proc/sys/net/ipv4;'
    "ip link set lo up; ip link add tun0 type dummy 2>/dev/null || ip tuntap add tun0 mode tun;"
    'ip link set tun0 up; exec "$@"'
)


@dataclass(frozen=True)
class Result:
    """How one script ended."""

    path: Path
    variant: str
    passed: bool
    output: str


def build(packetdrill: Path, out: Path) -> None:
    """Builds the adapter and the preloaded library into ``out``."""
    command = ["make", "-s", "-C", str(HERE), f"PACKETDRILL={packetdrill}", f"OUT={out}"]
    subprocess.run(command, check=True)


def own_options(path: Path) -> dict[str, str]:
    """Options that a script sets itself, such as ``--local_ip``: a command line's would overrule them."""
    lines = path.read_text(errors="replace").splitlines()
    words = [line.split()[0] for line in lines if line.startswith("--")]
    return {name: value for name, _, value in (word.partition("=") for word in words)}


def run_script(
    packetdrill: Path, out: Path, path: Path, variant: str, *, extra: list[str] | None = None, timeout: float = 60
) -> Result:
    """Runs one script; ``timeout`` is in seconds of real time."""
    command = ["unshare", "-n", "-m", "sh", "-c", NAMESPACE, "sh"]
    command += [str(packetdrill / "packetdrill"), f"--so_filename={out}/adapter.so", f"--so_flags={FLAGS[variant]}"]
    own = own_options(path)
    command += [word for word in VARIANTS[variant] if word.split("=")[0] not in own]
    command += ["--send_omit_free", *(extra or []), path.name]
    with tempfile.TemporaryDirectory() as state:
        environment = {**os.environ, "LD_PRELOAD": f"{out}/preload.so", "AMS_PD_STATE": state}
        environment["AMS_PD_SYSCTLS"] = GOOGLE_SYSCTLS if "gtests" in path.parts else ""
        environment["PATH"] = f"{HERE / 'host'}:{environment['PATH']}"
        try:
            done = subprocess.run(
                command,
                cwd=path.parent,
                env=environment,
                capture_output=True,
                text=True,
                timeout=timeout,
                errors="replace",
            )
        except subprocess.TimeoutExpired:
            return Result(path, variant, False, f"not done after {timeout:.0f} s")
    return Result(path, variant, done.returncode == 0, (done.stdout + done.stderr).strip())


def scripts_of(paths: list[Path]) -> list[Path]:
    """All .pkt files at or below the paths."""
    found: list[Path] = []
    for path in paths:
        found += sorted(path.rglob("*.pkt")) if path.is_dir() else [path]
    return [path.resolve() for path in found]


def suits(path: Path, variant: str) -> bool:
    """False for a script of the other family: it has v4 or v6 in its name's end, its addresses, or its ICMP codes."""
    if path.stem.endswith("v6"):
        return variant == "ipv6"
    if path.stem.endswith("v4"):
        return variant == "ipv4"
    own = own_options(path)
    families = {"ipv4": "ipv4", "ipv6": "ipv6", "mapped": "ipv4-mapped-ipv6"}
    if own.get("--ip_version", families[variant]) != families[variant]:
        return False
    addresses = own.get("--local_ip", "") + own.get("--remote_ip", "")
    if variant == "ipv6":
        return "." not in addresses and "icmp unreachable frag_needed" not in path.read_text(errors="replace")
    return ":" not in addresses


def table(results: list[Result]) -> str:
    """Passed and run, by folder."""
    passed: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for result in results:
        folder = "/".join(result.path.parent.parts[-2:])
        total[folder] += 1
        passed[folder] += result.passed
    lines = [f"{passed[folder]:4d} of {total[folder]:4d}  {folder}" for folder in sorted(total)]
    return "\n".join([*lines, f"{sum(passed.values()):4d} of {sum(total.values()):4d}  in all"])


def reasons() -> dict[str, str]:
    """Why scripts fail, by patterns of ``folder/name``: the lines of reasons.txt; the first that fits counts."""
    lines = (HERE / "reasons.txt").read_text().splitlines()
    pairs = (line.split(":", 1) for line in lines if line and not line.startswith("#"))
    return {name.strip(): reason.strip() for name, reason in pairs}


def reason_of(name: str, known: dict[str, str]) -> str:
    """Why the script ``folder/name`` fails."""
    for pattern, reason in known.items():
        if fnmatch.fnmatch(name, pattern + "*" * pattern.endswith("/")):
            return reason
    return "not known"


def markdown(results: list[Result], suite: str) -> str:
    """The table by folder and variant, and what fails, by reason."""
    variants = [variant for variant in VARIANTS if any(result.variant == variant for result in results)]
    cells: dict[str, Counter[str]] = {}
    failed: dict[str, set[str]] = {}
    known = reasons()
    for result in results:
        folder = "/".join(result.path.parent.parts[-2:])
        cell = cells.setdefault(folder, Counter())
        cell[f"{result.variant} of"] += 1
        cell[result.variant] += result.passed
        if not result.passed:
            name = f"{result.path.parent.name}/{result.path.name}"
            failed.setdefault(reason_of(name, known), set()).add(name)
    total = sum(cells.values(), Counter())
    out = [f"Scripts of {suite}, made by `run.py --results`: passed of run.", ""]
    out += ["| folder | " + " | ".join(variants) + " |", "|---" * (len(variants) + 1) + "|"]
    for name, cell in [*sorted(cells.items()), ("all", total)]:
        out.append(f"| {name} | " + " | ".join(f"{cell[v]} of {cell[f'{v} of']}" for v in variants) + " |")
    out += ["", "| what fails | why |", "|---|---|"]
    out += [f"| {', '.join(sorted(names))} | {reason} |" for reason, names in sorted(failed.items())]
    return "\n".join(out) + "\n"


def revision_of(packetdrill: Path) -> str:
    """The commit of packetdrill's sources, shortened; empty where git doesn't know."""
    command = ["git", "-C", str(packetdrill), "rev-parse", "--short=10", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("paths", nargs="+", type=Path, help="scripts, or folders of them")
    parser.add_argument("--packetdrill", type=Path, required=True, help="packetdrill's source directory, built")
    parser.add_argument("--out", type=Path, help="where to build the adapter (default: a temporary directory)")
    parser.add_argument("--variants", default="ipv4", help="comma-separated: ipv4, ipv6, mapped; or all")
    parser.add_argument("--results", type=Path, help="write the table and the reasons of failures to this file")
    parser.add_argument("--suite", help="whose scripts these are, for --results (default: google/packetdrill's)")
    parser.add_argument("--freebsd", action="store_true", help="the scripts are written for FreeBSD")
    parser.add_argument("-j", "--jobs", type=int, default=2)
    parser.add_argument("-v", "--verbose", action="store_true", help="print what packetdrill said of failures")
    parser.add_argument("-x", "--extra", action="append", help="an argument for packetdrill, such as --verbose")
    args = parser.parse_args()
    variants = list(VARIANTS) if args.variants == "all" else args.variants.split(",")
    with tempfile.TemporaryDirectory() as temporary:
        out = (args.out or Path(temporary)).resolve()
        build(args.packetdrill.resolve(), out)
        paths: list[Path] = args.paths
        if args.freebsd:
            paths = [Path(temporary) / "scripts"]
            for path in args.paths:
                translate_tree(path.resolve(), paths[0] / path.resolve().name)
        jobs = [(path, variant) for path in scripts_of(paths) for variant in variants if suits(path, variant)]
        with ThreadPoolExecutor(args.jobs) as pool:
            runs = [
                pool.submit(run_script, args.packetdrill.resolve(), out, path, variant, extra=args.extra)
                for path, variant in jobs
            ]
            results = [run.result() for run in runs]
    for result in results:
        if not result.passed or (args.extra and args.verbose):
            last = result.output if args.verbose else (result.output.splitlines() or [""])[-1]
            print(f"FAIL {result.variant} {result.path.parent.name}/{result.path.name}: {last}")
    print(table(results))
    if args.results:
        suite = args.suite or f"google/packetdrill {revision_of(args.packetdrill)}"
        args.results.write_text(markdown(results, suite))
    return min(100, sum(not result.passed for result in results))


if __name__ == "__main__":
    sys.exit(main())
