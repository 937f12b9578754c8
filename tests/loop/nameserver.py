"""A small nameserver for tests: a table of records, and answers that go wrong on demand.

Its messages are read and made by dnspython; how they travel is the caller's affair.
"""

from __future__ import annotations

import asyncio
import struct
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import dns.rrset

__all__ = ["Zone", "serve"]

UDP_MAX = 512  # bytes of an answer over UDP without EDNS (RFC 1035 section 4.2.1)


@dataclass
class Zone:
    """Names in lower case with their final dot, each with its records by kind; CNAMEs are followed."""

    records: dict[str, dict[str, list[str]]]
    #: Names whose queries get no answer, or that code as an answer; "*" stands for all.
    silent: set[str] = field(default_factory=set)
    failing: dict[str, dns.rcode.Rcode] = field(default_factory=dict)
    #: Queries by way ("udp", "tcp"), name and kind.
    asked: Counter[tuple[str, str, str]] = field(default_factory=Counter)

    def answer(self, wire: bytes, way: str) -> bytes | None:
        """The answer to a query; None: there is none."""
        query = dns.message.from_wire(wire)
        question = query.question[0]
        name, kind = question.name.to_text().lower(), dns.rdatatype.to_text(question.rdtype)
        self.asked[way, name, kind] += 1
        if {name, "*"} & self.silent:
            return None
        response = dns.message.make_response(query)
        response.flags |= dns.flags.RA
        code = self.failing.get(name, self.failing.get("*"))
        if code is not None:
            response.set_rcode(code)
            return bytes(response.to_wire())
        while (records := self.records.get(name)) is not None and "CNAME" in records:
            response.answer.append(dns.rrset.from_text(name, 60, "IN", "CNAME", records["CNAME"][0]))
            name = records["CNAME"][0]
        if records is None:
            response.set_rcode(dns.rcode.NXDOMAIN)
        elif kind in records:
            response.answer.append(dns.rrset.from_text_list(name, 60, "IN", kind, records[kind]))
        if way == "udp" and len(response.to_wire()) > UDP_MAX:
            response.answer.clear()
            response.flags |= dns.flags.TC
        return bytes(response.to_wire())


class _Datagrams(asyncio.DatagramProtocol):
    """The nameserver over UDP."""

    def __init__(self, zone: Zone) -> None:
        self.zone = zone

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        answer = self.zone.answer(data, "udp")
        if answer is not None:
            self.transport.sendto(answer, addr)


async def serve(zone: Zone, host: str, port: int = 53) -> tuple[Any, Any]:
    """Serves a zone over UDP and TCP; returns transport and server, both to be closed."""

    async def session(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        (length,) = struct.unpack("!H", await reader.readexactly(2))
        answer = zone.answer(await reader.readexactly(length), "tcp")
        if answer is not None:
            writer.write(struct.pack("!H", len(answer)) + answer)
        writer.close()

    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(lambda: _Datagrams(zone), (host, port))
    return transport, await asyncio.start_server(session, host, port)
