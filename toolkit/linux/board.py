"""A board with Linux, by ssh: what it is, its runtime, and the link to its agent.

The runtime is unpacked from a wheel into a folder that its hash names, so an update never
touches what another one runs; of old ones the last few stay. Nothing is fetched on the board,
and nothing compiled.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from qedge.runtime.errors import NoBoardError, WriteError, WrongBoardError
from qedge.runtime.text import printable
from qedge.toolkit.board import Board, linux_of
from qedge.toolkit.link import Hello, Link, LinkedDevice
from qedge.toolkit.linux.service import RUNTIMES, STATE, UNIT, USER, make_user
from qedge.toolkit.linux.shell import script
from qedge.toolkit.linux.ssh import Shell
from qedge.toolkit.linux.wheel import Built, build_wheel

HOME = "home"  # our folder in the user's own data: see toolkit/linux/shell/place.sh
AGENT_SECONDS = 60.0  # until the agent answers: an emulator starts Python slowly
PENDING_SECONDS = 900.0  # when it first tests an image that was put on its card
INSTALL_SECONDS = 900.0  # by a slow line, onto a slow card
SPARE_BYTES = 16 << 20  # of the disk, for the runtime
KEPT = 3  # runtimes, of the last ones used; the service's stays, too
PYTHONS = ("python3", *(f"python3.{minor}" for minor in range(14, 9, -1)))  # as probe.sh has
_PYTHON = re.compile(r"(\S+) (\d{1,3}\.\d{1,3}) (\S*)")
_RUNTIME = re.compile(r"runtime-[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class Facts:
    """What a board says of itself before anything is put on it. Sizes are bytes, 0: unknown."""

    model: str
    revision: str
    serial: str
    machine: str
    kernel: str
    page: int
    ram: int
    available: int
    throttled: str
    clock: int  # seconds since 1970
    root: str  # fit to be shown, and not to be used: it never comes back to the board
    writable: bool
    free: int
    pythons: tuple[tuple[str, str, str], ...]  # (program, version, its full path)
    runtimes: tuple[str, ...]
    pending: bool = False  # an image was put on its card, and waits to be tested
    executable: bool = True  # programs in its folder can be run

    @classmethod
    def parse(cls, output: bytes) -> Facts:
        """Of what probe.sh prints: KEY=VALUE each, with a NUL behind it."""
        text = output.decode("utf-8", "replace")
        rows = [row.split("=", 1) for row in text.split("\0") if "=" in row]
        found = {key: printable(value.strip()) for key, value in rows}
        pythons = tuple(
            (match[1], match[2], match[3])
            for key, value in rows
            if key == "python" and (match := _PYTHON.fullmatch(value))
            if match[1] in PYTHONS
        )

        def number(key: str) -> int:
            try:
                return int(float(found.get(key, "")))
            except (ValueError, OverflowError):
                return 0

        limits = [n for n in (number("ram"), number("cgroup")) if n > 0]
        return cls(
            found.get("model", ""),
            found.get("revision", ""),
            found.get("serial", ""),
            found.get("machine", ""),
            found.get("kernel", ""),
            number("page"),
            min(limits, default=0),
            number("available"),
            found.get("throttled", ""),
            number("clock"),
            found.get("root", ""),
            found.get("writable") == "yes",
            number("free"),
            pythons,
            tuple(v for key, v in rows if key == "runtime" and _RUNTIME.fullmatch(v)),
            found.get("pending") == "yes",
            found.get("noexec") != "yes",
        )

    def path(self, program: str) -> str:
        """A Python's full path, where it is one that needs no quotes; else its name."""
        found = next((p for name, _, p in self.pythons if name == program), "")
        return found if re.fullmatch(r"/[A-Za-z0-9_./-]+", found) else program


def probe(shell: Shell, place: str = HOME, user: str = "") -> Facts:
    """Asks the board. Makes its folder, and writes nothing else. place: HOME, or the folder's
    full path; user as of `shell.call`."""
    ended = shell.run(script("probe"), words=(place,), user=user)
    facts = Facts.parse(ended.output)
    if not facts.machine or b"\0end=yes\0" not in ended.output:
        raise NoBoardError(
            f"{shell.name}: does not say what it is ({ended.complaints or ended.code}); is it "
            "a board with Linux?"
        )
    return facts


