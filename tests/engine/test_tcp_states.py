"""Every state, every kind of segment (RFC 9293 section 3.10.7 as RFC 5961 amends it).

One row of ``OUTCOMES`` is one kind of segment; its columns are the eleven states, TIME-WAIT once when the
application has closed (RFC 1337 and 6191 hold, as in Linux) and once, TW+, while it still has the connection.
A cell says what the engine answers and where the connection is afterwards:

    -       nothing is sent               A       an ACK of what was expected: seq snd_nxt, ack rcv_nxt
    A+      an ACK of what came too       R       <SEQ=SEG.ACK><CTL=RST>
    RA      <SEQ=0><ACK=SEG.SEQ+SEG.LEN><CTL=RST,ACK>     SA   the (repeated, or new) SYN,ACK
    d       the ACK of what came may be delayed

followed by the state after it where that is another one.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from aiomultistack._native import ffi, lib

from .script import MS, Script
from .world import Connection

CLOSED, LISTEN, SYN_SENT, SYN_RECEIVED, ESTABLISHED = "CLOSED", "LISTEN", "SYN-SENT", "SYN-RECEIVED", "ESTABLISHED"
FIN_WAIT_1, FIN_WAIT_2, CLOSE_WAIT = "FIN-WAIT-1", "FIN-WAIT-2", "CLOSE-WAIT"
CLOSING, LAST_ACK, TIME_WAIT, HELD = "CLOSING", "LAST-ACK", "TIME-WAIT", "TIME-WAIT+"
STATES = (
    CLOSED, LISTEN, SYN_SENT, SYN_RECEIVED, ESTABLISHED, FIN_WAIT_1, FIN_WAIT_2, CLOSE_WAIT, CLOSING, LAST_ACK,
    TIME_WAIT, HELD,
)  # fmt: skip
SHORT = dict(zip(("CL", "LI", "SS", "SR", "ES", "F1", "F2", "CW", "CG", "LA", "TW"), STATES, strict=False))
NUMBERS = {getattr(lib, "AMS_TCP_" + state.replace("-", "_")): state for state in STATES if state != HELD}


@dataclass
class Reached:
    """A script whose connection is in the state asked for, and the numbers to aim at, all relative."""

    script: Script
    connection: Connection | None
    snd_una: int = 1
    snd_nxt: int = 1
    rcv_nxt: int = 1

    @property
    def state(self) -> str:
        """Where the connection with the script's peer is now."""
        infos = ffi.new("struct ams_tcp_info[]", 16)
        stack = self.script.host.stack
        for info in infos[0 : lib.ams_stack_list(stack, infos, 16, self.script.world.now)]:
            if self.script.port in (info.remote.port, info.local.port) and info.state != lib.AMS_TCP_LISTEN:
                return NUMBERS[info.state]
        return CLOSED


def reach(state: str) -> Reached:
    """Leads a connection into a state."""
    if state in (CLOSED, LISTEN):
        script = Script()
        script.local_port = 81 if state == CLOSED else 80
        return Reached(script, None)
    if state == SYN_SENT:
        script = Script(listen=None)
        connection = script.connect()
        script.expect("S")
        return Reached(script, connection, snd_una=0, rcv_nxt=0)
    script = Script()
    if state == SYN_RECEIVED:
        script.syn()
        script.expect("SA")
        return Reached(script, None, snd_una=0)
    reached = Reached(script, script.open())
    _close(reached, state)
    return reached


def _close(reached: Reached, state: str) -> None:
    """Leads from ESTABLISHED into any later state."""
    script, connection = reached.script, reached.connection
    assert connection is not None
    if state in (CLOSE_WAIT, LAST_ACK):
        script.send("FA", seq=1, ack=1)
        script.expect("A", ack=2, tolerance=50 * MS)
        reached.rcv_nxt = 2
    if state in (FIN_WAIT_1, FIN_WAIT_2, CLOSING, TIME_WAIT, HELD, LAST_ACK):
        connection.close() if state == TIME_WAIT else connection.shutdown()
        script.expect("FA", seq=1)
        reached.snd_nxt = 2
    if state in (FIN_WAIT_2, TIME_WAIT, HELD):
        script.send("A", seq=1, ack=2)
        reached.snd_una = 2
    if state in (CLOSING, TIME_WAIT, HELD):
        script.send("FA", seq=1, ack=reached.snd_una)
        script.expect("A", ack=2, tolerance=50 * MS)
        reached.rcv_nxt = 2


