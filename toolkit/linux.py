"""A board with Linux, by ssh: what it is, its runtime, and the link to its agent.

The runtime is unpacked from a wheel into a folder that its hash names, so an update never
touches what another one runs; of old ones the last few stay. Nothing is fetched on the board,
and nothing compiled.
"""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from qedge.runtime.errors import NoBoardError, WriteError, WrongBoardError
from qedge.toolkit.board import Board, linux_of
from qedge.toolkit.link import Device, Hello, Link
from qedge.toolkit.service import STATE, UNIT, make_user
from qedge.toolkit.ssh import Shell
from qedge.toolkit.wheel import Built, build_wheel

ROOT = "${XDG_DATA_HOME:-$HOME/.local/share}/qedge"
AGENT_SECONDS = 60.0  # until the agent answers: an emulator starts Python slowly
PENDING_SECONDS = 900.0  # when it first tests an image that was put on its card
SPARE_BYTES = 16 << 20  # of the disk, for the runtime
KEPT = 3  # runtimes, of the last ones used; the service's stays, too

_PROBE = r"""
say() { printf '%s=%s\n' "$1" "$2"; }
text() { tr -d '\000' <"$1" 2>/dev/null; }
say model "$(text /proc/device-tree/model)"
say revision "$(od -An -tx1 /proc/device-tree/system/linux,revision 2>/dev/null | tr -d ' ')"
say serial "$(text /proc/device-tree/serial-number)"
say machine "$(uname -m)"
say kernel "$(uname -r)"
say page "$(getconf PAGESIZE 2>/dev/null)"
say ram "$(awk '/^MemTotal/{print $2*1024}' /proc/meminfo)"
say available "$(awk '/^MemAvailable/{print $2*1024}' /proc/meminfo)"
say cgroup "$(cat /sys/fs/cgroup/memory.max 2>/dev/null)"
say throttled "$(vcgencmd get_throttled 2>/dev/null | cut -d= -f2)"
say clock "$(date +%s)"
root=@ROOT@
say root "$root"
mkdir -p "$root" 2>/dev/null && touch "$root/.try" 2>/dev/null && say writable yes
rm -f "$root/.try" 2>/dev/null
say free "$(df -Pk "$root" 2>/dev/null | awk 'NR==2{print $4*1024}')"
for p in python3 python3.14 python3.13 python3.12 python3.11 python3.10; do
    v=$("$p" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue
    say python "$p $v"
done
ls "$root"/?.pending >/dev/null 2>&1 && say pending yes
say runtimes "$(cd "$root" 2>/dev/null && echo runtime-*)"
"""


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
    root: str
    writable: bool
    free: int
    pythons: tuple[tuple[str, str], ...]  # (program, version)
    runtimes: tuple[str, ...]
    pending: bool = False  # an image was put on its card, and waits to be tested

    @classmethod
    def parse(cls, text: str) -> Facts:
        """Of what the probe prints."""
        rows = [line.split("=", 1) for line in text.splitlines() if "=" in line]
        found = {key: value.strip() for key, value in rows}
        pythons = tuple(
            (value.split()[0], value.split()[1])
            for key, value in rows
            if key == "python" and re.fullmatch(r"\S+ +\d{1,3}\.\d{1,3}\s*", value)
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
            tuple(found.get("runtimes", "").split()),
            found.get("pending") == "yes",
        )


def probe(shell: Shell, root: str = ROOT, run_as: str = "") -> Facts:
    """Asks the board. Makes its folder, and writes nothing else. root: the folder, as a shell
    would write it between quotes; run_as: what comes before a command of another user."""
    script = _PROBE.replace("@ROOT@", f'"{root}"')
    ended = shell.run(f"{run_as} sh -s", script.encode())
    return Facts.parse(ended.output.decode("utf-8", "replace"))


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
    least = tuple(map(int, linux.min_python.split(".")))
    usable = [p for p, v in facts.pythons if tuple(map(int, v.split("."))) >= least]
    if not usable:
        there = ", ".join(f"{p} {v}" for p, v in facts.pythons) or "none"
        raise NoBoardError(
            f"{name}: needs Python {linux.min_python} or later, has {there}; update its system"
        )
    if not facts.writable:
        raise WriteError(
            f"{name}: {facts.root} cannot be written (a read-only disk, or a full one?); "
            "nothing was changed"
        )
    return usable[0]


