"""Board files: facts as data.  An unknown key is an error that names the nearest known one."""

from __future__ import annotations

import difflib
import platform
import re
import sys
from collections.abc import Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any

from qedge.runtime.errors import NoBoardError, UsageError
from qedge.runtime.machine import kernel_sets
from qedge.toolkit.flash_map import wrong_flash, wrong_memory

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True, slots=True)
class Device:
    """A board that qedge's own firmware runs on: its port, and its memory. Addresses are the
    processor's; `slot_at` is an offset in flash."""

    port: str
    cpu: list[str]  # compiler flags
    code_at: int
    code_bytes: int
    ram_at: int
    ram_bytes: int
    stack_bytes: int
    arena_bytes: int
    flash_at: int
    flash_bytes: int
    floor_at: int  # two erase blocks for the least security counter, apart from the slots
    slot_at: int
    slot_bytes: int
    erase_bytes: int
    tick_hz: int
    baud: int = 115200
    vectors_at: int | None = None  # where the chip starts; none: in front of the code
    records_at: int | None = None  # offset in flash; none: in each slot's first erase block
    record_bytes: int = 0  # of the records' erase blocks and the floor's, when they are apart
    # erase blocks from flash_at on, as [count, bytes]; none: all have erase_bytes
    sectors: list[list[int]] = field(default_factory=list)
    registers: dict[str, int] = field(default_factory=dict)
    zig_cpu: str = ""  # zig's name of the processor; none: gcc alone builds its firmware
    # the compiler's float routines that runtime/engine/kernels/soft_calls.c replaces
    wrap: list[str] = field(default_factory=list)
    emulator: str = ""  # one of EMULATORS; none: real boards only
    machine: str = ""  # QEMU's name of it
    flash_loaded: bool = False  # its emulator takes flash up as it starts and cannot write it
    emulated_hz: int = 0  # instructions (or cycles) in a second of the emulator's clock
    boot_crc: bool = False  # the boot ROM wants a checksum of the first 252 bytes of flash
    uf2_firmware: int = 0  # the UF2 family of its firmware, and of data beside it; 0: no UF2
    uf2_data: int = 0
    usb_vendor: int = 0  # what it is on USB; 0: its port has no USB, or is not to use it
    usb_product: int = 0

    @property
    def is_process(self) -> bool:
        """It runs as a process of this machine, built by its compiler."""
        return self.emulator == "process"

    @property
    def record_block(self) -> int:
        """Bytes of an erase block for records, and of one for the floor."""
        return self.erase_bytes if self.records_at is None else self.record_bytes

    @property
    def records_of(self) -> tuple[int, int]:
        """Where in flash each slot's records begin."""
        if self.records_at is None:
            return self.slot_at, self.slot_at + self.slot_bytes
        return self.records_at, self.records_at + self.record_bytes

    @property
    def image_at(self) -> int:
        """Where in flash the first slot's image begins: behind its records, if it has them."""
        return self.slot_at + (self.erase_bytes if self.records_at is None else 0)

    @property
    def image_bytes(self) -> int:
        """The largest image that a slot holds."""
        return self.slot_bytes - (self.image_at - self.slot_at)


@dataclass(frozen=True, slots=True)
class Linux:
    """A board with Linux and Python, reached by ssh. Speeds are bytes a second as measured by
    others: each file says where; 0: not known."""

    models: list[str]  # how the device tree's model begins; none: any machine of the ISA
    machines: list[str]  # as `uname -m` says, fastest first
    wheel: str  # the architecture of the runtime's wheel
    features: list[str]  # of the processor
    cores: int
    clock_hz: int
    read_bytes_per_second: int  # of weights in decode, all cores
    storage_bytes_per_second: int  # sequential reads
    emulator: str = ""  # QEMU's machine and processor
    min_python: str = "3.10"


@dataclass(frozen=True, slots=True)
class Board:
    """What the toolkit knows of a board. Sizes are bytes; 0 RAM means: ask the machine."""

    name: str
    description: str
    isa: str
    kernels: str
    threads: int
    batch_tokens: int
    alignment_bytes: int
    leaf_bytes: int
    layout_rows: int  # that its kernels want interleaved
    ram_bytes: int = 0
    device: Device | None = field(default=None)
    linux: Linux | None = field(default=None)


