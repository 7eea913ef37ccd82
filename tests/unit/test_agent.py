"""The agent of boards with Linux, as a process of this machine: its messages, slots and locks;
the rest is tried on emulated boards (tests/linux)."""

from __future__ import annotations

import contextlib
import os
import random
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import cbor2
import pytest
from support.tiny_models import TinyConfig, make_weights, write_gguf

from qedge.runtime.agent import answers, cbor
from qedge.runtime.agent.__main__ import serve
from qedge.runtime.agent.answers import Agent
from qedge.runtime.agent.slots import SlotError, Slots
from qedge.runtime.errors import QedgeError, VerifyError, WriteError
from qedge.runtime.model import Model
from qedge.toolkit.board import Board, load
from qedge.toolkit.device import flash, remote
from qedge.toolkit.link import Link, LinkedDevice, open_line
from qedge.toolkit.make.build import build


class Pipes:
    """An agent as a process, its streams as a line."""

    def __init__(self, root: Path, board: str = "arm64") -> None:
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "qedge.runtime.agent",
                "--root",
                str(root),
                "--board",
                board,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )

    in_waiting = 1 << 16

    def read(self, size: int = 1) -> bytes:
        assert self.process.stdout is not None
        data = self.process.stdout.read(size)
        if not data:
            raise OSError("the agent ended")
        return data

    def write(self, data: bytes) -> int:
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        return len(data)

    def close(self) -> None:
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()
        self.process.wait()


@pytest.fixture(scope="module")
def board() -> Board:
    return load("arm64")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, board: Board) -> list[Path]:
    folder, found = tmp_path_factory.mktemp("images"), []
    for seed in (1, 2):
        config = TinyConfig()
        write_gguf(folder / f"{seed}.gguf", config, make_weights(seed, config))
        found.append(build(folder / f"{seed}.gguf", board, folder / f"{seed}.qimg").image)
    return found


@pytest.fixture
def device(tmp_path: Path) -> Iterator[LinkedDevice]:
    line = Pipes(tmp_path / "root")
    yield LinkedDevice(Link(line, "agent", noisy=False), "agent")
    line.close()


def test_version_is_the_package_s() -> None:
    assert version("qedge") == answers.VERSION


VALUES = (
    *(0, 23, 24, 255, 256, 65536, 1 << 63, -1, -25, None, True, False),
    *(b"", b"ab" * 200, "", "äö", [], [1, [2, [3]]], {}, {"a": {"b": [1, b"x", None]}}),
)


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_cbor_is_what_a_library_writes_and_reads(value: object) -> None:
    assert cbor.loads(cbor2.dumps(value)) == value
    assert cbor2.loads(cbor.dumps(value)) == value


def test_bad_cbor_is_a_value_error() -> None:
    rng = random.Random(7)
    good = cbor.dumps({"a": [1, 2, {"b": b"c" * 30}], "d": "e"})
    for _ in range(3000):
        data = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        with contextlib.suppress(ValueError):
            cbor.loads(bytes(data[: rng.randint(0, len(data))]))
    for data in (b"", b"\x9f", b"\x5b" + b"\xff" * 8, b"\x81" * 40, b"\xbb" + b"\xff" * 8):
        with pytest.raises(ValueError):
            cbor.loads(data)


def test_an_image_is_flashed_run_and_gone_back_from(
    device: LinkedDevice, images: list[Path], board: Board
) -> None:
    first = flash.apply(device, flash.plan(device, images[0], board))
    second = flash.apply(device, flash.plan(device, images[1], board))
    assert first.slot != second.slot and second.bytes_sent
    for image in (images[1], images[0]):
        with Model.open(image) as model:
            assert remote.test(device) == model.test()
            run = remote.Run(device, "hello", 9, temperature=0.8, top_k=5, seed=3, hash=True)
            assert "".join(run) == "".join(
                model.generate("hello", 9, temperature=0.8, top_k=5, seed=3, hash=True)
            )
            assert run.logits_hash == model.logits_hash()
        if image == images[1]:
            remote.rollback(device)
    times = remote.bench(device, prompt_tokens=8, decode_tokens=4, depth=2)
    assert times.prefill_ticks and times.decode_ticks and times.first_ticks


def test_there_is_nothing_to_go_back_to_at_first(
    device: LinkedDevice, images: list[Path], board: Board
) -> None:
    flash.apply(device, flash.plan(device, images[0], board))
    with pytest.raises(QedgeError, match="nothing to go back"):
        remote.rollback(device)


def test_the_active_slot_is_not_written(
    device: LinkedDevice, images: list[Path], board: Board
) -> None:
    done = flash.apply(device, flash.plan(device, images[0], board))
    with pytest.raises(WriteError, match="active slot"):
        device.write(done.board_id, done.slot, 0, bytes(4096))


