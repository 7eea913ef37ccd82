"""Who calls whom in a firmware, and how deep its stack can become: the compiler's own figures
for C, the instructions for what was written in assembler, firmware/calls.toml for calls
through pointers and for recursion. A call that cannot be followed is an error, never left out.

It is an upper bound: a function counts with its whole frame at each of its calls.
"""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
import sys
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from qedge.runtime.errors import ImageError, ToolError
from qedge.toolkit.bare.elf import Symbol, segments, symbols

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_FUNCTION = 2
_NODE = re.compile(r'^node: \{ title: "([^"]+)" label: "[^"]*?(\d+) bytes \(([a-z,]+)\)', re.M)
_EDGE = re.compile(
    r'^edge: \{ sourcename: "([^"]+)" targetname: "([^"]+)"(?: label: "([^"]+)")?', re.M
)
_LINE = re.compile(r"^\s*([0-9a-f]+):\s+(\S+)\s*([^@\n]*)", re.M)
# What may change the stack pointer, and by how much; anything else that does is an error.
_PUSH = re.compile(r"(?:v?push|v?stmdb)(?:\.w)?$")
_PLACE = re.compile(r"([0-9a-f]+) <[^>+]+>")


@dataclass(slots=True)
class Function:
    """A function of the firmware. frame: bytes of stack of its own."""

    name: str
    frame: int = 0
    is_compiled: bool = False  # and gcc said what it calls
    calls: set[int] = field(default_factory=set)  # addresses


@dataclass(frozen=True, slots=True)
class Stated:
    """firmware/calls.toml."""

    tables: list[str]
    members: list[str]
    functions: dict[str, list[str]]
    recursion: dict[str, int]

    @classmethod
    def read(cls) -> Stated:
        text = (resources.files("qedge.firmware") / "calls.toml").read_text("utf-8")
        found = tomllib.loads(text)
        kernels = found["kernels"]
        return cls(
            kernels["tables"], kernels["members"], found["functions"], found["recursion"]
        )

    def pointers_at(self, place: str) -> list[str]:
        """The pointers that the call at FILE:LINE:COLUMN may go through. ToolError."""
        path, line, column = place.rsplit(":", 2)
        text = Path(path).read_text("utf-8").splitlines()[int(line) - 1]
        known = "|".join([*self.members, *self.functions])
        rest = text[int(column) - 1 :]
        if rest[:1] in "?:":  # (a ? p->one : p->other)(...): gcc names a place within
            found = re.findall(rf"\b({known})\b", text)
        else:
            found = re.findall(rf"\b({known})\(", rest)[:1]
        if not found:
            raise ToolError(
                f"{place}: a call through a pointer that firmware/calls.toml does not know: "
                f"{text.strip()}"
            )
        return found


