"""Putting images on a board: what is sent, what is refused, what is said."""

from __future__ import annotations

from pathlib import Path

import pytest
from bare.conftest import MakeImage, put

from qedge.runtime.errors import (
    BudgetError,
    ImageError,
    NoBoardError,
    UsageError,
    VerifyError,
    WrongBoardError,
)
from qedge.runtime.image import open_image
from qedge.runtime.model import Model
from qedge.toolkit.board import Board
from qedge.toolkit.device import flash, remote
from qedge.toolkit.emulators.bare import Emulator
from qedge.toolkit.link import LinkedDevice


def test_an_image_is_sent_verified_tested_and_active(
    board: LinkedDevice, make_image: MakeImage, sim: Board
) -> None:
    image = make_image("sim")
    assert board.hello().active is None
    done = put(board, image, sim)
    assert done.bytes_sent == done.bytes_total == image.stat().st_size
    assert done.verified and done.board == "sim" and len(done.board_id) == 16
    hello = board.hello()
    assert hello.active == done.slot and hello.image_id == done.image_id
    with Model.open(image) as model:
        assert remote.test(board) == model.test()


def test_the_same_image_again_sends_nothing(
    board: LinkedDevice, make_image: MakeImage, sim: Board
) -> None:
    put(board, make_image("sim"), sim)
    again = put(board, make_image("sim"), sim)
    assert again.bytes_sent == 0 and again.verified


def test_an_update_goes_into_the_other_slot_and_back_sends_nothing(
    board: LinkedDevice, make_image: MakeImage, sim: Board
) -> None:
    first, second = make_image("sim", seed=1), make_image("sim", seed=2)
    one, two = put(board, first, sim), put(board, second, sim)
    assert one.slot != two.slot
    back = put(board, first, sim)
    assert back.bytes_sent == 0 and back.slot == one.slot
    assert board.hello().image_id == one.image_id


def test_only_blocks_that_differ_are_sent(
    board: LinkedDevice, make_image: MakeImage, sim: Board
) -> None:
    image = make_image("sim")
    put(board, image, sim)
    put(board, make_image("sim", seed=2), sim)
    other = make_image("sim", seed=2, quant="q4_0")
    plan = flash.plan(board, other, sim)
    here = make_image("sim", seed=2).read_bytes()
    slot_now, block = image.read_bytes(), plan.hello.block
    expected = copied = 0
    data = other.read_bytes()
    for at in range(0, len(data), block):
        part = data[at : at + block].ljust(block, b"\xff")
        if slot_now[at : at + block].ljust(block, b"\xff") != part:
            if here[at : at + block].ljust(block, b"\xff") == part:
                copied += 1
            else:
                expected += 1
    assert (len(plan.sent), len(plan.copied)) == (expected, copied)
    assert flash.apply(board, plan).verified


