"""What emulated boards have in common, of whatever kind they are."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import TracebackType
from typing import Protocol

from qedge.runtime.errors import NoBoardError, QedgeError, ToolError
from qedge.toolkit.board import Board, every


class Emulated(Protocol):
    """An emulated board, which runs from `with` to its end."""

    board: Board

    @property
    def port(self) -> str:
        """Where it answers, as `qedge` takes it for --port."""

    @property
    def usb_port(self) -> str | None:
        """The same by USB, where the board has that beside another line."""

    @property
    def identity(self) -> Path | None:
        """The private key that may log in; None: there is no login."""

    @property
    def ended(self) -> int | None:
        """The emulator's exit code, when it has ended."""

    def end_text(self) -> str:
        """How it ended, and what it said."""

    def facts(self) -> dict[str, str]:
        """Waits until it answers, and says by what it is known: board_id, or the identity that
        may log in. NoBoardError when it ends before that."""

    def __enter__(self) -> Emulated: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


def no_emulator(board: Board) -> str:
    """What to do where a board has no emulator."""
    known = ", ".join(
        one.name
        for one in every()
        if (one.device and one.device.emulator) or (one.linux and one.linux.emulator)
    )
    return (
        f"no emulator of a {board.name} is known, only of {known}; with a real one: "
        f"`qedge flash IMAGE -b {board.name}`"
    )


def no_way(board: Board, why: str) -> QedgeError:
    """The error for a board that cannot be emulated here: NoBoardError where nobody can,
    ToolError where a program is missing."""
    known = board.device.emulator if board.device else board.linux and board.linux.emulator
    return ToolError(why) if known else NoBoardError(why)


# Linux's prctl(PR_SET_PDEATHSIG): whoever asked is killed when the thread that started it ends,
# however that comes about; unless it has ended before.
_ENDS_WITH_US = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, int(signal.SIGKILL))
if os.getppid() == int(sys.argv[1]):
    os.execvp(sys.argv[2], sys.argv[2:])
"""


def ends_with_us() -> list[str]:
    """What comes before a command that is not to outlive the thread which starts it, even when
    that is killed; nothing where the system cannot."""
    if sys.platform != "linux":
        return []
    return [sys.executable, "-I", "-S", "-c", _ENDS_WITH_US, str(os.getpid())]
