"""Boards that want signatures: right ones, wrong ones, none, and older ones."""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from bare.conftest import MakeImage, put
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from qedge.runtime.errors import ImageError, UsageError, WriteError
from qedge.runtime.image import open_image
from qedge.toolkit.bare.firmware import build, folders
from qedge.toolkit.board import Board
from qedge.toolkit.device import flash
from qedge.toolkit.emulators.bare import Emulator
from qedge.toolkit.link import LinkedDevice
from qedge.toolkit.make import signature

ORDER = 2**252 + 27742317777372353535851937790883648493


@pytest.fixture(scope="module")
def key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


@pytest.fixture
def signing_board(sim: Board, key: Ed25519PrivateKey, tmp_path: Path):
    firmware = build(sim, key=key.public_key().public_bytes_raw())
    with Emulator(sim, tmp_path / "flash.bin", firmware=firmware) as emulator:
        device = emulator.connect()
        yield device
        device.close()


def signed(image: Path, folder: Path, key: Ed25519PrivateKey, counter: int) -> Path:
    copy = folder / f"signed-{counter}-{image.name}"
    copy.write_bytes(image.read_bytes())
    signature.sign(copy, key, counter)
    return copy


def test_the_firmware_verifies_what_the_library_signs_and_nothing_else(tmp_path: Path) -> None:
    engine = folders()[1] / "engine"
    program = tmp_path / "check"
    sources = [
        Path(__file__).with_name("ed25519_check.c"),
        engine / "ed25519.c",
        engine / "sha512.c",
    ]
    subprocess.run(["cc", "-O2", f"-I{engine}", *sources, "-o", program], check=True)
    chance, lines, wanted = random.Random(1), [], []
    for number in range(600):
        made = Ed25519PrivateKey.from_private_bytes(chance.randbytes(32))
        public = bytearray(made.public_key().public_bytes_raw())
        message = bytearray(chance.randbytes(chance.randrange(1, 300)))
        proof = bytearray(made.sign(bytes(message)))
        kind = number % 6
        if kind == 1:
            proof[chance.randrange(64)] ^= 1 << chance.randrange(8)
        elif kind == 2:
            message[chance.randrange(len(message))] ^= 1 << chance.randrange(8)
        elif kind == 3:  # the same number modulo the group's order is another signature
            high = int.from_bytes(proof[32:], "little") + ORDER
            proof[32:] = high.to_bytes(32, "little")
        elif kind == 4:
            public[chance.randrange(32)] ^= 1 << chance.randrange(8)
        lines.append(f"{public.hex()} {message.hex()} {proof.hex()}")
        wanted.append("01"[kind in (0, 5)])
    # RFC 8032, 7.1, test 1
    lines.append(
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a - "
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
        "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
    )
    wanted.append("1")
    done = subprocess.run(
        [program], input="\n".join(lines), capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == wanted


def test_a_signed_image_is_taken_and_an_unsigned_one_refused(
    signing_board: LinkedDevice,
    sim: Board,
    make_image: MakeImage,
    key: Ed25519PrivateKey,
    tmp_path: Path,
) -> None:
    image = make_image("sim")
    with pytest.raises(ImageError, match="not signed"):
        flash.plan(signing_board, image, sim)
    stranger = Ed25519PrivateKey.from_private_bytes(bytes(32))
    with pytest.raises(ImageError, match="not by the key"):
        flash.plan(signing_board, signed(image, tmp_path, stranger, 1), sim)
    mine = signed(image, tmp_path, key, 1)
    assert put(signing_board, mine, sim).bytes_sent == image.stat().st_size + 80
    assert put(signing_board, mine, sim).bytes_sent == 0


def test_an_older_counter_is_refused(
    signing_board: LinkedDevice,
    sim: Board,
    make_image: MakeImage,
    key: Ed25519PrivateKey,
    tmp_path: Path,
) -> None:
    put(signing_board, signed(make_image("sim", seed=1), tmp_path, key, 5), sim)
    assert signing_board.hello().floor == 5
    older = signed(make_image("sim", seed=2), tmp_path, key, 4)
    with pytest.raises(ImageError, match="security counter is 4"):
        flash.plan(signing_board, older, sim)
    assert put(signing_board, signed(make_image("sim", seed=2), tmp_path, key, 5), sim).verified


@pytest.mark.parametrize("what", ["unsigned", "stranger", "older", "changed counter"])
def test_the_board_itself_refuses_what_a_client_would_send_anyway(
    what: str,
    signing_board: LinkedDevice,
    sim: Board,
    make_image: MakeImage,
    key: Ed25519PrivateKey,
    tmp_path: Path,
) -> None:
    put(signing_board, signed(make_image("sim", seed=1), tmp_path, key, 5), sim)
    image = make_image("sim", seed=2)
    stranger = Ed25519PrivateKey.from_private_bytes(bytes(32))
    data = {
        "unsigned": image.read_bytes(),
        "stranger": signed(image, tmp_path, stranger, 6).read_bytes(),
        "older": signed(image, tmp_path, key, 4).read_bytes(),
        "changed counter": signed(image, tmp_path, key, 4).read_bytes(),
    }[what]
    if what == "changed counter":
        at = open_image(image).bytes + 12
        data = data[:at] + b"\x09" + data[at + 1 :]
    hello = signing_board.hello()
    slot = 1 - (hello.active or 0)
    data += b"\xff" * (-len(data) % hello.block)
    for at in range(0, len(data), 1024):
        signing_board.write(hello.board_id, slot, at, data[at : at + 1024])
    with pytest.raises(ImageError, match="counter" if what == "older" else "signature"):
        signing_board.finish("activate", slot=slot, id=open_image(image).id)
    assert signing_board.hello().image_id == hello.image_id


def test_keys_and_signatures_by_the_command_line(
    make_image: MakeImage, tmp_path: Path, qedge: Callable[..., CompletedProcess[str]]
) -> None:
    place = tmp_path / "key"
    made = json.loads(qedge("keys", "new", place, "--json").stdout)
    assert made == {"private": str(place), "public": f"{place}.pub"}
    assert place.stat().st_mode & 0o777 == 0o600
    again = qedge("keys", "new", place)
    assert again.returncode == WriteError.exit_code and "File exists" in again.stderr
    image = tmp_path / "x.qimg"
    image.write_bytes(make_image("sim").read_bytes())
    whole = image.read_bytes()
    assert qedge("sign", image, "--key", place, "--counter", 7).returncode == 0
    assert image.read_bytes()[: len(whole)] == whole
    signature.check(open_image(image), image, signature.public_key(place), 7)
    assert qedge("sign", image, "--key", place, "--counter", 8).returncode == 0
    assert image.stat().st_size == len(whole) + 80
    told = json.loads(qedge("inspect", image, "--verify", "--json").stdout)
    assert (told["signed"], told["security_counter"]) == (True, 8)
    lost = qedge("sign", image, "--key", tmp_path / "lost")
    assert lost.returncode == 2 and "No such file" in lost.stderr and "not a" not in lost.stderr
    wrong = qedge("sign", image, "--key", f"{place}.pub")
    assert wrong.returncode == UsageError.exit_code and "not a private key" in wrong.stderr
