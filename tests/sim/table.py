"""The table of results that is kept in git: `cd tests; python -m sim.table > sim/results.md` renews it.

It takes a few minutes.  Numbers are exact: the same engine gives the same table on any machine of one
architecture, so a change that moves it shows up in the diff.
"""

from __future__ import annotations

import concurrent.futures
import itertools
import math
from dataclasses import replace

from aiomultistack._native import lib

from .bottleneck import MS, SECOND, Bottleneck, Outcome, jain

__all__ = ["ALGORITHMS", "LOSSES", "RTTS", "cell", "marking", "mathis", "response"]

ALGORITHMS = ("reno", "cubic", "bbr")
LOSSES = (0.0, 0.001, 0.01, 0.03, 0.1)
RTTS = (1, 20, 100, 300)  # ms
MSS = 1448
THEORY = (
    ("reno", 100, 0.01, 300),
    ("reno", 100, 0.001, 300),
    ("reno", 20, 0.01, 120),
    ("cubic", 100, 0.001, 300),
    ("cubic", 100, 0.0001, 300),
)
FEEDBACK = {"none": lib.AMS_ECN_OFF, "RFC 3168": lib.AMS_ECN_ASK, "Accurate ECN": lib.AMS_ECN_ACCURATE}
MARKING = tuple(itertools.product(("reno", "cubic"), (20, 100), FEEDBACK))
HEADER = (
    "| congestion | RTT | loss | goodput, Mbit/s | retransmitted | spurious | timeouts | undone "
    "| two flows, Mbit/s | fairness |\n"
    "| --- | --: | --: | --: | --: | --: | --: | --: | --: | --: |"
)


def cell(name: str, rtt: int, loss: float) -> str:
    """One row: a flow alone for 30 s, then two that share the bottleneck for 60 s."""
    alone = Bottleneck((name,), rtt=rtt * MS, loss=loss).run()
    both = Bottleneck((name, name), rtt=rtt * MS, loss=loss, duration=60 * SECOND, warm_up=10 * SECOND).run()
    return (
        f"| {name} | {rtt} ms | {loss:.1%} | {alone.total / 1e6:.3f} | {_share(alone)} | {alone.spurious} "
        f"| {alone.timeouts} | {alone.undone} | {both.total / 1e6:.3f} | {jain(both.goodput):.3f} |"
    )


def _share(outcome: Outcome) -> str:
    return f"{outcome.retransmitted} of {outcome.segments}"


def mathis(rtt: float, loss: float) -> float:
    """Reno's goodput in bit/s by Mathis, Semke, Mahdavi and Ott (1997): MSS/RTT * sqrt(3/2) / sqrt(p)."""
    return MSS * 8 / rtt * math.sqrt(1.5) / math.sqrt(loss)


def response(rtt: float, loss: float) -> float:
    """CUBIC's goodput in bit/s by RFC 9438 section 5.2, or Reno's where that is more (section 4.3)."""
    window = (0.4 * 3.7 / (4 * 0.3)) ** 0.25 * rtt**0.75 / loss**0.75
    return max(window * MSS * 8 / rtt, mathis(rtt, loss))


def marking(name: str, rtt: int, feedback: str) -> str:
    """One row: a flow alone for 30 s, over a queue that marks what finds a quarter of it full."""
    what = Bottleneck((name,), rtt=rtt * MS, config={"ecn": FEEDBACK[feedback]})
    run = replace(what, faults={"mark_frames": what.queue // 4}).run()
    return f"| {name} | {rtt} ms | {feedback} | {run.total / 1e6:.3f} | {_share(run)} | {run.marked} | {run.timeouts} |"


def _theory(name: str, rtt: int, loss: float, seconds: int) -> str:
    """One row: a flow without a bottleneck to speak of, beside what its model says."""
    run = Bottleneck(
        (name,),
        rate_bps=1_000_000_000,
        rtt=rtt * MS,
        loss=loss,
        duration=seconds * SECOND,
        warm_up=30 * SECOND,
        config={"sndbuf_max": 32 << 20, "rcvbuf_max": 32 << 20},
    ).run()
    expected = (mathis if name == "reno" else response)(rtt / 1000, loss)
    share = run.total / expected
    return f"| {name} | {rtt} ms | {loss:.2%} | {run.total / 1e6:.3f} | {expected / 1e6:.3f} | {share:.2f} |"


def main() -> None:
    """Prints the table."""
    print("# Goodput by loss, RTT and congestion control\n")
    print(
        "Simulated by `cd tests; python -m sim.table > sim/results.md`, in virtual time. A bottleneck of 20 Mbit/s\n"
        "(19.1 of payload), a drop-tail queue of one bandwidth-delay product (at least 20 frames), random loss of\n"
        "frames in both directions. One flow alone for 30 s from its start; then two flows together, counted from\n"
        "10 s to 60 s, and Jain's index of fairness for them. Spurious are segments that the receiver had already,\n"
        "undone are reductions of the window that were taken back.\n"
    )
    print(HEADER)
    with concurrent.futures.ProcessPoolExecutor() as pool:
        for row in pool.map(cell, *zip(*itertools.product(ALGORITHMS, RTTS, LOSSES), strict=True)):
            print(row, flush=True)
    print("\n## Over a queue that marks\n")
    print(
        "One flow alone for 30 s; what finds a quarter of the queue full is marked (ECN, RFC 3168 section 5), and\n"
        "lost only if the queue is full, or if the sender doesn't know of ECN. Reductions are those that marks have\n"
        "caused.\n"
    )
    print("| congestion | RTT | feedback | goodput, Mbit/s | retransmitted | reductions | timeouts |")
    print("| --- | --: | --- | --: | --: | --: | --: |")
    with concurrent.futures.ProcessPoolExecutor() as pool:
        for row in pool.map(marking, *zip(*MARKING, strict=True)):
            print(row, flush=True)
    print("\n## Against theory\n")
    print(
        "One flow without a bottleneck to speak of, after 30 s, beside what the models say: Mathis et al. (1997)\n"
        "for Reno, the response function of RFC 9438 section 5.2 for CUBIC (Reno's where that is more).\n"
    )
    print("| congestion | RTT | loss | goodput, Mbit/s | theory | of it |")
    print("| --- | --: | --: | --: | --: | --: |")
    with concurrent.futures.ProcessPoolExecutor() as pool:
        for row in pool.map(_theory, *zip(*THEORY, strict=True)):
            print(row, flush=True)


if __name__ == "__main__":
    main()
