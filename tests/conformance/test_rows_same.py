"""Divergence has the same bits on every instruction set: a cluster may be of any machines."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROWS = ROOT / "toolkit" / "quality" / "rows.c"
# compiler, flags, and what runs the program
MACHINES = {
    "plain": ("gcc", ["-DQR_PLAIN"], []),
    "aarch64": ("aarch64-linux-gnu-gcc", ["-static"], ["qemu-aarch64"]),
    "armv7": ("arm-linux-gnueabihf-gcc", ["-static"], ["qemu-arm"]),
}


def figures(folder: Path, compiler: str, flags: list[str], runner: list[str]) -> list[str]:
    program = folder / f"rows-{compiler}-{len(flags)}"
    given = (ROOT / "runtime" / "engine" / "FLAGS").read_text("utf-8").split()
    source = Path(__file__).with_name("rows_check.c")
    command = [compiler, *given, "-O3", "-Wall", "-Wextra", "-Werror", *flags, source, ROWS]
    subprocess.run([*command, "-o", program], check=True)
    done = subprocess.run([*runner, program], check=True, capture_output=True, text=True)
    return done.stdout.split()


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return figures(tmp_path_factory.mktemp("rows"), "gcc", [], [])


@pytest.mark.parametrize("name", MACHINES)
def test_figures_have_the_same_bits_everywhere(
    here: list[str], name: str, tmp_path: Path
) -> None:
    compiler, flags, runner = MACHINES[name]
    for tool in (compiler, *runner):
        assert shutil.which(tool), f"install {tool} (make packages)"
    assert figures(tmp_path, compiler, flags, runner) == here
    assert len(here) == 5 * 40 * 4
