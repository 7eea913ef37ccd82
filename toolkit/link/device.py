"""The messages of the link, a method each (docs/link.md). Errors of the other end become the
family's."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from qedge.runtime.errors import (
    BoardTestError,
    BudgetError,
    ImageError,
    NoBoardError,
    QedgeError,
    UsageError,
    VerifyError,
    WriteError,
    WrongBoardError,
)
from qedge.toolkit.link.client import OS, OS_RESET, QEDGE, Link, Refused

HELLO, DIGEST, WRITE, COPY, JOB, STEP = range(6)
DIGEST_BYTES = 8
# Seconds until an error, and until a message is sent again: a step is a few tokens, and an
# emulator may be slow; an erase takes up to half a second.
STEP_PATIENCE, STEP_PAUSE = 60.0, 5.0
WRITE_PATIENCE, WRITE_PAUSE = 15.0, 1.0
_ENGINE = 100  # the engine's errors are this minus their number

_ERRORS: dict[int, tuple[type[QedgeError], str]] = {
    1: (BudgetError, "the board refused it as outside its slot"),
    2: (WriteError, "the board does not write to its active slot"),
    3: (VerifyError, "the flash does not read back what was written; it may be worn out"),
    4: (UsageError, "the board cannot do this: a value is out of its range"),
    5: (ImageError, "the board holds no image; flash one first"),
    6: (NoBoardError, "the board was reset in the middle; run this again"),
    7: (WrongBoardError, "the image was built for another board; build it with -b"),
    8: (BoardTestError, "the golden test gave other tokens or logits than the image promises"),
    9: (ImageError, "the board wants a signature by its key; sign the image (`qedge sign`)"),
    10: (ImageError, "the image's security counter is below one that the board has accepted"),
    11: (WrongBoardError, "another board answers than the one that was asked before"),
    12: (WriteError, "another flash is at work on the board; wait until it has ended"),
    13: (WriteError, "the board's disk is full; make room there and run this again"),
    14: (WriteError, "the board's disk cannot be written"),
    _ENGINE + 1: (VerifyError, "the image on the board is broken; flash it again"),
    _ENGINE + 2: (ImageError, "the image is of a version that the firmware does not know"),
    _ENGINE + 3: (VerifyError, "a hash on the board does not match; flash it again"),
    _ENGINE + 4: (BudgetError, "the image's session does not fit the board's arena"),
    _ENGINE + 5: (BudgetError, "more tokens than the image's context holds"),
    _ENGINE + 6: (ImageError, "the prompt is not UTF-8"),
    _ENGINE + 7: (BudgetError, "the prompt does not fit the image's context"),
    _ENGINE + 8: (ImageError, "a logit is not finite"),
}


@dataclass(frozen=True, slots=True)
class Slot:
    """What a slot's record says; sequence 0: it has none."""

    sequence: int
    bytes: int
    counter: int
    image_id: str


@dataclass(frozen=True, slots=True)
class Hello:
    """What a board says of itself. Sizes are bytes."""

    board: str
    board_id: str
    firmware: str
    kernels: str
    arena: int
    capacity: int
    block: int
    page: int
    packet: int
    tick_hz: int
    emulated: bool
    stack: int
    stack_used: int
    active: int | None
    slots: tuple[Slot, ...]
    key: bytes | None = None  # the public key whose signatures it wants
    floor: int = 0  # the least security counter that it takes
    ram: int = 0  # of a board with Linux, where image and arena share it
    peak_rss: int = 0
    threads: int = 1
    pending_error: str = ""  # why the image that was put on its card was not taken up

    @property
    def image_id(self) -> str | None:
        """Of the active image."""
        return None if self.active is None else self.slots[self.active].image_id