@dataclass(frozen=True)
class Kind:
    """A segment, told relative to the connection's numbers."""

    flags: str
    seq: int = 0  # from rcv_nxt
    ack: int | str = "all"  # "all": snd_nxt; "una": snd_una; a number: from snd_nxt
    data: bytes = b""

    def send(self, reached: Reached) -> tuple[int, int]:
        """Sends it; returns its sequence number and its length in sequence space."""
        seq = reached.rcv_nxt + self.seq
        ack = {"all": reached.snd_nxt, "una": reached.snd_una}.get(str(self.ack), reached.snd_nxt)
        if isinstance(self.ack, int):
            ack = reached.snd_nxt + self.ack
        reached.script.send(self.flags, seq=seq, ack=ack if "A" in self.flags else None, data=self.data)
        return seq, len(self.data) + ("S" in self.flags) + ("F" in self.flags)


KINDS = {
    "syn": Kind("S"),
    "syn of the past": Kind("S", seq=-1),
    "syn of the future": Kind("S", seq=100_000),
    "syn,ack": Kind("SA"),
    "syn,ack of nothing sent": Kind("SA", ack=1000),
    "syn,fin": Kind("SF"),
    "ack": Kind("A"),
    "ack again": Kind("A", ack="una"),
    "ack of the future": Kind("A", ack=1000),
    "ack of ages ago": Kind("A", ack=-1_000_000),
    "ack, seq of the past": Kind("A", seq=-1000),
    "ack, seq of the future": Kind("A", seq=1_000_000),
    "data": Kind("PA", ack="una", data=b"0123456789"),
    "data without ack": Kind("P", data=b"0123456789"),
    "data again": Kind("PA", seq=-10, ack="una", data=b"0123456789"),
    "data ahead": Kind("PA", seq=10, ack="una", data=b"0123456789"),
    "data beyond the window": Kind("PA", seq=1_000_000, ack="una", data=b"0123456789"),
    "data, ack of the future": Kind("PA", ack=1000, data=b"0123456789"),
    "urgent data": Kind("PAU", ack="una", data=b"0123456789"),
    "fin": Kind("FA"),
    "fin, ack again": Kind("FA", ack="una"),
    "fin again": Kind("FA", seq=-1),
    "fin ahead": Kind("FA", seq=10, ack="una"),
    "fin without ack": Kind("F"),
    "rst": Kind("R"),
    "rst,ack": Kind("RA"),
    "rst in the window": Kind("R", seq=10),
    "rst of the past": Kind("R", seq=-10),
    "rst beyond the window": Kind("R", seq=1_000_000),
    "nothing at all": Kind(""),
}

