"""QEMU's machines that Linux boards are emulated on: boards/machines, a file each."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from functools import cache
from importlib import resources

from qedge.runtime.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True, slots=True)
class Machine:
    """What QEMU and Debian's kernel have to be told of one."""

    name: str
    ram_mib: int
    kernel: str  # Debian's package
    modules: list[str]  # that the initial RAM disk loads
    console: str
    root: str  # the disk's device
    write_cache: bool  # of its disk
    drive: str  # how QEMU is given the disk
    options: list[str] = field(default_factory=list)  # of QEMU
    arguments: str = ""  # of the kernel, besides console and root
    device_tree: str = ""  # in the kernel's package; none: QEMU makes one


@cache
def machine(name: str) -> Machine:
    """The machine that a board file's `emulator` begins with; UsageError for another."""
    folder = resources.files("qedge.boards") / "machines"
    known = sorted(f.name.removesuffix(".toml") for f in folder.iterdir())
    if name not in known:
        raise UsageError(
            f"emulator {name!r}: no machine that Linux boards are emulated on; "
            f"known are {', '.join(known)}"
        )
    file = folder / f"{name}.toml"
    return Machine(name, **tomllib.loads(file.read_text("utf-8")))
