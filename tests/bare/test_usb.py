"""A Pico's serial port over USB: its requests and packets on this machine, and an emulated Pico
behind a USB host that is strict (firmware/emulator/usb_host.mjs)."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cbor2
import pytest
from bare.conftest import MakeImage, put

from qedge.runtime.agent.frame import Decoder, encode
from qedge.runtime.agent.numbers import (
    GROUP_QEDGE,
    LINK_NO_JOB,
    QEDGE_HELLO,
    QEDGE_JOB,
    QEDGE_STEP,
)
from qedge.runtime.model import Model
from qedge.toolkit.bare.firmware import FLAGS, defines, folders
from qedge.toolkit.board import device_of, load
from qedge.toolkit.device import remote
from qedge.toolkit.emulators.bare import Emulator, missing
from qedge.toolkit.link import Link, open_line
from qedge.toolkit.link.client import Line, Refused

UNREAD = 400  # hellos, whose answers are more bytes than all that is kept on the way
LAST = 255


def test_requests_toggles_and_hosts_that_do_not_read(tmp_path: Path) -> None:
    firmware, engine = folders()
    source = Path(__file__).with_name("usb_check.c")
    program = tmp_path / "usb_check"
    board = replace(load("pico"), name="name-of-31-characters-0123456-1")
    facts = defines(board, device_of(board))
    command = ["cc", "-std=c11", *FLAGS, "-O1", "-fsanitize=address,undefined", f"-I{firmware}"]
    command += [f"-I{engine}", *facts, str(source)]
    command += [str(firmware / "ports" / "rp2040" / "usb_requests.c"), "-o", str(program)]
    subprocess.run(command, check=True)
    done = subprocess.run([str(program)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def pico(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    if need := missing(load("pico")):
        pytest.skip(need)
    with Emulator(load("pico"), tmp_path_factory.mktemp("pico") / "flash.bin") as emulator:
        yield emulator


@pytest.fixture(scope="module")
def image(pico: Emulator, make_image: MakeImage) -> Path:
    """An image that came over USB."""
    made = make_image("pico", quant="q4_0", layers=1)
    device = pico.connect(pico.usb_port)
    assert device.hello(patience=60).active is None
    assert put(device, made, pico.board).verified
    device.close()
    return made


def test_image_that_came_over_usb_runs_there_as_over_uart(pico: Emulator, image: Path) -> None:
    with Model.open(image) as model:
        text = "".join(model.generate("Hello there", 3, hash=True))
        digest = model.logits_hash()
    blocks = []
    for port in (pico.usb_port, pico.port):
        device = pico.connect(port)
        blocks.append(device.digests(0, 0, 64))  # the largest answers
        made = remote.Run(device, "Hello there", 3, hash=True)
        assert "".join(made) == text and made.logits_hash == digest
        assert pico.said() == f"USB 2e8a:000a qedge pico {device.hello().board_id}"
        device.close()
    assert blocks[0] == blocks[1]


def test_what_is_asked_on_one_line_is_not_answered_on_the_other(pico: Emulator) -> None:
    """Two packets at once, byte by byte in turns; and half of one on each line."""
    assert pico.usb_port is not None
    usb, uart = open_line(pico.usb_port, 115200), open_line(pico.port, 115200)
    lines = (usb, uart)
    questions = [_message(QEDGE_HELLO, 11), _message(QEDGE_HELLO, 12)]
    for pair in zip(*(encode(question) for question in questions), strict=True):
        for line, byte in zip(lines, pair, strict=True):
            line.write(bytes([byte]))
    for line, question in zip(lines, questions, strict=True):
        assert _packets(line, question[6])[-1][6] == question[6]
    half = encode(questions[0])
    usb.write(half[:9])
    uart.write(half[9:])
    uart.write(encode(questions[1]))
    assert [packet[6] for packet in _packets(uart, 12)] == [12]
    usb.write(half[9:])
    assert [packet[6] for packet in _packets(usb, 11)] == [11]
    for line in lines:
        line.close()


def test_host_that_does_not_read_holds_up_nobody(pico: Emulator, image: Path) -> None:
    assert pico.usb_port is not None
    usb, uart = open_line(pico.usb_port, 115200), Link(open_line(pico.port, 115200), "uart")
    job = {"job": "test", "ticket": 4711}
    for sequence in range(UNREAD):
        usb.write(encode(_message(QEDGE_HELLO, sequence % LAST)))
    usb.write(encode(_message(QEDGE_JOB, 0, job)))
    _until_there_is(uart, job["ticket"])  # so all was taken, and not one answer read
    answered = _packets(usb, LAST, ask=_message(QEDGE_HELLO, LAST))
    assert answered and answered[-1][6] == LAST and len(answered) < UNREAD
    usb.close()
    uart.close()


def test_reset_is_a_new_enumeration_and_keeps_the_image(pico: Emulator, image: Path) -> None:
    usb, uart = pico.connect(pico.usb_port), pico.connect(pico.port)
    before = usb.hello(patience=20)
    uart.reset()
    assert usb.hello(patience=20).image_id == before.image_id
    assert pico.said().count("USB 2e8a:000a") == 2
    usb.close()
    uart.close()


def _until_there_is(link: Link, ticket: object, seconds: float = 60.0) -> None:
    """A job with that ticket."""
    until = time.monotonic() + seconds
    while True:
        try:
            link.request(GROUP_QEDGE, QEDGE_STEP, {"ticket": ticket}, write=True, patience=60)
            return
        except Refused as refused:
            assert refused.code == LINK_NO_JOB and time.monotonic() < until


def _message(command: int, sequence: int, values: dict[str, object] | None = None) -> bytes:
    """A packet of the link's own group; with values one that writes."""
    body = cbor2.dumps(values or {})
    head = (8 | (2 if values else 0), 0, 0, len(body), 0, GROUP_QEDGE, sequence, command)
    return bytes(head) + body


def _packets(line: Line, last: int, *, ask: bytes | None = None) -> list[bytes]:
    """What comes until the answer to a sequence number has. ask: what is asked whenever nothing
    comes: while the board still drops what it would say, it is not answered."""
    decoder, until = Decoder(), time.monotonic() + 60
    found: list[bytes] = []
    while time.monotonic() < until and not (found and found[-1][6] == last):
        came = line.read(4096)
        if not came and ask is not None:
            line.write(encode(ask))
        found += decoder.feed(came)
    return found
