"""Emulated boards as real ones: the same image gives the same logits on every processor."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from bare.conftest import MakeImage, put

from qedge.runtime.errors import NoBoardError
from qedge.runtime.model import Model
from qedge.toolkit.bare.firmware import build
from qedge.toolkit.bare.sizes import measure
from qedge.toolkit.board import device_of, load
from qedge.toolkit.device import remote
from qedge.toolkit.emulators.bare import Emulator, preload

BOARDS = ["pico", "mps2-m3", "mps2-m4", "mps2-m7", "mps3-m55"]


@pytest.mark.parametrize("quant", ["q8_0", "q4_0"])
@pytest.mark.parametrize("name", BOARDS)
def test_a_board_computes_what_this_machine_does(
    name: str, quant: str, make_image: MakeImage, tmp_path: Path
) -> None:
    board, image = load(name), make_image(name, quant=quant)
    with Model.open(image) as model:
        golden = model.test()
        text = "".join(model.generate("Hello there", 8, hash=True, temperature=0.8, seed=3))
        digest = model.logits_hash()
    with Emulator(board, tmp_path / "flash.bin") as emulator:
        device = emulator.connect()
        assert put(device, image, board).verified
        assert remote.test(device) == golden
        made = remote.Run(device, "Hello there", 8, hash=True, temperature=0.8, seed=3)
        assert "".join(made) == text and made.logits_hash == digest
        hello = device.hello()
        fields = made.times.fields(hello, board)
        assert fields["emulated"] and fields["emulated_instructions_per_token"] > 1000
        assert fields["decode_tokens_per_second"] is None
        assert 0 < hello.stack_used < hello.stack == device_of(board).stack_bytes
        deepest = measure(board).stack_bytes  # of all paths that there are: this is one of them
        assert deepest // 2 < hello.stack_used <= deepest
        device.reset()
        assert device.hello(patience=20).image_id == hello.image_id
        device.close()


@pytest.mark.parametrize("name", ["mps2-m4", "mps3-m55"])
def test_a_stack_that_is_too_small_resets_the_board_and_harms_nothing(
    name: str, make_image: MakeImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qedge.toolkit.link.device.STEP_PATIENCE", 5.0)
    monkeypatch.setattr("qedge.toolkit.link.device.STEP_PAUSE", 1.0)
    board, image = load(name), make_image(name)
    place = tmp_path / "flash.bin"
    preload(place, board, image)
    with Emulator(board, place) as emulator:
        hello = emulator.hello()
        device = emulator.connect()
        remote.test(device)
        used = device.hello().stack_used // 8 * 8
        device.close()
    for stack_bytes, enough in ((used + 128, True), (used // 2 // 8 * 8, False)):
        small = replace(board, device=replace(device_of(board), stack_bytes=stack_bytes))
        with Emulator(small, place, firmware=build(small)) as emulator:
            device = emulator.connect()
            if enough:
                assert remote.test(device)
            else:
                with pytest.raises(NoBoardError):
                    remote.test(device)
            device.close()
    with Emulator(board, place) as emulator:
        assert emulator.hello().image_id == hello.image_id