def test_what_does_not_verify_is_not_made_active(
    device: LinkedDevice, images: list[Path], board: Board
) -> None:
    flash.apply(device, flash.plan(device, images[0], board))
    plan = flash.plan(device, images[1], board)
    data = bytearray(images[1].read_bytes())
    data += b"\xff" * (-len(data) % 4096)
    data[len(data) // 2] ^= 1
    hello = device.hello()
    for at in range(0, len(data), 32768):
        device.write(hello.board_id, plan.slot, at, bytes(data[at : at + 32768]))
    with pytest.raises(VerifyError):
        device.finish("activate", slot=plan.slot, id=bytes.fromhex(plan.image_id))
    assert device.hello().image_id == hello.image_id
    assert flash.apply(device, flash.plan(device, images[1], board)).bytes_sent <= 65536


def test_a_lock_is_held_by_one_and_lost_with_its_process(
    tmp_path: Path, images: list[Path], board: Board
) -> None:
    root = tmp_path / "root"
    one, two = Pipes(root), Pipes(root)
    first = LinkedDevice(Link(one, "one", noisy=False), "one")
    second = LinkedDevice(Link(two, "two", noisy=False), "two")
    first.write(first.hello().board_id, 0, 0, bytes(4096))
    plan = flash.plan(second, images[0], board)
    with pytest.raises(WriteError, match="another flash"):
        flash.apply(second, plan)
    one.process.kill()
    one.close()
    assert flash.apply(second, flash.plan(second, images[0], board)).verified
    two.close()


def test_whoever_is_silent_with_the_lock_loses_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qedge.runtime.agent.__main__.LOCK_SECONDS", 0.05)
    one = Agent(str(tmp_path), "arm64")
    one._slots.lock()
    read, write = os.pipe()
    served = threading.Thread(target=serve, args=(one, read, write), kwargs={"noisy": False})
    served.start()
    served.join(10)
    assert not served.is_alive()
    one.close()
    Slots(str(tmp_path)).lock()


def test_a_request_is_done_once_however_often_it_comes(tmp_path: Path) -> None:
    one = Agent(str(tmp_path), "arm64")
    body = cbor.dumps({"job": "test"})
    packet = struct.pack(">BBHHBB", 10, 0, len(body), 64, 1, 4) + body
    answer = one.answer(packet)
    assert answer is not None and cbor.loads(answer[8:])["err"]["rc"] == 5
    assert one.answer(packet) is answer
    one.close()


def test_hostile_messages_get_an_error_and_the_agent_goes_on(tmp_path: Path) -> None:
    one = Agent(str(tmp_path), "arm64")
    rng = random.Random(3)
    identity = one._slots.board_id()
    values: list[object] = [-1, 0, 1, 7, 1 << 40, 1 << 63, None, b"", b"x" * 4096, "y", [], {}]
    names = (
        "id",
        "slot",
        "offset",
        "data",
        "first",
        "count",
        "from",
        "source",
        "job",
        "prompt",
    )
    for _ in range(2000):
        message = {name: rng.choice(values) for name in names if rng.random() < 0.7}
        if rng.random() < 0.5:
            message["id"] = identity
        if rng.random() < 0.3:
            message["job"] = rng.choice(["verify", "activate", "test", "run", "bench"])
        if message.get("offset") == 1 << 40:
            message["offset"] = 0  # a sparse terabyte is allowed, and slow to digest
        body = cbor.dumps(message)
        head = struct.pack(
            ">BBHHBB",
            rng.choice([0, 2]),
            0,
            len(body),
            64,
            rng.randrange(256),
            rng.randrange(9),
        )
        answer = one.answer(head + body)
        assert answer is not None and isinstance(cbor.loads(answer[8:]), dict)
    assert Slots(str(tmp_path)).active() is None
    one.close()


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"sequence": "x"}', b"\xff" * 20])
def test_a_damaged_record_is_no_record(damage: bytes, tmp_path: Path) -> None:
    slots = Slots(str(tmp_path))
    slots.write(0, 0, b"image")
    slots.activate(0, "00" * 32, 5, 0)
    assert slots.active() == 0
    (tmp_path / "a.record").write_bytes(damage)
    assert slots.active() is None


def test_an_update_that_is_not_finished_costs_no_image(tmp_path: Path) -> None:
    slots = Slots(str(tmp_path))
    for slot in (0, 1):
        slots.write(slot, 0, b"image")
        slots.activate(slot, "00" * 32, 5, 0)
    with pytest.raises(SlotError):
        slots.write(1, 0, b"other")
    slots.write(0, 0, b"other")
    assert slots.record(0) and (tmp_path / "a.qimg").read_bytes() == b"image"
    assert slots.active() == 1
    slots.close()


def test_it_answers_on_a_serial_line(tmp_path: Path, images: list[Path], board: Board) -> None:
    master, slave = os.openpty()
    name = os.ttyname(slave)
    there, here = os.openpty()  # a second pair, joined to the first, is the cable
    stop = threading.Event()

    def cable() -> None:
        import select

        while not stop.is_set():
            ready, _, _ = select.select([master, there], [], [], 0.05)
            for one, other in ((master, there), (there, master)):
                if one in ready:
                    os.write(other, os.read(one, 4096))

    carrier = threading.Thread(target=cable)
    carrier.start()
    command = [sys.executable, "-m", "qedge.runtime.agent", "--root", str(tmp_path / "root")]
    process = subprocess.Popen([*command, "--board", "arm64", "--serial", name])
    try:
        port = os.ttyname(here)
        device = LinkedDevice(Link(open_line(port, 115200), port, patience=20), port)
        assert flash.apply(device, flash.plan(device, images[0], board)).verified
        with Model.open(images[0]) as model:
            assert remote.test(device) == model.test()
        device.close()
    finally:
        process.kill()
        process.wait()
        stop.set()
        carrier.join()
        for number in (master, slave, there, here):
            os.close(number)