def runtime_folder(wheel: Built) -> str:
    return f"runtime-{wheel.sha256[:16]}"


def install(shell: Shell, facts: Facts, python: str, wheel: Built, run_as: str = "") -> str:
    """Unpacks the runtime where it is not there yet; the command that runs its Python."""
    folder = runtime_folder(wheel)
    place = f"{facts.root}/{folder}"
    where = shlex.quote(place)
    if folder not in facts.runtimes:
        if facts.free < wheel.bytes * 4 + SPARE_BYTES:
            raise WriteError(
                f"{shell.name}: {facts.free:,} bytes are free on its disk, the runtime needs "
                f"{wheel.bytes * 4 + SPARE_BYTES:,}; make room there and run this again"
            )
        new = shlex.quote(f"{place}.{time.time_ns():x}.new")
        script = (
            f"set -e; trap 'rm -rf {new}' EXIT; "
            f"find {shlex.quote(facts.root)} -maxdepth 1 -name 'runtime-*.new' -mmin +60 "
            f"-exec rm -rf {{}} + ; mkdir {new}; cat > {new}/wheel.zip; "
            f"if {python} -m venv --without-pip {new}/venv 2>/dev/null; then "
            f"at=$(echo {new}/venv/lib/python3*/site-packages); else rm -rf {new}/venv; "
            f"at={new}/packages; mkdir $at; fi; "
            f"{python} -m zipfile -e {new}/wheel.zip $at; rm {new}/wheel.zip; sync; "
            f"mv -T {new} {where} 2>/dev/null || [ -d {where} ]; sync; "
            f"ls -dt {shlex.quote(facts.root)}/runtime-* | grep -v '\\.new$' | "
            f"tail -n +{KEPT + 1} | while read -r old; do "
            f'[ "$old" = {where} ] || grep -qsF "$old/" {UNIT} || rm -rf "$old"; done'
        )
        ended = shell.run(f"{run_as} sh -c {shlex.quote(script)}", wheel.path.read_bytes())
        if ended.code:
            raise WriteError(
                f"{shell.name}: the runtime could not be unpacked ({ended.complaints}); what "
                "was there stays"
            )
    return (
        f"touch {where} 2>/dev/null; if [ -x {where}/venv/bin/python3 ]; then "
        f"P={where}/venv/bin/python3; else "
        f"P={python}; export PYTHONPATH={where}/packages; fi; exec $P"
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
    device: Device
    facts: Facts
    hello: Hello
    python: str
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
    with the folder and as the user of the board's service; both are made when missing.
    dry: NotInstalled instead of putting it there."""
    linux = linux_of(board)
    seconds: dict[str, float] = {}
    began = time.monotonic()

    def lap(name: str) -> None:
        nonlocal began
        now = time.monotonic()
        seconds[name] = round(now - began, 3)
        began = now

    with Shell(port, identity, say) as shell:
        facts = probe(shell)
        python = check(facts, board, port)
        if facts.throttled not in ("", "0x0"):
            say(
                f"{port}: has been throttled or short of voltage ({facts.throttled}); see bench"
            )
        run_as = ""
        if service:
            run_as = make_user(shell)
            facts = probe(shell, STATE, run_as)
            check(facts, board, port)
        lap("connect")
        wheel = build_wheel(linux.wheel)
        lap("wheel")
        if dry and runtime_folder(wheel) not in facts.runtimes:
            raise NotInstalled(facts, wheel)
        command = install(shell, facts, python, wheel, run_as)
        lap("install")
        agent = f"{command} -m qedge.runtime.agent --root {shlex.quote(facts.root)} "
        agent += f"--board {shlex.quote(board.name)}{' --emulated' if linux.emulator else ''}"
        line = shell.line(f"{run_as} sh -c {shlex.quote(agent)}")
        link = Link(line, port, patience=30.0, noisy=False)
        device = Device(link, port)
        try:
            if facts.pending:
                say(f"{port}: tests the image that was put on its card")
            hello = device.hello(patience=PENDING_SECONDS if facts.pending else AGENT_SECONDS)
            lap("agent")
            yield LinuxBoard(shell, device, facts, hello, command, seconds)
        finally:
            device.close()