class Device:
    """A board at the other end of a link."""

    def __init__(self, link: Link, name: str) -> None:
        self._link = link
        self.name = name  # of the port, for errors

    def close(self) -> None:
        self._link.close()

    @property
    def repeats(self) -> int:
        return self._link.repeats

    def _ask(self, command: int, values: dict[str, Any], **options: Any) -> dict[str, Any]:
        try:
            return self._link.request(QEDGE, command, values, **options)
        except Refused as refused:
            self._fail(refused)

    def _fail(self, refused: Refused) -> NoReturn:
        kind, text = _ERRORS.get(
            refused.code, (NoBoardError, f"the board answers with error {refused.code}")
        )
        said = f" ({refused.text})" if refused.text else ""
        raise kind(f"{self.name}: {text}{said}") from refused

    def hello(self, *, patience: float | None = None) -> Hello:
        found = self._ask(HELLO, {}, patience=patience)
        try:
            slots = tuple(
                Slot(
                    s["sequence"],
                    s.get("bytes", 0),
                    s.get("counter", 0),
                    s.get("id", b"").hex(),
                )
                for s in found["slots"]
            )
            active = found.get("active")
            same = (
                "board", "firmware", "kernels", "arena", "capacity", "block", "page", "packet",
                "tick_hz", "emulated", "stack", "stack_used",
            )  # fmt: skip
            return Hello(
                board_id=found["board_id"].hex(),
                active=active if active is None else range(len(slots))[active],
                slots=slots,
                key=found.get("key"),
                floor=found.get("floor", 0),
                ram=found.get("ram", 0),
                peak_rss=found.get("peak_rss", 0),
                pending_error=str(found.get("pending_error", "")),
                threads=found.get("threads", 1),
                **{name: found[name] for name in same},
            )
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise NoBoardError(
                f"{self.name}: it answers, but not as qedge's firmware does ({error!r}); is "
                "the firmware of another version?"
            ) from error

    def digests(self, slot: int, first: int, count: int) -> list[bytes]:
        """The first 8 bytes of the SHA-256 of blocks in a slot."""
        values = {"slot": slot, "first": first, "count": count}
        data = self._ask(DIGEST, values, patience=STEP_PATIENCE, pause=STEP_PAUSE).get(
            "digests", b""
        )
        return [data[at : at + DIGEST_BYTES] for at in range(0, len(data), DIGEST_BYTES)]

    def write(self, board_id: str, slot: int, offset: int, data: bytes) -> None:
        """Whole pages of an image; a block is erased when its first page is written."""
        for _ in self.write_all(board_id, slot, [(offset, data)]):
            pass

    def write_all(
        self, board_id: str, slot: int, pieces: Iterable[tuple[int, bytes]]
    ) -> Iterator[None]:
        """Many writes of (offset, data); yields once for each that is done."""
        identity = bytes.fromhex(board_id)
        yield from self._stream(
            WRITE,
            ({"id": identity, "slot": slot, "offset": at, "data": data} for at, data in pieces),
        )

    def copy_all(
        self, board_id: str, slot: int, offsets: Iterable[int], source_slot: int
    ) -> Iterator[None]:
        """Blocks from a slot to the same place of a slot, without sending them; yields once
        for each that is done."""
        same = {"id": bytes.fromhex(board_id), "slot": slot, "from": source_slot}
        yield from self._stream(COPY, ({**same, "offset": at, "source": at} for at in offsets))

    def _stream(self, command: int, many: Iterable[dict[str, Any]]) -> Iterator[None]:
        try:
            patient = {"patience": WRITE_PATIENCE, "pause": WRITE_PAUSE}
            yield from self._link.stream(QEDGE, command, many, **patient)
        except Refused as refused:
            self._fail(refused)

    def job(self, name: str, **values: Any) -> Iterator[dict[str, Any]]:
        """Begins a job and yields what each of its steps finds; the last one says `done`."""
        patient: dict[str, Any] = {
            "write": True,
            "patience": STEP_PATIENCE,
            "pause": STEP_PAUSE,
        }
        self._ask(JOB, {"job": name, **values}, **patient)
        while True:
            found = self._ask(STEP, {}, **patient)
            yield found
            if found.get("done"):
                return

    def finish(self, name: str, **values: Any) -> dict[str, Any]:
        """What the last step of a job finds."""
        *_, last = self.job(name, **values)
        return last

    def reset(self) -> None:
        try:
            self._link.request(OS, OS_RESET, write=True)
        except Refused as refused:
            self._fail(refused)


def float_bits(value: float) -> int:
    """A float as the link has it: the bits of the float32 that is nearest."""
    return int(struct.unpack("<I", struct.pack("<f", value))[0])
