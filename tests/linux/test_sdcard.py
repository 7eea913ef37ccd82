"""An image is put on a card's file system offline; what is refused leaves the card's bytes as
they were. The cards are files, their partition tables written here."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from linux.conftest import MakeImage
from support.cards import (
    AT,
    HOME,
    MIB,
    content,
    debugfs,
    digest,
    image_id,
    make_card,
    put,
    run,
    sound,
    with_slots,
)
from support.tiny_models import TinyConfig, make_weights, write_gguf

from qedge.runtime.agent.slots import NAMES
from qedge.runtime.errors import (
    BoardTestError,
    BudgetError,
    UsageError,
    VerifyError,
    WriteError,
    WrongBoardError,
)
from qedge.runtime.model import Model
from qedge.toolkit.board import Board, linux_of, load
from qedge.toolkit.card import ext4 as card
from qedge.toolkit.card import put as sdcard
from qedge.toolkit.device import remote
from qedge.toolkit.device.reach import reach
from qedge.toolkit.emulators.linux import LinuxEmulator, make_disk
from qedge.toolkit.emulators.machine import machine
from qedge.toolkit.emulators.rootfs import system
from qedge.toolkit.make.build import build

Qedge = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("cache")
    patch = pytest.MonkeyPatch()
    patch.setattr(sdcard, "cache_folder", lambda: folder)
    yield
    patch.undo()
    assert not list(folder.iterdir()), "temporary files were left"


@pytest.fixture(scope="module")
def pi5() -> Board:
    return load("pi5")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, pi5: Board) -> list[Path]:
    """Three for a Raspberry Pi 5."""
    folder, found = tmp_path_factory.mktemp("pi5"), []
    for seed in (1, 2, 3):
        write_gguf(folder / f"{seed}.gguf", TinyConfig(), make_weights(seed, TinyConfig()))
        found.append(build(folder / f"{seed}.gguf", pi5, folder / f"{seed}.qimg").image)
    return found


@pytest.mark.parametrize("table", ["mbr", "gpt", "bare"])
def test_an_image_lies_on_the_card_with_a_pending_mark(
    table: str, tmp_path: Path, images: list[Path], pi5: Board
) -> None:
    here, path = tmp_path / "plain", tmp_path / "a card?.img"
    make_card(here, table).rename(path)
    offset = 0 if table == "bare" else AT
    done = put(path, images[0], pi5)
    path.rename(here)
    assert (done.slot, done.folder, done.pending) == ("a", HOME, True)
    assert done.partition == (0 if table == "bare" else 2)
    assert content(here, f"{HOME}/a.qimg", offset) == images[0].read_bytes()
    assert json.loads(content(here, f"{HOME}/a.pending", offset))["id"] == done.image_id
    assert sound(here, offset)
    listed = debugfs(here, f"ls -p {HOME}", offset=offset)
    assert "/100600/1000/1001/a.qimg/" in listed and "/040700/1000/1001/.//" in listed


def test_the_active_slot_and_its_record_stay(
    tmp_path: Path, images: list[Path], pi5: Board
) -> None:
    path = make_card(tmp_path / "card")
    with_slots(path, tmp_path / "slots", images[:2])
    kept = {name: content(path, f"{HOME}/{name}") for name in ("b.qimg", "b.record")}
    with sdcard.opened(path) as there:
        plan = sdcard.plan(there, images[2], pi5)
        assert [one.state for one in plan.slots] == ["tested", "active"]
        assert plan.slot == "a" and set(plan.replaces) == {"a.record", "a.qimg"}
        sdcard.apply(there, plan)
    assert {name: content(path, f"{HOME}/{name}") for name in kept} == kept
    assert content(path, f"{HOME}/a.qimg") == images[2].read_bytes()
    assert not content(path, f"{HOME}/a.record") and sound(path)


def test_what_is_there_already_is_not_written_again(
    tmp_path: Path, images: list[Path], pi5: Board
) -> None:
    path = make_card(tmp_path / "card")
    put(path, images[0], pi5)
    before = digest(path)
    done = put(path, images[0], pi5)
    assert (done.bytes_written, done.pending) == (0, True) and digest(path) == before
    other = make_card(tmp_path / "other")
    with_slots(other, tmp_path / "slots", images[:2])
    before = digest(other)
    done = put(other, images[1], pi5)
    assert (done.bytes_written, done.pending) == (0, False) and digest(other) == before


def not_clean(path: Path) -> None:
    debugfs(path, "set_super_value state 0", write=True)


def journal_to_play(path: Path) -> None:
    debugfs(path, "feature needs_recovery", write=True)


def wrong_inside(path: Path) -> None:
    debugfs(path, "set_super_value free_blocks_count 7", write=True)


@pytest.mark.parametrize("harm", [not_clean, journal_to_play, wrong_inside])
def test_a_file_system_that_is_not_clean_is_refused(
    harm: Callable[[Path], None], tmp_path: Path, images: list[Path], pi5: Board
) -> None:
    path = make_card(tmp_path / "card")
    harm(path)
    before = digest(path)
    with pytest.raises(WriteError, match="e2fsck"):
        put(path, images[0], pi5)
    assert digest(path) == before


def test_what_is_mounted_is_refused(tmp_path: Path, images: list[Path], pi5: Board) -> None:
    path = make_card(tmp_path / "a card")
    mounts = tmp_path / "mountinfo"
    source = str(path).replace(" ", "\\040")
    mounts.write_text(f"36 35 7:9 / /mnt/a\\040card rw - ext4 {source} rw\n")
    system = card.System(mounts=mounts)
    with pytest.raises(UsageError, match="mounted at /mnt/a card"):
        put(path, images[0], pi5, system=system)
    mounts.write_text(f"36 35 7:9 / / rw - ext4 {source} rw\n")
    with pytest.raises(UsageError, match="system runs from it"):
        put(path, images[0], pi5, system=system)


def test_a_disk_is_found_below_partitions_and_mappings(tmp_path: Path) -> None:
    """sda1 under dm-0: what mounts the mapping holds the disk."""
    disk, mapped = tmp_path / "devices/sda", tmp_path / "devices/dm-0"
    numbers = tmp_path / "dev/block"
    for folder, number in ((disk, "8:0"), (disk / "sda1", "8:1"), (mapped, "253:0")):
        folder.mkdir(parents=True)
        (folder / "dev").write_text(f"{number}\n")
        numbers.mkdir(parents=True, exist_ok=True)
        (numbers / number).symlink_to(folder)
    (disk / "sda1/partition").write_text("1\n")
    (mapped / "slaves").mkdir()
    (mapped / "slaves/sda1").symlink_to(disk / "sda1")
    system = card.System(sys=tmp_path)
    for number in ("8:0", "8:1", "253:0"):
        assert card._disks(system, number) == {"8:0"}
    assert card._disks(system, "0:55") == {"0:55"}


def test_neither_file_nor_block_device_is_refused(
    tmp_path: Path, images: list[Path], pi5: Board
) -> None:
    for path in (Path("/dev/null"), tmp_path, tmp_path / "nothing"):
        with pytest.raises(UsageError):
            put(path, images[0], pi5)
    empty = tmp_path / "empty"
    empty.write_bytes(bytes(MIB))
    with pytest.raises(UsageError, match="no partition with ext4"):
        put(empty, images[0], pi5)


def test_another_board_s_image_is_refused(tmp_path: Path, images: list[Path]) -> None:
    path = make_card(tmp_path / "card")
    before = digest(path)
    with pytest.raises(WrongBoardError, match="built for pi5"):
        put(path, images[0], load("pi3"))
    assert digest(path) == before


def test_a_full_card_is_refused(tmp_path: Path, images: list[Path], pi5: Board) -> None:
    path = make_card(tmp_path / "card")
    filling = tmp_path / "filling"
    with sdcard.opened(path) as there:
        room = sdcard.plan(there, images[0], pi5).free_bytes
    filling.write_bytes(b"x" * (room - images[0].stat().st_size // 2))
    debugfs(path, f"write {filling} filling", write=True)
    before = digest(path)
    with pytest.raises(BudgetError, match="has room for"):
        put(path, images[0], pi5)
    assert digest(path) == before


def test_an_image_that_just_fits_leaves_a_sound_file_system(
    tmp_path: Path, images: list[Path], pi5: Board
) -> None:
    path = make_card(tmp_path / "card")
    filling = tmp_path / "filling"
    with sdcard.opened(path) as there:
        room = sdcard.plan(there, images[0], pi5).free_bytes
    filling.write_bytes(b"x" * (room - images[0].stat().st_size - 8192))
    debugfs(path, f"write {filling} filling", write=True)
    assert put(path, images[0], pi5).verified and sound(path)


def test_homes_are_chosen_by_user(tmp_path: Path, images: list[Path], pi5: Board) -> None:
    two = make_card(tmp_path / "two", homes=("ann", "bob"))
    with pytest.raises(UsageError, match="ann, bob"):
        put(two, images[0], pi5)
    for bad in ("eve", "../root", "a b", ""):
        with pytest.raises(UsageError):
            put(two, images[0], pi5, user=bad)
    assert put(two, images[0], pi5, user="bob").folder.startswith("/home/bob/")
    none = make_card(tmp_path / "none", homes=())
    assert put(none, images[0], pi5).folder == "/root/.local/share/qedge"


def test_a_linked_folder_is_refused(tmp_path: Path, images: list[Path], pi5: Board) -> None:
    path = make_card(tmp_path / "card")
    debugfs(path, "symlink /home/pi/.local /etc", write=True)
    with pytest.raises(UsageError, match="is a link"):
        put(path, images[0], pi5)


def test_partitions_are_chosen_by_number(
    tmp_path: Path, images: list[Path], pi5: Board
) -> None:
    path = make_card(tmp_path / "card")
    assert put(path, images[0], pi5, partition=2).partition == 2
    for wrong in (1, 3):
        with pytest.raises(UsageError, match="partitions that are: 2"):
            put(path, images[0], pi5, partition=wrong)


@pytest.mark.parametrize("at", range(4))
def test_what_fails_midway_is_taken_back(
    at: int, tmp_path: Path, images: list[Path], pi5: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each step: what the card holds is as before, byte by byte where it counts."""
    path = make_card(tmp_path / "card")
    with_slots(path, tmp_path / "slots", images[:2])
    before, edits = path.read_bytes(), 0
    edit = card.FileSystem._write

    def failing(self: card.FileSystem, *commands: str, undo: str | None = None) -> None:
        nonlocal edits
        edit(self, *commands, undo=undo)
        edits += 1
        if edits == at + 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(card.FileSystem, "_write", failing)
    if at:
        with pytest.raises(KeyboardInterrupt):
            put(path, images[2], pi5)
    else:
        monkeypatch.setattr(sdcard, "_digest", lambda there, name: b"")
        edits = 10
        with pytest.raises(VerifyError, match="does not read back"):
            put(path, images[2], pi5)
    assert path.read_bytes() == before


