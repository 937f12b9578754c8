"""Packet scripts: a test plays TCP's peer segment by segment, in virtual time.

    s = Script(listen=80)
    s.syn(mss=1460, sack=True)                    # <- what the test sends
    s.expect("SA", ack=1, mss=1460)               # -> what the engine must answer, at once
    s.send("A", seq=1, ack=1)
    conn = s.accepted()
    s.send("PA", seq=1, ack=1, data=b"hello")
    s.expect("A", ack=6, after=40 * MS)           # and nothing before that

Sequence numbers are relative: the peer's to ``isn``, the engine's to its own
ISS, which the script learns from its SYN.  ``expect`` takes the next segment
in order; ``quiet`` asserts that nothing was sent for a while.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

logging.getLogger("scapy").setLevel(logging.ERROR)

from scapy.layers.inet import IP, TCP  # noqa: E402
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6NDOptDstLLAddr, IPv6  # noqa: E402
from scapy.layers.l2 import ARP, Ether  # noqa: E402

from .world import MS, SECOND, Connection, Host, World  # noqa: E402

__all__ = ["IP", "MS", "PEER_MAC", "SECOND", "TCP", "Ether", "Script", "raw_options"]

PEER_MAC = "02:00:00:00:00:99"
TOLERANCE = 2 * MS  # a tick of the engine's timer wheel, and a little


def raw_options(segment: Any) -> Iterator[tuple[int, bytes]]:
    """Kind and value of each of a segment's options as they lie there, NOPs (kind 1) too, up to the end of the list."""
    raw = bytes(segment)[20 : segment.dataofs * 4]
    while raw and raw[0]:
        length = 1 if raw[0] == 1 else raw[1]
        yield raw[0], raw[2:length]
        raw = raw[length:]


