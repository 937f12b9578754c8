"""FreeBSD's packetdrill scripts, without what only FreeBSD's TCP has.

Its tools and buffer sizes are left out, and its sysctls but for those that Linux has under other names.  What remains
are segments and system calls, which the scripts of its state machine are about.  The windows that are offered may be
any, and so may the options of our SYNs: their order is each stack's own.

Where the scripts have parts for the C preprocessor, those for STANDARD are taken, not those for what FreeBSD does.

Three habits of FreeBSD's are asked for instead, as an application would: ACKs that are delayed from the first segment
on, but not a FIN's (TCP_QUICKACK, off and on), Fast Open by a plain sendto() (MSG_FASTOPEN, which waits for the
SYN-ACK), and a socket that is bound only, for which google/packetdrill knows no addresses: its port is closed just as
well without it.
"""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["translate", "translate_tree"]

_COMMAND = re.compile(r"`(sysctl|sockstat|tcpdrop|setkey|kldload|kldunload)\b[^`]*`")
_BUFFER = re.compile(r"getsockopt\(\d+, SOL_SOCKET, SO_(RCV|SND)BUF,.*$")
_OUTBOUND = re.compile(r"^(?P<time>[^`<>/]*)>\s*(?P<flags>[A-Z.]+)\s+(?P<rest>.*)$")
_ACCEPTED = re.compile(r"^\S+\s+accept\(.*\)\s*=\s*(\d+)\s*$")
_SENDTO = re.compile(r"^\+0\.00 (sendto\(\d+, \.\.\., \d+, )0(, \.\.\., \.\.\.\))")
_FIN = re.compile(r"^\S+\s+<\s+S?FP?\.")
_CONNECTED = re.compile(r"^\S+\s+(?:connect|sendto)\((\d+), ")
_CALL = re.compile(r"^(\s*\S+\s+)(socket|setsockopt|bind|getsockopt|fcntl|close)\(.*$")
_SYSCTL = re.compile(r"`sysctl -w net\.inet\.tcp\.(?P<name>[a-z.]+)=(?P<value>\d+)`")
_SYSCTLS = {  # the name, and what the value is to be divided by
    "ecn.enable": ("tcp_ecn", 1),  # 0: never, 1: ask and accept, 2: accept, as in Linux
    "sack.enable": ("tcp_sack", 1),
    "keepcnt": ("tcp_keepalive_probes", 1),
    "keepidle": ("tcp_keepalive_time", 1000),
    "keepintvl": ("tcp_keepalive_intvl", 1000),
}
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
    "TCPI_LISTEN": "TCP_LISTEN",
}


def _conditions(lines: list[str]) -> list[str]:
    """Without the directives of the C preprocessor, and what they leave out."""
    kept: list[str] = []
    taken = [True]
    for line in lines:
        directive, _, name = line.strip().partition(" ")
        if directive in ("#ifdef", "#ifndef"):
            taken.append((name.strip() == "STANDARD") == (directive == "#ifdef"))
        elif directive == "#else":
            taken[-1] = not taken[-1]
        elif directive == "#endif":
            taken.pop()
        elif all(taken):
            kept.append(line)
    return kept


def _sysctl(line: str) -> str:
    """The same setting of Linux's, where there is one."""
    found = _SYSCTL.search(line)
    if not found or found["name"] not in _SYSCTLS:
        return line
    name, divisor = _SYSCTLS[found["name"]]
    return line.replace(found[0], f"`sysctl -q net.ipv4.{name}={int(found['value']) // divisor}`", 1)


def _line(line: str) -> str:
    line = _BUFFER.sub("`true`", _sysctl(line))
    if "net.ipv4" not in line:
        line = _COMMAND.sub("`true`", line)  # it takes no time
    line = _SENDTO.sub(r"+0.00...0.05 \1MSG_FASTOPEN\2", line)  # the SYN-ACK comes after 50 ms
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
    closed = not re.search(r"\b(listen|connect|sendto)\(", text) and re.search(r"^\S+\s+<", text, re.M)
    out: list[str] = []
    socket = ""
    for line in _conditions(text.splitlines()):
        translated = _line(line)
        if socket and _FIN.match(translated):
            out.append(f"+0.00 setsockopt({socket}, SOL_TCP, TCP_QUICKACK, [1], 4) = 0")
            socket = ""
        out.append(_CALL.sub(r"\1`true`", translated) if closed else translated)
        connected = _CONNECTED.match(translated)
        accepted = _ACCEPTED.match(translated)
        if accepted:
            out.append(f"+0.00 setsockopt({accepted[1]}, SOL_TCP, TCP_QUICKACK, [0], 4) = 0")
        socket = (accepted or connected or [socket, socket])[1]
        if f"close({socket})" in translated:
            socket = ""
    return "\n".join(out) + "\n"


def translate_tree(source: Path, target: Path) -> None:
    """Writes all scripts below ``source``, translated, to the same places below ``target``."""
    for script in source.rglob("*.pkt"):
        out = target / script.relative_to(source)
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(translate(script.read_text(errors="replace")))
