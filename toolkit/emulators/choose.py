"""The emulator of a board, whatever kind of board it is."""

from __future__ import annotations

from pathlib import Path

from qedge.runtime.errors import UsageError
from qedge.toolkit.bare.firmware import build
from qedge.toolkit.board import Board
from qedge.toolkit.emulators import bare, linux
from qedge.toolkit.emulators.emulated import Emulated


def missing(board: Board) -> str | None:
    """Why this board cannot be emulated here, and what to do; None: it can."""
    return linux.missing(board) if board.linux else bare.missing(board)


def emulated(
    board: Board,
    file: Path,
    *,
    identity: Path | None = None,
    key: bytes | None = None,
    image: Path | None = None,
) -> Emulated:
    """An emulated board, which runs from `with` to its end.

    file      keeps its flash or its disk; made when it is not there
    identity  of a board with Linux: the private key that may log in
    key       of a board with qedge's own firmware: the public key of whose images it takes
              (32 bytes, Ed25519)
    image     of such a board: lies in its new flash as it starts

    NoBoardError where it cannot be emulated, UsageError for what the board does not have."""
    if board.linux is not None:
        if image is not None:
            raise UsageError(
                f"{board.name}: --image is for microcontrollers; flash it when it has started"
            )
        if key is not None:
            raise UsageError(
                f"{board.name}: --key is for firmware; on a board with Linux its administrator "
                "puts the key there (docs/security.md)"
            )
        return linux.LinuxEmulator(board, file, identity=identity)
    if identity is not None:
        raise UsageError(f"{board.name}: nobody logs in to it; leave out --identity")
    if image is not None:
        bare.preload(file, board, image)
    return bare.Emulator(board, file, firmware=build(board, key=key))
