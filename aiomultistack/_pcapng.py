"""A writer of pcapng files (draft-ietf-opsawg-pcapng), as Wireshark opens them.

Each interface gets a description, each packet a timestamp in nanoseconds and, if wanted, a comment.  Blocks are
little-endian.
"""

from __future__ import annotations

import struct
from typing import BinaryIO

__all__ = ["PcapngWriter"]

_SECTION_HEADER = 0x0A0D0D0A
_INTERFACE = 1
_ENHANCED_PACKET = 6
_BYTE_ORDER_MAGIC = 0x1A2B3C4D
_LINKTYPE_ETHERNET = 1

_OPT_COMMENT = 1
_SHB_APPLICATION = 4
_IF_NAME = 2
_IF_TSRESOL = 9
_EPB_FLAGS = 2

_INBOUND, _OUTBOUND = 1, 2  # epb_flags, bits 0 and 1


class PcapngWriter:
    """Writes a capture of Ethernet frames to a binary file, which stays its caller's to close.

    Nothing is written before the first interface is described, or `flush` called.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._interfaces = 0
        self._begun = False

    def _begin(self) -> None:
        """Writes the section's header, once."""
        if self._begun:
            return
        self._begun = True
        body = struct.pack("<IHHq", _BYTE_ORDER_MAGIC, 1, 0, -1)
        self._block(_SECTION_HEADER, body + _options([(_SHB_APPLICATION, b"aiomultistack")]))

    def interface(self, name: str, snaplen: int = 0) -> int:
        """Describes one more interface; its number, for `packet`.  snaplen: bytes kept of each frame, 0: all."""
        self._begin()
        options = [(_IF_NAME, name.encode()), (_IF_TSRESOL, b"\x09")]  # 10**-9 seconds
        self._block(_INTERFACE, struct.pack("<HHI", _LINKTYPE_ETHERNET, 0, snaplen) + _options(options))
        self._interfaces += 1
        return self._interfaces - 1

    def packet(
        self,
        interface: int,
        nanoseconds: int,
        frame: bytes,
        *,
        length: int | None = None,
        comment: str = "",
        outbound: bool | None = None,
    ) -> None:
        """Writes a frame.

        nanoseconds: since 1970.  length: the frame's own, if `frame` is cut short.
        outbound: whether the interface sent it; None: not said.
        """
        stamp = nanoseconds & 0xFFFFFFFFFFFFFFFF
        head = struct.pack(
            "<IIIII", interface, stamp >> 32, stamp & 0xFFFFFFFF, len(frame), len(frame) if length is None else length
        )
        options = []
        if comment:
            options.append((_OPT_COMMENT, comment.encode()[:65535]))
        if outbound is not None:
            options.append((_EPB_FLAGS, struct.pack("<I", _OUTBOUND if outbound else _INBOUND)))
        self._block(_ENHANCED_PACKET, head + _padded(frame) + _options(options))

    def flush(self) -> None:
        """Lets whoever reads the file see all frames."""
        self._begin()
        self._file.flush()

    def _block(self, kind: int, body: bytes) -> None:
        length = struct.pack("<I", len(body) + 12)
        self._file.write(struct.pack("<I", kind) + length + body + length)


def _padded(data: bytes) -> bytes:
    """Data filled up to 32 bits."""
    return data + bytes(-len(data) % 4)


def _options(options: list[tuple[int, bytes]]) -> bytes:
    """Options, ended by opt_endofopt; nothing if there are none."""
    if not options:
        return b""
    return b"".join(struct.pack("<HH", code, len(value)) + _padded(value) for code, value in options) + bytes(4)