class Script:
    """One engine, and a peer that is the test."""

    def __init__(
        self,
        *,
        listen: int | None = 80,
        v6: bool = False,
        isn: int = 1000,
        port: int = 40000,
        offload: bool = False,
        **config: Any,
    ) -> None:
        self.v6 = v6
        self.offload = offload
        self.world = World(seed=7, offload=offload)
        self.local, self.remote = ("fd01::1", "fd01::99") if v6 else ("10.1.0.1", "10.1.0.99")
        self.host: Host = self.world.host(f"{self.local}/{64 if v6 else 24}", **config)
        self.wire = self.world.wire()
        self.isn = isn
        self.iss: int | None = None
        self.port = port
        self.local_port = listen or 0
        self.queue: list[tuple[int, Any]] = []
        self._held = False  # what is sent waits for the end of together()
        self.window = 65535
        self.timestamps = False
        self.tsval = 100
        self.last_tsval = 0  # the engine's latest
        if listen:
            self.host.listen("::" if v6 else "0.0.0.0", listen)
        self._run(0)
        self.queue.clear()

    def __enter__(self) -> Script:
        return self

    def __exit__(self, *_: object) -> None:
        self.world.close()

    # ---- time and the wire ---------------------------------------------------------------------------------

    def _run(self, duration: int) -> None:
        end = self.world.now + duration
        while True:
            self.world.settle()
            if self._collect():
                continue
            left = end - self.world.now
            if left <= 0:
                return
            self.world.run(left, until=lambda: bool(self.wire.frames))

    def _collect(self) -> bool:
        """Answers neighbour questions, queues TCP.  True if it answered."""
        answered = False
        frames, self.wire.frames = self.wire.frames, []
        for when, raw in frames:
            frame = Ether(raw)
            if ARP in frame and frame[ARP].op == 1 and frame[ARP].pdst == self.remote:
                reply = Ether(src=PEER_MAC, dst=frame.src) / ARP(
                    op=2, hwsrc=PEER_MAC, psrc=self.remote, hwdst=frame.src, pdst=self.local
                )
                self.wire.inject(bytes(reply))
                answered = True
            elif ICMPv6ND_NS in frame and frame[ICMPv6ND_NS].tgt == self.remote:
                reply = (
                    Ether(src=PEER_MAC, dst=frame.src)
                    / IPv6(src=self.remote, dst=self.local, hlim=255)
                    / ICMPv6ND_NA(tgt=self.remote, R=0, S=1, O=1)
                    / ICMPv6NDOptDstLLAddr(lladdr=PEER_MAC)
                )
                self.wire.inject(bytes(reply))
                answered = True
            elif TCP in frame:
                self._check(frame)
                self.queue.append((when, frame))
        return answered

    def _check(self, frame: Any) -> None:
        """Every segment must have good checksums, unless those are the port's affair."""
        if self.offload:
            return
        ip = frame[IPv6] if self.v6 else frame[IP]
        rebuilt = ip.copy()
        del rebuilt[TCP].chksum
        if not self.v6:
            del rebuilt.chksum
        assert bytes(rebuilt) == bytes(ip), "bad checksum"

    def wait(self, duration: int) -> None:
        """Lets virtual time pass; segments sent meanwhile stay queued for ``expect``."""
        self._run(duration)

    # ---- the peer's side -------------------------------------------------------------------------------------

    def send(
        self,
        flags: str,
        *,
        seq: int = 0,
        ack: int | None = None,
        data: bytes = b"",
        win: int | None = None,
        sack: list[tuple[int, int]] | None = None,
        options: list[Any] | None = None,
        tsval: int | None = None,
        tsecr: int | None = None,
        port: int | None = None,
        tos: int = 0,
        hold: bool = False,
    ) -> None:
        """Sends one segment; seq and ack are relative; tos is the traffic class with IPv6.

        With ``hold`` it waits on the wire: the engine gets it together with the next one.
        """
        opts = list(options or [])
        if self.timestamps or tsval is not None:
            value = self.tsval if tsval is None else tsval
            opts += [("NOP", None), ("NOP", None), ("Timestamp", (value, self.last_tsval if tsecr is None else tsecr))]
        if sack:
            edges = [((self.iss or 0) + edge) & 0xFFFFFFFF for block in sack for edge in block]
            opts += [("NOP", None), ("NOP", None), ("SAck", tuple(edges))]
        ack_number = 0 if ack is None else ((self.iss or 0) + ack) & 0xFFFFFFFF
        segment = TCP(
            sport=self.port if port is None else port,
            dport=self.local_port,
            seq=(self.isn + seq) & 0xFFFFFFFF,
            ack=ack_number,
            flags=flags,
            window=self.window if win is None else win,
            options=opts,
        )
        addresses = {"src": self.remote, "dst": self.local}
        network = IPv6(tc=tos, **addresses) if self.v6 else IP(tos=tos, **addresses)
        mac = bytes(self.host.mac).hex(":")
        self.wire.inject(bytes(Ether(src=PEER_MAC, dst=mac) / network / segment / data))
        if not hold and not self._held:
            self._run(0)

    @contextlib.contextmanager
    def together(self, really: bool = True) -> Iterator[None]:
        """What is sent within arrives as one batch; not ``really``: one by one all the same."""
        self._held = really
        yield
        self._held = False
        self._run(0)

    def syn(
        self,
        *,
        mss: int | None = 1460,
        sack: bool = False,
        wscale: int | None = None,
        timestamps: bool = False,
        win: int = 65535,
        flags: str = "S",
        **more: Any,
    ) -> None:
        """Sends a SYN with the usual options."""
        options: list[Any] = []
        if mss is not None:
            options.append(("MSS", mss))
        if sack:
            options.append(("SAckOK", b""))
        if wscale is not None:
            options += [("NOP", None), ("WScale", wscale)]
        self.timestamps = timestamps
        self.send(flags, seq=0, win=win, options=options, **more)

    def open(self, *, win: int | None = None, rtt: int = 0, **options: Any) -> Connection:
        """The whole passive open; returns the accepted connection, which has seen a round trip of ``rtt`` ns."""
        self.syn(**options)
        self.expect("SA", ack=1)
        self.wait(rtt)
        self.send("A", seq=1, ack=1, win=win)
        return self.accepted()

    # ---- what the engine must do ------------------------------------------------------------------------------

    def accepted(self) -> Connection:
        """The connection that was accepted last."""
        assert self.host.accepted, "nothing was accepted"
        return self.host.accepted[-1]

    def time_wait(self, **options: Any) -> None:
        """A connection in TIME_WAIT: the engine has closed first.  The options are those of ``open``."""
        connection = self.open(**options)
        connection.close()
        self.expect("FA", seq=1)
        self.send("FA", seq=1, ack=2)
        self.expect("A", ack=2)

    def connect(self) -> Connection:
        """An active open towards the peer; its SYN is the next segment."""
        return self.host.connect(self.remote, self.port)

    def expect(
        self,
        flags: str,
        *,
        seq: int | None = None,
        ack: int | None = None,
        length: int | None = None,
        data: bytes | None = None,
        win: int | None = None,
        after: int = 0,
        tolerance: int = TOLERANCE,
        mss: int | None = None,
        wscale: int | None = None,
        sack: list[tuple[int, int]] | None = None,
        sack_ok: bool | None = None,
    ) -> Any:
        """The next segment, ``after`` ns from now (0: at once); returns scapy's TCP layer."""
        start = self.world.now
        self._run(0)
        if not self.queue:
            self._run_until_segment(after + tolerance)
        assert self.queue, f"expected {flags}, nothing was sent within {(after + tolerance) / MS:.1f} ms"
        when, frame = self.queue.pop(0)
        segment = frame[TCP]
        if after:
            assert after - tolerance <= when - start <= after + tolerance, (
                f"{segment.flags} came after {(when - start) / MS:.1f} ms, not {after / MS:.1f}"
            )
        if "S" in flags and "S" in str(segment.flags):
            self.iss = segment.seq
            self.local_port = segment.sport
        payload = bytes(segment.payload)[: self._payload_length(frame)]
        relative = (segment.seq - (self.iss or 0)) & 0xFFFFFFFF
        shown = f"{segment.flags} seq {relative} ack {(segment.ack - self.isn) & 0xFFFFFFFF} len {len(payload)}"
        assert set(str(segment.flags)) == set(flags), f"expected {flags}, got {shown}"
        if seq is not None:
            assert relative == seq & 0xFFFFFFFF, f"expected seq {seq}, got {shown}"
        if ack is not None:
            assert (segment.ack - self.isn) & 0xFFFFFFFF == ack, f"expected ack {ack}, got {shown}"
        if length is not None:
            assert len(payload) == length, f"expected {length} bytes, got {shown}"
        if data is not None:
            assert payload == data, f"payload differs: {shown}"
        if win is not None:
            assert segment.window == win, f"expected window {win}, got {segment.window}"
        self._check_options(segment, mss, wscale, sack, sack_ok)
        return segment

    def _check_options(
        self,
        segment: Any,
        mss: int | None,
        wscale: int | None,
        sack: list[tuple[int, int]] | None,
        sack_ok: bool | None,
    ) -> None:
        options = {str(name): value for name, value in segment.options}
        if "Timestamp" in options:
            self.last_tsval = options["Timestamp"][0]
        if mss is not None:
            assert options.get("MSS") == mss, options
        if wscale is not None:
            assert options.get("WScale") == wscale, options
        if sack_ok is not None:
            assert ("SAckOK" in options) == sack_ok, options
        if sack is not None:
            edges = options.get("SAck", ())
            got = [
                ((a - self.isn) & 0xFFFFFFFF, (b - self.isn) & 0xFFFFFFFF)
                for a, b in zip(edges[::2], edges[1::2], strict=False)
            ]
            assert got == sack, f"expected SACK {sack}, got {got}"

    def _payload_length(self, frame: Any) -> int:
        header = frame[TCP].dataofs * 4
        if self.v6:
            return int(frame[IPv6].plen) - header
        return int(frame[IP].len) - frame[IP].ihl * 4 - header

    def _run_until_segment(self, limit: int) -> None:
        end = self.world.now + limit
        while not self.queue and self.world.now < end:
            self.world.run(end - self.world.now, until=lambda: bool(self.wire.frames))
            self._collect()
            self.world.settle()
            self._collect()

    def quiet(self, duration: int = SECOND) -> None:
        """Nothing is sent for ``duration``."""
        self._run(duration)
        assert not self.queue, f"unexpected {self.queue[0][1][TCP].summary()} at +{duration / MS:.0f} ms"

    def taken(self) -> list[Any]:
        """The segments that were sent and not expected yet."""
        self._run(0)
        queue, self.queue = self.queue, []
        return [frame[TCP] for _, frame in queue]

    def drain(self) -> None:
        """Forgets what was sent so far."""
        self.taken()

    def counter(self, name: str) -> int:
        """One of the engine's counters, without ``stack.``."""
        return self.host.counters()[f"stack.{name}"]
