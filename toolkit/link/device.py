"""The messages of the link, a method each (docs/link.md). Errors of the other end become the
family's."""

from __future__ import annotations

import secrets
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NoReturn, TypeVar

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
from qedge.toolkit.link import answers
from qedge.toolkit.link.answers import Hello, Untrue
from qedge.toolkit.link.client import OS, OS_RESET, QEDGE, Link, Refused

HELLO, DIGEST, WRITE, COPY, JOB, STEP, SECTION = range(7)
# Seconds until an error, and until a message is sent again: a step is a few tokens, and an
# emulator may be slow; an erase takes up to half a second.
STEP_PATIENCE, STEP_PAUSE = 60.0, 5.0
WRITE_PATIENCE, WRITE_PAUSE = 15.0, 1.0
IDLE_SECONDS = 600.0  # of a job that answers, and does not come on
STEPS_MOST = 1 << 17  # of a job whose caller knows no smaller number
_ENGINE = 100  # the engine's errors are this minus their number
_Answer = TypeVar("_Answer")

_ERRORS: dict[int, tuple[type[QedgeError], str]] = {
    1: (BudgetError, "the board refused it as outside its slot"),
    2: (WriteError, "the board does not write to its active slot"),
    3: (VerifyError, "the flash does not read back what was written; it may be worn out"),
    4: (UsageError, "the board cannot do this: a value is out of its range"),
    5: (ImageError, "the board holds no image; flash one first"),
    6: (
        NoBoardError,
        "the board was reset in the middle, or works for another client now; run this again",
    ),
    7: (WrongBoardError, "the image was built for another board; build it with -b"),
    8: (BoardTestError, "the golden test gave other tokens or logits than the image promises"),
    9: (ImageError, "the board wants a signature by its key; sign the image (`qedge sign`)"),
    10: (ImageError, "the image's security counter is below one that the board has accepted"),
    11: (WrongBoardError, "another board answers than the one that was asked before"),
    12: (WriteError, "another flash is at work on the board; wait until it has ended"),
    13: (WriteError, "the board's disk is full; make room there and run this again"),
    14: (WriteError, "the board's disk cannot be written"),
    15: (BoardTestError, "the board ended several times while it tested the image"),
    _ENGINE + 1: (VerifyError, "the image on the board is broken; flash it again"),
    _ENGINE + 2: (ImageError, "the image is of a version that the firmware does not know"),
    _ENGINE + 3: (VerifyError, "a hash on the board does not match; flash it again"),
    _ENGINE + 4: (BudgetError, "the image's session does not fit the board's arena"),
    _ENGINE + 5: (BudgetError, "more tokens than the image's context holds"),
    _ENGINE + 6: (ImageError, "the prompt is not UTF-8"),
    _ENGINE + 7: (BudgetError, "the prompt does not fit the image's context"),
    _ENGINE + 8: (ImageError, "a logit is not finite"),
}


class SourceGone(ImageError):
    """What was to be copied on the board is not there any more."""


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

    def _checked(self, check: Callable[..., _Answer], *values: Any) -> _Answer:
        """An answer as answers.py checks it. NoBoardError for one that cannot be true."""
        try:
            return check(*values)
        except Untrue as error:
            raise NoBoardError(
                f"{self.name}: it answers, but not as qedge's firmware does ({error}); is "
                "the firmware of another version?"
            ) from error

    def hello(self, *, patience: float | None = None) -> Hello:
        return self._checked(answers.hello, self._ask(HELLO, {}, patience=patience))

    def start_error(self, hello: Hello) -> str:
        """Why an image was not taken up as the board started, or the active one given up;
        empty: nothing was wrong."""
        if not hello.start_error:
            return hello.pending_error
        _, text = _ERRORS.get(hello.start_error, (None, f"error {hello.start_error}"))
        end = "; the other slot's is active again" if hello.fell_back else ""
        return f"the image in slot {hello.start_slot}: {text}{end}"

    def section(self, kind: int) -> bytes | None:
        """A small section of the active image; None when it has none of this kind."""
        found = bytearray()
        while True:
            values = {"kind": kind, "offset": len(found)}
            there, size, piece = self._checked(
                answers.section, self._ask(SECTION, values, patience=STEP_PATIENCE)
            )
            found += piece
            if not there or len(found) >= size or not piece:
                return bytes(found[:size]) if there else None

    def digests(self, slot: int, first: int, count: int, *, part: bool = False) -> list[bytes]:
        """The first 8 bytes of the SHA-256 of blocks in a slot's image, or of what was sent to
        it and is not active yet; of a block that is not there, zeros."""
        values: dict[str, Any] = {"slot": slot, "first": first, "count": count}
        if part:
            values["part"] = True
        found = self._ask(DIGEST, values, patience=STEP_PATIENCE, pause=STEP_PAUSE)
        return self._checked(answers.digests, found, count)

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
        self, board_id: str, slot: int, pieces: Iterable[tuple[int, int, int]]
    ) -> Iterator[None]:
        """Blocks that are on the board already, as (offset, slot that has it, offset there);
        yields once for each that is done. SourceGone when a slot has its image no longer."""
        same = {"id": bytes.fromhex(board_id), "slot": slot}
        yield from self._stream(
            COPY,
            (
                {**same, "offset": at, "from": other, "source": there}
                for at, other, there in pieces
            ),
        )

    def _stream(self, command: int, many: Iterable[dict[str, Any]]) -> Iterator[None]:
        try:
            patient = {"patience": WRITE_PATIENCE, "pause": WRITE_PAUSE}
            yield from self._link.stream(QEDGE, command, many, **patient)
        except Refused as refused:
            if command == COPY and refused.code == 5:
                text = "what was to be copied there is gone; run this again"
                raise SourceGone(f"{self.name}: {text}") from refused
            self._fail(refused)

    def job(
        self, name: str, *, most: int = STEPS_MOST, idle: float = IDLE_SECONDS, **values: Any
    ) -> Iterator[dict[str, Any]]:
        """Begins a job and yields what each of its steps finds; the last one says `done`.

        most: steps that it can take. idle: seconds that it may go without coming on.
        NoBoardError beyond either."""
        patient: dict[str, Any] = {
            "write": True,
            "patience": STEP_PATIENCE,
            "pause": STEP_PAUSE,
        }
        ticket = secrets.randbelow(1 << 32)  # or another client's job would answer us
        self._ask(JOB, {"job": name, "ticket": ticket, **values}, **patient)
        came_on, last = self._link.clock(), (-1, -1)
        for _ in range(most):
            found = self._checked(answers.step, self._ask(STEP, {"ticket": ticket}, **patient))
            yield found
            if found["done"]:
                return
            now = (found["at"], found["of"])
            if now != last or "token" in found or found.get("json"):
                came_on, last = self._link.clock(), now
            elif self._link.clock() - came_on > idle:
                raise NoBoardError(
                    f"{self.name}: its job `{name}` has not come on for {idle:.0f} s; restart "
                    "the board (`qedge reset`) and run this again"
                )
        raise NoBoardError(
            f"{self.name}: its job `{name}` does not end; it is no board that qedge knows, or "
            "its firmware is of another version"
        )

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
