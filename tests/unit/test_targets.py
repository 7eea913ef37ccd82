"""An image here, a microcontroller and a board with Linux are asked the same way; what one of
them cannot do it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.local_agent import Local
from support.tiny_models import TinyConfig, make_weights, write_gguf

from qedge.runtime.agent.answers import Agent
from qedge.runtime.errors import BudgetError, UsageError
from qedge.runtime.machine import kernel_sets
from qedge.toolkit.board import load
from qedge.toolkit.device.here import ImageTarget
from qedge.toolkit.device.target import SESSION, Ask, Rounds
from qedge.toolkit.device.there import LinuxTarget, check_rounds_of, on_board, session_of
from qedge.toolkit.link import Link, LinkedDevice
from qedge.toolkit.make.build import build

ASK = Ask(b"hi the", 6, hash=True, sampling={"temperature": 0.7, "seed": 5})
GIVEN: dict[str, Any] = {
    **{"context": 64, "memory": "1M", "threads": 1, "batch": 8, "kernels": "portable"},
    **{"allow_paging": True, "pin": True},
}


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("image")
    config = TinyConfig()
    write_gguf(folder / "tiny.gguf", config, make_weights(5, config))
    return build(folder / "tiny.gguf", load("arm64"), folder / "tiny.qimg", quant="q8_0").image


@pytest.fixture(scope="module")
def linux(image: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LinuxTarget]:
    root = tmp_path_factory.mktemp("board")
    agent = Agent(str(root / "root"), "arm64", key_path=str(root / "no key"))
    device = LinkedDevice(Link(Local(agent), "agent", noisy=False), "agent")
    target = on_board(load("arm64"), device, device.hello())
    assert isinstance(target, LinuxTarget)
    target.flash(image)
    yield target
    device.close()


def again(target: LinuxTarget, **session: Any) -> LinuxTarget:
    found = on_board(target.facts, target.device, target.device.hello(), **session)
    assert isinstance(found, LinuxTarget)
    return found


def ran(target: Any) -> dict[str, Any]:
    running = target.run(ASK)
    text = "".join(running)
    fields = running.fields()
    assert fields["text"] == text and len(fields["tokens"]) == 6
    return fields


def test_a_run_is_the_same_wherever_it_is(image: Path, linux: LinuxTarget) -> None:
    here, there = ran(ImageTarget(str(image))), ran(linux)
    assert here.keys() <= there.keys() | {"arena_bytes"}
    for key in ("text", "tokens", "finish_reason", "prompt_tokens", "logits_hash", "image_id"):
        assert here[key] == there[key]
    assert ImageTarget(str(image)).test()["logits_hash"] == linux.test()["logits_hash"]


@pytest.mark.parametrize("name", SESSION)
def test_a_board_with_linux_opens_a_model_as_it_is_asked(name: str, linux: LinuxTarget) -> None:
    asked = again(linux, **{name: GIVEN[name]})
    assert ran(asked)["logits_hash"] == ran(linux)["logits_hash"]
    assert asked.test()["logits_hash"] == linux.test()["logits_hash"]
    if name == "kernels":
        assert asked.test()["kernels"] == GIVEN[name] and (GIVEN[name], True) in kernel_sets()


@pytest.mark.parametrize(
    ("session", "error", "named"),
    [
        ({"memory": 1000}, BudgetError, "the limit is 1,000 B"),
        ({"memory": 1}, BudgetError, "the limit is 1 B"),
        ({"kernels": "mmx"}, UsageError, "no kernel set 'mmx'"),
        ({"context": 1 << 20}, BudgetError, "the image was built for"),
        ({"threads": 64, "pin": True}, UsageError, "cannot be pinned"),
    ],
    ids=repr,
)
def test_what_cannot_be_is_refused_there_as_it_is_here(
    session: dict[str, Any], error: type[Exception], named: str, image: Path, linux: LinuxTarget
) -> None:
    for target in (ImageTarget(str(image), **session), again(linux, **session)):
        with pytest.raises(error, match=named):
            target.run(ASK)
            list(target.run(ASK))


@pytest.mark.parametrize(
    "session",
    [{"context": -3}, {"threads": 99}, {"threads": 0}, {"batch": 0}, {"memory": "lots"}],
    ids=repr,
)
def test_what_is_out_of_its_range_no_board_hears_of(session: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        session_of(load("arm64"), session)


@pytest.mark.parametrize("name", SESSION)
def test_a_microcontroller_refuses_what_it_cannot_honour(name: str) -> None:
    with pytest.raises(UsageError, match=f"--{name.replace('_', '-')} has no effect on a pico"):
        session_of(load("pico"), {name: GIVEN[name]})
    assert session_of(load("pico"), dict.fromkeys(SESSION)) == {}


def test_an_older_runtime_is_not_asked_for_what_it_would_ignore(linux: LinuxTarget) -> None:
    from dataclasses import replace

    older = replace(linux.hello, options=False)
    with pytest.raises(UsageError, match="--threads: the runtime on this board is older"):
        on_board(linux.facts, linux.device, older, threads=1)


def test_a_board_with_linux_measures_as_this_machine_does(linux: LinuxTarget) -> None:
    asked = again(linux, threads=1, kernels="portable")
    found = asked.bench(Rounds(4, 4, (1,), repeat=2, cold=True))
    assert (found["threads"], found["kernels"], found["repeat"]) == (1, "portable", 2)
    assert found["cache"] == "cold" and found["board_id"] == linux.hello.board_id


@pytest.mark.parametrize(
    "rounds", [Rounds(cold=True), Rounds(least=6), Rounds(most=9), Rounds(within=0.1)], ids=repr
)
def test_a_microcontroller_refuses_rounds_that_it_cannot_make(rounds: Rounds) -> None:
    with pytest.raises(UsageError, match="--repeat"):
        check_rounds_of(load("pico"), rounds)


@pytest.mark.parametrize(
    "rounds",
    [Rounds(0), Rounds(4, 0), Rounds(4, 4, (-1,)), Rounds(4, 4, (0,), 0), Rounds(within=-5.0)],
    ids=repr,
)
def test_counts_out_of_range_are_refused_everywhere(
    rounds: Rounds, image: Path, linux: LinuxTarget
) -> None:
    for target in (ImageTarget(str(image)), linux):
        with pytest.raises(UsageError):
            target.bench(rounds)
