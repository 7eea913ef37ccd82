"""The agent of boards with Linux against messages that make no sense: each is answered, or
ignored, and the active image stays what it is."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.tiny_models import TinyConfig, make_weights, write_gguf

from qedge.runtime.agent import cbor
from qedge.runtime.agent.answers import Agent
from qedge.runtime.agent.numbers import (
    GROUP_OS,
    GROUP_QEDGE,
    OS_ECHO,
    OS_PARAMETERS,
    OS_RESET,
    QEDGE_COPY,
    QEDGE_DIGEST,
    QEDGE_HELLO,
    QEDGE_JOB,
    QEDGE_SECTION,
    QEDGE_STEP,
    QEDGE_WRITE,
)
from qedge.runtime.agent.slots import Slots
from qedge.runtime.image import open_image
from qedge.toolkit.board import load
from qedge.toolkit.make.build import build

ROUNDS = 6000
_HEAD = struct.Struct(">BBHHBB")
COMMANDS = [(GROUP_OS, OS_ECHO), (GROUP_OS, OS_PARAMETERS), (GROUP_OS, OS_RESET)] + [
    (GROUP_QEDGE, command)
    for command in (
        QEDGE_HELLO,
        QEDGE_DIGEST,
        QEDGE_WRITE,
        QEDGE_COPY,
        QEDGE_JOB,
        QEDGE_STEP,
        QEDGE_SECTION,
        77,
    )
]
KEYS = (
    *("slot", "first", "count", "offset", "source", "from", "id", "data", "job", "counter"),
    *("prompt", "max", "decode", "depth", "temperature", "top_k", "top_p", "min_p", "seed"),
    *("repeat_penalty", "hash", "special", "d"),
)


def a_value(dice: random.Random, board_id: bytes, deep: int = 0) -> Any:
    kinds = [
        lambda: dice.choice([0, 1, 2, -1, 4096, 65536, 1 << 31, 1 << 32, (1 << 64) - 1]),
        lambda: -(1 << 64),
        lambda: dice.choice(["", "x", "verify", "activate", "test", "run", "bench", "é"]),
        lambda: dice.randbytes(dice.choice([0, 1, 8, 32, 4096])),
        lambda: board_id,
        lambda: dice.choice([True, False, None]),
        lambda: [a_value(dice, board_id, deep + 1) for _ in range(dice.randrange(3))],
        lambda: {"x": a_value(dice, board_id, deep + 1)},
    ]
    return dice.choice(kinds[: 6 if deep > 2 else 8])()


def a_packet(dice: random.Random, board_id: bytes, number: int) -> bytes:
    group, command = dice.choice(COMMANDS)
    names = dice.sample(KEYS, dice.randrange(len(KEYS)))
    values = {name: a_value(dice, board_id) for name in names}
    if dice.random() < 0.7:  # one thing wrong and the rest right goes further
        values = {
            **{"id": board_id, "slot": dice.randrange(2), "offset": 0, "source": 0, "from": 0},
            **{"first": 0, "count": 1, "data": bytes(4096), "prompt": b"a", "max": 2},
            **{"job": dice.choice(["verify", "activate", "test", "run", "bench"])},
            **{"decode": 2, "depth": 2},
            **dict([dice.choice(list(values.items()))] if values else []),
        }
        if (
            command == QEDGE_JOB
            and values["job"] in ("run", "bench", "test")
            and "prompt" in values
        ):
            values["prompt"] = 1 if values["job"] == "bench" else values["prompt"]
    body = bytearray(cbor.dumps(values))
    if body and dice.random() < 0.2:
        body[dice.randrange(len(body))] = dice.randrange(256)
    if dice.random() < 0.1:
        del body[dice.randrange(len(body) + 1) :]
    op = 2 if dice.random() < 0.95 else dice.randrange(256)
    return _HEAD.pack(op, 0, len(body), group, number & 255, command) + bytes(body)


@pytest.fixture
def ready(tmp_path: Path) -> Iterator[tuple[Agent, Path]]:
    """An agent with a tiny image active in slot a."""
    config = TinyConfig(layers=1)
    write_gguf(tmp_path / "m.gguf", config, make_weights(1, config))
    image = build(tmp_path / "m.gguf", load("arm64"), tmp_path / "m.qimg").image
    root = tmp_path / "root"
    slots = Slots(str(root))
    slots.write(0, 0, image.read_bytes())
    slots.close()
    agent = Agent(str(root), "arm64")
    image_id = open_image(image).id
    assert job(agent, {"job": "activate", "slot": 0, "id": image_id}) is None
    yield agent, root / "a.qimg"
    agent.close()


def ask(agent: Agent, command: int, values: dict[str, Any], number: int = 0) -> dict[str, Any]:
    body = cbor.dumps(values)
    answer = agent.answer(_HEAD.pack(10, 0, len(body), GROUP_QEDGE, number, command) + body)
    assert answer is not None
    found = cbor.loads(answer[_HEAD.size :])
    assert isinstance(found, dict)
    return found


def job(agent: Agent, values: dict[str, Any]) -> Any:
    """A job to its end; the error, if any."""
    found, number = ask(agent, QEDGE_JOB, values), 1
    while "err" not in found and not found.get("done"):
        found = ask(agent, QEDGE_STEP, {}, number)
        number = number % 250 + 1
    return found.get("err")


@pytest.mark.parametrize("seed", [1, 2])
def test_each_message_is_answered_and_the_active_image_stays(
    ready: tuple[Agent, Path], seed: int
) -> None:
    agent, active = ready
    before, dice = active.read_bytes(), random.Random(seed)
    board_id, answered = ask(agent, QEDGE_HELLO, {})["board_id"], 0
    for number in range(ROUNDS):
        packet = a_packet(dice, board_id, number)
        answer = agent.answer(packet)
        if answer is not None:
            assert isinstance(cbor.loads(answer[_HEAD.size :]), dict), packet.hex()
            answered += 1
    assert answered > ROUNDS * 0.9
    assert active.read_bytes() == before
    agent.answer(_HEAD.pack(2, 0, 1, GROUP_OS, 9, OS_RESET) + b"\xa0")
    assert ask(agent, QEDGE_HELLO, {}, 200)["active"] == 0
    assert job(agent, {"job": "test"}) is None


@pytest.mark.parametrize(
    "record",
    [
        b'{"sequence": 9}',
        b'{"sequence": 9, "bytes": 4, "id": "zz", "counter": 0}',
        b'{"sequence": 9, "bytes": 4, "id": 7, "counter": 0}',
        b'{"sequence": 9e99, "bytes": 4, "id": "00", "counter": 0}',
        b'{"sequence": 340282366920938463463374607431768211456, "bytes": 4, "id": "00"}',
        b'{"sequence": true, "bytes": 4, "id": "00"}',
        b'{"sequence": 9, "bytes": 4, "id": "00", "counter": "x"}',
        b"\xff\xfe",
        b"[" * 100000,
        b"",
    ],
)
def test_a_spoilt_record_is_none(ready: tuple[Agent, Path], record: bytes) -> None:
    agent, active = ready
    (active.parent / "b.qimg").write_bytes(bytes(4096))
    (active.parent / "b.record").write_bytes(record)
    found = ask(agent, QEDGE_HELLO, {})
    assert found["active"] == 0 and found["slots"][1] == {"sequence": 0}
    assert job(agent, {"job": "test"}) is None