def test_what_was_interrupted_goes_on_where_it_stopped(
    board: LinkedDevice, make_image: MakeImage, sim: Board
) -> None:
    plan = flash.plan(board, make_image("sim"), sim)
    block = plan.hello.block
    half = plan.sent[: len(plan.sent) // 2]
    for number in half:
        for at in range(number * block, (number + 1) * block, 1024):
            board.write(plan.hello.board_id, plan.slot, at, plan.piece(at))
    again = flash.plan(board, make_image("sim"), sim)
    assert again.sent == plan.sent[len(half) :]
    assert flash.apply(board, again).verified


def test_a_reset_keeps_the_active_image(
    sim: Board, make_image: MakeImage, tmp_path: Path
) -> None:
    with Emulator(sim, tmp_path / "flash.bin") as emulator:
        device = emulator.connect()
        done = put(device, make_image("sim"), sim)
        device.reset()
        assert device.hello(patience=10).image_id == done.image_id
    with Emulator(sim, tmp_path / "flash.bin") as emulator:
        assert emulator.hello().image_id == done.image_id


def test_an_image_for_another_board_is_refused_before_a_byte_is_sent(
    board: LinkedDevice, make_image: MakeImage, sim: Board
) -> None:
    with pytest.raises(WrongBoardError, match="built for pico, not for sim"):
        flash.plan(board, make_image("pico"), sim)


def test_a_board_refuses_an_image_for_another_board_by_itself(
    board: LinkedDevice, make_image: MakeImage
) -> None:
    hello, data = board.hello(), make_image("pico").read_bytes()
    data += b"\xff" * (-len(data) % hello.block)
    for at in range(0, len(data), 1024):
        board.write(hello.board_id, 0, at, data[at : at + 1024])
    with pytest.raises(WrongBoardError, match="another board"):
        board.finish("activate", slot=0, id=open_image(make_image("pico")).id)
    assert board.hello().active is None


@pytest.mark.parametrize("where", ["weights", "header", "golden"])
def test_a_board_does_not_activate_what_is_damaged(
    where: str, board: LinkedDevice, make_image: MakeImage
) -> None:
    hello, data = board.hello(), bytearray(make_image("sim").read_bytes())
    at = {"weights": len(data) * 3 // 4, "header": 40, "golden": 600}[where]
    data[at] ^= 1
    data += b"\xff" * (-len(data) % hello.block)
    for at in range(0, len(data), 1024):
        board.write(hello.board_id, 1, at, bytes(data[at : at + 1024]))
    with pytest.raises(VerifyError):
        board.finish("activate", slot=1, id=open_image(make_image("sim")).id)
    assert board.hello().active is None


def test_a_damaged_image_file_is_refused_before_a_byte_is_sent(
    board: LinkedDevice, make_image: MakeImage, sim: Board, tmp_path: Path
) -> None:
    data = bytearray(make_image("sim").read_bytes())
    data[len(data) * 3 // 4] ^= 1
    damaged = tmp_path / "damaged.qimg"
    damaged.write_bytes(data)
    with pytest.raises(ImageError, match="hash"):
        flash.plan(board, damaged, sim)


def test_the_active_slot_is_never_written(
    board: LinkedDevice, make_image: MakeImage, sim: Board
) -> None:
    done = put(board, make_image("sim"), sim)
    with pytest.raises(Exception, match="active slot"):
        board.write(done.board_id, done.slot, 0, bytes(1024))
    with pytest.raises(Exception, match="active slot"):
        list(board.copy_all(done.board_id, done.slot, [(0, 1 - done.slot, 0)]))
    assert put(board, make_image("sim"), sim).bytes_sent == 0
    assert remote.test(board)


@pytest.mark.parametrize(
    ("slot", "offset", "size"),
    [(2, 0, 1024), (0, 1, 1024), (0, 0, 100), (0, 950272 - 4096, 256), (0, 2**32 - 256, 512)],
)
def test_nothing_is_written_outside_a_slot(
    slot: int, offset: int, size: int, board: LinkedDevice
) -> None:
    with pytest.raises(BudgetError, match="outside"):
        board.write(board.hello().board_id, slot, offset, bytes(size))


def test_a_write_for_another_board_is_refused(board: LinkedDevice) -> None:
    with pytest.raises(WrongBoardError, match="another board answers"):
        board.write("00" * 8, 0, 0, bytes(256))


def test_a_board_without_an_image_says_so(board: LinkedDevice) -> None:
    with pytest.raises(ImageError, match="no image"):
        remote.test(board)
    with pytest.raises(ImageError, match="no image"):
        list(remote.Run(board, "hello"))


def test_a_prompt_gives_the_tokens_and_the_hash_of_this_machine(
    board: LinkedDevice, make_image: MakeImage, sim: Board
) -> None:
    put(board, make_image("sim"), sim)
    for options in ({}, {"temperature": 0.9, "top_k": 20, "top_p": 0.9, "seed": 7}):
        made = remote.Run(board, "Hello there", 20, hash=True, **options)
        text = "".join(made)
        with Model.open(make_image("sim")) as model:
            assert text == "".join(model.generate("Hello there", 20, hash=True, **options))
            assert made.tokens == model.tokens
            assert made.logits_hash == model.logits_hash()
            assert made.finish_reason == model.finish_reason


def test_a_prompt_longer_than_the_context_is_refused(
    board: LinkedDevice, make_image: MakeImage, sim: Board
) -> None:
    put(board, make_image("sim"), sim)
    with pytest.raises(BudgetError, match="context"):
        list(remote.Run(board, "x y z " * 100))
    with pytest.raises(UsageError):
        remote.bench(board, prompt_tokens=10**6, decode_tokens=1, depth=0)
    assert remote.test(board)


def test_a_stop_text_ends_the_answer(
    board: LinkedDevice, make_image: MakeImage, sim: Board
) -> None:
    put(board, make_image("sim"), sim)
    whole = "".join(remote.Run(board, "Hello", 30))
    stop = whole[8:10]
    made = remote.Run(board, "Hello", 30, stop=[stop], hash=True)
    assert "".join(made) == whole[: whole.index(stop)] and made.finish_reason == "stop"
    assert made.times.prompt_tokens > 0 and made.times.prefill_ticks > 0
    with Model.open(make_image("sim")) as model:
        assert "".join(model.generate("Hello", 30, stop=[stop], hash=True)) == "".join(
            whole[: whole.index(stop)]
        )
        assert (made.tokens, made.logits_hash) == (model.tokens, model.logits_hash())


def test_one_byte_less_of_arena_or_slot_is_too_little(
    board: LinkedDevice, make_image: MakeImage, sim: Board
) -> None:
    path = make_image("sim")
    image, hello = open_image(path), board.hello()
    arena = image.plan["arena_bytes"]
    flash.check_image(image, image.bytes, path, image.bytes, arena, sim)
    with pytest.raises(BudgetError, match="arena"):
        flash.check_image(image, image.bytes, path, hello.capacity, arena - 1, sim)
    with pytest.raises(BudgetError, match="slot"):
        flash.check_image(image, image.bytes, path, image.bytes - 1, hello.arena, sim)
    with pytest.raises(BudgetError, match="slot"):  # its signature counts, too
        flash.check_image(image, image.bytes + 80, path, image.bytes + 79, arena, sim)


def test_a_model_that_is_too_large_for_a_slot_is_not_built(make_image: MakeImage) -> None:
    with pytest.raises(BudgetError, match="a slot of sim holds"):
        make_image("sim", seed=3, layers=40)


def test_a_board_that_is_busy_for_someone_else_is_flashed_all_the_same(
    board: LinkedDevice, make_image: MakeImage, sim: Board
) -> None:
    put(board, make_image("sim"), sim)
    run = board.job("run", prompt=b"Hello", max=50)
    next(run)  # and is left there, as by a client that ended
    assert put(board, make_image("sim", seed=2), sim).verified
    with pytest.raises(NoBoardError, match="reset in the middle"):
        next(run)
    assert remote.test(board)


def test_a_half_written_slot_is_no_image_and_is_written_anew(
    board: LinkedDevice, make_image: MakeImage, sim: Board
) -> None:
    hello, data = board.hello(), make_image("sim").read_bytes()
    board.write(hello.board_id, 0, 0, data[:1024])
    with pytest.raises(VerifyError):
        board.finish("activate", slot=0, id=open_image(make_image("sim")).id)
    assert put(board, make_image("sim", seed=2), sim).verified
