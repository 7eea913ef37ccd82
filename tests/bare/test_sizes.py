"""Flash, RAM and stack of every firmware: as the table says, with no path of calls left out."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from support.size_table import BOARDS, KINDS, faults, other_compiler, read

from qedge.runtime.errors import NoBoardError, ToolError
from qedge.toolkit.bare.calls import Calls, Stated
from qedge.toolkit.bare.firmware import folders
from qedge.toolkit.bare.sizes import Sizes, compiler_version, measure
from qedge.toolkit.board import device_of, load


def compared(board: str, kind: str) -> Sizes:
    sizes = measure(load(board), key=KINDS[kind])
    if why := other_compiler(sizes.compiler):
        pytest.skip(why)
    assert not faults(sizes, read().get(board, {}).get(kind))
    return sizes


@pytest.mark.parametrize("board", BOARDS)
def test_a_firmware_is_no_larger_than_the_table_says(board: str) -> None:
    sizes = compared(board, "plain")
    assert sizes.stack_path[0].startswith("main ") and len(sizes.stack_path) > 8


def test_the_check_of_signatures_fits_the_smallest_stack() -> None:
    sizes = compared("pico", "key")
    assert any(one.startswith("qe_ed25519_verify ") for one in sizes.stack_path)


def test_growth_and_a_stack_without_spare_room_are_faults() -> None:
    sizes = Sizes("pico", "gcc 1", 10000, 2000, 3000, 600, 800, 200, 200, ["main 600"])
    row = {"flash_bytes": 10000, "static_bytes": 2000, "stack_bytes": 600, "handler_bytes": 200}
    assert faults(sizes, row) == []
    assert faults(replace(sizes, flash_bytes=10100), row) == []
    (grown,) = faults(replace(sizes, flash_bytes=10101), row)
    assert "flash_bytes grew from 10000 to 10101" in grown and "UPDATE=1" in grown
    (deep,) = faults(replace(sizes, stack_bytes=601), row)
    assert "601 of 800 bytes of stack leave less than 25 %: main 600" in deep
    (small,) = faults(replace(sizes, handler_room=199), row)
    assert "handlers need 200 of 199" in small
    (new,) = faults(sizes, None)
    assert "no row" in new


def test_another_compiler_is_named_and_not_compared() -> None:
    assert other_compiler(read()["compiler"]) is None
    assert "this is gcc 99" in str(other_compiler("gcc 99"))


def test_a_process_has_no_sizes() -> None:
    with pytest.raises(NoBoardError, match="sim is a process"):
        measure(load("sim"))


def test_the_command_line_says_them(qedge: Callable[..., CompletedProcess[str]]) -> None:
    said = json.loads(qedge("firmware", "size", "-b", "pico", "--json").stdout)
    sizes = measure(load("pico"))
    assert said["stack_path"] == sizes.stack_path
    assert said["stack_bytes"] == sum(int(one.split()[1]) for one in sizes.stack_path)
    device = device_of(load("pico"))
    assert said["static_bytes"] + said["arena_bytes"] + said["stack_room"] <= device.ram_bytes
    assert "device_run" in qedge("firmware", "size", "-b", "pico").stdout


def test_what_the_list_of_pointers_repeats_is_as_the_sources_have_it() -> None:
    firmware, engine = folders()
    stated = Stated.read()
    header = (engine / "engine" / "kernels" / "kernels.h").read_text("utf-8")
    struct = header[header.index("const char *name;") : header.index("} qe_kernels;")]
    assert re.findall(r"\(\*(\w+)\)\(", struct) == stated.members
    (depth,) = re.findall(r"MOST_DEPTH = (\d+)", (firmware / "cbor.c").read_text("utf-8"))
    assert stated.recursion == {"skip_rest": int(depth) + 1}
    sets = {load(name).kernels for name in BOARDS} | {"portable"}
    assert sets == {name.removeprefix("qe_") for name in stated.tables}


# ---- calls that cannot be followed ----

BARE = "int main(void); __attribute__((used)) void _start(void) { main(); }\n"


def calls_of(source: str, folder: Path) -> Calls:
    gcc = shutil.which("arm-none-eabi-gcc")
    assert gcc, compiler_version(load("pico"))
    (folder / "x.c").write_text(BARE + source)
    line = [gcc, "-mthumb", "-mcpu=cortex-m3", "-O1", "-nostdlib", "-fcallgraph-info=su"]
    line += ["-c", str(folder / "x.c"), "-o", str(folder / "x.o")]
    subprocess.run(line, check=True)
    link = [gcc, "-nostdlib", str(folder / "x.o"), "-o", str(folder / "x.elf"), "-lgcc"]
    subprocess.run(link, check=True)
    return Calls(folder / "x.elf", folder / "x.ci", [])


KEEP = "__attribute__((noinline, noipa)) "


def test_the_deepest_path_is_the_sum_of_its_frames(tmp_path: Path) -> None:
    source = f"""
    {KEEP}int leaf(volatile int *p) {{ volatile int much[100]; much[5] = *p; return much[5]; }}
    {KEEP}int shallow(volatile int *p) {{ return leaf(p) + 1; }}
    {KEEP}int deep(volatile int *p) {{ volatile int o[50]; o[2] = *p; return leaf(o) + 1; }}
    int main(void) {{ volatile int x = 3; return shallow(&x) + deep(&x); }}"""
    path = calls_of(source, tmp_path).deepest("main")
    assert [function.name for function in path] == ["main", "deep", "leaf"]
    assert path[1].frame >= 200 and path[2].frame >= 400
    assert sum(function.frame for function in path) < 700


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("int main(void) { extern int (*volatile way)(void); return way() + 1; }\n"
         "int (*volatile way)(void) = main;", "does not know"),
        (f"{KEEP}int again(int n) {{ return n ? again(n - 1) * n + 1 : 0; }}\n"
         "int main(void) { return again(5) + 1; }", "again calls itself"),
        (f"int one(int n); {KEEP}int two(int n) {{ return n ? one(n - 1) + 2 : 0; }}\n"
         f"{KEEP}int one(int n) {{ return n ? two(n - 1) + 1 : 0; }}\n"
         "int main(void) { return one(5) + 1; }", "calls one: how often"),
        (f"{KEEP}void see(char *p) {{ *p = 1; }}\n"
         f"{KEEP}int any(int n) {{ char room[n]; see(room); return room[0]; }}\n"
         "int main(void) { return any(5) + 1; }", "depends on what it is called with"),
        ("__asm__(\".thumb_func\\n.type way, %function\\nway: mov sp, r0\\n blx r1\\n\");\n"
         "int way(int n); int main(void) { return way(5) + 1; }", "cannot be followed"),
    ],
    ids=["pointer", "recursion", "circle", "alloca", "assembler"],
)  # fmt: skip
def test_what_cannot_be_followed_is_an_error(source: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ToolError, match=message):
        calls_of(source, tmp_path).deepest("main")


def test_a_function_that_only_an_unknown_pointer_reaches_is_named(tmp_path: Path) -> None:
    source = "int lost(void) { return 1; }\nint main(void) { return 2; }"
    assert calls_of(source, tmp_path).unreached(["main", "_start"]) == ["lost"]
