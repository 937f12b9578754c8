"""How `aiomultistack ss` writes endpoints."""

from __future__ import annotations

from typing import Any

import pytest

from aiomultistack import _ss

CONNECTION: dict[str, Any] = {
    "id": 3, "protocol": 6, "state": 1, "ca_state": 0, "options": 7, "snd_wscale": 7, "rcv_wscale": 8, "backoff": 0,
    "probes": 0, "local": ["10.9.0.2", 80], "remote": ["10.9.0.1", 40000], "recv_queue": 0, "send_queue": 2896,
    "snd_mss": 1448, "rcv_mss": 1448, "snd_cwnd": 14480, "snd_ssthresh": 0xFFFFFFFF, "snd_wnd": 65535,
    "rcv_wnd": 65536, "unacked": 2896, "pmtu": 1500, "rto": 204_000_000, "srtt": 1_500_000, "rttvar": 750_000,
    "min_rtt": 51_000, "bytes_sent": 5000, "bytes_acked": 2104, "bytes_received": 78, "bytes_retrans": 0,
    "segs_out": 5, "segs_in": 4, "dsack_dups": 0, "created": 1, "congestion": "cubic", "adv_mss": 1460, "sacked": 0,
    "lost": 0, "retrans_out": 0, "not_sent": 0, "delivered": 2104, "delivered_segs": 3, "pacing_rate": 0,
    "last_data_sent": 0, "last_data_received": 0, "last_received": 0,
}  # fmt: skip


def endpoint(**changes: Any) -> dict[str, Any]:
    """A connection as a loop reports it, with changes, brought to normal form."""
    return _ss.normal({**CONNECTION, **changes})


LISTENER = endpoint(state=10, remote=None, send_queue=100, recv_queue=2)
LISTENER6 = endpoint(state=10, local=["fd09::2", 80, 0, 0], remote=None)
TIME_WAIT = endpoint(state=6, id=-1)
HALF_OPEN = endpoint(state=3)
UDP = endpoint(protocol=17, state=7, local=["0.0.0.0", 53], remote=None)
UDP_CONNECTED = endpoint(protocol=17, state=1, remote=["10.9.0.1", 53])
ALL = [endpoint(), LISTENER, LISTENER6, TIME_WAIT, HALF_OPEN, UDP, UDP_CONNECTED]


def test_normal_form() -> None:
    assert endpoint()["local"] == {"host": "10.9.0.2", "port": 80}
    assert LISTENER["remote"] is None
    assert [each["state_name"] for each in ALL] == [
        "ESTAB", "LISTEN", "LISTEN", "TIME-WAIT", "SYN-RECV", "UNCONN", "ESTAB",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (_ss.Selection(), [ALL[0], UDP_CONNECTED]),
        (_ss.Selection(udp=False), [ALL[0]]),
        (_ss.Selection(tcp=False), [UDP_CONNECTED]),
        (_ss.Selection(listening=True), [LISTENER, LISTENER6, UDP]),
        (_ss.Selection(udp=False, listening=True), [LISTENER, LISTENER6]),
        (_ss.Selection(everything=True), ALL),
        (_ss.Selection(everything=True, listening=True), ALL),
    ],
)
def test_selection(selection: _ss.Selection, expected: list[dict[str, Any]]) -> None:
    assert [each for each in ALL if each in selection] == expected


def test_layout() -> None:
    shown = sorted([endpoint(), LISTENER6, LISTENER, UDP], key=_ss.order)
    rows = [_ss.row(each, "python", 42) for each in shown]
    assert _ss.layout(rows) == [
        "Netid  State   Recv-Q  Send-Q  Local Address:Port  Peer Address:Port  Process",
        'tcp    LISTEN       2     100  10.9.0.2:80         *:*                users:(("python",pid=42))',
        'tcp    LISTEN       0    2896  [fd09::2]:80        *:*                users:(("python",pid=42))',
        'tcp    ESTAB        0    2896  10.9.0.2:80         10.9.0.1:40000     users:(("python",pid=42))',
        'udp    UNCONN       0    2896  0.0.0.0:53          *:*                users:(("python",pid=42))',
    ]


def test_layout_of_nothing() -> None:
    assert _ss.layout([]) == ["Netid  State  Recv-Q  Send-Q  Local Address:Port  Peer Address:Port  Process"]


def test_details() -> None:
    assert _ss.details(endpoint()) == (
        "ts sack cubic wscale:7,8 rto:204 rtt:1.5/0.75 mss:1448 pmtu:1500 rcvmss:1448 advmss:1460 "
        "cwnd:10 bytes_sent:5000 bytes_acked:2104 bytes_received:78 segs_out:5 segs_in:4 send 77.2Mbps "
        "unacked:2 snd_wnd:65535 rcv_wnd:65536 minrtt:0.051"
    )


def test_details_of_a_connection_in_trouble() -> None:
    changes = {"sacked": 2896, "lost": 1448, "retrans_out": 1448, "not_sent": 77, "pacing_rate": 125_000}
    changes |= {"ca_state": 4, "unacked": 1}
    text = _ss.details(
        endpoint(**changes, options=8 | 16 | 32, backoff=2, snd_ssthresh=7240, bytes_retrans=1448, srtt=0, min_rtt=0)
    )
    assert text.startswith("ecnseen fastopen cubic rto:204 backoff:2 mss:1448")
    words = ("ssthresh:5", "bytes_retrans:1448", "ca_state:loss", "unacked:1", "sacked:2", "lost:1", "retrans_out:1")
    for word in (*words, "notsent:77", "pacing_rate"):
        assert word in text.split()
    assert "rtt:" not in text
    assert "send" not in text.split()


def test_details_before_the_handshake_is_over() -> None:
    assert "mss:0" in _ss.details(endpoint(state=2, snd_mss=0, srtt=0, snd_cwnd=0))


@pytest.mark.parametrize("each", [LISTENER, TIME_WAIT, UDP])
def test_no_details_where_there_is_no_connection(each: dict[str, Any]) -> None:
    assert _ss.details(each) == ""


def test_details_stand_below_their_rows() -> None:
    rows = [_ss.row(each, "", 42) for each in (LISTENER, endpoint())]
    lines = _ss.layout(rows, ["", "cubic"])
    assert len(lines) == 4
    assert lines[3] == "\t cubic"
    assert lines[1].endswith("users:((pid=42))")