def test_a_check_that_fails_afterwards_takes_it_back(
    tmp_path: Path, images: list[Path], pi5: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_card(tmp_path / "card")
    before, said = digest(path), iter(["", "a block is lost"])
    monkeypatch.setattr(card.FileSystem, "check", lambda self: next(said))
    with pytest.raises(VerifyError, match="a block is lost"):
        put(path, images[0], pi5)
    assert digest(path) == before


def test_a_power_cut_leaves_a_mark_that_asks_for_a_check(
    tmp_path: Path, images: list[Path], pi5: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies of the card as they are behind every step but the last."""
    path = make_card(tmp_path / "card")
    with_slots(path, tmp_path / "slots", images[:2])
    kept = {name: content(path, f"{HOME}/{name}") for name in ("b.qimg", "b.record")}
    cuts: list[Path] = []
    write = card.FileSystem._write

    def copying(self: card.FileSystem, *commands: str, undo: str | None = None) -> None:
        write(self, *commands, undo=undo)
        cuts.append(Path(shutil.copy(path, tmp_path / f"cut-{len(cuts)}")))

    monkeypatch.setattr(card.FileSystem, "_write", copying)
    put(path, images[2], pi5)
    for cut in cuts[:-1]:
        assert {name: content(cut, f"{HOME}/{name}") for name in kept} == kept
        with pytest.raises(WriteError, match="not left clean"):
            put(cut, images[2], pi5)
        marked = content(cut, f"{HOME}/a.pending")
        assert not marked or content(cut, f"{HOME}/a.qimg") == images[2].read_bytes()
        assert not content(cut, f"{HOME}/a.record") or cut == cuts[0]
        run("e2fsck", "-fy", f"{cut}?offset={AT}")
        monkeypatch.undo()
        assert put(cut, images[2], pi5).verified
    assert len(cuts) == 5


def test_an_image_that_fails_its_golden_test_is_not_written(
    tmp_path: Path, images: list[Path], pi5: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(self: object) -> str:
        raise BoardTestError("other logits")

    path = make_card(tmp_path / "card")
    before = digest(path)
    monkeypatch.setattr("qedge.runtime.model.Model.test", fails)
    with pytest.raises(BoardTestError):
        put(path, images[0], pi5)
    assert digest(path) == before


def test_the_command_shows_and_asks(
    qedge: Qedge, tmp_path: Path, images: list[Path], pi5: Board
) -> None:
    import pty

    path = make_card(tmp_path / "card")
    command = ("flash", images[0], "-b", "pi5", "--sdcard", path)
    before = digest(path)
    assert qedge(*command, stdin=subprocess.DEVNULL).returncode == 2
    dry = qedge(*command, "--dry-run", "--json")
    assert json.loads(dry.stdout)["slot"] == "a" and digest(path) == before
    master, slave = pty.openpty()
    os.write(master, b"n\n")
    refused = qedge(*command, stdin=slave)
    assert refused.returncode == 2 and "a.qimg" in refused.stderr and digest(path) == before
    os.write(master, b"y\n")
    written = qedge(*command, "--json", stdin=slave)
    assert json.loads(written.stdout)["pending"] is True, written.stderr
    for number in (master, slave):
        os.close(number)
    assert content(path, f"{HOME}/a.qimg") == images[0].read_bytes()
    again = qedge("flash", images[1], "-b", "pi5", "--sdcard", path, "--yes")
    assert again.returncode == 0 and "a.pending (" in again.stderr
    assert qedge("flash", images[1], "-b", "pi3", "--sdcard", path, "--yes").returncode == 5
    assert qedge("flash", images[1], "-b", "pi5", "--user", "pi").returncode == 2


def test_a_block_device_is_a_card(tmp_path: Path, images: list[Path], pi5: Board) -> None:
    path = make_card(tmp_path / "card")
    device = run("losetup", "--find", "--show", path).strip() if os.geteuid() == 0 else ""
    if not device:
        pytest.skip("needs root and a free loop device")
    try:
        with pytest.raises(UsageError, match="is attached to loop"):
            put(path, images[0], pi5)
        assert put(Path(device), images[0], pi5).partition == 2
    finally:
        run("losetup", "-d", device)
    assert content(path, f"{HOME}/a.qimg") == images[0].read_bytes() and sound(path)


def test_a_board_takes_up_what_was_put_on_its_disk(
    linux_board: Board, make_image: MakeImage, tmp_path: Path
) -> None:
    """On a disk as new, which has no runtime yet; then beside the image that is active."""
    disk = tmp_path / "disk.ext4"
    make_disk(disk, system(machine(linux_of(linux_board).emulator.partition(",")[0])))
    for seed, slot in ((41, 0), (42, 1)):
        image = make_image(seed)
        done = put(disk, image, linux_board)
        assert done.slot == NAMES[slot] and sound(disk, 0)
        said: list[str] = []
        with LinuxEmulator(linux_board, disk) as emulator:
            with pytest.raises(UsageError, match="at work"):
                put(disk, image, linux_board)
            identity = str(emulator.identity)
            with reach(linux_board, emulator.port, identity, said.append) as there:
                assert there.hello.active == slot and not there.hello.pending_error
                assert there.hello.image_id == done.image_id == image_id(image)
                with Model.open(image) as model:
                    assert remote.test(there.device) == model.test()
        assert any("tests the image" in line for line in said)
        listed = debugfs(disk, "ls -p /root/.local/share/qedge", offset=0)
        assert "/a.qimg/" in listed and ".pending/" not in listed
