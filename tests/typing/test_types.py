"""qedge holds under a strict type checker, and so does a program that uses it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as its names say, which no folder of the repository shows."""
    folder = tmp_path_factory.mktemp("types")
    (folder / "qedge").mkdir()
    (folder / "qedge" / "__init__.py").symlink_to(ROOT / "package" / "__init__.py")
    for room in ("runtime", "toolkit", "boards", "firmware"):
        (folder / "qedge" / room).symlink_to(ROOT / room)
    (folder / "user.py").write_bytes((ROOT / "tests" / "typing" / "user.py").read_bytes())
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.S)
    for number, block in enumerate(blocks):
        (folder / f"readme_{number}.py").write_text(block, "utf-8")
    assert blocks
    return folder


def programs(tree: Path) -> list[str]:
    return ["user.py", *sorted(path.name for path in tree.glob("readme_*.py"))]


def checked(tree: Path, *command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=tree,
        capture_output=True,
        text=True,
        env={**os.environ, "MYPYPATH": str(tree)},
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_mypy_finds_nothing(tree: Path) -> None:
    options = [
        "--config-file",
        str(ROOT / "pyproject.toml"),
        "--cache-dir",
        str(tree / "cache"),
    ]
    checked(tree, "mypy", *options, "-p", "qedge")
    checked(tree, "mypy", *options, *programs(tree))


def test_pyright_finds_nothing_in_programs(tree: Path) -> None:
    (tree / "pyrightconfig.json").write_text(
        '{"include": ["*.py"], "extraPaths": ["."], "typeCheckingMode": "standard"}', "utf-8"
    )
    checked(tree, "basedpyright", "--level", "error", *programs(tree))
