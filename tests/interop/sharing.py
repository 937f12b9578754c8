"""Two flows over one bottleneck, with our TCP as sender of both and with the kernel's: how they share it.

    cd tests; python -m interop.sharing                                 # as root; some minutes
    cd tests; python -m interop.sharing --congestion bbr,bbr+cubic --rtts 20 --queues 1 --losses 0

Theory of operation
-------------------
The link is that of `interop.versus`, whose bridge, senders and receiver these are: seeded, in real time.  Two senders
with an address of their own each keep their send queues full; both pairs, ours and the kernel's, meet the same pattern
of losses at the same time, as does a third pair, one of ours beside one of the kernel's, which starts first with every
other seed.  What comes through is counted after the start, and given as Jain's index of fairness, which is 1 for equal
shares and 0.5 if one flow has everything.

A pair's shares differ much from run to run, even of the kernel's over one pattern: who takes the lead is decided by
microseconds, and BBR keeps it for long.  So each cell is measured over several seeds; the index is the mean of theirs,
and the ± its standard error.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sim.bottleneck import jain

from .lab import STACK4
from .versus import FRAME, Carried, Cell, KernelSender, Link, OurSender, Receiver, Runs, Sender, carry

PAIRS = {"ours": ("ours", "ours"), "kernel": ("kernel", "kernel"), "mixed": ("ours", "kernel")}
ADDRESSES = (STACK4, "10.99.0.3")
QUEUE_MIN = 4  # frames
HELD_UP = 0.25  # seconds, once: more than that changes how a link is shared for long, and the cell is measured again


@dataclass(frozen=True)
class SharedCell(Cell):
    """One link with two flows; congestion may name two algorithms, as bbr+cubic."""

    bdps: float = 1.0  #: bandwidth-delay products that the queue holds
    farther: float = 1.0  #: the second flow's RTT over the first one's
    skip: float = 5.0  #: seconds that don't count, of all

    @property
    def queue(self) -> int:
        """Frames that a direction's queue holds."""
        return max(QUEUE_MIN, int(self.bdps * self.rate * self.rtt / 8 / FRAME))

    @property
    def names(self) -> tuple[str, str]:
        """The congestion control of each flow."""
        first, _, second = self.congestion.partition("+")
        return first, second or first


def measure(cell: SharedCell, pair: str) -> dict[str, Any]:
    """Goodputs in bit/s of a pair's two flows; of "mixed" ours is given first, and starts first if the seed is odd."""
    turned = pair == "mixed" and cell.seed % 2 == 0
    link, receiver = Link(cell), Receiver()
    senders: list[Sender] = []
    for index, (who, name) in enumerate(zip(PAIRS[pair][:: -1 if turned else 1], cell.names, strict=True)):
        kind = KernelSender if who == "kernel" else OurSender
        senders.append(kind(replace(cell, congestion=name, seed=2 * cell.seed + index), ADDRESSES[index]))
    far = (cell.farther - 1) * cell.rtt / 2
    run: Carried = carry(link, receiver, senders, cell.seconds, skip=cell.skip, far=far)
    order = ADDRESSES[:: -1 if turned else 1]
    goodput = tuple(run.received.get(address, 0) * 8 / (cell.seconds - cell.skip) for address in order)
    result = {"goodput": goodput, "late": run.late, "counters": [sender.counters() for sender in senders]}
    for sender in senders:
        sender.close()
    receiver.close()
    return result


@dataclass(frozen=True)
class Shares:
    """Of one pair: goodputs of its flows in bit/s, one tuple for each seed."""

    goodputs: list[tuple[float, float]]

    @property
    def total(self) -> float:
        """Of both flows, in bit/s."""
        return statistics.mean(sum(flows) for flows in self.goodputs)

    @property
    def fairness(self) -> float:
        """Jain's index, mean over the seeds."""
        return statistics.mean(jain(flows) for flows in self.goodputs)

    @property
    def error(self) -> float:
        """Standard error of that."""
        if len(self.goodputs) < 2:
            return math.nan
        return statistics.stdev(jain(flows) for flows in self.goodputs) / math.sqrt(len(self.goodputs))

    @property
    def first(self) -> float:
        """The first flow's part of the goodput."""
        return statistics.mean(flows[0] / max(sum(flows), 1.0) for flows in self.goodputs)


