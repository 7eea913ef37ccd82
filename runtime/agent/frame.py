"""Packets on a line. On a serial one as MCUmgr's SMP has them over a console (Zephyr, "SMP over
console"): base64 lines that begin with 06 09 or 04 14, with a length and a CRC-16 inside. On a
stream that loses nothing (ssh) as they are: SMP's header has their length."""

from __future__ import annotations

import binascii
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

FIRST, MORE, END = b"\x06\x09", b"\x04\x14", b"\n"
LINE_DIGITS = 124  # base64 digits of a line; 127 bytes with its ends, as SMP says
SMP_HEAD_BYTES = 8  # bytes 2 and 3 are the body's length
LINE_LIMIT_BYTES = 4096  # a longer line is noise


def encode(packet: bytes) -> bytes:
    """The lines of a packet."""
    crc = struct.pack(">H", binascii.crc_hqx(packet, 0))
    digits = binascii.b2a_base64(
        struct.pack(">H", len(packet) + 2) + packet + crc, newline=False
    )
    lines = []
    for at in range(0, len(digits), LINE_DIGITS):
        lines.append((MORE if at else FIRST) + digits[at : at + LINE_DIGITS] + END)
    return b"".join(lines)


class Decoder:
    """Finds packets in what comes along a line; passes over everything else.

    `noise` counts the bytes that were no part of a packet with a right CRC."""

    def __init__(self) -> None:
        self._line = bytearray()
        self._packet: bytearray | None = None  # with its length, as far as it has come
        self.noise = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The packets that these bytes complete."""
        self._line += data
        while (end := self._line.find(END)) >= 0:
            line = bytes(self._line[:end])
            del self._line[: end + 1]
            packet = self._take(line)
            if packet is not None:
                yield packet
        if len(self._line) > LINE_LIMIT_BYTES:
            self.noise += len(self._line)
            self._line.clear()

    def _take(self, line: bytes) -> bytes | None:
        start = line.rfind(FIRST)
        if start >= 0:
            self._lose(0)
            self._packet = bytearray()
            self.noise += start
            line = line[start:]
        elif not line.startswith(MORE) or self._packet is None:
            self._lose(len(line))
            return None
        try:
            self._packet += binascii.a2b_base64(line[2:])
        except binascii.Error:
            self._lose(len(line))
            return None
        return self._finished()

    def _finished(self) -> bytes | None:
        assert self._packet is not None
        if len(self._packet) < 4:
            return None
        counted = struct.unpack_from(">H", self._packet)[0]
        if len(self._packet) < counted + 2:
            return None
        packet = bytes(self._packet[2:counted])
        crc = bytes(self._packet[counted : counted + 2])
        if counted < 2 or crc != struct.pack(">H", binascii.crc_hqx(packet, 0)):
            self._lose(0)
            return None
        self._packet = None
        return packet

    def _lose(self, more: int) -> None:
        self.noise += more + len(self._packet or b"")
        self._packet = None


class StreamDecoder:
    """Finds packets in a stream that loses nothing."""

    def __init__(self) -> None:
        self._came = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The packets that these bytes complete."""
        self._came += data
        at = 0
        while len(self._came) - at >= SMP_HEAD_BYTES:
            end = at + SMP_HEAD_BYTES + int.from_bytes(self._came[at + 2 : at + 4], "big")
            if end > len(self._came):
                break
            yield bytes(self._came[at:end])
            at = end
        del self._came[:at]
