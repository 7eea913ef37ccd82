"""Compilers and machines for the conformance programs.

A machine is a compiler's target and what runs it: this one, or qemu-user as a certain CPU.  A
program is built once per target and run.  What is missing fails the test where it must not
be (CI, root: `make test` installs it), and skips it elsewhere; both say what to install.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytest
from support.shared import made_once

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ROOT / "tests" / "conformance"
FLAGS = (*(ROOT / "runtime" / "engine" / "FLAGS").read_text("utf-8").split(), "-O3")
LIBRARIES = ("-lm", "-pthread")
SOURCES = {
    "cpus_check": ("cpus_check.c",),
    "engine_check": ("engine_check.c",),
    "numeric_check": ("numeric_check.c",),
    "pool_check": ("pool_check.c",),
    "sampler_check": ("sampler_check.c",),
    "self_check": ("self_check.c",),
    "soft_check": ("soft_check.c",),
    "kernel_check": (
        "kernel_check.c",
        "kernel_rows.c",
        "kernel_attention.c",
        "kernel_matmul.c",
    ),
}


@dataclass(frozen=True, slots=True)
class Target:
    """A compiler and its flags. package: Debian packages that hold it, or "" for pip's.
    linker: who links in its place, and has the C library that zig would have to build."""

    name: str
    compiler: tuple[str, ...]
    package: str
    flags: tuple[str, ...] = ()
    linker: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Machine:
    """What a program runs on. kernels: the sets that it must be able to run, fastest first;
    empty where that depends on where the tests run."""

    name: str
    target: str
    emulator: tuple[str, ...] = ()
    kernels: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.name


_ZIG = (sys.executable, "-m", "ziglang", "cc")
TARGETS = {
    target.name: target
    for target in (
        Target("native", ("cc",), "gcc"),
        # With the kernels of the smallest microcontrollers, which are plain C.
        Target("thumb", ("cc",), "gcc", ("-DQE_WITH_THUMB",)),
        # With AVX-512's and AVX-VNNI's products on any x86-64-v3.
        Target("vnni", ("cc",), "gcc", ("-O1", "-DQE_EMULATE_VNNI", "-Wno-psabi")),
        Target(
            "aarch64",
            ("aarch64-linux-gnu-gcc",),
            "gcc-aarch64-linux-gnu libc6-dev-arm64-cross",
            ("-static",),
        ),
        Target(
            "armv7",
            ("arm-linux-gnueabihf-gcc",),
            "gcc-arm-linux-gnueabihf libc6-dev-armhf-cross",
            ("-static",),
        ),
        # Debian's armhf libc is of ARMv7, so this one is armel's, with the floats in hardware.
        Target(
            "armv6",
            ("arm-linux-gnueabi-gcc",),
            "gcc-arm-linux-gnueabi libc6-dev-armel-cross",
            ("-static", "-marm", "-march=armv6k", "-mfpu=vfp", "-mfloat-abi=softfp"),
        ),
        # As the wheels are built (toolkit/linux/wheel.py), which is by clang.
        Target("zig", (*_ZIG, "-mcpu=x86_64"), "gcc", linker=("cc",)),
        Target(
            "zig aarch64",
            (*_ZIG, "-target", "aarch64-linux-gnu"),
            "gcc-aarch64-linux-gnu libc6-dev-arm64-cross",
            linker=("aarch64-linux-gnu-gcc", "-static"),
        ),
        Target(
            "zig armv7",
            (*_ZIG, "-target", "arm-linux-gnueabihf", "-mcpu=cortex_a5", "-DQE_WITH_ARMV7"),
            "gcc-arm-linux-gnueabihf libc6-dev-armhf-cross",
            linker=("arm-linux-gnueabihf-gcc", "-static"),
        ),
        # As on a Cortex-M0+ or M3: libgcc's floats, the engine's own square root. (zig's
        # soft-float division does not round correctly; numeric_check shows it.)
        Target(
            "softfloat",
            ("arm-linux-gnueabi-gcc",),
            "gcc-arm-linux-gnueabi libc6-dev-armel-cross",
            ("-static", "-march=armv6k", "-mfloat-abi=soft"),
        ),
    )
}

NATIVE = Machine("this machine", "native")
ARM64 = [
    Machine(
        "cortex-a53", "aarch64", ("qemu-aarch64", "-cpu", "cortex-a53"), ("neon", "portable")
    ),
    Machine(
        "cortex-a72", "aarch64", ("qemu-aarch64", "-cpu", "cortex-a72"), ("neon", "portable")
    ),
    Machine(
        "cortex-a76",
        "aarch64",
        ("qemu-aarch64", "-cpu", "cortex-a76"),
        ("dotprod", "neon", "portable"),
    ),
    Machine(
        "aarch64 max",
        "aarch64",
        ("qemu-aarch64", "-cpu", "max"),
        ("i8mm", "dotprod", "neon", "portable"),
    ),
]
ARM32 = [
    Machine("armv7", "armv7", ("qemu-arm", "-cpu", "cortex-a7"), ("armv7", "dsp", "portable")),
    Machine("armv6", "armv6", ("qemu-arm", "-cpu", "arm1176"), ("dsp", "portable")),
]
SOFT_FLOAT = Machine(
    "soft float", "softfloat", ("qemu-arm", "-cpu", "arm1176"), ("dsp", "portable")
)
THUMB = Machine("thumb kernels", "thumb")
VNNI = Machine("vnni emulated", "vnni")
ZIG = [
    Machine("aarch64 max, by zig", "zig aarch64", ARM64[3].emulator, ARM64[3].kernels),
    Machine("armv7, by zig", "zig armv7", ARM32[0].emulator, ARM32[0].kernels),
]
# The binary that runs here, on a PC that lacks what it was built beside.
OLD_PC = [
    Machine("pc without avx", "native", ("qemu-x86_64", "-cpu", "Nehalem"), ("portable",)),
    Machine("pc with avx2", "native", ("qemu-x86_64", "-cpu", "Haswell"), ("avx2", "portable")),
]
if platform.machine().lower() in ("x86_64", "amd64"):
    ZIG.append(Machine("this machine, by zig", "zig"))
else:
    OLD_PC = []
EMULATED = [*ARM64, *ARM32, SOFT_FLOAT, *OLD_PC]


def missing(what: str, how: str) -> NoReturn:
    message = f"{what} is missing: {how}"
    if os.environ.get("CI") or os.geteuid() == 0:
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


def need(program: str, package: str) -> None:
    if shutil.which(program) is None:
        missing(program, f"sudo apt-get install {package}")


class Programs:
    """Builds programs when they are first asked for, and runs them."""

    def __init__(self, folder: Path) -> None:
        """folder: where they lie, for all workers of this run."""
        self._folder = folder

    def build(self, program: str, target: Target) -> Path:
        if target.package:
            need((target.linker or target.compiler)[0], target.package)
        if target.compiler[: len(_ZIG)] == _ZIG and not importlib.util.find_spec("ziglang"):
            missing("ziglang", f"{sys.executable} -m pip install ziglang")
        folder = self._folder / target.name
        folder.mkdir(exist_ok=True)
        return made_once(folder / program, lambda: self._compile(program, target, folder))

    def _compile(self, program: str, target: Target, folder: Path) -> None:
        build = [*target.compiler, *FLAGS, *target.flags, "-c"]

        def compiled(name: str, code: list[Path]) -> Path:
            def make() -> None:
                part = folder / f"{name}.part"
                part.mkdir()
                _call([*build, *code], part)
                part.rename(folder / name)

            return made_once(folder / name, make)

        engine = [*ROOT.glob("runtime/engine/**/*.c"), *ROOT.glob("runtime/host/*.c")]
        objects = compiled("objects", sorted(engine))
        own = compiled(f"{program}_objects", [PROGRAMS / name for name in SOURCES[program]])
        linker = target.linker or (*target.compiler, *target.flags)
        built = [*sorted(own.glob("*.o")), *sorted(objects.glob("*.o"))]
        _call([*linker, *built, "-o", folder / program, *LIBRARIES], folder)

    def start(
        self, machine: Machine, program: str, *arguments: object
    ) -> subprocess.CompletedProcess[str]:
        """Runs the program there and says how it ended."""
        if machine.emulator:
            need(machine.emulator[0], "qemu-user")
        path = self.build(program, TARGETS[machine.target])
        command = [*machine.emulator, str(path), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=300)

    def run(self, machine: Machine, program: str, *arguments: object) -> list[dict[str, Any]]:
        """The lines of JSON that it prints; it must succeed."""
        ended = self.start(machine, program, *arguments)
        assert ended.returncode == 0, f"{machine}: {ended.stdout}{ended.stderr}"
        return [json.loads(line) for line in ended.stdout.splitlines()]


def _call(command: list[Any], folder: Path) -> None:
    ended = subprocess.run(
        [str(c) for c in command], cwd=folder, capture_output=True, text=True
    )
    assert ended.returncode == 0, f"{command[0]}: {ended.stderr}"
