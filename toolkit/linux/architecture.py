"""What the runtime's wheel is compiled for: boards/architectures, a file each."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from functools import cache
from importlib import resources

from qedge.runtime.errors import UsageError
from qedge.toolkit.board import linux_of, load

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True, slots=True)
class Architecture:
    """An architecture as `uname -m` says it: the wheel's platform, zig's target and processor,
    and the processor of files whose functions run only where the system says so."""

    name: str
    tag: str
    triple: str
    cpu: str
    cpu_of: dict[str, str] = field(default_factory=dict)
    flags: list[str] = field(default_factory=list)


@cache
def architectures() -> dict[str, Architecture]:
    """All that are known, by name."""
    found = {}
    for file in (resources.files("qedge.boards") / "architectures").iterdir():
        if file.name.endswith(".toml"):
            name = file.name.removesuffix(".toml")
            found[name] = Architecture(name, **tomllib.loads(file.read_text("utf-8")))
    return dict(sorted(found.items()))


def architecture(board_or_arch: str) -> Architecture:
    """The one of that name, or of a board with Linux. NoBoardError for others, UsageError for a
    board file that names none of these."""
    known = architectures()
    if board_or_arch in known:
        return known[board_or_arch]
    board = load(board_or_arch)
    wanted = linux_of(board).wheel
    if wanted not in known:
        raise UsageError(
            f"board {board.name}, [linux]: wheel {wanted!r} is not an architecture that a "
            f"runtime can be built for; known are {', '.join(known)}"
        )
    return known[wanted]
