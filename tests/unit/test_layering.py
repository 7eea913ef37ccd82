"""The house keeps its one direction: who may import whom, and what the engine may touch."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ENGINE = ROOT / "runtime" / "engine"
WALK = [
    "files",
    "kept",
    "locate",
    "vocabulary",
    "vocabulary_table",
    "chat",
    "source",
    "layout",
    "quantize",
    "recipe",
    "rope",
    "board",
    "budget",
    "image",
    "predict",
    "build",
    "advise",
    "encode",
    "evaluate",
    "describe",
    "hub",
    "pull",
    "auto",
    "elf",
    "firmware",
    "wheel",
    "link",
    "emulator",
    "rootfs",
    "emulated_linux",
    "signature",
    "flash",
    "card",
    "sdcard",
    "uf2",
    "ssh_config",
    "known_hosts",
    "ssh_keys",
    "ssh_connect",
    "shell",
    "ssh",
    "service",
    "linux",
    "lab",
    "reach",
    "connected",
    "remote",
    "trust",
    "record",
    "plot",
    "report",
    "demo",
    "pytest_plugin",
    "show",
    "cli",
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


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {
                str(node.module)
            }
    return found


def room(module: str) -> str | None:
    match = re.match(r"qedge\.toolkit\.(\w+)", module)
    name = match[1] if match else None
    parts = ("forms", "hf", "named", "rules", "shape", "spm", "value")
    return "vocabulary" if name in [f"vocabulary_{part}" for part in parts] else name


def test_toolkit_modules_import_only_what_stands_to_their_left() -> None:
    for path in sorted((ROOT / "toolkit").rglob("*.py")):
        parts = path.relative_to(ROOT / "toolkit").with_suffix("").parts
        here = room(f"qedge.toolkit.{parts[0]}")
        if here in ("__init__", "__main__", "unicode_table"):
            continue
        assert here in WALK, f"{path.name}: name its place in the walk"
        for module in imports(path):
            there = room(module)
            if there in WALK and there != here:
                assert WALK.index(there) < WALK.index(here), f"{path.name} imports {module}"


def test_runtime_imports_no_toolkit() -> None:
    for path in (ROOT / "runtime").glob("*.py"):
        assert not [m for m in imports(path) if m.startswith(("qedge.toolkit", "qedge.boards"))]


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
    import sys

    subprocess.run([sys.executable, "-c", code], check=True, cwd="/")


def test_engine_includes_three_headers_and_its_own() -> None:
    own = {path.name for path in ENGINE.glob("*.h")}
    for path in ENGINE.glob("*.[ch]"):
        found = set(re.findall(r'#\s*include\s*[<"]([^>"]+)[>"]', path.read_text("utf-8")))
        assert found <= own | STANDARD | INTRINSICS, f"{path.name}: {found - own - STANDARD}"
        if found & INTRINSICS:
            assert path.stem in (
                *("amx", "avx2", "avx512", "armv7", "mve"),
                *("neon", "neon_base", "neon_dot", "dotprod", "i8mm"),
            )


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
        found = set(re.findall(r'#\s*include\s*[<"]([^>"]+)[>"]', path.read_text("utf-8")))
        assert found <= own | STANDARD, f"{path.name}: {found - own - STANDARD}"


def test_only_slots_write_to_flash() -> None:
    for path in (ROOT / "firmware").glob("*.c"):
        calls = re.findall(r"port_(?:erase|program)\(", path.read_text("utf-8"))
        assert bool(calls) == (path.name == "slots.c"), path.name


FREESTANDING = [*sorted(ENGINE.glob("*.c")), ROOT / "toolkit" / "tiles.c"]


@pytest.mark.parametrize("source", FREESTANDING, ids=lambda path: path.stem)
def test_object_calls_no_library(source: Path, tmp_path: Path) -> None:
    assert shutil.which("gcc"), "install gcc"
    flags = "-std=c11 -O2 -Wall -Wextra -Wpedantic -Werror -fno-pie"
    flags += " -ffp-contract=off -fno-math-errno"
    item = tmp_path / "object.o"
    subprocess.run(["gcc", *flags.split(), "-c", source, "-o", item], check=True)
    symbols = subprocess.run(
        ["nm", "-u", item], check=True, capture_output=True, text=True
    ).stdout
    outside = {
        name for name in re.findall(r"U (\S+)", symbols) if not name.startswith(("qe_", "qt_"))
    }
    assert outside <= LIBRARY_CALLS
    defined = subprocess.run(["nm", item], check=True, capture_output=True, text=True).stdout
    assert not re.findall(r" [bBdDcC] (?!q[et]_)(\S+)", defined.replace(" d .", "")), (
        "globals that change"
    )


def test_files_keep_to_a_readable_length() -> None:
    patterns = [f"{room}/**/*.{end}" for room in ROOMS for end in ("[ch]", "py", "pyx")]
    for pattern in patterns:
        for path in ROOT.glob(pattern):
            if path.name not in ("unicode.c", "_engine.c", "_tiles.c"):  # generated
                most = 550 if path.suffix == ".pyx" else 450  # the one binding
                assert len(path.read_text("utf-8").splitlines()) <= most, path
