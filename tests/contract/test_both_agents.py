"""Both agents, the firmware's and the one of boards with Linux, answer every line of the
transcript (transcript.toml) the same way."""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from contract.test_numbers import OURS, enumerators
from support.local_agent import Local
from support.tiny_models import TinyConfig, make_weights, write_gguf

from qedge.runtime.agent import numbers
from qedge.runtime.agent.answers import Agent
from qedge.runtime.image import open_image
from qedge.toolkit.board import Board, load
from qedge.toolkit.device import flash
from qedge.toolkit.emulators.bare import Emulator
from qedge.toolkit.link import Hello, Link, LinkedDevice, open_line
from qedge.toolkit.link.client import Refused
from qedge.toolkit.make.build import build

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LINES = tomllib.loads(Path(__file__).with_name("transcript.toml").read_text("utf-8"))["line"]
ENGINE = {
    name: numbers.LINK_ENGINE - value
    for name, value in enumerators("runtime/engine/qedge.h").items()
    if name.startswith("QE_ERR_")
}
STEPS_MOST = 2000


@dataclass(slots=True)
class Asked:
    """One agent, asked line by line."""

    kind: str
    board: Board
    link: Link
    image: Path
    hello: Hello
    runs: dict[str, object] = field(default_factory=dict)  # what has to be the same on both

    def bytes_of(self, value: Any) -> Any:
        """A value of the transcript as it is sent, or compared."""
        if isinstance(value, dict):
            return {key: self.bytes_of(one) for key, one in value.items()}
        if not isinstance(value, str):
            return value
        kind, _, rest = value.partition(":")
        if kind == "hex":
            return bytes.fromhex(rest)
        if kind == "float":
            return struct.unpack("<I", struct.pack("<f", float(rest)))[0]
        known = {
            "@board": lambda: bytes.fromhex(self.hello.board_id),
            "@image": lambda: open_image(self.image).id,
            "@page": lambda: bytes(self.hello.page),
            "@block": lambda: bytes(self.hello.block),
        }
        return known[value]() if value in known else value

    def ask(self, line: dict[str, Any]) -> dict[str, Any]:
        """The answer; of a job with `steps` its last step's, after all of them."""
        group, command = self.place(line)
        if "body" in line:
            packet = bytes.fromhex(line["body"])
            return self.raw(group, command, packet)
        found = self.link.request(group, command, self.bytes_of(line["values"]), write=True)
        if not line.get("steps"):
            return found
        ticket = {"ticket": line["values"].get("ticket", 0)}
        steps = [{}]
        for _ in range(STEPS_MOST):
            steps.append(self.link.request(64, numbers.QEDGE_STEP, ticket, write=True))
            if steps[-1]["done"]:
                break
        if line.get("same"):
            tokens = [step["token"] for step in steps if "token" in step]
            texts = b"".join(step.get("text", b"") for step in steps)
            last = steps[-1]
            self.runs[line["say"]] = tokens, texts, last.get("hash"), last["reason"]
        return steps[-1]

    def raw(self, group: int, command: int, body: bytes) -> dict[str, Any]:
        """A body as it is."""
        make = self.link._packet
        head = make(group, command, {}, True)[:8]
        packet = struct.pack(">BBHHBB", head[0], 0, len(body), group, head[6], command) + body
        self.link._packet = lambda *_: packet  # type: ignore[method-assign]
        try:
            return self.link.request(group, command, {})
        finally:
            self.link._packet = make  # type: ignore[method-assign]

    @staticmethod
    def place(line: dict[str, Any]) -> tuple[int, int]:
        if "to" not in line:
            return line["group"], line["command"]
        return OURS["GROUP_" + line["to"].split("_")[0]], OURS[line["to"]]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("images")
    config = TinyConfig()
    write_gguf(folder / "tiny.gguf", config, make_weights(3, config))

    def made(board: str) -> Path:
        path = folder / f"{board}.qimg"
        if not path.exists():
            build(folder / "tiny.gguf", load(board), path, quant="q8_0")
        return path

    return made


@pytest.fixture(scope="module")
def both(
    images: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Asked]]:
    sim, arm64 = load("sim"), load("arm64")
    folder = tmp_path_factory.mktemp("agents")
    here = Link(Local(Agent(str(folder / "root"), "arm64", key_path="")), "agent", noisy=False)
    with Emulator(sim, folder / "flash.bin") as emulator:
        assert sim.device is not None
        there = Link(open_line(emulator.port, sim.device.baud), "sim", patience=60.0)
        yield {
            kind: Asked(kind, board, link, images(board.name), LinkedDevice(link, kind).hello())
            for kind, board, link in (("firmware", sim, there), ("linux", arm64, here))
        }
        there.close()
    here.close()


def wrong_in(line: dict[str, Any], agent: Asked) -> str:
    """What an agent answered otherwise than the line says; nothing when it is right."""
    if line.get("flash"):
        device = LinkedDevice(agent.link, agent.kind)
        flash.apply(device, flash.plan(device, agent.image, agent.board))
        return ""
    try:
        found = agent.ask(line)
    except Refused as refused:
        names = OURS if agent.place(line)[0] != 64 else {**ENGINE, **OURS}
        expected = line.get("error")
        if expected is None or refused.code != names[expected]:
            return f"error {refused.code}, not {expected or line['answer']}"
        return ""
    if "error" in line:
        return f"{found}, not {line['error']}"
    for key, value in agent.bytes_of(line["answer"]).items():
        there = found.get(key)
        right = {"*": there is not None, "+": isinstance(there, int) and there > 0}
        if not right.get(value, there == value) if isinstance(value, str) else there != value:
            return f"{key} is {there!r}, not {value!r}"
    return ""


@pytest.mark.parametrize("kind", ["firmware", "linux"])
def test_every_line_is_answered_as_it_says(both: dict[str, Asked], kind: str) -> None:
    wrong = []
    for line in LINES:
        if line.get("only", kind) == kind and (said := wrong_in(line, both[kind])):
            wrong.append(f"{line['say']}: {said}")
    assert not wrong, "\n".join(wrong)


def test_both_draw_the_same_tokens_of_the_same_logits(both: dict[str, Asked]) -> None:
    assert both["firmware"].runs == both["linux"].runs
    assert len(both["linux"].runs) == sum(1 for line in LINES if line.get("same"))


def test_a_newer_message_with_more_in_it_is_taken(both: dict[str, Asked]) -> None:
    for agent in both.values():
        values = {"slot": 0, "first": 0, "count": 1, "colour": "blue", "depth": [1, {"a": 2}]}
        assert len(agent.link.request(64, numbers.QEDGE_DIGEST, values)["digests"]) == 8


def test_every_command_of_ours_is_in_the_transcript() -> None:
    asked = {line["to"] for line in LINES if "to" in line}
    assert asked >= {name for name in OURS if name.startswith("QEDGE_")}
