"""The slots of a board with Linux: what is refused changes nothing, what is damaged is mended,
nobody else holds the lock, and the disks of all sorts of boards will do."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from support.local_agent import Local
from support.tiny_models import TinyConfig, make_weights, write_gguf

from qedge.runtime.agent import cbor
from qedge.runtime.agent.answers import Agent
from qedge.runtime.agent.slots import SlotError, Slots
from qedge.runtime.errors import ImageError, QedgeError, VerifyError, WrongBoardError
from qedge.runtime.image import open_image
from qedge.runtime.model import Model
from qedge.toolkit.board import Board, load
from qedge.toolkit.device import flash, remote
from qedge.toolkit.link import Link, LinkedDevice
from qedge.toolkit.make.build import build

ID = "ab" * 32


def linked(root: Path, board: str = "arm64") -> LinkedDevice:
    return LinkedDevice(Link(Local(Agent(str(root), board)), "agent", noisy=False), "agent")


@pytest.fixture(scope="module")
def board() -> Board:
    return load("arm64")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, board: Board) -> list[Path]:
    folder, found = tmp_path_factory.mktemp("images"), []
    for seed in (1, 2, 3):
        write_gguf(folder / f"{seed}.gguf", TinyConfig(), make_weights(seed, TinyConfig()))
        found.append(build(folder / f"{seed}.gguf", board, folder / f"{seed}.qimg").image)
    return found


def put(device: LinkedDevice, image: Path, board: Board) -> flash.Flashed:
    return flash.apply(device, flash.plan(device, image, board))


def flip(path: Path, at: int | None = None) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) * 3 // 4 if at is None else at] ^= 1
    path.write_bytes(data)


# ---- what is damaged ----


def test_a_damaged_active_image_is_repaired_by_flashing_it_again(
    tmp_path: Path, images: list[Path], board: Board
) -> None:
    device = linked(tmp_path)
    first = put(device, images[0], board)
    flip(tmp_path / "a.qimg")
    again = put(device, images[0], board)
    assert again.verified and again.slot != first.slot
    assert 0 < again.bytes_sent < images[0].stat().st_size  # the rest was copied there
    with Model.open(images[0]) as model:
        assert remote.test(device) == model.test()


def test_a_test_of_a_damaged_image_says_that_it_is_damaged(
    tmp_path: Path, images: list[Path], board: Board
) -> None:
    device = linked(tmp_path)
    put(device, images[0], board)
    flip(tmp_path / "a.qimg")
    with pytest.raises(VerifyError, match="hash"):  # and does not blame the engine
        remote.test(device)


def test_who_asks_under_another_name_changes_nothing(
    tmp_path: Path, images: list[Path], board: Board
) -> None:
    device = linked(tmp_path)
    for image in images[:2]:
        put(device, image, board)
    before = device.hello()
    device.close()
    other = linked(tmp_path, "virt-a76")  # a machine may fit several boards
    asked = other.hello()
    assert (asked.active, asked.image_id) == (before.active, before.image_id)
    assert not other.start_error(asked)
    with pytest.raises(WrongBoardError):
        "".join(remote.Run(other, b"the", 2))
    other.close()
    again = linked(tmp_path)
    assert again.hello().image_id == before.image_id and not again.start_error(again.hello())
    assert "".join(remote.Run(again, b"the", 2)) is not None


def test_a_damaged_image_in_the_other_slot_is_repaired_by_flashing_it(
    tmp_path: Path, images: list[Path], board: Board
) -> None:
    device = linked(tmp_path)
    put(device, images[0], board)
    put(device, images[1], board)
    flip(tmp_path / "a.qimg")
    assert 0 < put(device, images[0], board).bytes_sent < images[0].stat().st_size
    with Model.open(images[0]) as model:
        assert remote.test(device) == model.test()


def test_an_active_image_that_verifies_is_read_whole_before_it_is_called_verified(
    tmp_path: Path, images: list[Path], board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = linked(tmp_path)
    put(device, images[0], board)
    plan = flash.plan(device, images[0], board)
    assert plan.active
    flip(tmp_path / "a.qimg")  # after the plan
    with pytest.raises(VerifyError):
        flash.apply(device, plan)


def test_a_rollback_to_what_is_damaged_takes_its_record_away(
    tmp_path: Path, images: list[Path], board: Board
) -> None:
    device = linked(tmp_path)
    put(device, images[0], board)
    put(device, images[1], board)
    flip(tmp_path / "a.qimg")
    with pytest.raises(VerifyError):
        remote.rollback(device)
    assert device.hello().slots[0].sequence == 0
    with pytest.raises(ImageError, match="nothing to go back to"):
        remote.rollback(device)


@pytest.mark.parametrize("harm", ["header", "gone", "empty", "another image"])
def test_an_active_image_that_cannot_be_opened_gives_way_to_the_other_and_that_is_said(
    harm: str, tmp_path: Path, images: list[Path], board: Board
) -> None:
    device = linked(tmp_path)
    put(device, images[0], board)
    put(device, images[1], board)
    device.close()
    active = tmp_path / "b.qimg"
    if harm == "gone":
        active.unlink()
    elif harm == "empty":
        active.write_bytes(b"")
    elif harm == "another image":
        active.write_bytes(images[2].read_bytes())
    else:
        flip(active, 40)
    device = linked(tmp_path)
    hello = device.hello()
    assert hello.image_id == open_image(images[0]).id.hex()
    if harm not in ("gone", "empty"):  # then its record is none, and nothing was given up
        assert "given up" in device.start_error(hello)
    assert remote.test(device)


# ---- two at once ----


def test_an_image_that_somebody_runs_is_never_written(
    tmp_path: Path, images: list[Path], board: Board
) -> None:
    device = linked(tmp_path)
    put(device, images[0], board)
    put(device, images[1], board)
    with Model.open(tmp_path / "a.qimg") as running:
        expected = running.test()
        put(device, images[2], board)  # over the slot that it runs from
        put(device, images[1], board)
        assert running.test() == expected


def test_a_write_ends_an_activation(tmp_path: Path, images: list[Path], board: Board) -> None:
    device = linked(tmp_path)
    put(device, images[0], board)
    plan = flash.plan(device, images[1], board)
    flash._send(device, plan, lambda *_: None)
    job = device.job("activate", slot=plan.slot, id=bytes.fromhex(plan.image_id))
    next(job)
    device.write(plan.hello.board_id, plan.slot, 0, bytes(4096))
    with pytest.raises(QedgeError, match="another client"):
        list(job)
    assert device.hello().image_id == open_image(images[0]).id.hex()


def test_a_file_that_changes_under_a_flash_is_not_activated(
    tmp_path: Path, images: list[Path], board: Board
) -> None:
    device = linked(tmp_path / "board")
    mine = tmp_path / "mine.qimg"
    mine.write_bytes(images[0].read_bytes())
    plan = flash.plan(device, mine, board)
    os.replace(_copy(images[1], tmp_path), mine)  # a rebuild under the same name
    assert flash.apply(device, plan).image_id == open_image(images[0]).id.hex()


def _copy(image: Path, folder: Path) -> Path:
    path = folder / "copy.qimg"
    path.write_bytes(image.read_bytes())
    return path


def test_an_activation_that_names_another_image_or_none_is_refused(
    tmp_path: Path, images: list[Path], board: Board
) -> None:
    device = linked(tmp_path)
    put(device, images[0], board)
    plan = flash.plan(device, images[1], board)
    flash._send(device, plan, lambda *_: None)
    for named in ({}, {"id": bytes(32)}, {"id": b"short"}, {"id": open_image(images[2]).id}):
        with pytest.raises(QedgeError):
            device.finish("activate", slot=plan.slot, **named)
    assert device.hello().image_id == open_image(images[0]).id.hex()


def test_blocks_are_found_wherever_the_board_has_them(
    tmp_path: Path, images: list[Path], board: Board
) -> None:
    device = linked(tmp_path / "board")
    long, short = tmp_path / "long.qimg", tmp_path / "short.qimg"
    model = images[0].with_suffix(".gguf")
    config = TinyConfig(context=4096)
    write_gguf(tmp_path / "long.gguf", config, make_weights(1, config))
    model = tmp_path / "long.gguf"
    build(model, board, long, context=4096)  # its RoPE table takes other blocks
    build(model, board, short, context=64)
    put(device, long, board)
    plan = flash.plan(device, short, board)
    weights = open_image(short).section_bytes(7) or 0
    assert len(plan.copied) >= weights // plan.hello.block
    assert flash.apply(device, plan).verified


# ---- what is refused changes nothing ----


@pytest.mark.parametrize(
    "values",
    [
        {"data": 5},
        {"data": b""},
        {"data": b"x"},
        {"data": None},
        {"offset": 1 << 49},
        {"offset": -4096},
        {"offset": 5},
        {"offset": True},
        {"slot": 2},
        {"slot": False},
        {"id": bytes(8)},
    ],
    ids=repr,
)
def test_a_write_that_is_refused_changes_nothing(
    values: dict[str, object], tmp_path: Path, images: list[Path], board: Board
) -> None:
    device = linked(tmp_path)
    put(device, images[0], board)
    put(device, images[1], board)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    message = {
        "id": bytes.fromhex(device.hello().board_id),
        **{"slot": 0, "offset": 0, "data": bytes(4096)},
        **values,
    }
    answer = _ask(device, 2, message)
    assert answer["err"]["rc"]
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    assert remote.rollback(device).active == 0


def _ask(device: LinkedDevice, command: int, values: dict[str, object]) -> dict[str, object]:
    agent = device._link._line.agent  # type: ignore[attr-defined]
    body = cbor.dumps(values)
    head = bytes([10, 0, len(body) >> 8, len(body) & 255, 0, 64, 99, command])
    found = cbor.loads(agent.answer(head + body)[8:])
    assert isinstance(found, dict)
    return found


# ---- locks and disks ----


def test_nobody_else_can_open_the_lock_or_the_folder(tmp_path: Path) -> None:
    slots = Slots(str(tmp_path / "root"))
    (tmp_path / "root" / "lock").touch(0o644)  # as an older version left it
    slots.lock()
    for path, most in ((tmp_path / "root", 0o700), (tmp_path / "root" / "lock", 0o600)):
        assert stat.S_IMODE(path.stat().st_mode) & ~most == 0
    slots.close()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_disk_without_locks_still_has_one_writer(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", none)
    one, two = Slots(str(tmp_path)), Slots(str(tmp_path))
    one.lock()
    with pytest.raises(SlotError) as refused:
        two.lock()
    assert refused.value.code == 12
    one.close()
    two.lock()
    two.close()
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], text=True,
                          capture_output=True, check=True)  # fmt: skip
    (tmp_path / "lock.held").write_text(f"{gone.stdout.strip()} 1 of a process that ended")
    one.lock()
    one.close()


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_that_cannot_sync_will_do(
    number: int,
    tmp_path: Path,
    images: list[Path],
    board: Board,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def cannot(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", cannot)
    assert put(linked(tmp_path), images[0], board).verified


def test_a_disk_that_fails_to_sync_is_an_error(
    tmp_path: Path, images: list[Path], board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = linked(tmp_path)
    plan = flash.plan(device, images[0], board)

    def fails(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(QedgeError, match="disk cannot be written"):
        flash.apply(device, plan)
    assert device.hello().active is None


def test_a_full_disk_gives_the_slot_that_is_replaced_and_no_more(
    tmp_path: Path, images: list[Path], board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = linked(tmp_path)
    for image in images[:2]:
        put(device, image, board)
    real = os.pwrite

    def full(number: int, data: bytes, offset: int) -> int:
        if (tmp_path / "a.qimg").exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(number, data, offset)

    monkeypatch.setattr(os, "pwrite", full)
    assert put(device, images[2], board).verified
    assert device.hello().image_id == open_image(images[2]).id.hex()


# ---- marks and records ----


@pytest.mark.parametrize(
    "mark",
    ["[" * 100_000, '{"id": "00", "tries": 0}', json.dumps({"id": ID, "tries": -(10**9)})],
    ids=["deep", "short id", "negative"],
)
def test_a_mark_that_cannot_be_is_no_reason_to_end(mark: str, tmp_path: Path) -> None:
    Slots(str(tmp_path))
    (tmp_path / "b.qimg").write_bytes(bytes(4096))
    (tmp_path / "b.pending").write_text(mark)
    for _ in range(2):
        agent = Agent(str(tmp_path), "arm64")
        agent.close()
    assert not (tmp_path / "b.pending").exists() and (tmp_path / "pending.error").exists()


def test_a_bit_that_flips_in_a_record_or_the_floor_makes_it_none(tmp_path: Path) -> None:
    slots = Slots(str(tmp_path))
    slots.write(0, 0, b"image")
    slots.activate(0, ID, 5, 7)
    for name, reads in (("a.record", lambda: slots.record(0)), ("floor", slots.floor)):
        whole = (tmp_path / name).read_bytes()
        assert reads()
        for at in range(len(whole)):
            if whole[at : at + 1].isspace():
                continue
            (tmp_path / name).write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            if name == "a.record":
                assert not reads(), at
            else:
                with pytest.raises(SlotError):
                    reads()
        (tmp_path / name).write_bytes(whole)


def test_a_slot_s_file_is_cut_to_its_image(
    tmp_path: Path, images: list[Path], board: Board
) -> None:
    device = linked(tmp_path)
    hello = device.hello()
    device.write(hello.board_id, 0, 1 << 20, bytes(4096))  # what a larger update left
    put(device, images[0], board)
    assert (tmp_path / "a.qimg").stat().st_size == images[0].stat().st_size


@pytest.mark.parametrize("template", ["{{ bos_token }}[{{ messages[0].content }}]", "[x]"])
def test_a_conversation_has_the_ids_on_a_board_that_it_has_here(
    template: str, tmp_path: Path, board: Board
) -> None:
    from qedge.toolkit.chat.prompts import ids_here, text_there

    config = TinyConfig(layers=1)
    model = tmp_path / "m.gguf"
    write_gguf(model, config, make_weights(1, config), tokenizer="spm", chat_template=template)
    image = build(model, board, tmp_path / "m.qimg").image
    device = linked(tmp_path / "root")
    put(device, image, board)
    with Model.open(image) as here:
        expected = ids_here(here, "hi", chat=True)
        list(here.generate(expected, 3, hash=True))
        wanted = here.logits_hash()
    text, told = text_there(device, "hi", chat=True)
    there = remote.Run(device, text, 3, hash=True, **told)
    list(there)
    assert there.times.prompt_tokens == len(expected) and there.logits_hash == wanted
