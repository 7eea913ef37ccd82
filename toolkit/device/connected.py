"""Which boards answer now: at this machine's serial ports, and at addresses that are named.
Only asks: no image is written to a board, and none by ssh is looked at that was not named. A
board's agent starts for that, as for a run, and an active image that is damaged gives way then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from qedge.runtime.errors import QedgeError
from qedge.runtime.text import printable
from qedge.toolkit.board import Board, every
from qedge.toolkit.device.reach import SERIAL_BAUD, is_address
from qedge.toolkit.lab import is_place
from qedge.toolkit.link import Hello, Link, LinkedDevice, open_line
from qedge.toolkit.link.find import LOOK_SECONDS, usb_ports
from qedge.toolkit.link.port import check

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Connected:
    """A port, and what answers there. board is empty where nothing does; note says why, or what
    is not known. image_id: of the active image; None: it has none, or is not asked."""

    port: str
    board: str = ""
    board_id: str = ""
    image_id: str | None = None
    emulated: bool = False
    note: str = ""


def look(
    ports: Sequence[str] = (), identity: str | None = None, say: Say = lambda text: None
) -> list[Connected]:
    """At these ports: serial ones, user@host; none given: at every serial port behind USB.
    A place of a coordinator is not asked: it would have to be taken. UsageError for what is
    no port."""
    wanted = list(dict.fromkeys(ports or usb_ports()))
    for port in wanted:
        if not is_address(port) and not is_place(port):
            check(port)
    with ThreadPoolExecutor(max_workers=max(1, min(16, len(wanted)))) as pool:
        return list(pool.map(lambda port: _at(port, identity, say), wanted))


def _at(port: str, identity: str | None, say: Say) -> Connected:
    try:
        if is_place(port):
            return Connected(port, note="a place is not asked: run something there instead")
        if is_address(port) and not _is_serial_name(port):
            return _by_ssh(port, identity, say)
        device = LinkedDevice(
            Link(open_line(port, SERIAL_BAUD), port, patience=LOOK_SECONDS), port
        )
        try:
            return _answered(port, device.hello())
        finally:
            device.close()
    except QedgeError as error:
        return Connected(port, note=str(error).removeprefix(f"{port}: "))


def _is_serial_name(port: str) -> bool:
    """COM3, which is also a name that a host could have."""
    return port.upper().startswith("COM") and port[3:].isdigit()


def _answered(port: str, hello: Hello, board: str = "") -> Connected:
    return Connected(
        port,
        printable(board or str(hello.board)),
        hello.board_id,
        hello.image_id,
        bool(hello.emulated),
        printable(hello.pending_error),
    )


def _by_ssh(port: str, identity: str | None, say: Say) -> Connected:
    """A board with Linux: what it says of itself, and its agent, if a runtime is there."""
    from qedge.toolkit.linux.board import AGENT_SECONDS, HOME, Facts, least_python, probe
    from qedge.toolkit.linux.shell import script
    from qedge.toolkit.linux.ssh import Shell

    with Shell(port, identity, say) as shell:
        facts: Facts = probe(shell)
        fit = boards_for(facts.model, facts.machine)
        named = " or ".join(board.name for board in fit)
        emulated = all(board.linux is not None and board.linux.emulator for board in fit)
        said = facts.model or facts.machine
        known = Connected(port, named, facts.serial, emulated=emulated)
        if not fit:
            return Connected(port, note=f"a {said}, for which no board is known")
        if facts.pending:
            return _noted(known, "an image on its card waits to be tested")
        if not facts.runtimes:
            return _noted(known, "has no runtime yet: `qedge flash` puts one there")
        python = least_python(facts, fit[0])
        if python is None:
            return _noted(known, "has no Python that is recent enough")
        words = [HOME, HOME, facts.runtimes[-1], python, "--board", fit[0].name]
        words += ["--emulated"] if emulated else []
        line = shell.line(script("agent"), words)
        device = LinkedDevice(Link(line, port, patience=AGENT_SECONDS, noisy=False), port)
        try:
            return _answered(port, device.hello(), named)
        finally:
            device.close()


def _noted(known: Connected, note: str) -> Connected:
    return Connected(known.port, known.board, known.board_id, None, known.emulated, note)


def boards_for(model: str, machine: str) -> list[Board]:
    """The boards that a machine may be, by its device tree's model and `uname -m`, real ones
    first; where none has such a model, those that take any."""
    fit = [
        board
        for board in every()
        if board.linux is not None and machine in board.linux.machines
    ]

    def emulated(board: Board) -> bool:
        return board.linux is not None and bool(board.linux.emulator)

    alike = [b for b in fit if b.linux and any(map(model.startswith, b.linux.models))]
    found = alike or [b for b in fit if b.linux and not b.linux.models]
    return sorted(found, key=emulated)
