"""Connections and counters as text: what `aiomultistack ss` and `stats` print.

Works on the JSON that control sockets answer, so that nothing in here touches a loop.  The columns, the
order of the details and their names are those of ss(8) from iproute2, so that what people know and
what they wrote to parse it stays useful.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

#: Names of the states by number, as ss has them.
STATES = {
    1: "ESTAB",
    2: "SYN-SENT",
    3: "SYN-RECV",
    4: "FIN-WAIT-1",
    5: "FIN-WAIT-2",
    6: "TIME-WAIT",
    7: "UNCONN",
    8: "CLOSE-WAIT",
    9: "LAST-ACK",
    10: "LISTEN",
    11: "CLOSING",
}
_LISTEN, _TIME_WAIT, _UNCONNECTED = 10, 6, 7
_SYN_RECEIVED = 3
TCP, UDP = 6, 17
_NO_THRESHOLD = 0xFFFFFFFF
_CA_STATES = ("open", "disorder", "cwr", "recovery", "loss")
_TIMESTAMPS, _SACK, _WSCALE, _ECN, _ECN_SEEN, _SYN_DATA, _ACCECN = 1, 2, 4, 8, 16, 32, 64

Endpoint = Mapping[str, Any]


@dataclass(frozen=True)
class Selection:
    """Which endpoints to show."""

    tcp: bool = True
    udp: bool = True
    listening: bool = False  # only these
    everything: bool = False  # listening ones, TIME-WAIT and half-open ones too

    def __contains__(self, endpoint: Endpoint) -> bool:
        protocol, state = endpoint["protocol"], endpoint["state"]
        if not (self.tcp if protocol == TCP else self.udp):
            return False
        waiting = state == _LISTEN or (protocol == UDP and not _port(endpoint["remote"]))
        if self.listening and not self.everything:
            return waiting
        return self.everything or not (waiting or state in (_TIME_WAIT, _SYN_RECEIVED))


def _port(address: Mapping[str, Any] | None) -> int:
    return int(address["port"]) if address else 0


def address_text(address: Mapping[str, Any] | None) -> str:
    """`10.0.0.1:80`, `[fd00::1]:80`; `*` for any port."""
    if address is None:
        return "*:*"
    host, port = address["host"], address["port"]
    host = f"[{host}]" if ":" in host else host
    return f"{host}:{port or '*'}"


def state_text(endpoint: Endpoint) -> str:
    """The state's name; UDP knows UNCONN and ESTAB only."""
    if endpoint["protocol"] == UDP:
        return "ESTAB" if _port(endpoint["remote"]) else "UNCONN"
    return STATES.get(endpoint["state"], str(endpoint["state"]))


def _milliseconds(nanoseconds: int) -> str:
    return f"{nanoseconds / 1e6:.3f}".rstrip("0").rstrip(".")


def rate_text(bits_per_second: float) -> str:
    for unit in ("bps", "Kbps", "Mbps"):
        if bits_per_second < 1000:
            return f"{bits_per_second:.3g}{unit}"
        bits_per_second /= 1000
    return f"{bits_per_second:.4g}Gbps"


def details(endpoint: Endpoint) -> str:
    """What `ss -i` tells about a TCP connection, in its words; empty for anything else."""
    if endpoint["protocol"] != TCP or endpoint["state"] in (_LISTEN, _TIME_WAIT):
        return ""
    return " ".join(_details(endpoint))