def compare(
    cells: Sequence[SharedCell], rounds: int, load: float
) -> Iterator[tuple[SharedCell, dict[str, Shares], int]]:
    """Measures all cells, in order, each pair of PAIRS; how many seeds were held up each time."""
    seeded = {cell: [replace(cell, seed=cell.seed + i) for i in range(rounds)] for cell in cells}
    runs = Runs(itertools.chain.from_iterable(seeded.values()), load, measure, tuple(PAIRS), HELD_UP)
    try:
        for cell, ones in seeded.items():
            while not all(one in runs.done for one in ones):
                runs.step()
            by_pair = zip(*(runs.done[one] for one in ones), strict=True)
            shares = {pair: Shares([*goodputs]) for pair, goodputs in zip(PAIRS, by_pair, strict=True)}
            yield cell, shares, len(runs.disturbed.intersection(ones))
    finally:
        runs.close()


def row(cell: SharedCell, shares: dict[str, Shares]) -> str:
    """A row of the table."""
    rtt = f"{cell.rtt * 1000:.0f} ms" + (f", {cell.rtt * cell.farther * 1000:.0f} ms" if cell.farther != 1 else "")
    ours, kernel, mixed = (shares[pair] for pair in PAIRS)
    cells = [cell.congestion, rtt, f"{cell.bdps:g} BDP", f"{cell.loss:.1%}", str(len(ours.goodputs))]
    for one in (ours, kernel):
        cells += [f"{one.total / 1e6:.2f}", f"{one.fairness:.2f} ± {one.error:.2f}", f"{one.first:.0%}"]
    return "| " + " | ".join([*cells, f"{mixed.first:.0%}"]) + " |"


HEADER = (
    "| congestion | RTT | queue | loss | seeds | ours: Mbit/s | fairness | first flow's part "
    "| kernel's: Mbit/s | fairness | first flow's part | our part beside the kernel's |\n"
    "| --- | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: |"
)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--congestion", default="bbr", help="comma-separated: bbr, cubic, reno, or two as bbr+cubic")
    parser.add_argument("--rtts", default="16,20,40,100", help="ms, comma-separated")
    parser.add_argument("--queues", default="0.5,1,4", help="bandwidth-delay products, comma-separated")
    parser.add_argument("--losses", default="0,0.01", help="comma-separated")
    parser.add_argument("--rate", type=float, default=20.0, help="of the link, in Mbit/s (default: 20)")
    parser.add_argument("--farther", type=float, default=1.0, help="the second flow's RTT over the first one's")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each measurement (default: 30)")
    parser.add_argument("--skip", type=float, default=5.0, help="seconds of these that don't count (default: 5)")
    parser.add_argument("--rounds", type=int, default=4, help="seeds (default: 4)")
    parser.add_argument("--load", type=float, default=60.0, help="Mbit/s that may be in flight at once (default: 60)")
    options = parser.parse_args()
    cells = [
        SharedCell(name, float(rtt) / 1000, float(loss), options.seconds, options.rate * 1e6, bdps=float(queue),
                   farther=options.farther, skip=options.skip)
        for name in options.congestion.split(",")
        for rtt in options.rtts.split(",")
        for queue in options.queues.split(",")
        for loss in options.losses.split(",")
    ]  # fmt: skip
    print(HEADER)
    disturbed = 0
    for cell, shares, late in compare(cells, options.rounds, options.load):
        disturbed += late
        print(row(cell, shares), flush=True)
    print(f"\nThe machine held {disturbed} runs up for more than {HELD_UP * 1e3:.0f} ms.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
