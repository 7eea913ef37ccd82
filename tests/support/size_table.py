"""firmware/sizes.toml: what every firmware took when somebody last looked; and what it takes.

python tests/support/size_table.py [--update]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from qedge.toolkit.bare.sizes import Sizes, compiler_version, measure
from qedge.toolkit.board import device_of, load, names

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TABLE = Path(__file__).parents[2] / "firmware" / "sizes.toml"
BOARDS = [name for name in names() if (d := load(name).device) and not d.is_process]
KINDS = {"plain": None, "key": bytes(32)}  # a build with a key has the check of signatures
FIGURES = ("flash_bytes", "static_bytes", "stack_bytes", "handler_bytes")
GROWTH_PERCENT = 1  # more than that is to be looked at, and written into the table
SPARE_PERCENT = 25  # of the stack's room that no path of calls may need
HEAD = """\
# What the firmware of every board takes; `key`: built with a key (`--key`), so that it checks
# signatures. `make size` compares, `make size UPDATE=1` writes this file. static_bytes is RAM
# but arena and stack; stack_bytes what the deepest path of calls needs (stack_path, each
# function with its own bytes, and what an exception puts on top); handler_bytes what those of
# faults and interrupts need on their own stack.
"""


def read() -> dict[str, Any]:
    return tomllib.loads(TABLE.read_text("utf-8"))


def text(rows: list[tuple[str, Sizes]]) -> str:
    """The file with these rows, each with its kind."""
    out = [HEAD, f'compiler = "{rows[0][1].compiler}"\n']
    for kind, sizes in rows:
        out.append(f"\n[{sizes.board}.{kind}]\n")
        out += [f"{figure} = {getattr(sizes, figure)}\n" for figure in FIGURES]
        out += ["stack_path = [\n", *(f'    "{one}",\n' for one in sizes.stack_path), "]\n"]
    return "".join(out)


def faults(sizes: Sizes, row: dict[str, Any] | None) -> list[str]:
    """What is wrong with a firmware's sizes, beside the row that the table has of it."""
    found = []
    if sizes.stack_bytes > sizes.stack_room * (100 - SPARE_PERCENT) // 100:
        found.append(
            f"{sizes.board}: {sizes.stack_bytes} of {sizes.stack_room} bytes of stack leave "
            f"less than {SPARE_PERCENT} %: {', '.join(sizes.stack_path)}"
        )
    if sizes.handler_bytes > sizes.handler_room:
        found.append(
            f"{sizes.board}: its handlers need {sizes.handler_bytes} of "
            f"{sizes.handler_room} bytes of stack"
        )
    if row is None:
        return [*found, f"{sizes.board}: no row in {TABLE.name}: make size UPDATE=1"]
    for figure in FIGURES:
        now, was = getattr(sizes, figure), row[figure]
        if now > was * (100 + GROWTH_PERCENT) // 100:
            found.append(
                f"{sizes.board}: {figure} grew from {was} to {now}, by more than "
                f"{GROWTH_PERCENT} %: make it smaller, or take it up by make size UPDATE=1"
            )
    return found


def other_compiler(found: str) -> str | None:
    """Why the table says nothing of what this machine's compiler makes; None when it does."""
    by = read()["compiler"]
    if by == found:
        return None
    return f"{TABLE.name} is by {by}, this is {found}: their sizes are not compared"


def _show(kind: str, sizes: Sizes, row: dict[str, Any] | None) -> None:
    device = device_of(load(sizes.board))
    cells = []
    for figure in FIGURES:
        now = getattr(sizes, figure)
        change = now - row.get(figure, now) if row else 0
        cells.append(f"{now:>8,} {f'({change:+,})' if change else '':9}")
    spare = 100 - 100 * sizes.stack_bytes // sizes.stack_room
    print(
        f"{sizes.board:9} {kind:6} {cells[0]} of {device.code_bytes:>9,}  {cells[1]} "
        f"{sizes.arena_bytes:>9,}  {cells[2]} of {sizes.stack_room:>6,}  {spare:>3} % spare"
        f"  {cells[3]} of {sizes.handler_room}"
    )
    if row and row["stack_path"] != sizes.stack_path:
        print(f"{'':16} deepest now: {', '.join(sizes.stack_path)}")


def main(update: bool) -> int:
    why = None if update else other_compiler(compiler_version(load(BOARDS[0])))
    known = read() if TABLE.exists() and why is None else {}
    print(
        f"{'board':16} {'flash':32}  {'static':>8} {'':9} {'arena':>9}  {'stack':>8}"
        f"{'handlers':>47}"
    )
    rows, wrong = [], []
    for board in BOARDS:
        for kind, key in KINDS.items():
            sizes = measure(load(board), key=key)
            row = known.get(board, {}).get(kind)
            _show(kind, sizes, row)
            rows.append((kind, sizes))
            wrong += [] if why or update else faults(sizes, row)
    if update:
        TABLE.write_text(text(rows), "utf-8")
        return 0
    for line in [why] if why else wrong:
        print(line, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main("--update" in sys.argv[1:]))
