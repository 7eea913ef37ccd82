"""Compiles the firmware for a board, with the system's compiler or with ziglang from PyPI.

The sources are package data, so it works from an installed package.  What was built is kept in
the cache under a name made of everything that went into it.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import resources
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from qedge.runtime.errors import QedgeError, ToolError, UsageError
from qedge.toolkit.bare.elf import fill_boot_crc, segments
from qedge.toolkit.board import Board, Device, device_of
from qedge.toolkit.files import cache_folder
from qedge.toolkit.kept import made_folder, zig_environment

# Beside those of runtime/engine/FLAGS. The engine has no workers there.
FLAGS = ["-O3", "-Wall", "-Wextra", "-DQE_ONE_THREAD"]
SECTIONS = ["-ffunction-sections", "-fdata-sections"]  # so that LINK can drop what is not used
GCC = ["-mthumb", "-nostdlib", "-fno-tree-loop-distribute-patterns"]
GCC_CALLS = ["-fcallgraph-info=su"]  # who calls whom, and the stack of each: bare/calls.py
LINK = ["-Wl,--gc-sections"]
ELF, CALLS = "firmware.elf", "calls.ci"


@dataclass(frozen=True, slots=True)
class Firmware:
    """What was built. Sizes are bytes; of a process they are 0."""

    board: str
    path: Path  # an ELF file
    compiler: str
    code_bytes: int
    ram_bytes: int

    @property
    def calls(self) -> Path:
        """What gcc said of the calls in it (its VCG files, one after the other)."""
        return self.path.with_name(CALLS)


@dataclass(frozen=True, slots=True)
class Compiler:
    """How a compiler is called."""

    name: str
    command: tuple[str, ...]
    target: tuple[str, ...]  # its flags for the device's processor


def folders() -> tuple[Path, Path]:
    """Where the firmware's and the engine's sources lie."""
    return (
        Path(str(resources.files("qedge.firmware"))),
        Path(str(resources.files("qedge.runtime"))),
    )


def engine_flags() -> list[str]:
    """Those without which the engine's bits would differ."""
    return (folders()[1] / "engine" / "FLAGS").read_text("utf-8").split()


def compilers(device: Device) -> list[Compiler]:
    """Those of this machine that can build for a device, the best first."""
    found = []
    if device.is_process:
        for name in ("cc", "gcc", "clang"):
            if path := shutil.which(name):
                found.append(Compiler(name, (path,), tuple(device.cpu)))
    elif path := shutil.which("arm-none-eabi-gcc"):
        target = (*GCC, *GCC_CALLS, *device.cpu, *SECTIONS)
        found.append(Compiler("arm-none-eabi-gcc", (path,), target))
    if find_spec("ziglang") and (device.is_process or device.zig_cpu):
        command = (sys.executable, "-m", "ziglang", "cc")
        target = tuple(device.cpu)
        if not device.is_process:
            hard = "hf" if "-mfloat-abi=hard" in device.cpu else ""
            names = ("-target", f"thumb-freestanding-eabi{hard}", f"-mcpu={device.zig_cpu}")
            target = (*names, *SECTIONS)
        found.append(Compiler("zig", command, target))
    return found


def _choose(board: Board, device: Device, wanted: str | None) -> Compiler:
    known = compilers(device)
    for compiler in known:
        if wanted in (None, compiler.name):
            return compiler
    have = ", ".join(c.name for c in known) or "none"
    raise ToolError(
        f"no compiler for {board.name}{f' called {wanted}' if wanted else ''} (here: {have}); "
        "install gcc-arm-none-eabi, or `pip install ziglang`"
    )