class Calls:
    """The functions of a firmware, by address, and their calls."""

    def __init__(self, elf: Path, calls: Path, wrap: list[str]) -> None:
        self._elf, self._wrap = elf, wrap
        self._symbols = symbols(elf)
        self.functions: dict[int, Function] = {}
        self._named: dict[tuple[str, str], list[int]] = {}  # by file ("" for global) and name
        for symbol in self._symbols:
            if symbol.kind == _FUNCTION:
                self.functions.setdefault(symbol.address, Function(symbol.name))
                self._named.setdefault((symbol.file, symbol.name), []).append(symbol.address)
        self._stated = Stated.read()
        self._compiled(calls.read_text("utf-8"))
        self._disassembled()

    def address(self, name: str) -> int:
        """Of the one function of that name. ImageError."""
        found = {
            a for (_, known), places in self._named.items() if known == name for a in places
        }
        if len(found) != 1:
            raise ImageError(f"{self._elf}: {len(found)} functions are called {name}")
        return found.pop()

    def handlers(self, table: str) -> list[str]:
        """The functions that a table of exceptions or interrupts names, each once."""
        found: list[str] = []
        for symbol in self._symbols:
            if symbol.name == table:
                words = struct.unpack(f"<{symbol.bytes // 4}I", self._bytes(symbol))
                places = [word & ~1 for word in words if word & ~1 in self.functions]
                found += [self.functions[place].name for place in places]
        return sorted(set(found))

    def room(self, name: str) -> int:
        """Bytes of the variable of that name. ImageError."""
        found = [symbol.bytes for symbol in self._symbols if symbol.name == name]
        if len(found) != 1:
            raise ImageError(f"{self._elf}: {len(found)} variables are called {name}")
        return found[0]

    def deepest(self, entry: str) -> list[Function]:
        """The path from a function down that needs most of the stack. ToolError for recursion
        that firmware/calls.toml has no bound for."""
        known: dict[int, tuple[int, list[Function]]] = {}

        def below(address: int, above: list[int]) -> tuple[int, list[Function]]:
            function = self.functions[address]
            if address in above:
                circle = [*above[above.index(address) :], address]
                raise ToolError(
                    f"{' calls '.join(self.functions[a].name for a in circle)}: how often? A "
                    "function that calls itself can be counted, by its bound in "
                    "firmware/calls.toml; a circle of several cannot"
                )
            if address not in known:
                path = [*above, address]
                others = (below(to, path) for to in sorted(function.calls) if to != address)
                bytes_, rest = max(others, key=lambda found: found[0], default=(0, []))
                known[address] = bytes_ + function.frame, [function, *rest]
            return known[address]

        return below(self.address(entry), [])[1]

    def unreached(self, entries: list[str]) -> list[str]:
        """The compiled functions that no entry leads to, and that calls.toml does not name: a
        pointer to each of them is somewhere, and nobody is known to call through it."""
        left = {self.address(name) for name in entries}
        found: set[int] = set()
        while left:
            found.add(address := left.pop())
            left |= self.functions[address].calls - found
        named = {name for names in self._stated.functions.values() for name in names}
        return sorted(
            function.name
            for address, function in self.functions.items()
            if function.is_compiled and address not in found and function.name not in named
        )

    # ---- what gcc says ----

    def _places(self, title: str) -> list[int]:
        """The addresses of what gcc calls FILE:NAME, or NAME when it is global."""
        file, _, name = title.rpartition(":")
        if not file:
            if name.startswith("__real_"):
                name = name.removeprefix("__real_")
            elif name in self._wrap:
                name = f"__wrap_{name}"
        return self._named.get((Path(file).name if file else "", name), [])

    def _compiled(self, text: str) -> None:
        if not text:
            raise ToolError(f"{self._elf}: only gcc says what a function needs of the stack")
        for title, frame, kind in _NODE.findall(text):
            for address in self._places(title):  # none: the linker left it out
                function = self.functions[address]
                if kind == "dynamic":
                    raise ToolError(f"{title}: its stack depends on what it is called with")
                function.frame = max(function.frame, int(frame))
                function.is_compiled = True
        for source, target, place in _EDGE.findall(text):
            callers = self._places(source)
            if not callers:
                continue
            if target == "__indirect_call":
                reached = self._behind(place)
            else:
                reached = self._places(target)  # none: gcc found later that it need not call
            for caller in callers:
                self.functions[caller].calls.update(reached)
        for address, function in self.functions.items():
            if address in function.calls:
                function.frame *= self._times(function.name)

    def _times(self, name: str) -> int:
        """How many frames of a function that calls itself are on the stack at most."""
        bound = self._stated.recursion.get(name.split(".")[0])  # gcc's clones: name.part.0 …
        if bound is None:
            raise ToolError(f"{name} calls itself: give it a bound in firmware/calls.toml")
        return bound

    def _behind(self, place: str) -> list[int]:
        found: list[int] = []
        for pointer in self._stated.pointers_at(place):
            if pointer in self._stated.functions:
                found += [self.address(name) for name in self._stated.functions[pointer]]
            else:
                at = 1 + self._stated.members.index(pointer)
                found += [table[at] & ~1 for table in self._tables()]
        return found

    def _tables(self) -> list[tuple[int, ...]]:
        """The words of every table of kernels."""
        words = 1 + len(self._stated.members)
        found = []
        for symbol in self._symbols:
            if symbol.name in self._stated.tables:
                if symbol.bytes != 4 * words:
                    raise ToolError(
                        f"{symbol.name} has {symbol.bytes // 4} words, firmware/calls.toml "
                        f"says {words}: name its members there, in order"
                    )
                found.append(struct.unpack(f"<{words}I", self._bytes(symbol)))
        return found

    def _bytes(self, symbol: Symbol) -> bytes:
        for segment in segments(self._elf):
            at = symbol.address - segment.runs_at
            if 0 <= at <= len(segment.data) - symbol.bytes:
                return segment.data[at : at + symbol.bytes]
        raise ImageError(f"{self._elf}: no bytes of {symbol.name}")

    # ---- what the instructions say ----

    def _disassembled(self) -> None:
        """Branches from one function to another; and the frames of those that gcc does not
        know: all that they push, whether or not at once."""
        objdump = shutil.which("arm-none-eabi-objdump")
        if objdump is None:
            raise ToolError("no arm-none-eabi-objdump; install binutils-arm-none-eabi")
        line = [objdump, "-d", "--no-show-raw-insn", str(self._elf)]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ToolError(f"{self._elf}: {done.stderr}")
        here = None
        for place, name, operands in _LINE.findall(done.stdout):
            address = int(place, 16)
            here = self.functions.get(address, here)
            if here is None or name.startswith("."):
                continue
            if address in self.functions and here.name.endswith("_veneer"):
                name_of = here.name.removeprefix("__").removesuffix("_veneer")
                here.calls.add(self.address(name_of))  # the linker's, to what is far away
            if name.startswith(("b", "cb")) and (to := _PLACE.search(operands)):
                target = int(to[1], 16)
                if target in self.functions and self.functions[target] is not here:
                    here.calls.add(target)
            if not here.is_compiled:
                here.frame += self._pushed(here, name, operands)

    def _pushed(self, function: Function, name: str, operands: str) -> int:
        """Bytes of stack that an instruction takes."""
        if _PUSH.match(name) and ("sp!" in operands or "push" in name):
            return sum(4 if r[0] != "d" else 8 for r in _registers(operands))
        if name.startswith("sub") and operands.startswith("sp, "):
            if number := re.search(r"#(\d+)$", operands.strip()):
                return int(number[1])
        elif store := re.search(r"\[sp, #-(\d+)\]!", operands):
            return int(store[1])
        elif name.startswith(("blx", "bx")) and operands.strip() != "lr":
            if function.name.endswith("_veneer"):
                return 0
        elif not name.startswith("mov") or not operands.startswith("sp"):
            return 0
        raise ToolError(f"{function.name}: {name} {operands.strip()} cannot be followed")


def _registers(operands: str) -> list[str]:
    """`{r4, r6-r8, lr}` to its registers."""
    found: list[str] = []
    for one in operands[operands.index("{") + 1 : operands.index("}")].split(", "):
        first, _, last = one.partition("-")
        if last:
            found += [f"{first[0]}{n}" for n in range(int(first[1:]), int(last[1:]) + 1)]
        else:
            found.append(one)
    return found
