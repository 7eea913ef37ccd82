"""The link on good and bad lines: noise, loss, silence, other devices, wrong boards."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import tty
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from bare.conftest import MakeImage, put

from qedge.runtime.agent.frame import Decoder, encode
from qedge.runtime.errors import NoBoardError, SeveralBoardsError, WrongBoardError
from qedge.toolkit.board import Board, load
from qedge.toolkit.device import flash, remote
from qedge.toolkit.emulators.bare import Emulator
from qedge.toolkit.link import Link, LinkedDevice, open_line
from qedge.toolkit.link.find import find

Qedge = Callable[..., "CompletedProcess[str]"]


def test_packets_of_every_length_come_back_from_their_lines() -> None:
    chance = random.Random(1)
    for size in [*range(8, 140), 1000, 1280]:
        packet = chance.randbytes(size)
        lines = encode(packet)
        assert all(len(line) <= 127 for line in lines.splitlines(keepends=True))
        assert list(Decoder().feed(lines)) == [packet]


def test_packets_are_found_between_noise_and_in_any_pieces() -> None:
    chance = random.Random(2)
    packets = [chance.randbytes(chance.randrange(8, 400)) for _ in range(50)]
    stream = b"".join(
        chance.randbytes(chance.randrange(30)).replace(b"\x06\x09", b"") + b"\n" + encode(p)
        for p in packets
    )
    decoder, found = Decoder(), []
    while stream:
        size = chance.randrange(1, 60)
        found += decoder.feed(stream[:size])
        stream = stream[size:]
    assert found == packets and decoder.noise > 0


class BadLine:
    """A line that loses, doubles and changes some of what is written and read."""

    def __init__(self, port: str, seed: int, rate: float) -> None:
        self._line = open_line(port, 115200)
        self._chance = random.Random(seed)
        self._rate = rate

    def _spoil(self, data: bytes) -> bytes:
        out = bytearray()
        for byte in data:
            if self._chance.random() >= self._rate:
                out.append(byte)
                continue
            kind = self._chance.randrange(3)
            if kind == 1:
                out += bytes([byte, byte])
            elif kind == 2:
                out.append(byte ^ 1 << self._chance.randrange(8))
        return bytes(out)

    def write(self, data: bytes) -> int | None:
        return self._line.write(self._spoil(data))

    def read(self, size: int = 1) -> bytes:
        return self._spoil(self._line.read(size))

    @property
    def in_waiting(self) -> int:
        return self._line.in_waiting

    def close(self) -> None:
        self._line.close()


def test_an_update_over_a_noisy_line_arrives_whole(
    sim: Board, make_image: MakeImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qedge.toolkit.link.device.WRITE_PAUSE", 0.02)
    monkeypatch.setattr("qedge.toolkit.link.device.STEP_PAUSE", 0.05)
    image = make_image("sim")
    with Emulator(sim, tmp_path / "flash.bin") as emulator:
        emulator.hello()
        link = Link(BadLine(emulator.port, 3, 2e-4), emulator.port, pause=0.02)
        device = LinkedDevice(link, emulator.port)
        assert put(device, image, sim).verified
        assert device.repeats > 5
        device.close()
        clean = emulator.connect()
        assert remote.test(clean)
        clean.close()


@pytest.fixture
def terminal() -> Iterator[tuple[int, str]]:
    """(our end, the other end's name) of a line with nothing behind it."""
    ours, theirs = os.openpty()
    tty.setraw(theirs)
    yield ours, os.ttyname(theirs)
    os.close(ours)
    os.close(theirs)


def test_a_silent_port_is_no_board(
    terminal: tuple[int, str], qedge: Qedge, make_image: MakeImage
) -> None:
    done = qedge("flash", make_image("sim"), "-b", "sim", "-p", terminal[1], "--json")
    assert done.returncode == 3 and "nothing answers" in done.stderr
    assert json.loads(done.stdout)["error"] == "NoBoardError"
    with pytest.raises(NoBoardError, match="in use|cannot be opened"):
        first = open_line(terminal[1], 115200)
        try:
            open_line(terminal[1], 115200)
        finally:
            first.close()


def test_a_port_full_of_noise_is_no_board(
    terminal: tuple[int, str], qedge: Qedge, make_image: MakeImage
) -> None:
    stop = threading.Event()

    def babble() -> None:
        chance = random.Random(4)
        while not stop.is_set():
            os.write(terminal[0], chance.randbytes(64))
            stop.wait(0.01)

    thread = threading.Thread(target=babble)
    thread.start()
    try:
        done = qedge("flash", make_image("sim"), "-b", "sim", "-p", terminal[1])
    finally:
        stop.set()
        thread.join()
    assert done.returncode == 3 and "bytes came, but no answer" in done.stderr


def test_a_port_that_is_not_there_is_no_board(qedge: Qedge, make_image: MakeImage) -> None:
    done = qedge("flash", make_image("sim"), "-b", "sim", "-p", "/dev/nothing-here")
    assert done.returncode == 3 and "cannot be opened" in done.stderr


def other_sim() -> Board:
    """A second kind of board, as a process too."""
    found = load("sim")
    return Board(
        **{
            **{name: getattr(found, name) for name in Board.__slots__},
            "name": "other-sim",
        }
    )


def test_another_kind_of_board_at_the_port_is_refused(
    sim: Board, make_image: MakeImage, qedge: Qedge, tmp_path: Path
) -> None:
    place = tmp_path / "flash.bin"
    with Emulator(other_sim(), place) as emulator:
        emulator.hello()
        before = place.read_bytes()
        for verb in (["flash", make_image("sim"), "-b", "sim"], ["run", "sim", "x"]):
            done = qedge(*verb, "-p", emulator.port)
            assert done.returncode == 5, done.stderr
            assert "a other-sim answers" in done.stderr
        assert place.read_bytes() == before


@pytest.mark.parametrize("same_serial", [False, True])
def test_boards_that_are_swapped_after_the_look_are_not_written(
    same_serial: bool, sim: Board, make_image: MakeImage, tmp_path: Path
) -> None:
    """The port answers again, but as the other of two boards."""
    files = tmp_path / "one.bin", tmp_path / "two.bin"
    with Emulator(sim, files[0]) as one:
        put(one.connect(), make_image("sim", seed=1), sim)
    with Emulator(sim, files[1]) as two:
        two.hello()
    if same_serial:
        files[1].write_bytes(files[1].read_bytes()[:-8] + files[0].read_bytes()[-8:])
    before = [file.read_bytes() for file in files]
    with Emulator(sim, files[0]) as one, Emulator(sim, files[1]) as two:
        plan = flash.plan(one.connect(), make_image("sim", seed=2), sim)
        with pytest.raises(WrongBoardError, match="nothing was written"):
            flash.apply(two.connect(), plan)
    assert [file.read_bytes() for file in files] == before


def test_a_write_that_reaches_a_swapped_board_is_refused_by_it(
    sim: Board, tmp_path: Path
) -> None:
    with (
        Emulator(sim, tmp_path / "one.bin") as one,
        Emulator(sim, tmp_path / "two.bin") as two,
    ):
        first = one.hello()
        second = two.connect()
        with pytest.raises(WrongBoardError):
            second.write(first.board_id, 0, 0, bytes(1024))


def test_a_board_is_found_by_its_name_and_two_of_a_name_are_told_apart(
    sim: Board, tmp_path: Path
) -> None:
    with (
        Emulator(sim, tmp_path / "one.bin") as one,
        Emulator(other_sim(), tmp_path / "two.bin") as two,
        Emulator(sim, tmp_path / "three.bin") as three,
    ):
        assert find("sim", 115200, ["/dev/nothing-here", two.port, one.port]) == one.port
        with pytest.raises(NoBoardError, match="a other-sim"):
            find("sim", 115200, [two.port])
        with pytest.raises(SeveralBoardsError, match="2 boards answer as sim"):
            find("sim", 115200, [one.port, two.port, three.port])
    with pytest.raises(NoBoardError, match="none behind USB"):
        find("sim", 115200, [])


def test_the_command_line_flashes_runs_benches_tests_and_resets(
    sim: Board, make_image: MakeImage, qedge: Qedge, tmp_path: Path
) -> None:
    image = make_image("sim")
    with Emulator(sim, tmp_path / "flash.bin") as emulator:
        port = emulator.port

        def ask(*arguments: object) -> dict:
            done = qedge(*arguments, "-p", port, "--json")
            assert done.returncode == 0, done.stderr
            return json.loads(done.stdout)

        dry = ask("flash", image, "-b", "sim", "--dry-run")
        assert dry["bytes_to_send"] == dry["bytes_total"] == image.stat().st_size
        assert {"board", "board_id", "slot", "seconds", "arena_bytes"} <= dry.keys()
        done = ask("flash", image, "-b", "sim")
        assert done["bytes_sent"] == done["bytes_total"] and done["verified"] is True
        assert {"board", "board_id", "slot", "image_id", "seconds"} <= done.keys()
        assert ask("flash", image, "-b", "sim")["bytes_sent"] == 0
        tested = ask("test", "sim")
        assert tested["passed"] is True
        assert (
            json.loads(qedge("test", image, "--json").stdout)["logits_hash"]
            == (tested["logits_hash"])
        )
        ran = ask("run", "sim", "Hello", "-n", "5", "--hash")
        here = json.loads(qedge("run", image, "Hello", "-n", "5", "--hash", "--json").stdout)
        for key in ("text", "tokens", "finish_reason", "logits_hash", "image_id"):
            assert ran[key] == here[key]
        assert here.keys() <= ran.keys() and ran["emulated"] is True
        measured = ask("bench", "sim", "--prompt-tokens", "4", "--decode-tokens", "4")
        assert measured["emulated"] and measured["decode_tokens_per_second"] is None
        local = json.loads(
            qedge(
                "bench", image, "--prompt-tokens", "4", "--decode-tokens", "4", "--json"
            ).stdout
        )
        assert local.keys() <= measured.keys()
        assert ask("reset", "sim")["board_id"] == done["board_id"]
        assert ask("flash", image, "-b", "sim")["bytes_sent"] == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_emulate_prints_its_port_and_stays_until_it_is_told_to_end(
    number: signal.Signals, make_image: MakeImage, sim: Board, tmp_path: Path
) -> None:
    """As a background job of a shell, whose interrupts are ignored until it takes them."""
    place = tmp_path / "flash.bin"
    command = [sys.executable, "-m", "qedge.toolkit", "emulate", "sim", "--json"]
    process = subprocess.Popen(
        [*command, "--flash-file", str(place)],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    assert process.stdout is not None
    try:
        said = json.loads(process.stdout.readline())
        device = LinkedDevice(Link(open_line(said["port"], 115200), "emulated"), "emulated")
        done = put(device, make_image("sim"), sim)
        assert done.board_id == said["board_id"]
        device.close()
    finally:
        process.send_signal(number)
    assert process.wait(20) == 0 and not process.stdout.read()
    with Emulator(sim, place) as emulator:
        assert emulator.hello().image_id == done.image_id
