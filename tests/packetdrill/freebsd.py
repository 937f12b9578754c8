"""FreeBSD's packetdrill scripts, without what only FreeBSD's TCP has.

Its sysctls, tools and buffer sizes are left out.  What remains are segments and system calls, which the scripts of
its state machine are about.  The windows that are offered may be any, and so may the options of our SYNs: their order
is each stack's own.
"""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["translate", "translate_tree"]

_COMMAND = re.compile(r"`(sysctl|sockstat|tcpdrop|setkey|kldload|kldunload)\b[^`]*`")
_BUFFER = re.compile(r"getsockopt\(\d+, SOL_SOCKET, SO_(RCV|SND)BUF,.*$")
_OUTBOUND = re.compile(r"^(?P<time>[^`<>/]*)>\s*(?P<flags>[A-Z.]+)\s+(?P<rest>.*)$")
_STATES = {
    "TCPI_SYN_SENT": "TCP_SYN_SENT",
    "TCPI_SYN_RECEIVED": "TCP_SYN_RECV",
    "TCPI_ESTABLISHED": "TCP_ESTABLISHED",
    "TCPI_CLOSE_WAIT": "TCP_CLOSE_WAIT",
    "TCPI_FIN_WAIT_1": "TCP_FIN_WAIT1",
    "TCPI_FIN_WAIT_2": "TCP_FIN_WAIT2",
    "TCPI_CLOSING": "TCP_CLOSING",
    "TCPI_LAST_ACK": "TCP_LAST_ACK",
    "TCPI_TIME_WAIT": "TCP_TIME_WAIT",
    "TCPI_CLOSED": "TCP_CLOSE",
}


def _line(line: str) -> str:
    line = _BUFFER.sub("`true`", _COMMAND.sub("`true`", line))  # the time of what is left out still passes
    outbound = _OUTBOUND.match(line)
    if not outbound:
        return line
    rest = re.sub(r"\s+win \d+", "", outbound["rest"])
    if "S" in outbound["flags"]:
        rest = re.sub(r"<[^>]*>", "<...>", rest)
    return f"{outbound['time']}> {outbound['flags']} {rest}"


def translate(text: str) -> str:
    """A script for any stack."""
    for name, ours in _STATES.items():
        text = re.sub(rf"\b{name}\b", ours, text)
    return "\n".join(map(_line, text.splitlines())) + "\n"


def translate_tree(source: Path, target: Path) -> None:
    """Writes all scripts below ``source``, translated, to the same places below ``target``."""
    for script in source.rglob("*.pkt"):
        out = target / script.relative_to(source)
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(translate(script.read_text(errors="replace")))