def _details(it: Endpoint) -> Iterable[str]:
    mss = it["snd_mss"] or 1
    if it["options"] & _TIMESTAMPS:
        yield "ts"
    if it["options"] & _SACK:
        yield "sack"
    if it["options"] & _ECN:
        yield "ecnseen" if it["options"] & _ECN_SEEN else "ecn"
    if it["options"] & _ACCECN:
        yield "accecn"
    if it["options"] & _SYN_DATA:
        yield "fastopen"
    yield it["congestion"] or "-"
    if it["options"] & _WSCALE:
        yield f"wscale:{it['snd_wscale']},{it['rcv_wscale']}"
    yield f"rto:{_milliseconds(it['rto'])}"
    if it["backoff"]:
        yield f"backoff:{it['backoff']}"
    if it["srtt"]:
        yield f"rtt:{_milliseconds(it['srtt'])}/{_milliseconds(it['rttvar'])}"
    yield f"mss:{it['snd_mss']}"
    yield f"pmtu:{it['pmtu']}"
    yield f"rcvmss:{it['rcv_mss']}"
    yield f"advmss:{it['adv_mss']}"
    yield f"cwnd:{max(1, it['snd_cwnd'] // mss)}"
    if it["snd_ssthresh"] != _NO_THRESHOLD:
        yield f"ssthresh:{max(1, it['snd_ssthresh'] // mss)}"
    for name in ("bytes_sent", "bytes_retrans", "bytes_acked", "bytes_received", "segs_out", "segs_in"):
        if it[name]:
            yield f"{name}:{it[name]}"
    for name in ("delivered_ce", "received_ce"):
        if it.get(name):
            yield f"{name}:{it[name]}"
    if it["srtt"]:
        yield f"send {rate_text(it['snd_cwnd'] * 8 / (it['srtt'] / 1e9))}"
    if it.get("delivery_rate"):
        yield f"delivery_rate {rate_text(it['delivery_rate'] * 8)}"
    for name, key in (("busy", "busy_time"), ("rwnd_limited", "rwnd_limited")):
        if it.get(key):
            yield f"{name}:{_milliseconds(it[key])}ms"
    if it["pacing_rate"]:
        yield f"pacing_rate {rate_text(it['pacing_rate'] * 8)}"
    if it["ca_state"]:
        yield f"ca_state:{_CA_STATES[it['ca_state']] if it['ca_state'] < len(_CA_STATES) else it['ca_state']}"
    if it["unacked"]:
        yield f"unacked:{-(-it['unacked'] // mss)}"
    for name in ("sacked", "lost", "retrans_out"):
        if it[name]:
            yield f"{name}:{-(-it[name] // mss)}"
    if it["not_sent"]:
        yield f"notsent:{it['not_sent']}"
    if it["dsack_dups"]:
        yield f"dsack_dups:{it['dsack_dups']}"
    yield f"snd_wnd:{it['snd_wnd']}"
    yield f"rcv_wnd:{it['rcv_wnd']}"
    if it["min_rtt"]:
        yield f"minrtt:{_milliseconds(it['min_rtt'])}"


def order(endpoint: Endpoint) -> tuple[Any, ...]:
    """Sorts listeners first, then by addresses."""
    return (
        endpoint["protocol"] != TCP,
        endpoint["state"] != _LISTEN,
        address_text(endpoint["local"]),
        address_text(endpoint["remote"]),
    )


def normal(endpoint: Endpoint) -> dict[str, Any]:
    """An endpoint as loops report it, with addresses and state spelt out."""
    spelt: dict[str, Any] = dict(endpoint)
    for name in ("local", "remote"):
        address = endpoint[name]
        spelt[name] = None if address is None else {"host": address[0], "port": address[1]}
    spelt["state_name"] = state_text(spelt)
    return spelt


HEADINGS = ("Netid", "State", "Recv-Q", "Send-Q", "Local Address:Port", "Peer Address:Port", "Process")


def row(endpoint: Endpoint, process: str, pid: int) -> tuple[str, ...]:
    """The endpoint's cells under HEADINGS."""
    return (
        "tcp" if endpoint["protocol"] == TCP else "udp",
        state_text(endpoint),
        str(endpoint["recv_queue"]),
        str(endpoint["send_queue"]),
        address_text(endpoint["local"]),
        "*:*" if endpoint["state"] == _LISTEN else address_text(endpoint["remote"]),
        f'users:(("{process}",pid={pid}))' if process else f"users:((pid={pid}))",
    )


def layout(rows: Sequence[tuple[str, ...]], notes: Sequence[str] = ()) -> list[str]:
    """The table as lines, headings first.

    rows: cells under HEADINGS, or under the first few of them.
    notes: one for each row; where not empty, it is indented below its row.
    """
    headings = HEADINGS[: len(rows[0])] if rows else HEADINGS
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    lines = [_line(headings, widths)]
    for number, cells in enumerate(rows):
        lines.append(_line(cells, widths))
        if notes and notes[number]:
            lines.append(f"\t {notes[number]}")
    return lines


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [
        cell.rjust(width) if name in ("Recv-Q", "Send-Q") else cell.ljust(width)
        for cell, width, name in zip(cells, widths, HEADINGS, strict=False)
    ]
    return "  ".join(padded).rstrip()
