"""A board that qedge has no file of is one by its own file."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest
from support.tiny_models import TinyConfig, make_weights, write_gguf

from qedge.runtime.errors import NoBoardError, UsageError
from qedge.runtime.image import open_image
from qedge.toolkit.bare.firmware import build as build_firmware
from qedge.toolkit.bare.firmware import folders
from qedge.toolkit.board import device_of, load
from qedge.toolkit.device import flash, remote
from qedge.toolkit.emulators.bare import Emulator
from qedge.toolkit.make.build import build


def board_file(folder: Path, name: str, like: str, **changes: str) -> Path:
    text = (resources.files("qedge.boards") / f"{like}.toml").read_text("utf-8")
    for old, new in changes.values():
        assert old in text
        text = text.replace(old, new)
    path = folder / f"{name}.toml"
    path.write_text(text, "utf-8")
    return path


def test_an_rp2040_board_that_is_no_pico_builds_from_its_file(tmp_path: Path) -> None:
    path = board_file(tmp_path, "my-rp2040", "pico")
    board = load(str(path))
    assert board.name == "my-rp2040" and device_of(board).port == "rp2040"
    firmware = build_firmware(board, folder=tmp_path)
    assert b"my-rp2040" in firmware.path.read_bytes() and firmware.code_bytes > 10_000


def test_a_board_with_a_port_of_its_own_runs_an_image(tmp_path: Path) -> None:
    shutil.copytree(folders()[0] / "ports" / "host", tmp_path / "mine")
    path = board_file(tmp_path, "my-sim", "sim", port=('port = "host"', 'port = "./mine"'))
    board = load(str(path))
    assert device_of(board).port == str(tmp_path / "mine")
    config = TinyConfig()
    write_gguf(tmp_path / "tiny.gguf", config, make_weights(3, config))
    image = build(tmp_path / "tiny.gguf", board, tmp_path / "tiny.qimg", quant="q8_0").image
    assert open_image(image).plan["board"] == "my-sim"
    with Emulator(board, tmp_path / "flash.bin") as emulator:
        device = emulator.connect()
        flash.apply(device, flash.plan(device, image, board))
        assert len(remote.test(device)) == 64 and device.hello().board == "my-sim"
        device.close()
    command = [sys.executable, "-m", "qedge.toolkit", "emulate", str(path), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            said = json.loads(process.stdout.readline())
        finally:
            process.terminate()
    assert process.returncode == 0 and said["board"] == "my-sim"


@pytest.mark.parametrize("name", ["My_Board", "pico", "x" * 40])
def test_a_name_that_cannot_be_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        load(str(board_file(tmp_path, name, "pico")))


def test_what_is_wrong_with_a_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(NoBoardError, match="No such file"):
        load(str(tmp_path / "none.toml"))
    (tmp_path / "cut.toml").write_text("layout_rows = ")
    with pytest.raises(UsageError, match="cut"):
        load(str(tmp_path / "cut.toml"))
    path = board_file(tmp_path, "lost", "sim", port=('port = "host"', 'port = "./nowhere"'))
    with pytest.raises(
        UsageError, match=r"lost\.toml, \[device\]: port .*nowhere is not a folder"
    ):
        load(str(path))
    (tmp_path / "nowhere").mkdir()
    with pytest.raises(UsageError, match="nowhere has no file of C or assembly"):
        load(str(path))
    path = board_file(tmp_path, "odd", "pico", key=("floor_at =", "flor_at ="))
    with pytest.raises(
        UsageError, match=r"odd\.toml, \[device\]: unknown key flor_at; did you"
    ):
        load(str(path))