_TABLES: dict[str, Any] = {"device": Device, "linux": Linux}
EMULATORS = ("process", "rp2040js", "qemu")
# What the engine takes (SPEC 3.1, 3.5; qe_session_size): powers of two, for sizes
VALUES: dict[str, Sequence[int]] = {
    "threads": range(1, 65),
    "batch_tokens": range(1, 513),
    "layout_rows": (1, 4, 16),
    "alignment_bytes": [1 << n for n in range(6, 21)],
    "leaf_bytes": [1 << n for n in range(8, 21)],
}


def names() -> list[str]:
    """The boards that this installation knows, in order."""
    files = resources.files("qedge.boards").iterdir()
    return sorted(f.name.removesuffix(".toml") for f in files if f.name.endswith(".toml"))


def _checked(where: str, found: dict[str, Any], known: dict[str, Field[Any]]) -> None:
    """UsageError for a key that is missing, unknown or of a wrong type."""
    for key, value in found.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"; did you mean {near[0]}?" if near else f"; known are {', '.join(known)}"
            raise UsageError(f"{where}: unknown key {key}{hint}")
        wanted = str(known[key].type).split("[")[0].split(" ")[0]
        if type(value).__name__ != wanted:
            raise UsageError(f"{where}: {key} must be {wanted}, not {value!r}")
    missing = [
        key
        for key, one in known.items()
        if key not in found and one.default is MISSING and one.default_factory is MISSING
    ]
    if missing:
        raise UsageError(f"{where}: missing {', '.join(missing)}")


def parse(name: str, text: str, file: Path | None = None) -> Board:
    """A board file's text to its value; UsageError for what is missing, unknown or of a wrong
    type, with the file, if it is somebody's own, table and key."""
    where = f"board {name}" if file is None else str(file)
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{where}: {error}") from error
    tables: dict[str, Any] = {}
    for key, kind in _TABLES.items():
        table = found.pop(key, None)
        if table is None:
            continue
        if not isinstance(table, dict):
            raise UsageError(f"{where}: {key} must be a table, not {table!r}")
        _checked(f"{where}, [{key}]", table, {f.name: f for f in fields(kind)})
        tables[key] = kind(**table)
    plain = {f.name: f for f in fields(Board) if f.name not in ("name", *_TABLES)}
    _checked(where, found, plain)
    board = Board(name=name, **tables, **found)
    parts = {"": board, **{f", [{key}]": value for key, value in tables.items()}}
    for part, value in parts.items():
        if wrong := _negative(value):
            raise UsageError(f"{where}{part}: {wrong} is below zero")
    for part, found_wrong in (("", _wrong(board)), (", [device]", _wrong_device(board.device))):
        if found_wrong is not None:
            raise UsageError(f"{where}{part}: {found_wrong}")
    return board


def _negative(value: object) -> str | None:
    """The key of a number below zero."""
    return next((key for key in _numbers(value) if getattr(value, key) < 0), None)


def _numbers(value: object) -> list[str]:
    """The keys that have a number."""
    keys = [key.name for key in fields(value)]  # type: ignore[arg-type]
    return [key for key in keys if isinstance(getattr(value, key), int)]


def _wrong(board: Board) -> str | None:
    """What no board can be, whatever it is."""
    for key, allowed in VALUES.items():
        value = getattr(board, key)
        if value not in allowed:
            among = ", ".join(f"{one:,}" for one in allowed)
            if len(allowed) > 4:
                what = "" if isinstance(allowed, range) else "a power of two, "
                among = f"{what}{allowed[0]:,} to {allowed[-1]:,}"
            return f"{key} is {among}, not {value:,}"
    return None


def _wrong_device(device: Device | None) -> str | None:
    """What the firmware could not be built with, or would not run on: firmware/slots.c asserts
    the same of its flash."""
    if device is None:
        return None
    for key in ("arena_bytes", "flash_bytes", "slot_bytes", "erase_bytes", "tick_hz", "baud"):
        if getattr(device, key) < 1:
            return f"{key} is at least 1"
    if large := next((key for key in _numbers(device) if getattr(device, key) >> 32), None):
        return f"{large} {getattr(device, large):,} is more than 32 bits hold"
    if not device.is_process and (device.stack_bytes < 1024 or device.stack_bytes % 8):
        return f"stack_bytes is a multiple of 8, 1,024 or more, not {device.stack_bytes:,}"
    for key in ("usb_vendor", "usb_product"):
        if getattr(device, key) > 0xFFFF:
            return f"{key} is 16 bits, 0 to 0xFFFF"
    ports = resources.files("qedge.firmware") / "ports"
    if not device.port.startswith("./") and not (ports / device.port).is_dir():
        known = ", ".join(sorted(port.name for port in ports.iterdir()))
        return f"port is one of {known}, or ./FOLDER beside its file, not {device.port!r}"
    if device.emulator and device.emulator not in EMULATORS:
        return f"emulator is {', '.join(EMULATORS)}, or none, not {device.emulator!r}"
    if device.emulator in ("rp2040js", "qemu") and not device.emulated_hz:
        return f"an emulator has a clock: emulated_hz is missing (emulator {device.emulator})"
    if device.emulator == "qemu" and not device.machine:
        return "emulator qemu needs its machine"
    return wrong_flash(device) or wrong_memory(device)


