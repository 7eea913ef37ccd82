"""The runtime's own tests (on_device.py), here and inside an emulated board."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from linux.conftest import MakeImage

from qedge.runtime.model import Model
from qedge.toolkit.board import Board
from qedge.toolkit.device.reach import reach
from qedge.toolkit.emulators.linux import LinuxEmulator

TESTS = Path(__file__).with_name("on_device.py")


@pytest.fixture(scope="module")
def folder(make_image: MakeImage, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image, and what this machine computes with it."""
    place = tmp_path_factory.mktemp("images")
    image = make_image(40)
    (place / "image.qimg").write_bytes(image.read_bytes())
    with Model.open(image) as model:
        text = "".join(model.generate("hello there", 12, hash=True))
        expected = {"prompt": "hello there", "text": text, "logits_hash": model.logits_hash()}
        list(model.generate("hello there", 20, temperature=0.9, top_p=0.95, seed=11))
        expected["sampled"] = model.tokens
        expected["golden"] = model.test()
        expected["arena_bytes"] = model.arena_bytes
    (place / "expected.json").write_text(json.dumps(expected))
    return place


def test_they_pass_here(folder: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "unittest", str(TESTS)],
        env={**os.environ, "QEDGE_TEST_IMAGES": str(folder)},
        capture_output=True,
        text=True,
        cwd=TESTS.parent,
    )
    assert ended.returncode == 0 and "skipped" not in ended.stderr, ended.stderr


def test_they_pass_on_the_board(
    folder: Path, running: LinuxEmulator, linux_board: Board
) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for path in (*folder.iterdir(), TESTS):
            tar.add(path, path.name)
    with reach(linux_board, running.port, str(running.identity)) as there:
        assert there.linux is not None
        shell, python = there.linux.shell, there.linux.python
        runtime = f"{there.linux.facts.root}/{there.linux.runtime}"
        ended = shell.run("mkdir -p /tmp/t && tar -x -C /tmp/t", packed.getvalue())
        assert ended.code == 0, ended.complaints
        ended = shell.run(
            "cd /tmp/t; export QEDGE_TEST_IMAGES=/tmp/t; "
            f"PYTHONPATH={runtime} {python} -m unittest on_device"
        )
        assert ended.code == 0 and "skipped" not in ended.complaints, ended.complaints
        assert "OK" in ended.complaints
