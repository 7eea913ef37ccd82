"""What is made once for all workers of a test run, and not once by each of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from qedge.toolkit.files import locked


def shared_folder(factory: pytest.TempPathFactory, name: str) -> Path:
    """A folder of this run that its workers have in common."""
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    folder = base / "shared" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def made_once(path: Path, make: Callable[[], object]) -> Path:
    """The file or folder at path, by whoever comes first; the others wait. `make` makes it
    whole or fails."""
    with locked(path.with_name(f".{path.name}.lock")):
        if not path.exists():
            make()
    return path
