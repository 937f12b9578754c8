"""Paths that swallow long segments and say nothing (RFC 2923 section 2.1, RFC 4821 section 7.7)."""

from __future__ import annotations

from aiomultistack._native import lib

from .script import MS, SECOND, Script
from .world import Connection


def deliver(s: Script, limit: int, total: int, patience: int = 60) -> int:
    """A peer behind a path that carries segments of up to `limit` bytes of payload; returns what it got."""
    got = 1
    for _ in range(patience):
        while s.queue:
            _, frame = s.queue.pop(0)
            start, length = (frame["TCP"].seq - (s.iss or 0)) & 0xFFFFFFFF, s._payload_length(frame)
            if length <= limit and start <= got < start + length:
                got = start + length
                s.send("A", seq=1, ack=got)
        if got == 1 + total:
            break
        s.wait(SECOND)
    return got - 1


def test_shorter_segments_get_through() -> None:
    with Script() as s:
        connection = s.open(mss=1460)
        connection.send(b"x" * 5000)
        assert deliver(s, 1100, 5000) == 5000
        assert connection.info.snd_mss == 1024
        assert s.counter("tcp_black_hole") == 1


def test_still_shorter_ones_where_needed() -> None:
    with Script() as s:
        connection = s.open(mss=1460)
        connection.send(b"x" * 3000)
        assert deliver(s, 600, 3000) == 3000
        assert connection.info.snd_mss == 512


def test_it_can_be_turned_off() -> None:
    with Script(flags=lib.AMS_STACK_NO_DAD | lib.AMS_STACK_NO_BLACK_HOLE) as s:
        connection = s.open(mss=1460)
        connection.send(b"x" * 3000)
        assert deliver(s, 1100, 3000, patience=30) == 0
        assert connection.info.snd_mss == 1460


# ---- longer ones again (RFC 4821 section 7) ---------------------------------------------------------------------


class Path:
    """A peer with SACK behind a path that carries segments of up to ``limit`` bytes of payload."""

    def __init__(self, s: Script, limit: int) -> None:
        self.s, self.limit = s, limit
        self.got = 1  # all before it has arrived,
        self.later: set[tuple[int, int]] = set()  # and these behind it
        self.lost: list[int] = []  # lengths that were swallowed
        self.longest = 0  # that arrived

    def _take(self, start: int, length: int) -> None:
        if length > self.limit:
            self.lost.append(length)
            return
        self.longest = max(self.longest, length)
        self.later.add((start, start + length))
        for low, high in sorted(self.later):
            if low <= self.got:
                self.got = max(self.got, high)
        self.later = {(low, high) for low, high in self.later if high > self.got}
        self.s.send("A", seq=1, ack=self.got, sack=sorted(self.later, reverse=True)[:4])

    def _segments(self) -> list[tuple[int, int]]:
        """What was sent so far; what is sent in return belongs to the next round trip."""
        frames, self.s.queue = [frame for _, frame in self.s.queue], []
        return [((f["TCP"].seq - (self.s.iss or 0)) & 0xFFFFFFFF, self.s._payload_length(f)) for f in frames]

    def carry(self, connection: Connection, total: int, rounds: int = 400, step: int = 20 * MS) -> None:
        """Lets the connection send ``total`` bytes more; everything must arrive."""
        connection.send(bytes(total))
        goal = self.got + total
        for _ in range(rounds):
            for start, length in self._segments():
                if length:
                    self._take(start, length)
            if self.got == goal:
                return
            self.s.wait(step)
        raise AssertionError(f"{goal - self.got} bytes did not arrive")