def check(facts: Facts, board: Board, name: str) -> str:
    """The Python to run, when the board is the one that was named. WrongBoardError when it is
    another, NoBoardError without a Python, WriteError when its disk cannot be written."""
    linux = linux_of(board)
    if linux.models and not any(facts.model.startswith(one) for one in linux.models):
        raise WrongBoardError(
            f"{name}: is a {facts.model or 'machine without a model name'}, not a {board.name} "
            f"({' or '.join(linux.models)}); give the right board or address"
        )
    if facts.machine not in linux.machines:
        raise WrongBoardError(
            f"{name}: its system is for {facts.machine}, {board.name} needs "
            f"{' or '.join(linux.machines)}; take the 64-bit system, or another board"
        )
    python = least_python(facts, board)
    if python is None:
        there = ", ".join(f"{p} {v}" for p, v, _ in facts.pythons) or "none"
        raise NoBoardError(
            f"{name}: needs Python {linux.min_python} or later, has {there}; update its system"
        )
    if not facts.writable:
        raise WriteError(
            f"{name}: {facts.root} cannot be written (a read-only disk, or a full one?); "
            "nothing was changed"
        )
    if not facts.executable:
        raise WriteError(
            f"{name}: nothing can be run from {facts.root}, whose disk is mounted noexec; set "
            "XDG_DATA_HOME there to a folder of another disk, or mount it with exec"
        )
    return python


def least_python(facts: Facts, board: Board) -> str | None:
    """The first of its Pythons that is recent enough."""
    least = tuple(map(int, linux_of(board).min_python.split(".")))
    usable = (p for p, v, _ in facts.pythons if tuple(map(int, v.split("."))) >= least)
    return next(usable, None)


def runtime_folder(wheel: Built) -> str:
    return f"runtime-{wheel.sha256[:16]}"


def install(
    shell: Shell, facts: Facts, python: str, wheel: Built, place: str = HOME, user: str = ""
) -> None:
    """Unpacks the runtime where it is not there yet. place and user as of `probe`."""
    folder = runtime_folder(wheel)
    if folder in facts.runtimes:
        return
    if facts.free < wheel.bytes * 4 + SPARE_BYTES:
        raise WriteError(
            f"{shell.name}: {facts.free:,} bytes are free on its disk, the runtime needs "
            f"{wheel.bytes * 4 + SPARE_BYTES:,}; make room there and run this again"
        )
    ended = shell.run(
        script("install"),
        wheel.path.read_bytes(),
        (place, folder, python, wheel.sha256, secrets.token_hex(4), str(KEPT), UNIT),
        user=user,
        seconds=INSTALL_SECONDS,
    )
    if ended.code:
        raise WriteError(
            f"{shell.name}: the runtime could not be unpacked "
            f"({ended.complaints or ended.code}); what was there stays"
        )


class NotInstalled(Exception):
    """The board has not this runtime yet, and nothing was to be written."""

    def __init__(self, facts: Facts, wheel: Built) -> None:
        super().__init__("the runtime is not there")
        self.facts, self.wheel = facts, wheel


@dataclass(slots=True)
class LinuxBoard:
    """A board whose agent answers. `seconds` of each part of getting there."""

    shell: Shell
    device: LinkedDevice
    facts: Facts
    hello: Hello
    python: str  # a program's name, or its full path
    runtime: str  # the name of its folder
    seconds: dict[str, float] = field(default_factory=dict)


@contextmanager
def reached(
    board: Board,
    port: str,
    identity: str | None = None,
    say: Callable[[str], None] = lambda text: None,
    *,
    service: bool = False,
    dry: bool = False,
) -> Iterator[LinuxBoard]:
    """A link to a board with Linux, its runtime put there when it has not this one. service:
    with the folders and as the user of the board's service, which are made when missing.
    dry: NotInstalled instead of putting it there."""
    linux = linux_of(board)
    seconds: dict[str, float] = {"connect": 0.0}
    began = time.monotonic()

    def lap(name: str) -> None:
        nonlocal began
        now = time.monotonic()
        seconds[name] = round(now - began, 3)
        began = now

    # what is missing here is said before a host is met, and a board looked at
    wheel = build_wheel(linux.wheel)
    folder = runtime_folder(wheel)
    lap("wheel")
    with Shell(port, identity, say) as shell:
        facts = probe(shell)
        python = check(facts, board, port)
        if facts.throttled not in ("", "0x0"):
            say(
                f"{port}: has been throttled or short of voltage ({facts.throttled}); see bench"
            )
        state, place, user, owner, own = HOME, HOME, "", "", facts
        if service:
            make_user(shell)
            state, place, user, owner = STATE, RUNTIMES, USER, "root"
            facts = probe(shell, state, user)
            check(replace(facts, executable=True), board, port)  # images alone lie there
            own = probe(shell, place, owner)
            python = own.path(check(own, board, port))
        lap("connect")
        if dry and folder not in own.runtimes:
            raise NotInstalled(facts, wheel)
        install(shell, own, python, wheel, place, owner)
        lap("install")
        words = [state, place, folder, python, "--board", board.name]
        words += ["--emulated"] if linux.emulator else []
        line = shell.line(script("agent"), words, user=user)
        link = Link(line, port, patience=30.0, noisy=False)
        device = LinkedDevice(link, port)
        try:
            if facts.pending:
                say(f"{port}: tests the image that was put on its card")
            hello = device.hello(patience=PENDING_SECONDS if facts.pending else AGENT_SECONDS)
            lap("agent")
            yield LinuxBoard(shell, device, facts, hello, python, folder, seconds)
        finally:
            device.close()