def defines(board: Board, device: Device) -> list[str]:
    """The board file's facts as the firmware's macros (firmware/port.h)."""
    values: dict[str, object] = {
        "BOARD": f'"{board.name}"',
        "VERSION": f'"{version("qedge")}"',
        "FLOOR_AT": f"{device.floor_at}u",
        "SLOT_AT": f"{device.slot_at}u",
        "SLOT_BYTES": f"{device.slot_bytes}u",
        "ERASE_BYTES": f"{device.erase_bytes}u",
        "FLASH_AT": f"{device.flash_at}u",
        "FLASH_BYTES": f"{device.flash_bytes}u",
        "ARENA_BYTES": f"{device.arena_bytes}u",
        "TICK_HZ": f"{device.tick_hz}u",
        "BAUD": f"{device.baud}u",
        "USB_VENDOR": f"{device.usb_vendor}u",
        "USB_PRODUCT": f"{device.usb_product}u",
        **{name: f"{address}u" for name, address in device.registers.items()},
    }
    if device.records_at is not None:
        values["RECORDS_AT"] = f"{device.records_at}u"
        values["RECORD_BYTES"] = f"{device.record_block}u"
    return [f"-DQF_{name}={value}" for name, value in values.items()]


def _sources(firmware: Path, engine: Path, device: Device) -> list[Path]:
    found = sorted(firmware.glob("*.c")) + sorted((engine / "engine").rglob("*.c"))
    if not device.is_process:
        found += sorted((firmware / "cortex").glob("*.c"))
    return found + sorted((firmware / "ports" / device.port).glob("*.[cS]"))  # or its own


def _script(firmware: Path, device: Device) -> str:
    """The linker script with the board's memory in it."""
    text = (firmware / "cortex" / "link.ld").read_text("utf-8")
    for name in ("code_at", "code_bytes", "ram_at", "ram_bytes", "stack_bytes"):
        text = text.replace(f"DEFINED_{name.upper()}", str(getattr(device, name)))
    vectors = device.code_at if device.vectors_at is None else device.vectors_at
    text = text.replace("DEFINED_VECTORS_IN", "CODE" if vectors == device.code_at else "FRONT")
    return text.replace("DEFINED_VECTORS_AT", str(vectors))


def _key(command: list[str], rooms: Iterable[Path]) -> str:
    """Of everything that goes into a build: the sources in the rooms, too."""
    digest = hashlib.sha256("\0".join([*command, version("qedge")]).encode())
    for folder in rooms:
        for path in sorted(folder.rglob("*.[chSl]*")):
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _sizes(path: Path, device: Device) -> tuple[int, int]:
    """Bytes of flash and of RAM."""
    found = segments(path)
    end = device.ram_at + device.ram_bytes
    return (
        sum(len(segment.data) for segment in found),
        sum(s.memory for s in found if device.ram_at <= s.runs_at < end),
    )


# What linkers say (GNU's, LLVM's): a function that is called and is not there, a memory of
# link.ld that is too small.
_NOT_THERE = re.compile(r"undefined (?:reference to [`']|symbol: )(port_\w+)")
_TOO_SMALL = re.compile(r"region [`'](CODE|RAM)'[: ]+overflowed by (\d+) bytes")
_KEYS = {"CODE": "code_bytes is", "RAM": "ram_bytes less stack_bytes and arena_bytes is"}


def failed(board: Board, compiler: str, said: str) -> QedgeError:
    """The error for firmware that could not be built: by the board file's key, or the port's
    function, where it is one of these."""
    short: dict[str, int] = {}
    for region, count in _TOO_SMALL.findall(said):  # of LLVM's, one for each section
        short[region] = max(int(count), short.get(region, 0))
    if short:
        parts = [
            f"{_KEYS[region]} {count:,} bytes too small" for region, count in short.items()
        ]
        return UsageError(f"board {board.name}, [device]: {', '.join(parts)} for its firmware")
    if lacking := sorted(set(_NOT_THERE.findall(said))):
        return ToolError(
            f"{board.name}: its port has no {', '.join(lacking)}; firmware/port.h says what "
            "each has to do"
        )
    return ToolError(f"{board.name}: {compiler} could not build the firmware:\n{said}")


