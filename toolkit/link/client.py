"""One end of the link: asks, waits, asks again, and gives the answer or a clear error."""

from __future__ import annotations

import secrets
import struct
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import cbor2
import serial

from qedge.runtime.agent.frame import Decoder, StreamDecoder, encode
from qedge.runtime.errors import NoBoardError, WriteError
from qedge.runtime.text import printable
from qedge.toolkit.link.answers import error
from qedge.toolkit.link.port import open_port

READ, WRITE = 0, 2
_HEAD = struct.Struct(">BBHHBB")  # op and version, flags, bytes, group, sequence, command
_VERSION_2 = 1 << 3
_WINDOW = 16  # writes under way at once, where nothing is lost


class Line(Protocol):
    """What the link needs of a line; pyserial's ports are such."""

    def read(self, size: int = 1) -> bytes: ...
    def write(self, data: bytes) -> int | None: ...
    def close(self) -> None: ...
    @property
    def in_waiting(self) -> int: ...


class Refused(Exception):
    """The other end's answer is an error: `code` is its number (firmware/link.h)."""

    def __init__(self, group: int, code: int, text: str = "") -> None:
        super().__init__(f"group {group}, error {code}")
        self.group = group
        self.code = code
        self.text = text  # what the other end says about it; a microcontroller says nothing


def open_line(port: str, baud: int) -> Line:
    """A serial port: /dev/ttyACM0, COM3, socket://HOST:PORT, rfc2217://HOST:PORT.
    NoBoardError when it cannot be opened, UsageError for another name."""
    return open_port(port, baud)  # type: ignore[no-any-return]


class Link:
    """Requests and answers over a line. A request is repeated until it is answered: the device
    answers a repeated one without doing it again, so each is done at most once."""

    def __init__(
        self,
        line: Line,
        name: str,
        *,
        patience: float = 3.0,
        pause: float = 0.5,
        noisy: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """name: of the port, for errors. patience, pause: seconds without an answer before an
        error, and before a request is sent again, unless the request has its own. noisy:
        packets are framed; without it the line must lose nothing, and nothing is sent
        twice. clock: seconds, by which all this is measured."""
        self._line = line
        self._name = name
        self._patience, self._pause = patience, pause
        self._noisy = noisy
        self.clock = clock
        self._decoder = Decoder() if noisy else StreamDecoder()
        self._sequence = secrets.randbelow(256)
        self._came: deque[bytes] = deque()  # packets that nobody has looked at
        self._heard = 0  # bytes
        self.repeats = 0  # requests that had to be sent again

    def close(self) -> None:
        self._line.close()

    def request(
        self,
        group: int,
        command: int,
        values: dict[str, Any] | None = None,
        *,
        write: bool = False,
        patience: float | None = None,
        pause: float | None = None,
    ) -> dict[str, Any]:
        """The answer's map. Refused when it is an error; NoBoardError when none came within
        `patience` seconds, though it was asked again after each `pause` (doubled each time)."""
        packet = self._packet(group, command, values, write)
        data = encode(packet) if self._noisy else packet
        ends = self.clock() + (self._patience if patience is None else patience)
        pause = self._pause if pause is None else pause
        self._send(data)
        while True:
            again = min(ends, self.clock() + pause) if self._noisy else ends
            answer = self._receive(packet[:8], again)
            if answer is not None:
                return _checked(answer, group)
            if self.clock() >= ends:
                raise self._silence()
            pause *= 2
            self.repeats += 1
            self._send(data)

    def stream(
        self,
        group: int,
        command: int,
        many: Iterable[dict[str, Any]],
        *,
        patience: float,
        pause: float,
    ) -> Iterator[None]:
        """Writes one after the other; yields once for each that was answered. On a line that
        loses nothing the next ones are under way meanwhile. Errors as of `request`."""
        if not self._noisy:
            yield from self._windowed(group, command, many, patience)
            return
        for values in many:
            self.request(group, command, values, write=True, patience=patience, pause=pause)
            yield

    def _windowed(
        self, group: int, command: int, many: Iterable[dict[str, Any]], patience: float
    ) -> Iterator[None]:
        waiting: deque[bytes] = deque()

        def settle() -> None:
            answer = self._receive(waiting.popleft(), self.clock() + patience)
            if answer is None:
                raise self._silence()
            _checked(answer, group)

        for values in many:
            packet = self._packet(group, command, values, True)
            self._send(packet)
            waiting.append(packet[:8])
            if len(waiting) == _WINDOW:
                settle()
                yield
        while waiting:
            settle()
            yield

    def _packet(
        self, group: int, command: int, values: dict[str, Any] | None, write: bool
    ) -> bytes:
        self._sequence = (self._sequence + 1) % 256
        body = cbor2.dumps(values or {})
        op = (WRITE if write else READ) | _VERSION_2
        return _HEAD.pack(op, 0, len(body), group, self._sequence, command) + body

    def _send(self, data: bytes) -> None:
        try:
            self._line.write(data)
        except (serial.SerialException, OSError) as error:
            raise self._lost(error) from error

    def _receive(self, head: bytes, until: float) -> dict[str, Any] | None:
        """The answer to the packet with this head, or None when `until` has come."""
        op, _, _, group, sequence, command = _HEAD.unpack(head)
        wanted = ((op & 7) + 1, group, sequence, command)
        late = False
        while True:
            while self._came:
                packet = self._came.popleft()
                got = _HEAD.unpack_from(packet)
                if (got[0] & 7, got[3], got[4], got[5]) != wanted:
                    continue  # the answer to something that was asked before
                answer = _answer(packet[8:])
                if answer is not None:
                    return answer
            if late:
                return None
            late = self.clock() >= until  # what waits is read, though this program was stopped
            try:
                data = self._line.read(max(1, self._line.in_waiting))
            except (serial.SerialException, OSError) as error:
                raise self._lost(error) from error
            self._heard += len(data)
            self._came.extend(p for p in self._decoder.feed(data) if len(p) >= 8)

    def _lost(self, error: Exception) -> WriteError:
        said = printable(str(error), keep="\n")
        return WriteError(
            f"{self._name}: the connection was lost ({said}); what is active on the board "
            "stays so: connect it and run this again"
        )

    def _silence(self) -> NoBoardError:
        if self._heard:
            return NoBoardError(
                f"{self._name}: {self._heard} bytes came, but no answer; is it another device, "
                "another baud rate, or a board without qedge's firmware?"
            )
        return NoBoardError(
            f"{self._name}: nothing answers; is the board powered, and is this its port?"
        )


def _checked(answer: dict[str, Any], group: int) -> dict[str, Any]:
    """The answer; Refused when it is an error."""
    wrong = answer.get("err")
    if isinstance(wrong, dict):
        raise Refused(*error(wrong, group))
    if answer.get("rc"):
        raise Refused(*error(answer, group))
    return answer


def _answer(body: bytes) -> dict[str, Any] | None:
    try:
        value = cbor2.loads(body)
    except (cbor2.CBORDecodeError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
