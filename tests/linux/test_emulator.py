"""Emulated boards with Linux as neighbours: a disk is one board's, and QEMU outlives nobody."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from linux.conftest import Prepared

from qedge.runtime.errors import UsageError
from qedge.toolkit.board import Board
from qedge.toolkit.emulators.linux import LinuxEmulator


def test_second_board_on_a_disk_that_is_written_to_is_refused(
    running: LinuxEmulator, prepared: Prepared, linux_board: Board
) -> None:
    second = LinuxEmulator(linux_board, prepared.disk, overlay=running._overlay)
    with pytest.raises(UsageError, match="another emulated board runs on it"), second:
        pass
    assert running.ended is None


def test_qemu_ends_with_whoever_started_it(
    prepared: Prepared, tmp_path: Path, linux_board: Board
) -> None:
    overlay = tmp_path / "overlay"
    code = (
        "import os, sys; from pathlib import Path\n"
        "from qedge.toolkit.board import load\n"
        "from qedge.toolkit.emulators.linux import LinuxEmulator\n"
        "disk, overlay = map(Path, sys.argv[2:])\n"
        "with LinuxEmulator(load(sys.argv[1]), disk, overlay=overlay):\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    words = [linux_board.name, str(prepared.disk), str(overlay)]
    assert subprocess.run([sys.executable, "-c", code, *words]).returncode == -9

    def left() -> list[str]:
        found = []
        for entry in filter(str.isdigit, os.listdir("/proc")):
            try:
                if os.fsencode(overlay) in Path(f"/proc/{entry}/cmdline").read_bytes():
                    found.append(entry)
            except OSError:
                continue
        return found

    end = time.monotonic() + 30
    while left() and time.monotonic() < end:
        time.sleep(0.05)
    assert left() == []