#                         CLOSED  LISTEN  SYN-S.  SYN-R.  ESTAB.  FIN-W1  FIN-W2  CLOSE-W CLOSING LAST-A. TIME-W  TW+
OUTCOMES = """
syn                     | RA    | SA>SR | SA>SR | A     | A     | A     | A     | A     | A     | A     | A     | A
syn of the past         | RA    | SA>SR | SA>SR | SA    | A     | A     | A     | A     | A     | A     | A     | A
syn of the future       | RA    | SA>SR | SA>SR | A     | A     | A     | A     | A     | A     | A     | SA>SR | A
syn,ack                 | R     | R     | A+>ES | A     | A     | A     | A     | A     | A     | A     | A     | A
syn,ack of nothing sent | R     | R     | R     | A     | A     | A     | A     | A     | A     | A     | A     | A
syn,fin                 | RA    | -     | SA>SR | A     | A     | A     | A     | A     | A     | A     | A     | A
ack                     | R     | R     | -     | ->ES  | -     | ->F2  | -     | -     | ->TW  | ->CL  | -     | -
ack again               | R     | R     | R     | R     | -     | -     | -     | -     | -     | -     | -     | -
ack of the future       | R     | R     | R     | R     | A     | A     | A     | A     | A     | A     | -     | A
ack of ages ago         | R     | R     | R     | R     | A     | A     | A     | A     | A     | A     | -     | A
ack, seq of the past    | R     | R     | -     | A     | A     | A     | A     | A     | A     | A     | A     | A
ack, seq of the future  | R     | R     | -     | A     | A     | A     | A     | A     | A     | A     | A     | A
data                    | R     | R     | R     | R     | d     | d     | d     | -     | -     | -     | A     | A
data without ack        | RA    | -     | -     | -     | -     | -     | -     | -     | -     | -     | A     | -
data again              | R     | R     | R     | A     | A     | A     | A     | A     | A     | A     | A     | A
data ahead              | R     | R     | R     | R     | A     | A     | A     | -     | -     | -     | A     | A
data beyond the window  | R     | R     | R     | A     | A     | A     | A     | A     | A     | A     | A     | A
data, ack of the future | R     | R     | R     | R     | A     | A     | A     | A     | A     | A     | A     | A
urgent data             | R     | R     | R     | R     | d     | d     | d     | -     | -     | -     | A     | A
fin                     | R     | R     | -     | A+>CW | A+>CW | A+>TW | A+>TW | -     | ->TW  | ->CL  | A     | A
fin, ack again          | R     | R     | R     | R     | A+>CW | A+>CG | A+>TW | -     | -     | -     | A     | A
fin again               | R     | R     | -     | A     | A     | A     | A     | A     | A     | A     | A     | A
fin ahead               | R     | R     | R     | R     | A     | A     | A     | -     | -     | -     | A     | A
fin without ack         | RA    | -     | -     | -     | -     | -     | -     | -     | -     | -     | A     | -
rst                     | -     | -     | -     | ->CL  | ->CL  | ->CL  | ->CL  | ->CL  | ->CL  | ->CL  | -     | ->CL
rst,ack                 | -     | -     | ->CL  | ->CL  | ->CL  | ->CL  | ->CL  | ->CL  | ->CL  | ->CL  | -     | ->CL
rst in the window       | -     | -     | -     | A     | A     | A     | A     | A     | A     | A     | -     | A
rst of the past         | -     | -     | -     | -     | -     | -     | -     | -     | -     | -     | -     | -
rst beyond the window   | -     | -     | -     | -     | -     | -     | -     | -     | -     | -     | -     | -
nothing at all          | RA    | -     | -     | -     | -     | -     | -     | -     | -     | -     | -     | -
"""
CELLS = [
    (kind.strip(), state, cell.strip())
    for kind, *cells in (line.split("|") for line in OUTCOMES.strip().splitlines())
    for state, cell in zip(STATES, cells, strict=True)
]


def expect_answer(reached: Reached, answer: str, seq: int, length: int, segment: Kind) -> None:
    """Checks what the engine sent, number by number."""
    script = reached.script
    if answer in ("-", ""):
        script.quiet(30 * MS)
    elif answer == "d":
        script.expect("A", seq=reached.snd_nxt, ack=seq + length, tolerance=50 * MS)
    elif answer == "A":
        script.expect("A", seq=reached.snd_nxt, ack=reached.rcv_nxt, length=0)
    elif answer == "A+":
        script.expect("A", seq=reached.snd_nxt, ack=seq + length, length=0, tolerance=50 * MS)
    elif answer == "SA":
        script.expect("SA", ack=seq + 1 if reached.rcv_nxt != seq + 1 else reached.rcv_nxt)
    elif answer == "RA":
        assert script.expect("RA", ack=seq + length, length=0).seq == 0
    else:
        assert answer == "R"
        acknowledged = reached.snd_una if segment.ack == "una" else reached.snd_nxt
        if isinstance(segment.ack, int):
            acknowledged += segment.ack
        script.expect("R", seq=acknowledged, length=0)


@pytest.mark.parametrize(
    ("kind", "state", "cell"), CELLS, ids=[f"{state}-{kind}".replace(" ", "_") for kind, state, _ in CELLS]
)
def test_segment(kind: str, state: str, cell: str) -> None:
    answer, _, then = cell.partition(">")
    reached = reach(state)
    with reached.script:
        before = reached.state
        assert before == {LISTEN: CLOSED, HELD: TIME_WAIT}.get(state, state)
        seq, length = KINDS[kind].send(reached)
        expect_answer(reached, answer, seq, length, KINDS[kind])
        assert reached.state == (SHORT[then] if then else before)
