"""Looks for a board at this machine's serial ports."""

from __future__ import annotations

from collections.abc import Iterable

from serial.tools import list_ports

from qedge.runtime.errors import NoBoardError, QedgeError, SeveralBoardsError
from qedge.runtime.text import printable
from qedge.toolkit.link.answers import Hello
from qedge.toolkit.link.client import Link, open_line
from qedge.toolkit.link.device import LinkedDevice

LOOK_SECONDS = 1.5


def usb_ports() -> list[str]:
    """Ports that a board may be at: those behind USB."""
    return sorted(port.device for port in list_ports.comports() if port.vid is not None)


def find(name: str, baud: int, ports: Iterable[str] | None = None) -> str:
    """The port at which a board of this name answers. Asks every port for its hello, and
    writes nothing. NoBoardError when none does, SeveralBoardsError when more than one does."""
    looked = list(usb_ports() if ports is None else ports)
    found: list[tuple[str, Hello]] = []
    others: list[tuple[str, Hello]] = []
    closed: list[str] = []
    for port in looked:
        try:
            device = LinkedDevice(
                Link(open_line(port, baud), port, patience=LOOK_SECONDS), port
            )
        except QedgeError as error:
            closed.append(str(error))  # busy, or not ours to open
            continue
        try:
            hello = device.hello()
            (found if hello.board == name else others).append((port, hello))
        except QedgeError:
            continue
        finally:
            device.close()
    if len(found) == 1:
        return found[0][0]
    if found:
        places = ", ".join(f"{port} (id {hello.board_id})" for port, hello in found)
        raise SeveralBoardsError(
            f"{len(found)} boards answer as {name}: {places}; choose one with -p"
        )
    seen = "; ".join(
        [*(f"{port}: a {printable(hello.board)}" for port, hello in others), *closed]
    )
    raise NoBoardError(
        f"no {name} answers at {', '.join(looked) or 'any port: there is none behind USB'}"
        f"{f' ({seen})' if seen else ''}; give its port with -p, or start an emulated one with "
        f"`qedge emulate -b {name}`"
    )