def build(
    board: Board,
    *,
    compiler: str | None = None,
    folder: Path | None = None,
    flags: Sequence[str] = (),
    key: bytes | None = None,
) -> Firmware:
    """The board's firmware; built unless the same was built before. ToolError without a
    compiler, or when it fails; UsageError when it does not fit the board.

    compiler: arm-none-eabi-gcc, zig, cc …; default: the first there is. folder: for the result;
    default: the cache. flags: more for the compiler. key: the
    public key whose signatures the board will want (32 bytes, Ed25519)."""
    device = device_of(board)
    chosen = _choose(board, device, compiler)
    firmware, engine = folders()
    sources = _sources(firmware, engine, device)
    command = [*chosen.command, *chosen.target, *engine_flags(), *FLAGS, *flags, f"-I{engine}"]
    if not device.is_process:
        command.append(f"-isystem{firmware / 'cortex' / 'include'}")
    own = [*command, f"-I{firmware}", *defines(board, device)]
    if key is not None:
        own.append(f"-DQF_KEY={{{','.join(str(byte) for byte in key)}}}")
    script = _script(firmware, device)
    core = engine / "engine"
    rooms = (core, firmware, firmware / "ports" / device.port)
    cache = folder or cache_folder() / "firmware"

    def objects(line: list[str], files: list[Path], rooms: Iterable[Path]) -> dict[Path, Path]:
        made = made_folder(
            cache / f"objects-{_key([*line, *map(str, files)], rooms)}",
            lambda work: _compile(work, board, chosen, line, files),
        )
        return dict(zip(files, sorted(made.glob("*.o"))))

    def make(work: Path) -> None:  # the engine knows no board: those of one processor share it
        shared = [path for path in sources if core in path.parents]
        found = objects(command, shared, [core])
        found |= objects(own, [path for path in sources if path not in shared], rooms)
        _link(work, board, device, chosen, command, [found[path] for path in sources], script)

    made = made_folder(cache / f"{board.name}-{_key([*own, script], rooms)}", make)
    output = made / ELF
    code = ram = 0
    if not device.is_process:
        code, ram = _sizes(output, device)
    return Firmware(board.name, output, chosen.name, code, ram)


def _call(board: Board, compiler: Compiler, line: list[str]) -> None:
    done = subprocess.run(
        line, capture_output=True, text=True, check=False, env=zig_environment()
    )
    if done.returncode:
        raise failed(board, compiler.name, done.stderr)


def _compile(
    work: Path, board: Board, compiler: Compiler, command: list[str], sources: list[Path]
) -> None:
    """Compiles each file for itself, as many at a time as there are processors."""

    def one(number: int, source: Path) -> None:
        output = work / f"{number:03}-{source.stem}.o"
        _call(board, compiler, [*command, "-c", str(source), "-o", str(output)])

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(one, range(len(sources)), sources))


def _link(
    work: Path,
    board: Board,
    device: Device,
    compiler: Compiler,
    command: list[str],
    objects: list[Path],
    script: str,
) -> None:
    link = list(LINK)
    link += [f"-Wl,--wrap={name}" for name in device.wrap]
    board_script = work / "board.ld"
    if not device.is_process:
        board_script.write_text(script, "utf-8")
        link.append(f"-Wl,-T,{board_script}")
        link += ["-lgcc"] if compiler.name != "zig" else []
    _call(board, compiler, [*command, *map(str, objects), *link, "-o", str(work / ELF)])
    board_script.unlink(missing_ok=True)
    if device.is_process:
        (work / ELF).chmod(0o700)
    if device.boot_crc:
        fill_boot_crc(work / ELF, device.flash_at)
    calls = [path for o in objects if (path := o.with_suffix(".ci")).exists()]
    (work / CALLS).write_text("".join(path.read_text("utf-8") for path in calls), "utf-8")
