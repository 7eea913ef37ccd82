"""The messages of the link, a method each (docs/link.md). Errors of the other end become the
family's."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NoReturn, TypeVar

from qedge.runtime.agent.numbers import (
    GROUP_OS,
    GROUP_QEDGE,
    LINK_ACTIVE_SLOT,
    LINK_DISK,
    LINK_DISK_FULL,
    LINK_ENGINE,
    LINK_FLASH,
    LINK_LOCKED,
    LINK_MESSAGE,
    LINK_NO_IMAGE,
    LINK_NO_JOB,
    LINK_OLDER,
    LINK_OTHER_BOARD,
    LINK_RANGE,
    LINK_TEST,
    LINK_TRIED,
    LINK_UNKNOWN,
    LINK_UNSIGNED,
    LINK_WRONG_BOARD,
    OS_RESET,
    QEDGE_COPY,
    QEDGE_DIGEST,
    QEDGE_HELLO,
    QEDGE_JOB,
    QEDGE_SECTION,
    QEDGE_STEP,
    QEDGE_WRITE,
)
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
from qedge.toolkit.link.client import Link, Refused

# Seconds until an error, and until a message is sent again: a step is a few tokens, and an
# emulator may be slow; an erase takes up to half a second.
STEP_PATIENCE, STEP_PAUSE = 60.0, 5.0
WRITE_PATIENCE, WRITE_PAUSE = 15.0, 1.0
IDLE_SECONDS = 600.0  # of a job that answers, and does not come on
STEPS_MOST = 1 << 17  # of a job whose caller knows no smaller number
_Answer = TypeVar("_Answer")

_ERRORS: dict[int, tuple[type[QedgeError], str]] = {
    LINK_RANGE: (BudgetError, "the board refused it as outside its slot"),
    LINK_ACTIVE_SLOT: (WriteError, "the board does not write to its active slot"),
    LINK_FLASH: (
        VerifyError,
        "the flash does not read back what was written; it may be worn out",
    ),
    LINK_MESSAGE: (UsageError, "the board cannot do this: a value is out of its range"),
    LINK_NO_IMAGE: (ImageError, "the board holds no image; flash one first"),
    LINK_NO_JOB: (
        NoBoardError,
        "the board was reset in the middle, or works for another client now; run this again",
    ),
    LINK_WRONG_BOARD: (
        WrongBoardError,
        "the image was built for another board; build it with -b",
    ),
    LINK_TEST: (
        BoardTestError,
        "the golden test gave other tokens or logits than the image promises",
    ),
    LINK_UNSIGNED: (
        ImageError,
        "the board wants a signature by its key; sign the image (`qedge sign`)",
    ),
    LINK_OLDER: (
        ImageError,
        "the image's security counter is below one that the board has accepted",
    ),
    LINK_OTHER_BOARD: (
        WrongBoardError,
        "another board answers than the one that was asked before",
    ),
    LINK_LOCKED: (
        WriteError,
        "another flash is at work on the board; wait until it has ended",
    ),
    LINK_DISK_FULL: (
        WriteError,
        "the board's disk is full; make room there and run this again",
    ),
    LINK_DISK: (WriteError, "the board's disk cannot be written"),
    LINK_TRIED: (BoardTestError, "the board ended several times while it tested the image"),
    LINK_UNKNOWN: (
        UsageError,
        "the board does not know what it was asked for; its firmware or runtime is older than "
        "this qedge, or this cannot be done there",
    ),
    LINK_ENGINE + 1: (VerifyError, "the image on the board is broken; flash it again"),
    LINK_ENGINE + 2: (
        ImageError,
        "the image is of a version that the firmware does not know",
    ),
    LINK_ENGINE + 3: (VerifyError, "a hash on the board does not match; flash it again"),
    LINK_ENGINE + 4: (BudgetError, "the image's session does not fit the board's arena"),
    LINK_ENGINE + 5: (BudgetError, "more tokens than the image's context holds"),
    LINK_ENGINE + 6: (ImageError, "the prompt is not UTF-8"),
    LINK_ENGINE + 7: (BudgetError, "the prompt does not fit the image's context"),
    LINK_ENGINE + 8: (ImageError, "a logit is not finite"),
    LINK_ENGINE + 9: (UsageError, "the board's engine cannot do this with such values"),
    LINK_ENGINE + 10: (UsageError, "the board's processor has no such kernel set"),
    LINK_ENGINE + 11: (NoBoardError, "the board stopped what it was doing; run this again"),
}


class SourceGone(ImageError):
    """What was to be copied on the board is not there any more."""


class LinkedDevice:
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
            return self._link.request(GROUP_QEDGE, command, values, **options)
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
        return self._checked(answers.hello, self._ask(QEDGE_HELLO, {}, patience=patience))

    def start_error(self, hello: Hello) -> str:
        """Why an image was not activated as the board started, or the active one given up;
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
                answers.section, self._ask(QEDGE_SECTION, values, patience=STEP_PATIENCE)
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
        found = self._ask(QEDGE_DIGEST, values, patience=STEP_PATIENCE, pause=STEP_PAUSE)
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
            QEDGE_WRITE,
            ({"id": identity, "slot": slot, "offset": at, "data": data} for at, data in pieces),
        )

    def copy_all(
        self, board_id: str, slot: int, pieces: Iterable[tuple[int, int, int]]
    ) -> Iterator[None]:
        """Blocks that are on the board already, as (offset, slot that has it, offset there);
        yields once for each that is done. SourceGone when a slot has its image no longer."""
        same = {"id": bytes.fromhex(board_id), "slot": slot}
        yield from self._stream(
            QEDGE_COPY,
            (
                {**same, "offset": at, "from": other, "source": there}
                for at, other, there in pieces
            ),
        )

    def _stream(self, command: int, many: Iterable[dict[str, Any]]) -> Iterator[None]:
        try:
            patient = {"patience": WRITE_PATIENCE, "pause": WRITE_PAUSE}
            yield from self._link.stream(GROUP_QEDGE, command, many, **patient)
        except Refused as refused:
            if command == QEDGE_COPY and refused.code == LINK_NO_IMAGE:
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
        self._ask(QEDGE_JOB, {"job": name, "ticket": ticket, **values}, **patient)
        came_on, last = self._link.clock(), (-1, -1)
        for _ in range(most):
            found = self._checked(
                answers.step, self._ask(QEDGE_STEP, {"ticket": ticket}, **patient)
            )
            yield found
            if found["done"]:
                return
            now = (found["at"], found["of"])
            if now != last or "token" in found or found.get("json"):
                came_on, last = self._link.clock(), now
            elif self._link.clock() - came_on > idle:
                raise NoBoardError(
                    f"{self.name}: its job `{name}` has made no progress for {idle:.0f} s; "
                    "restart the board (`qedge reset`) and run this again"
                )
        raise NoBoardError(
            f"{self.name}: its job `{name}` does not end; it is not a board that qedge knows, "
            "or its firmware is of another version"
        )

    def finish(self, name: str, **values: Any) -> dict[str, Any]:
        """What the last step of a job finds."""
        *_, last = self.job(name, **values)
        return last

    def reset(self) -> None:
        try:
            self._link.request(GROUP_OS, OS_RESET, write=True)
        except Refused as refused:
            self._fail(refused)
