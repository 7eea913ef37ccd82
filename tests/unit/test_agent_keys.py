"""A board with Linux that has a key: who may have written it, what it takes, what it runs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from support.local_agent import Local
from support.tiny_models import TinyConfig, make_weights, write_gguf

from qedge.runtime.agent.answers import Agent
from qedge.runtime.agent.keys import NotTrusted, trusted_key
from qedge.runtime.errors import ImageError, QedgeError
from qedge.runtime.image import open_image
from qedge.toolkit.board import Board, load
from qedge.toolkit.device import flash, remote
from qedge.toolkit.link import Link, LinkedDevice
from qedge.toolkit.make import signature
from qedge.toolkit.make.build import build


@pytest.fixture(scope="module")
def board() -> Board:
    return load("arm64")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, board: Board) -> list[Path]:
    folder, found = tmp_path_factory.mktemp("images"), []
    for seed in (1, 2):
        write_gguf(folder / f"{seed}.gguf", TinyConfig(), make_weights(seed, TinyConfig()))
        found.append(build(folder / f"{seed}.gguf", board, folder / f"{seed}.qimg").image)
    return found


@pytest.fixture
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    folder.chmod(0o755)
    signature.new_key(folder / "key")
    return folder


@pytest.fixture
def signed(tmp_path: Path, keys: Path) -> Callable[..., Path]:
    def make(image: Path, counter: int, key: Ed25519PrivateKey | None = None) -> Path:
        copy = tmp_path / f"{counter}-{image.name}"
        copy.write_bytes(image.read_bytes())
        signature.sign(copy, key or signature.private_key(keys / "key"), counter)
        return copy

    return make


def linked(root: Path, key: Path) -> LinkedDevice:
    agent = Agent(str(root), "arm64", key_path=str(key), key_owner=os.geteuid())
    return LinkedDevice(Link(Local(agent), "agent", noisy=False), "agent")


def put(device: LinkedDevice, image: Path, board: Board) -> flash.Flashed:
    return flash.apply(device, flash.plan(device, image, board))


def test_a_board_with_a_key_takes_what_its_owner_signed_and_nothing_else(
    tmp_path: Path,
    keys: Path,
    images: list[Path],
    board: Board,
    signed: Callable[..., Path],
) -> None:
    device = linked(tmp_path / "root", keys / "key.pub")
    assert device.hello().key == signature.public_key(keys / "key.pub")
    with pytest.raises(ImageError, match="not signed"):
        put(device, images[0], board)
    with pytest.raises(ImageError, match="not by the key"):
        put(device, signed(images[0], 1, Ed25519PrivateKey.generate()), board)
    assert put(device, signed(images[0], 4), board).verified
    assert device.hello().floor == 4
    with pytest.raises(ImageError, match="counter is 3"):
        put(device, signed(images[1], 3), board)


def test_a_client_that_does_not_look_is_refused_by_the_board(
    tmp_path: Path,
    keys: Path,
    images: list[Path],
    board: Board,
    signed: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    device = linked(tmp_path / "root", keys / "key.pub")
    put(device, signed(images[0], 4), board)
    monkeypatch.setattr(signature, "check", lambda *_: None)
    for image in (images[1], signed(images[1], 3), signed(images[1], 9, _stranger())):
        with pytest.raises(ImageError):
            put(device, image, board)
    plan = flash.plan(device, signed(images[1], 9, _stranger()), board)
    flash._send(device, plan, lambda *_: None)
    with pytest.raises(ImageError):  # and the counter is the signature's, not the client's
        values = {"slot": plan.slot, "id": bytes.fromhex(plan.image_id), "counter": 99}
        device.finish("activate", **values)
    assert device.hello().floor == 4


def _stranger() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


def test_the_same_image_signed_with_a_higher_counter_raises_the_floor(
    tmp_path: Path,
    keys: Path,
    images: list[Path],
    board: Board,
    signed: Callable[..., Path],
) -> None:
    device = linked(tmp_path / "root", keys / "key.pub")
    put(device, signed(images[0], 1), board)
    again = put(device, signed(images[0], 8), board)
    assert again.bytes_sent < images[0].stat().st_size and device.hello().floor == 8
    assert put(device, signed(images[0], 8), board).bytes_sent == 0


def test_the_floor_outlives_the_slots(
    tmp_path: Path,
    keys: Path,
    images: list[Path],
    board: Board,
    signed: Callable[..., Path],
) -> None:
    root = tmp_path / "root"
    device = linked(root, keys / "key.pub")
    put(device, signed(images[0], 6), board)
    device.close()
    for name in ("a.record", "a.qimg"):
        (root / name).unlink()
    device = linked(root, keys / "key.pub")
    assert device.hello().active is None and device.hello().floor == 6
    with pytest.raises(ImageError, match="has accepted 6"):
        put(device, signed(images[0], 5), board)


def test_an_unsigned_image_from_before_the_key_came_does_not_run(
    tmp_path: Path,
    keys: Path,
    images: list[Path],
    board: Board,
) -> None:
    root = tmp_path / "root"
    device = linked(root, tmp_path / "none")
    put(device, images[0], board)
    device.close()
    device = linked(root, keys / "key.pub")
    for work in (
        lambda: remote.test(device),
        lambda: list(remote.Run(device, "hello", 2)),
        lambda: remote.bench(device, prompt_tokens=2, decode_tokens=2, depth=1),
    ):
        with pytest.raises(ImageError, match="signature"):
            work()


def test_signed_and_unsigned_are_the_same_to_a_board_without_a_key(
    tmp_path: Path, images: list[Path], board: Board, signed: Callable[..., Path]
) -> None:
    device = linked(tmp_path / "root", tmp_path / "none")
    put(device, signed(images[0], 3), board)
    assert device.hello().key is None and device.hello().floor == 0
    assert put(device, images[0], board).verified  # its trailer differs: it is sent
    name = "ab"[device.hello().active or 0]
    assert (tmp_path / "root" / f"{name}.qimg").stat().st_size == images[0].stat().st_size


@pytest.mark.parametrize("harm", ["loose file", "loose folder", "no key", "another algorithm"])
def test_a_key_that_others_could_have_put_there_ends_all_trust(
    harm: str, tmp_path: Path, keys: Path, images: list[Path], board: Board
) -> None:
    public = keys / "key.pub"
    if harm == "loose file":
        public.chmod(0o666)
    elif harm == "loose folder":
        keys.chmod(0o777)
    elif harm == "no key":
        public.write_text("hello")
    else:
        public.write_text(
            "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VuAyEA\n-----END PUBLIC KEY-----"
        )
    with pytest.raises(NotTrusted):
        trusted_key(str(public), os.geteuid())
    with pytest.raises(QedgeError):
        put(linked(tmp_path / "root", public), images[0], board)


def test_a_key_is_what_the_library_reads(keys: Path) -> None:
    found = trusted_key(str(keys / "key.pub"), os.geteuid())
    assert found == signature.public_key(keys / "key.pub")
    assert trusted_key(str(keys / "nothing")) is None


def test_the_engine_reads_the_counter_that_was_signed(
    images: list[Path], keys: Path, signed: Callable[..., Path]
) -> None:
    key = signature.public_key(keys / "key.pub")
    assert open_image(signed(images[0], 12345)).signature(key) == 12345
    assert open_image(images[0]).signature(key) is None
    data = bytearray(signed(images[0], 7).read_bytes())
    size = images[0].stat().st_size
    for at in range(size, size + 80):
        copy = images[0].with_name("changed.qimg")
        copy.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        assert open_image(copy).signature(key) is None, at - size