def host_name() -> str:
    """The profile of this machine, which is what `-b host` records."""
    usable = [name for name, ok in kernel_sets() if ok]  # a faster set may stand before these
    machine = platform.machine().lower()
    if machine in ("x86_64", "amd64"):
        best = {"avx512": "x86-64-v4", "avx2": "x86-64-v3"}
        return next((profile for name, profile in best.items() if name in usable), "x86-64")
    if machine in ("aarch64", "arm64"):
        return "aarch64-dotprod" if "dotprod" in usable else "aarch64"
    raise NoBoardError(f"no profile for a {machine} host; name a board: {', '.join(names())}")


def load(name: str) -> Board:
    """The board called name; `host` is this machine's profile; PATH.toml a board file of one's
    own, whose name is the file's. NoBoardError when there is none, UsageError for a wrong
    one."""
    if name.endswith(".toml"):
        return _from_file(Path(name))
    name = host_name() if name == "host" else name
    known = names()
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)} and host"
        raise NoBoardError(f"no board is called {name}; {hint}")
    return parse(name, (resources.files("qedge.boards") / f"{name}.toml").read_text("utf-8"))


def _from_file(path: Path) -> Board:
    """A board of somebody's own. A port that begins with ./ is a folder beside its file."""
    name = path.stem
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,30}", name):
        raise UsageError(f"{path}: a board is called as its file: up to 31 of a-z, 0-9 and -")
    if name in names():
        raise UsageError(f"{path}: qedge has a board of that name; call this one otherwise")
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise NoBoardError(f"{path}: {why}; give a board's file or name") from None
    board = parse(name, text, path)
    device = board.device
    if device is not None and device.port.startswith("./"):
        folder = (path.parent / device.port).resolve()
        if not folder.is_dir():
            raise UsageError(f"{path}, [device]: port {folder} is not a folder")
        if not any(folder.glob("*.[cS]")):
            raise UsageError(f"{path}, [device]: port {folder} has no file of C or assembly")
        board = replace(board, device=replace(device, port=str(folder)))
    return board


def with_ram(board: Board, ram_bytes: int | None) -> Board:
    """The board with that much RAM, for one that is sold with several sizes; None: as its file
    says. UsageError for a microcontroller, whose memory is its file's."""
    if ram_bytes is None:
        return board
    if board.device is not None:
        raise UsageError(f"--ram: {board.name} has the memory that its board file says")
    return replace(board, ram_bytes=ram_bytes)


def _all_with(table: str) -> str:
    return ", ".join(board.name for board in every() if getattr(board, table))


def every() -> list[Board]:
    """All boards whose files are right; what is wrong with another is said when it is named."""
    return [board for board in map(_or_why, names()) if isinstance(board, Board)]


def wrong_files() -> list[str]:
    """What is wrong with the files of the others."""
    return [why for why in map(_or_why, names()) if isinstance(why, str)]


def _or_why(name: str) -> Board | str:
    try:
        return load(name)
    except UsageError as error:
        return str(error)


def device_of(board: Board) -> Device:
    """What the board's firmware needs to know; NoBoardError for a board without one."""
    if board.device is None:
        raise NoBoardError(
            f"{board.name} is a machine's profile, not a board with qedge's firmware; "
            f"those are {_all_with('device')}"
        )
    return board.device


def linux_of(board: Board) -> Linux:
    """What is known of a board with Linux; NoBoardError for another."""
    if board.linux is None:
        raise NoBoardError(
            f"{board.name} is not a board with Linux; those are {_all_with('linux')}"
        )
    return board.linux
