"""Board files: facts as data.  An unknown key is an error that names the nearest known one."""

from __future__ import annotations

import difflib
import platform
import sys
from dataclasses import dataclass, fields
from importlib import resources

from qedge.runtime.errors import NoBoardError, UsageError
from qedge.runtime.machine import kernel_sets
from qedge.toolkit.quantize import Layout

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


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
    layout_rows: int
    layout_group: int
    ram_bytes: int = 0

    @property
    def layout(self) -> Layout:
        return Layout(self.layout_rows, self.layout_group)


def names() -> list[str]:
    """The boards that this installation knows, in order."""
    files = resources.files("qedge.boards").iterdir()
    return sorted(f.name.removesuffix(".toml") for f in files if f.name.endswith(".toml"))


def parse(name: str, text: str) -> Board:
    """A board file's text to its value; UsageError for what is missing, unknown or of a wrong
    type."""
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"board {name}: {error}") from error
    known = {f.name: f for f in fields(Board) if f.name != "name"}
    for key, value in found.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"; did you mean {near[0]}?" if near else f"; known are {', '.join(known)}"
            raise UsageError(f"board {name}: unknown key {key}{hint}")
        if type(value).__name__ != known[key].type:
            raise UsageError(f"board {name}: {key} must be {known[key].type}, not {value!r}")
    missing = [k for k in known if k not in found and k != "ram_bytes"]
    if missing:
        raise UsageError(f"board {name}: missing {', '.join(missing)}")
    return Board(name=name, **found)


def host_name() -> str:
    """The profile of this machine, which is what `-b host` records."""
    usable = [name for name, ok in kernel_sets() if ok]
    machine = platform.machine().lower()
    if machine in ("x86_64", "amd64"):
        return {"avx512": "x86-64-v4", "avx2": "x86-64-v3"}.get(usable[0], "x86-64")
    if machine in ("aarch64", "arm64"):
        return "aarch64-dotprod" if usable[0] == "dotprod" else "aarch64"
    raise NoBoardError(f"no profile for a {machine} host; name a board: {', '.join(names())}")


def load(name: str) -> Board:
    """The board called name; `host` is this machine's profile. NoBoardError when there is
    none."""
    name = host_name() if name == "host" else name
    known = names()
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)} and host"
        raise NoBoardError(f"no board is called {name}; {hint}")
    return parse(name, (resources.files("qedge.boards") / f"{name}.toml").read_text("utf-8"))
