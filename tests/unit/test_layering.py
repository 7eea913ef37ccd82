"""The house keeps its one direction: who may import whom, and what the engine may touch."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ENGINE = ROOT / "runtime" / "engine"
# A room imports only rooms that stand before it.
TOOLKIT = [
    *("files", "kept", "flash_map", "board"),  # the ground floor
    *("source", "fetch", "chat", "quant", "make", "learn"),  # to an image
    *(
        "link",
        "lab",
        "linux",
        "device",
        "bare",
        "card",
        "emulators",
    ),  # to a board
    *("results", "quality", "allocate", "demo", "pytest_plugin", "cli"),
]
RUNTIME = [
    *(
        "errors",
        "sizes",
        "arguments",
        "text",
        "machine",
        "sampling",
        "image",
        "session",
        "chat",
    ),
    *("generation", "model", "measure", "agent"),
]
ROOMS = ("runtime", "toolkit", "firmware")
STANDARD = {"stddef.h", "stdint.h", "string.h"}
INTRINSICS = {"immintrin.h", "arm_neon.h", "arm_mve.h"}
LIBRARY_CALLS = {
    "memcpy",
    "memset",
    "memmove",
    "memcmp",
    "strcmp",
    "__stack_chk_fail",
    "_GLOBAL_OFFSET_TABLE_",
}


def runs(node: ast.AST) -> Iterator[ast.AST]:
    """What is run of a module: all but what only type checkers see."""
    for child in ast.iter_child_nodes(node):
        test = child.test if isinstance(child, ast.If) else None
        if not (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING"):
            yield child
            yield from runs(child)


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in runs(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {
                str(node.module)
            }
    return found


def steps_back(package: str, walk: list[str]) -> Iterator[str]:
    """Imports from a room to one that does not stand before it, and files without a room."""
    root = ROOT / package
    for path in sorted(root.rglob("*.py")):
        here = path.relative_to(root).with_suffix("").parts[0]
        if here in ("__init__", "__main__", "engine"):  # engine/: a tool of its own
            continue
        if here not in walk:
            yield f"{path.relative_to(ROOT)}: name its room's place in the walk"
            continue
        for module in imports(path):
            match = re.match(rf"qedge\.{package}\.(\w+)", module)
            there = match[1] if match else None
            if there in walk and walk.index(there) > walk.index(here):
                yield f"{path.relative_to(ROOT)} imports {module}"


@pytest.mark.parametrize(
    ("package", "walk"),
    [("toolkit", TOOLKIT), ("runtime", RUNTIME)],
    ids=["toolkit", "runtime"],
)
def test_a_room_imports_only_rooms_that_stand_before_it(package: str, walk: list[str]) -> None:
    assert not list(steps_back(package, walk))


def test_no_file_imports_itself_by_way_of_another() -> None:
    """No circle of files, within a room or between rooms; imports in functions count."""
    files = {}
    for package in ("toolkit", "runtime"):
        for path in (ROOT / package).rglob("*.py"):
            name = ".".join(("qedge", *path.relative_to(ROOT).with_suffix("").parts))
            files[name] = path  # that a file loads its room's __init__ first is no circle
    needs = {name: (imports(path) & set(files)) - {name} for name, path in files.items()}
    while free := {name for name, need in needs.items() if not need}:
        needs = {name: need - free for name, need in needs.items() if name not in free}
    while free := set(needs) - {one for need in needs.values() for one in need}:
        needs = {name: need for name, need in needs.items() if name not in free}
    assert not needs


def test_runtime_imports_no_toolkit() -> None:
    for path in (ROOT / "runtime").rglob("*.py"):
        found = {m for m in imports(path) if m.startswith(("qedge.toolkit", "qedge.boards"))}
        assert not found, path


def test_board_facts_need_no_numpy() -> None:
    code = "import sys, qedge.toolkit.board; assert 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd="/")


def test_click_appears_in_the_command_line_only() -> None:
    for path in [*(ROOT / "toolkit").rglob("*.py"), *(ROOT / "runtime").rglob("*.py")]:
        if path.parent.name != "cli":
            assert not [m for m in imports(path) if m.split(".")[0] == "click"], path


def test_runtime_needs_only_the_standard_library() -> None:
    code = (
        "import sys, qedge.runtime\n"
        "heavy = {'numpy', 'click', 'rich', 'jinja2', 'gguf', 'serial', 'safetensors', "
        "'platformdirs'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd="/")


def includes(path: Path) -> set[str]:
    return set(re.findall(r'#\s*include\s*[<"]([^>"]+)[>"]', path.read_text("utf-8")))


def test_engine_includes_three_headers_and_its_own() -> None:
    """By a path from the file itself, so that the folder can be copied and needs no flag."""
    for path in ENGINE.rglob("*.[ch]"):
        found = {name for name in includes(path) if not (path.parent / name).is_file()}
        assert found <= STANDARD | INTRINSICS, f"{path.name}: {found - STANDARD}"
        if found & INTRINSICS:
            assert path.parent.name == "kernels"


def test_kernels_and_text_are_rooms_of_the_engine() -> None:
    """The core calls both; they see of it the public header, and nothing of each other."""
    for room in ("kernels", "text"):
        for path in (ENGINE / room).glob("*.[ch]"):
            outside = {name for name in includes(path) if "/" in name}
            assert outside <= {"../qedge.h"}, f"{path.name}: {outside}"


def test_binding_and_host_see_the_public_header_only() -> None:
    host = (ROOT / "runtime" / "host" / "host.h").read_text("utf-8")
    assert re.findall(r"include \"([^\"]+)\"", host) == ["../engine/qedge.h"]
    assert 'cdef extern from "host/host.h"' in (ROOT / "runtime" / "_engine.pxi").read_text(
        "utf-8"
    )


def test_firmware_sees_the_public_header_and_no_library() -> None:
    firmware = ROOT / "firmware"
    own = {path.name for path in firmware.glob("*.h")} | {"engine/qedge.h"}
    for path in [*firmware.glob("*.[ch]"), *(firmware / "cortex").glob("*.c")]:
        found = includes(path)
        assert found <= own | STANDARD, f"{path.name}: {found - own - STANDARD}"


def test_nobody_outside_the_engine_reads_a_session_field() -> None:
    """qedge.h calls them private: position, context and batch have functions."""
    field = r"(?:session|\bs)(?:\.|->)(?:image|kernels|workers|options|arena|position|at)\b"
    binding, job = ROOT / "runtime" / "_engine.pyx", (ROOT / "firmware").glob("*.c")
    for path in [binding, *job]:
        assert not re.findall(field, path.read_text("utf-8").replace("self.", "")), path.name


def test_only_slots_write_to_flash() -> None:
    for path in (ROOT / "firmware").glob("*.c"):
        calls = re.findall(r"port_(?:erase|program)\(", path.read_text("utf-8"))
        assert bool(calls) == (path.name == "slots.c"), path.name


QUANT = ROOT / "toolkit" / "quant"
FREESTANDING = [
    *sorted(ENGINE.rglob("*.c")),
    QUANT / "tiles.c",
    *sorted(QUANT.glob("search*.c")),
]


@pytest.mark.parametrize("source", FREESTANDING, ids=lambda path: path.stem)
def test_object_calls_no_library(source: Path, tmp_path: Path) -> None:
    assert shutil.which("gcc"), "install gcc"
    flags = "-std=c11 -O2 -Wall -Wextra -Wpedantic -Werror -fno-pie"
    flags += " " + (ENGINE / "FLAGS").read_text("utf-8")
    item = tmp_path / "object.o"
    subprocess.run(["gcc", *flags.split(), "-c", source, "-o", item], check=True)
    symbols = subprocess.run(
        ["nm", "-u", item], check=True, capture_output=True, text=True
    ).stdout
    outside = {
        name
        for name in re.findall(r"U (\S+)", symbols)
        if not name.startswith(("qe_", "qs_", "qt_"))
    }
    assert outside <= LIBRARY_CALLS
    defined = subprocess.run(["nm", item], check=True, capture_output=True, text=True).stdout
    assert not re.findall(r" [bBdDcC] (?!q[est]_)(\S+)", defined.replace(" d .", "")), (
        "globals that change"
    )


def test_files_keep_to_a_readable_length() -> None:
    patterns = [f"{room}/**/*.{end}" for room in ROOMS for end in ("[ch]", "py", "pyx")]
    for pattern in patterns:
        for path in ROOT.glob(pattern):
            if path.name not in (
                "unicode.c",
                "_engine.c",
                "_tiles.c",
                "_search.c",
                "_rows.c",
            ):  # generated
                most = 550 if path.suffix == ".pyx" else 450  # the one binding
                assert len(path.read_text("utf-8").splitlines()) <= most, path
