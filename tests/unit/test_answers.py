"""A board that is damaged, of another version, or lies: what it says is refused by name, no
loop or buffer is as long as it wishes, and nothing it says acts on a terminal."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable
from typing import Any

import cbor2
import pytest

from qedge.runtime.errors import NoBoardError, QedgeError
from qedge.toolkit.device import remote
from qedge.toolkit.device.target import Rounds
from qedge.toolkit.link import Link, LinkedDevice, device
from qedge.toolkit.link.client import _HEAD

HELLO: dict[str, Any] = {
    "board": "arm64",
    "board_id": bytes(range(8)),
    "firmware": "1",
    "kernels": "neon",
    "arena": 1 << 30,
    "capacity": 1 << 30,
    "block": 65536,
    "page": 4096,
    "packet": 40960,
    "tick_hz": 10**9,
    "emulated": False,
    "stack": 0,
    "stack_used": 0,
    "slots": [{"sequence": 0}, {"sequence": 0}],
}
ODD = (
    None,
    -1,
    0,
    3,
    1 << 40,
    1 << 70,
    -(1 << 40000),  # more digits than Python writes
    1.5,
    float("nan"),
    True,
    "",
    "text",
    b"",
    b"x" * 9,
    [],
    {},
)
Answer = Callable[[int, dict[str, Any]], dict[str, Any]]


class Liar:
    """A line at whose other end `answer` says what it likes."""

    def __init__(self, answer: Answer) -> None:
        self._answer, self._came, self.asked = answer, bytearray(), 0

    @property
    def in_waiting(self) -> int:
        return len(self._came)

    def read(self, size: int = 1) -> bytes:
        data = bytes(self._came[:size])
        del self._came[:size]
        return data

    def write(self, data: bytes) -> int:
        self.asked += 1
        op, _, _, group, sequence, command = _HEAD.unpack_from(data)
        body = cbor2.dumps(self._answer(command, cbor2.loads(data[8:])))
        self._came += _HEAD.pack((op & 7) + 1, 0, len(body), group, sequence, command) + body
        return len(data)

    def close(self) -> None:
        pass


def linked(answer: Answer) -> LinkedDevice:
    return LinkedDevice(Link(Liar(answer), "liar", noisy=False, patience=1.0), "liar")


def saying(**changed: Any) -> Answer:
    return lambda command, values: {**HELLO, **changed} if command == 0 else {}


def test_a_true_hello_is_believed() -> None:
    hello = linked(saying()).hello()
    assert hello.board == "arm64" and hello.active is None and hello.block == 65536


def test_an_answer_that_waits_is_read_though_this_program_was_stopped() -> None:
    stopped = iter([0.0, 0.0, *[1000.0] * 9])  # a Ctrl-Z between the question and the answer
    line = Liar(saying())
    device = LinkedDevice(Link(line, "liar", noisy=False, clock=lambda: next(stopped)), "liar")
    assert device.hello().board == "arm64" and line.asked == 1


@pytest.mark.parametrize("name", HELLO)
def test_a_hello_with_anything_for_a_field_is_a_refusal_or_a_hello(name: str) -> None:
    for value in ODD:
        with contextlib.suppress(NoBoardError):
            found = linked(saying(**{name: value})).hello()
            assert found.page >= 16 and found.tick_hz >= 1 and len(found.slots) == 2
    missing = {key: value for key, value in HELLO.items() if key != name}
    with pytest.raises(NoBoardError, match="not as qedge's firmware does"):
        linked(lambda *_: missing).hello()


@pytest.mark.parametrize(
    "changed",
    [
        {"page": 0},
        {"page": 100},
        {"block": 1 << 40},
        {"block": 2048},
        {"packet": 1 << 40},
        {"packet": 4096},
        {"tick_hz": 0},
        {"slots": []},
        {"slots": [{"sequence": 1, "id": b"short"}] * 2},
        {"slots": [{}] * 2},
        {"active": 2},
        {"active": 0},
        {"key": b"short"},
        {"floor": -1},
        {"board": "x" * 10_000},
    ],
    ids=repr,
)
def test_a_hello_that_cannot_be_is_refused_at_once(changed: dict[str, Any]) -> None:
    began = time.monotonic()
    with pytest.raises(NoBoardError):
        linked(saying(**changed)).hello()
    assert time.monotonic() - began < 5


def test_what_a_board_says_cannot_act_on_a_terminal() -> None:
    hello = linked(saying(board="\x1b[2Jarm\u202e64", firmware="a\nb\0")).hello()
    assert hello.board.isprintable() and hello.firmware.isprintable()
    assert "\\x1b" in hello.board

    def refuse(command: int, values: dict[str, Any]) -> dict[str, Any]:
        return {"err": {"group": 64, "rc": 14, "text": "\x1b]0;x\x07" * 500}}

    with pytest.raises(QedgeError) as found:
        linked(refuse).hello()
    assert str(found.value).isprintable() and len(str(found.value)) < 9000


@pytest.mark.parametrize("code", [[], "x", None, -5, 1 << 80, {}], ids=repr)
def test_an_error_with_any_code_is_an_error_of_the_family(code: object) -> None:
    for wrong in ({"err": {"rc": code, "group": code, "text": code}}, {"rc": code or 1}):
        with contextlib.suppress(QedgeError):
            linked(lambda *_, w=wrong: w).hello()


ENDLESS: dict[str, Answer] = {
    "never done": lambda *_: {"done": False},
    "always further": lambda command, values: {"done": False, "at": next(COUNT), "of": 1 << 40},
    "tokens without end": lambda *_: {"done": False, "token": 5, "text": b"x", "prompt": 1},
    "text without end": lambda *_: {"done": False, "json": b"x" * 60_000},
}
COUNT = iter(range(1 << 40))


@pytest.mark.parametrize("kind", ENDLESS)
def test_a_job_that_does_not_end_is_ended(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "IDLE_SECONDS", 0.2)
    monkeypatch.setattr(device, "STEPS_MOST", 4000)
    endless = ENDLESS[kind]
    board = linked(lambda command, values: endless(command, values) if command == 5 else {})
    options = {"prompt_tokens": 1, "decode_tokens": 1, "depths": [0], "within": 0.02}
    for work in (
        lambda: list(remote.Run(board, "hello", 7)),
        lambda: remote.test(board),
        lambda: remote.bench(board, prompt_tokens=1, decode_tokens=1, depth=1),
        lambda: remote.measure(board, Rounds(**options)),
        lambda: board.finish("verify", slot=0, idle=0.2, most=4000),
    ):
        with pytest.raises(NoBoardError):
            work()


def test_steps_with_anything_in_them_are_steps_or_a_refusal() -> None:
    dice = random.Random(5)
    names = ("done", "at", "of", "token", "text", "reason", "hash", "json", "prompt")

    def answer(command: int, values: dict[str, Any]) -> dict[str, Any]:
        if command != 5:
            return {}
        return {name: dice.choice(ODD) for name in names if dice.random() < 0.4}

    board = linked(answer)
    for _ in range(3000):
        with contextlib.suppress(QedgeError):
            list(remote.Run(board, "hi", 3))
        with contextlib.suppress(QedgeError):
            remote.test(board)


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"{", b'{"depth": 1}', b'{"a":' * 100_000, b"\xff", b"NaN"]
)
def test_results_that_are_none_are_refused(text: bytes) -> None:
    with pytest.raises(NoBoardError, match="cannot be read"):
        remote.checked_results("liar", text)


def test_a_section_is_as_long_as_it_says_and_no_longer() -> None:
    whole = bytes(range(256)) * 9

    def answer(command: int, values: dict[str, Any]) -> dict[str, Any]:
        at = values["offset"]
        return {"there": True, "bytes": len(whole), "data": whole[at : at + 100]}

    assert linked(answer).section(4) == whole
    assert linked(lambda *_: {"there": False, "bytes": 0, "data": b""}).section(4) is None
    for wrong in ({"there": True, "bytes": 1 << 40, "data": b"x"}, {}, {"there": 1}):
        with pytest.raises(NoBoardError):
            linked(lambda *_, w=wrong: w).section(4)


def test_digests_of_another_number_are_refused() -> None:
    for data in (b"", bytes(7), bytes(60_000), None, "x"):
        with pytest.raises(NoBoardError):
            linked(lambda *_, d=data: {"digests": d}).digests(0, 0, 4)
