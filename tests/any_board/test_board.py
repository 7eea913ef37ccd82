"""What any board must do, real or emulated: pytest tests/hil --board NAME [--port PORT]."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qedge.runtime.errors import QedgeError
from qedge.runtime.model import Model
from qedge.toolkit.link import LinkedDevice
from qedge.toolkit.pytest_plugin import BoardUnderTest

COMMANDS = {
    "turn off the lamp in the kitchen please\n": ("lamp", "kitchen", "off"),
    "make the bedroom radiator a bit warmer\n": ("heating", "bedroom", "warmer"),
    "can you open the blinds in the office\n": ("blinds", "office", "open"),
    "what is the capital of france?": (None, None, None),  # no command
}


def test_the_board_passes_the_golden_test_with_this_machine_s_hash(
    flashed_board: BoardUnderTest, qedge_image: Path
) -> None:
    with Model.open(qedge_image) as model:
        assert flashed_board.test() == model.test()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_becomes_json(
    command: str, flashed_board: BoardUnderTest, request: pytest.FixtureRequest
) -> None:
    if request.config.getoption("--qedge-image"):
        pytest.skip("another image than commander was named")
    answer = flashed_board.run(command)
    device, room, action = COMMANDS[command]
    assert json.loads(answer.text) == {"device": device, "room": room, "action": action}
    assert answer.finish_reason == "stop"


def test_flashing_again_sends_nothing(flashed_board: BoardUnderTest, qedge_image: Path) -> None:
    assert flashed_board.flash(qedge_image).bytes_sent == 0


@pytest.mark.qedge_memory(maximum=760_000)  # commander's arena on Linux; 75,000 elsewhere
def test_it_keeps_within_its_memory(flashed_board: BoardUnderTest) -> None:
    assert flashed_board.flashed is not None and flashed_board.flashed.verified


@pytest.mark.qedge_tokens_per_second(minimum=0.5)
def test_it_is_as_fast_as_it_is_worth(flashed_board: BoardUnderTest) -> None:
    assert not flashed_board.hello.emulated


def test_the_link_refuses_nonsense_and_goes_on(device: LinkedDevice) -> None:
    with pytest.raises(QedgeError):
        device.finish("no such job")
    assert device.hello().board


def test_a_reset_keeps_the_image(flashed_board: BoardUnderTest) -> None:
    before = flashed_board.device.hello().image_id
    flashed_board.device.reset()
    assert flashed_board.device.hello(patience=60).image_id == before
