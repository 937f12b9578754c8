"""A congestion control in Python: half a page that keeps the queues of a network short.

    python examples/python_congestion.py

`Gentle` is Vegas' idea (Brakmo and Peterson, JSAC 1995): the round-trip time grows with the queue, so it tells how
many of our segments wait in it; keep that between two and four.  A transfer with it is compared with CUBIC's, over
the same link of 10 Mbit/s and 40 ms with a queue of 100 packets, in virtual time.
"""

from __future__ import annotations

import asyncio

import aiomultistack
from aiomultistack.testing import Network

SIZE = 10_000_000


@aiomultistack.register_congestion_control
class Gentle(aiomultistack.CongestionControl):
    """Between two and four segments in the queue."""

    name = "gentle"

    def __init__(self, mss: int, cwnd: int) -> None:
        super().__init__(mss, cwnd)
        self.base_rtt = float("inf")
        self.starting = True

    def on_ack(self, report: aiomultistack.CongestionReport) -> None:
        """Once per round trip."""
        if not report.min_rtt:
            return
        self.base_rtt = min(self.base_rtt, report.min_rtt)
        queued = self.cwnd * (1 - self.base_rtt / report.min_rtt) / self.mss
        if self.starting and queued < 1:
            self.cwnd += min(report.acked, self.cwnd)
        elif queued < 2:
            self.cwnd += self.mss
        elif queued > 4:
            self.cwnd -= self.mss
            self.starting = False
        else:
            self.starting = False

    def on_loss(self, report: aiomultistack.CongestionReport) -> None:
        """The engine's reaction stands."""
        super().on_loss(report)
        self.starting = False


async def receive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Reads to the end, then says so."""
    while await reader.read(1 << 16):
        pass
    writer.write(b"done")
    writer.close()


async def serve() -> None:
    """The receiving host."""
    server = await asyncio.start_server(receive, port=9)
    await server.serve_forever()


async def transfer(network: Network) -> tuple[float, list[float]]:
    """Sends SIZE bytes; returns the seconds that it took, and round-trip times in ms on the way."""
    loop = asyncio.get_running_loop()
    reader, writer = await asyncio.open_connection("receiver", 9)
    start, times = loop.time(), []
    for _ in range(SIZE // 100_000):
        writer.write(bytes(100_000))
        await writer.drain()
        times.append(network.local.connections()[0].srtt / 1e6)
    writer.write_eof()
    await reader.read()
    writer.close()
    return loop.time() - start, times


def main() -> None:
    """Prints a line for each congestion control."""
    print(f"{'':8} {'Mbit/s':>7} {'round trip':>11} {'retransmitted':>14}")
    for name in ("cubic", "gentle"):
        with Network(seed=1, delay=0.02, rate=10e6, queue=100, congestion=name) as network:
            network.host("receiver").start(serve())
            seconds, times = network.run(transfer(network))
            retransmitted = network.host("test").counters()["stack.tcp_retrans"]
            times.sort()
            print(
                f"{name:8} {SIZE * 8 / seconds / 1e6:7.2f} {times[len(times) // 2]:8.1f} ms {retransmitted:14,}"
            )


if __name__ == "__main__":
    main()