def trouble(s: Script, path: Path, *, sack: bool = True) -> Connection:
    """A connection that has found its segments swallowed, and goes on with shorter ones."""
    connection = s.open(mss=1460, sack=sack, rtt=10 * MS)
    usual, path.limit = path.limit, 1024
    path.carry(connection, 5000, step=SECOND // 2)
    assert connection.info.snd_mss == 1024
    path.limit = usual
    return connection


def test_after_an_outage_segments_become_as_long_as_they_were() -> None:
    with Script() as s:
        path = Path(s, 1460)
        connection = trouble(s, path)
        path.carry(connection, 200_000)
        assert connection.info.snd_mss == 1460
        counters = s.host.counters()
        assert counters["stack.tcp_mtu_probe"] == counters["stack.tcp_mtu_probe_ok"] == 1  # section 7.3: the likeliest


def test_the_longest_that_gets_through_is_found() -> None:
    with Script() as s:
        path = Path(s, 1300)
        connection = trouble(s, path)
        swallowed = len(path.lost)
        path.carry(connection, 400_000)
        assert 1292 <= connection.info.snd_mss <= 1300
        assert path.longest == connection.info.snd_mss
        counters = s.host.counters()
        assert 1 <= counters["stack.tcp_mtu_probe_lost"] == len(path.lost) - swallowed <= 7
        sent = counters["stack.tcp_mtu_probe"]
        path.carry(connection, 200_000)
        assert s.counter("tcp_mtu_probe") == sent  # the search is over


def test_a_probe_that_gets_lost_does_not_lower_the_window() -> None:
    """Section 7.6.2."""
    with Script() as s:
        path = Path(s, 1200)
        connection = trouble(s, path)
        path.carry(connection, 12_000)
        window, timeouts = connection.info.snd_cwnd, s.counter("tcp_rto")
        path.carry(connection, 300_000)
        counters = s.host.counters()
        assert counters["stack.tcp_mtu_probe_lost"] >= 1
        assert counters["stack.tcp_rto"] == timeouts
        assert counters["stack.tcp_fast_retrans"] == 0
        assert connection.info.snd_cwnd > window


def test_the_search_begins_again_after_ten_minutes() -> None:
    """Section 7.3: the path may have changed."""
    with Script() as s:
        path = Path(s, 1100)
        connection = trouble(s, path)
        path.carry(connection, 400_000)
        assert connection.info.snd_mss <= 1100
        path.limit = 1460
        path.carry(connection, 100_000)
        assert connection.info.snd_mss <= 1100
        s.wait(601 * SECOND)
        path.carry(connection, 400_000)
        assert connection.info.snd_mss == 1460


def test_a_black_hole_in_the_middle_of_a_search_starts_it_anew() -> None:
    with Script() as s:
        path = Path(s, 1460)
        connection = trouble(s, path)
        path.carry(connection, 100_000)
        assert connection.info.snd_mss == 1460
        path.limit = 600
        path.carry(connection, 50_000, step=SECOND)
        assert connection.info.snd_mss == 512
        assert s.counter("tcp_black_hole") == 3
        path.limit = 1400
        path.carry(connection, 400_000)
        assert 1392 <= connection.info.snd_mss <= 1400


def test_a_window_that_stays_small_is_no_excuse() -> None:
    """A path that loses much looks like a black hole sometimes, and never has room for a cheap probe."""
    with Script() as s:
        path = Path(s, 1460)
        connection = trouble(s, path)
        connection.option(lib.AMS_OPT_NODELAY, 1)
        for _ in range(30):
            path.carry(connection, 6000)
            s.wait(SECOND)  # restarts from idle: never eleven segments
            assert connection.info.snd_cwnd < 11 * connection.info.snd_mss
        assert connection.info.snd_mss == 1460
        counters = s.host.counters()
        assert counters["stack.tcp_mtu_probe"] == counters["stack.tcp_mtu_probe_ok"] == 1


def test_a_small_window_is_not_spent_on_probes() -> None:
    """One each five seconds at most, and none of them for lengths between."""
    with Script() as s:
        path = Path(s, 1300)
        connection = trouble(s, path)
        probes = s.host.counters()["stack.tcp_mtu_probe"]
        start = s.world.now
        for _ in range(30):
            path.carry(connection, 6000)
            s.wait(SECOND)
        assert connection.info.snd_mss == 1024
        sent = s.host.counters()["stack.tcp_mtu_probe"] - probes
        assert 1 <= sent <= (s.world.now - start) / (5 * SECOND) + 1


def test_there_are_no_probes_without_sack() -> None:
    with Script() as s:
        path = Path(s, 1460)
        connection = trouble(s, path, sack=False)
        path.carry(connection, 100_000)
        assert connection.info.snd_mss == 1024
        assert s.counter("tcp_mtu_probe") == 0
