"""A board with Linux does by ssh what a microcontroller does by its serial line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from linux.conftest import MakeImage, put
from support.tiny_models import TinyConfig, make_weights, write_gguf

from qedge.runtime.errors import ImageError, WriteError, WrongBoardError
from qedge.runtime.model import Model
from qedge.toolkit.board import Board, load
from qedge.toolkit.device import flash, remote
from qedge.toolkit.device.reach import Reached, reach
from qedge.toolkit.emulators.linux import LinuxEmulator
from qedge.toolkit.linux.board import HOME, probe
from qedge.toolkit.linux.shell import script
from qedge.toolkit.linux.ssh import Shell
from qedge.toolkit.make.build import build

OLD = "runtime-000000000000000"


@pytest.fixture
def there(running: LinuxEmulator, linux_board: Board) -> Iterator[Reached]:
    with reach(linux_board, running.port, str(running.identity)) as found:
        yield found


def test_logits_are_this_machine_s(
    there: Reached, linux_board: Board, make_image: MakeImage
) -> None:
    image = make_image(2)
    put(there, image, linux_board)
    run = remote.Run(there.device, "hello", 12, hash=True)
    text = "".join(run)
    with Model.open(image) as model:
        assert text == "".join(model.generate("hello", 12, hash=True))
        assert run.logits_hash == model.logits_hash()
        assert run.tokens == model.tokens
        assert remote.test(there.device) == model.test()


def test_the_same_image_again_sends_nothing(
    there: Reached, linux_board: Board, make_image: MakeImage
) -> None:
    put(there, make_image(3), linux_board)
    assert put(there, make_image(3), linux_board).bytes_sent == 0


def test_an_image_with_one_other_tensor_sends_its_blocks(
    there: Reached, linux_board: Board, tmp_path: Path
) -> None:
    config = TinyConfig(layers=6, dim=256, ffn=512)
    weights, images = make_weights(4, config), []
    for name in ("one", "other"):
        write_gguf(tmp_path / f"{name}.gguf", config, weights)
        made = build(
            tmp_path / f"{name}.gguf", linux_board, tmp_path / f"{name}.qimg", quant="q8_0"
        )
        images.append(made.image)
        weights["blk.3.ffn_up.weight"] = weights["blk.3.ffn_up.weight"][::-1].copy()
    block = there.hello.block
    one, other = (image.read_bytes() for image in images)
    changed = [
        len(other[at : at + block])
        for at in range(0, len(other), block)
        if other[at : at + block] != one[at : at + block]
    ]
    tensor_blocks = 512 * 256 * 34 // 32 // block + 2
    assert len(changed) <= tensor_blocks + 4 < len(other) // block  # hash tree, golden, head
    put(there, images[0], linux_board)
    sent = put(there, images[1], linux_board).bytes_sent
    assert 0 < sent <= sum(changed)


def test_rollback_goes_back_and_forth(
    there: Reached, linux_board: Board, make_image: MakeImage
) -> None:
    first = put(there, make_image(5), linux_board).image_id
    second = put(there, make_image(6), linux_board).image_id
    assert remote.rollback(there.device).image_id == first
    assert remote.rollback(there.device).image_id == second
    assert put(there, make_image(5), linux_board).bytes_sent == 0


def test_another_board_s_image_is_refused(
    there: Reached, linux_board: Board, make_image: MakeImage
) -> None:
    other = load("pi5")
    with pytest.raises(WrongBoardError, match="built for pi5"):
        flash.plan(there.device, make_image(1, board="pi5"), linux_board)
    with pytest.raises(WrongBoardError, match="not a pi5"):
        flash.plan(there.device, make_image(1, board="pi5"), other)


def test_another_board_is_refused_before_anything_is_put_there(
    running: LinuxEmulator,
) -> None:
    with (
        pytest.raises(WrongBoardError, match="not a pi5"),
        reach(load("pi5"), running.port, str(running.identity)),
    ):
        pass


def test_two_flashes_at_once_are_not_let_in(
    there: Reached, running: LinuxEmulator, linux_board: Board, make_image: MakeImage
) -> None:
    put(there, make_image(7), linux_board)
    hello = there.device.hello()
    assert hello.active is not None
    there.device.write(hello.board_id, 1 - hello.active, 0, bytes(4096))  # takes the lock
    with reach(linux_board, running.port, str(running.identity)) as other:
        plan = flash.plan(other.device, make_image(8), linux_board)
        with pytest.raises(WriteError, match="another flash"):
            flash.apply(other.device, plan)
        there.device.reset()  # lets go of it
        plan = flash.plan(other.device, make_image(8), linux_board)
        assert flash.apply(other.device, plan).verified


def test_a_damaged_image_on_the_board_is_found(
    there: Reached, running: LinuxEmulator, linux_board: Board, make_image: MakeImage
) -> None:
    put(there, make_image(9), linux_board)
    put(there, make_image(10), linux_board)
    slot = 1 - (there.device.hello().active or 0)
    with Shell(running.port, str(running.identity)) as shell:
        root = probe(shell).root
        path = f"{root}/{'ab'[slot]}.qimg"
        shell.run(f"printf X | dd of={path} bs=1 seek=150000 conv=notrunc; sync")
    with pytest.raises(Exception, match="hash|broken"):
        remote.rollback(there.device)
    assert there.device.hello().image_id != there.hello.image_id or there.device.hello().active
    with Model.open(make_image(10)) as model:
        assert remote.test(there.device) == model.test()


@pytest.mark.parametrize("year", [2001, 2037])  # a board's clock may be years off
def test_of_old_runtimes_the_last_used_and_the_service_s_stay(
    running: LinuxEmulator, linux_board: Board, year: int
) -> None:
    key = str(running.identity)
    with Shell(running.port, key) as shell:
        root = probe(shell).root
        units = "/etc/systemd/system"
        shell.run(
            f"rm -rf {root}/runtime-*; cd {root}; for n in 1 2 3 4 5; do "
            f"mkdir {OLD}$n; touch -d {year}-01-0$n {OLD}$n; done; mkdir -p {units}; "
            f"echo WorkingDirectory=/opt/qedge/{OLD}2 > {units}/qedge.service"
        )
        with reach(linux_board, running.port, key):
            found = shell.run(f"cd {root}; ls -d runtime-*").output.decode().split()
        shell.run(f"rm -rf {units}/qedge.service {root}/{OLD}?")
    old = {name for name in found if name.startswith(OLD)}
    assert len(found) == len(old) + 1
    assert {f"{OLD}2", f"{OLD}4", f"{OLD}5"} <= old and f"{OLD}1" not in old


def test_a_run_without_an_image_says_so(running: LinuxEmulator, linux_board: Board) -> None:
    from qedge.toolkit.link import Link, LinkedDevice

    with (
        Shell(running.port, str(running.identity)) as shell,
        reach(linux_board, running.port, str(running.identity)) as found,
    ):
        assert found.linux is not None
        words = ["/tmp/empty", HOME, found.linux.runtime, found.linux.python]
        line = shell.line(script("agent"), [*words, "--board", linux_board.name])
        device = LinkedDevice(Link(line, "empty", patience=30, noisy=False), "empty")
        with pytest.raises(ImageError, match="no image"):
            remote.test(device)
        device.close()
