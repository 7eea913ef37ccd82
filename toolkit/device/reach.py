"""From a board's name and port to a link with it, whatever kind of board it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from qedge.runtime.errors import UsageError
from qedge.toolkit.board import Board, device_of
from qedge.toolkit.device.flash import check_board
from qedge.toolkit.lab import is_place, real_port
from qedge.toolkit.link import Hello, Link, LinkedDevice, open_line
from qedge.toolkit.link.find import find

if TYPE_CHECKING:  # asyncssh takes its time to import
    from qedge.toolkit.linux.board import LinuxBoard

SERIAL_BAUD = 115200  # of an agent on a serial line


@dataclass(slots=True)
class Reached:
    """A board that answers. seconds: of the parts of getting there, where there are any."""

    device: LinkedDevice
    hello: Hello
    port: str
    seconds: dict[str, float] = field(default_factory=dict)
    linux: LinuxBoard | None = None


def is_address(port: str) -> bool:
    """Whether a port is an address for ssh, and not a serial line."""
    return port.startswith("ssh://") or ("://" not in port and "/" not in port)


@contextmanager
def reach(
    board: Board,
    port: str | None,
    identity: str | None = None,
    say: Callable[[str], None] = lambda text: None,
    *,
    service: bool = False,
    dry: bool = False,
) -> Iterator[Reached]:
    """A link to the board that was named. A board with Linux gets its runtime first, unless it
    is reached by a serial line at which its agent answers; service: as its service's user;
    dry: linux.NotInstalled where that had to be. A place of labgrid (`labgrid:PLACE`) is taken,
    and given back in the end. WrongBoardError for another board, NoBoardError when none
    answers, UsageError for a board with Linux without an address."""
    if is_place(port):
        with (
            real_port(board, port, say) as real,
            reach(board, real, identity, say, service=service, dry=dry) as there,
        ):
            yield there
        return
    if board.linux is not None and port is None:
        raise UsageError(f"{board.name}: give its address with -p user@host")
    if board.linux is not None and port is not None and is_address(port):
        from qedge.toolkit.linux.board import reached

        with reached(board, port, identity, say, service=service, dry=dry) as found:
            check_board(found.hello, board, port)
            _say_pending(found.device, found.hello, port, say)
            yield Reached(found.device, found.hello, port, found.seconds, found)
        return
    baud = SERIAL_BAUD if board.linux is not None else device_of(board).baud
    if port is None:
        port = find(board.name, baud)
    device = LinkedDevice(Link(open_line(port, baud), port), port)
    try:
        hello = device.hello()
        check_board(hello, board, port)
        _say_pending(device, hello, port, say)
        yield Reached(device, hello, port)
    finally:
        device.close()


def _say_pending(
    device: LinkedDevice, hello: Hello, port: str, say: Callable[[str], None]
) -> None:
    """What the board found wrong as it started, at every visit until it is mended."""
    if found := device.start_error(hello):
        say(f"{port}: when it started: {found}")
