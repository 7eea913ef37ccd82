"""The firmware as a process under the sanitizers, fed with what no honest client sends: it
answers or keeps still, never crashes, and never writes outside the slot that is not active."""

from __future__ import annotations

import os
import random
import struct
import subprocess
import time
from pathlib import Path

import cbor2
import pytest
from bare.conftest import MakeImage, compile_port, make_image, put, sim  # noqa: F401

from qedge.runtime.agent.frame import encode
from qedge.toolkit.board import Board, device_of
from qedge.toolkit.emulators.bare import Emulator

SECONDS = float(os.environ.get("QEDGE_FUZZ_SECONDS", "10"))
SANITIZE = "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g", "-O1"


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_port(None, tmp_path_factory.mktemp("asan") / "firmware", *SANITIZE)


@pytest.fixture
def flash_file(make_image: MakeImage, sim: Board, tmp_path: Path) -> Path:  # noqa: F811
    """A board's flash with two images, the second one active."""
    place = tmp_path / "flash.bin"
    with Emulator(sim, place) as emulator:
        device = emulator.connect()
        put(device, make_image("sim", seed=1), sim)
        put(device, make_image("sim", seed=2), sim)
        device.close()
    return place


def packet(op: int, group: int, command: int, sequence: int, body: bytes) -> bytes:
    return struct.pack(">BBHHBB", op, 0, len(body), group, sequence % 256, command) + body


class Messages:
    """Messages that are nearly right: real commands with values at and beyond every limit."""

    def __init__(self, seed: int, board_id: bytes, image: bytes) -> None:
        self.chance = random.Random(seed)
        self.board_id = board_id
        self.image = image

    def number(self) -> int:
        edges = [0, 1, 2, 255, 256, 4096, 950272, 946176, 2**31, 2**32 - 256, 2**32 - 1, 2**40]
        return self.chance.choice([*edges, self.chance.randrange(1 << 20) & ~255])

    def data(self) -> bytes:
        size = self.chance.choice([0, 1, 255, 256, 512, 1024, 700])
        start = self.chance.randrange(len(self.image))
        return self.image[start : start + size].ljust(size, b"\0")

    def body(self, group: int, command: int) -> dict:
        n, d = self.number, self.data
        bodies = {
            (0, 0): {"d": "x" * self.chance.randrange(700)},
            (1, 0): {"hash": d()[:32], "confirm": True},
            (1, 1): {"len": n(), "off": n(), "data": d(), "sha": d()[:32]},
            (64, 1): {"slot": n() % 4, "first": n(), "count": n()},
            (64, 2): {"id": self.board_id, "slot": n() % 3, "offset": n(), "data": d()},
            (64, 3): {
                "id": self.board_id,
                "slot": n() % 3,
                "offset": n() & ~4095,
                "from": n() % 3,
                "source": n() & ~4095,
            },
            (64, 6): {"kind": n() % 12, "offset": n()},
            (64, 4): {
                "job": self.chance.choice(["verify", "test", "activate", "run", "bench", "x"]),
                "slot": n() % 3,
                "id": self.chance.choice([self.image[-32:], d()[:32]]),
                "prompt": self.chance.choice([d()[:200], "hello", n()]),
                "decode": n() % 20,
                "depth": n() % 20,
                "max": n() % 30,
                "temperature": n(),
                "top_p": n(),
                "seed": d()[:8],
                "hash": True,
            },
        }
        return bodies.get((group, command), {})

    def update(self, slot: int) -> bytes:
        """A whole image with a few bytes changed, written and activated as the toolkit does."""
        data = bytearray(self.image)
        for _ in range(self.chance.randrange(4)):
            near = self.chance.choice([256, 4096, len(data)])
            data[self.chance.randrange(near)] = self.chance.randrange(256)
        data += b"\xff" * (-len(data) % 4096)
        bodies: list[tuple[int, dict]] = [
            (
                2,
                {
                    "id": self.board_id,
                    "slot": slot,
                    "offset": at,
                    "data": bytes(data[at : at + 1024]),
                },
            )
            for at in range(0, len(data), 1024)
        ]
        bodies += [
            (4, {"job": "activate", "slot": slot, "id": self.image[-32:]}),
            *[(5, {})] * 30,
        ]
        return b"".join(
            encode(packet(10, 64, command, number, cbor2.dumps(body)))
            for number, (command, body) in enumerate(bodies)
        )

    def next(self, sequence: int) -> bytes:
        chance = self.chance
        group, command = chance.choice(
            [(0, 0), (0, 6), (1, 0), (1, 1), (1, 5), (64, 0), (64, 1), (64, 2), (64, 3)]
            + [(64, 4), (64, 5), (64, 5), (64, 5), (64, 6), (64, 9), (9, 9)]
        )
        values = self.body(group, command)
        for key in list(values):
            if chance.random() < 0.05:
                values[key] = chance.choice([None, [1, [2]], {"a": 1}, -5, 1.5, b"", "t", True])
        body = bytearray(cbor2.dumps(values))
        if body and chance.random() < 0.15:
            for _ in range(chance.randrange(1, 4)):
                body[chance.randrange(len(body))] = chance.randrange(256)
        if chance.random() < 0.05:
            body = bytearray(chance.randbytes(chance.randrange(1300)))
        lines = bytearray(
            encode(packet(chance.choice([0, 2, 8, 10, 10, 10]), group, command, sequence, body))
        )
        roll = chance.random()
        if roll < 0.05:
            lines[chance.randrange(len(lines))] = chance.randrange(256)
        elif roll < 0.08:
            lines = lines[: chance.randrange(len(lines))]
        elif roll < 0.1:
            lines = lines * 2
        elif roll < 0.12:
            lines = bytearray(chance.randbytes(chance.randrange(200)))
        return bytes(lines)


def test_no_message_crashes_the_firmware_or_writes_outside_its_slot(
    checked: Path,
    flash_file: Path,
    make_image: MakeImage,  # noqa: F811
    sim: Board,  # noqa: F811
) -> None:
    device, before = device_of(sim), flash_file.read_bytes()
    messages = Messages(5, before[-8:], make_image("sim", seed=3).read_bytes())
    environment = {**os.environ, "QEDGE_FLASH_FILE": str(flash_file)}
    ends, sent, starts = time.monotonic() + SECONDS, 0, 0
    while time.monotonic() < ends:
        starts += 1
        stream = messages.update(starts // 2 % 2) if starts % 2 else b""
        stream += b"".join(messages.next(n) for n in range(400))
        done = subprocess.run(
            [checked], input=stream, capture_output=True, env=environment, check=False
        )
        assert done.returncode == 0, done.stderr.decode()[-3000:]
        sent += 400
    after = flash_file.read_bytes()
    slots = device.slot_at, device.slot_at + device.slot_bytes, device.flash_bytes
    assert after[: slots[0]] == before[: slots[0]], "before the slots"
    assert after[slots[1] + device.slot_bytes :] == before[slots[1] + device.slot_bytes :]
    with Emulator(sim, flash_file) as emulator:
        hello = emulator.hello()
        assert hello.active is not None and hello.image_id is not None
    assert sent >= 400
