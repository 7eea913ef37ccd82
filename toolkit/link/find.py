"""Looks for a board at this machine's serial ports."""

from __future__ import annotations

from collections.abc import Iterable

from serial.tools import list_ports

from qedge.runtime.errors import NoBoardError, QedgeError, SeveralBoardsError
from qedge.runtime.text import printable
from qedge.toolkit.board import every
from qedge.toolkit.link.answers import Hello
from qedge.toolkit.link.client import Link, open_line
from qedge.toolkit.link.device import LinkedDevice

LOOK_SECONDS = 1.5


def usb_ports() -> list[str]:
    """Ports that a board may be at: those behind USB, first those that show the numbers of a
    board with qedge's firmware. An adapter at a board's UART has its own."""
    ours = {(b.device.usb_vendor, b.device.usb_product) for b in every() if b.device}
    there = [port for port in list_ports.comports() if port.vid is not None]
    there.sort(key=lambda port: ((port.vid, port.pid) not in ours, port.device))
    return [port.device for port in there]


def find(name: str, baud: int, ports: Iterable[str] | None = None) -> str:
    """The port at which a board of this name answers; the first one, if the same board does at
    several (by USB and by an adapter). Asks every port for its hello, and writes nothing.
    NoBoardError when none does, SeveralBoardsError when more than one does."""
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
    each: dict[str, str] = {}
    for port, hello in found:
        each.setdefault(hello.board_id, port)
    if len(each) == 1:
        return found[0][0]
    if each:
        places = ", ".join(f"{port} (id {board_id})" for board_id, port in each.items())
        raise SeveralBoardsError(
            f"{len(each)} boards answer as {name}: {places}; choose one with -p"
        )
    seen = "; ".join(
        [*(f"{port}: a {printable(hello.board)}" for port, hello in others), *closed]
    )
    raise NoBoardError(
        f"no {name} answers at {', '.join(looked) or 'any port: there is none behind USB'}"
        f"{f' ({seen})' if seen else ''}; give its port with -p, or start an emulated one with "
        f"`qedge emulate -b {name}`"
    )
