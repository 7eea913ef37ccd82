"""Power may fail at any moment of an update: the board comes back with the old or the new
image."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from device.conftest import MakeImage, compile_port, put

from qedge.toolkit.board import Board
from qedge.toolkit.emulator import Emulator


@pytest.fixture(scope="module")
def power_cut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = Path(__file__).with_name("power_cut.c")
    return compile_port(source, tmp_path_factory.mktemp("cut") / "power_cut")


@pytest.mark.parametrize("before", [1, 2], ids=["into an empty slot", "over an older image"])
def test_every_operation_of_an_update_may_be_the_last(
    before: int,
    power_cut: Path,
    make_image: MakeImage,
    sim: Board,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    flash_file = tmp_path / "flash.bin"
    with Emulator(sim, flash_file) as emulator:
        device = emulator.connect()
        for seed in range(before):
            put(device, make_image("sim", seed=seed + 1), sim)
        device.close()
    image = make_image("sim", seed=9)
    done = subprocess.run(
        [power_cut, flash_file, image, "7"], capture_output=True, text=True, check=False
    )
    found = json.loads(done.stdout)
    with capsys.disabled():
        print(f"\n  power cut {found}")
    assert done.returncode == 0, found
    assert found["cuts"] == 5 * found["operations"] > 500
    assert found["neither"] == found["unfinished"] == 0
    assert found["old"] > 0 and found["new"] > 0 and found["finished"] > 50
