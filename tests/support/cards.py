"""Cards of Raspberry Pis as files, with partition tables of our own, and what e2fsprogs finds
in them."""

from __future__ import annotations

import hashlib
import os
import struct
import subprocess
from pathlib import Path

from qedge.runtime.agent.slots import Slots
from qedge.runtime.image import open_image
from qedge.toolkit.board import Board
from qedge.toolkit.card import put as sdcard

PATH = {**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"}
MIB, AT = 1 << 20, 1 << 20  # the partition's place
HOME = "/home/pi/.local/share/qedge"


def run(*command: object) -> str:
    ended = subprocess.run([str(one) for one in command], capture_output=True, env=PATH)
    return ended.stdout.decode("utf-8", "replace")


def mbr(file: Path, rows: list[tuple[int, int, int]]) -> None:
    """A partition table of (type, first sector, sectors)."""
    with open(file, "r+b") as card_file:
        card_file.seek(446)
        for row in rows:
            card_file.write(struct.pack("<4xB3x2I", *row))
        card_file.seek(510)
        card_file.write(b"\x55\xaa")


def gpt(file: Path, rows: list[tuple[int, int]]) -> None:
    """A GPT of (first sector, sectors), as far as a reader needs one."""
    mbr(file, [(0xEE, 1, 0xFFFFFFFF)])
    kind = bytes.fromhex("af3dc60f838472478e793d69d8477de4")
    with open(file, "r+b") as card_file:
        card_file.seek(512)
        card_file.write(b"EFI PART" + bytes(64) + struct.pack("<QII", 2, 128, 128))
        card_file.seek(1024)
        for first, count in rows:
            card_file.write(
                struct.pack("<16s16s3Q72x", kind, kind, first, first + count - 1, 0)
            )


def make_card(
    path: Path, table: str = "mbr", homes: tuple[str, ...] = ("pi",), size: int = 16 * MIB
) -> Path:
    """A card as a Raspberry Pi's: a FAT partition's place, then an ext4 with homes."""
    tree = path.with_suffix(".tree")
    for name in homes:
        (tree / "home" / name).mkdir(parents=True)
    (tree / "root").mkdir(parents=True)
    offset = 0 if table == "bare" else AT
    with open(path, "wb") as file:
        file.truncate(offset + size)
    command = ["mke2fs", "-q", "-t", "ext4", "-L", "rootfs", "-d", tree, "-E"]
    run(*command, f"offset={offset},root_owner=0:0", path, f"{size // 1024}k")
    for name in homes:
        for field, value in (("uid", 1000), ("gid", 1001), ("mode", "040700")):
            debugfs(path, f"sif /home/{name} {field} {value}", write=True, offset=offset)
    if table == "mbr":
        mbr(path, [(0x0C, 64, 1024), (0x83, AT // 512, size // 512)])
    elif table == "gpt":
        gpt(path, [(1200, 100), (AT // 512, size // 512)])
    return path


def debugfs(path: Path, command: str, *, write: bool = False, offset: int = AT) -> str:
    name = f"{path}?offset={offset}" if offset else str(path)
    return run("debugfs", *(["-w"] if write else []), "-R", command, name)


def sound(path: Path, offset: int = AT) -> bool:
    name = f"{path}?offset={offset}" if offset else str(path)
    return not subprocess.run(["e2fsck", "-fn", name], capture_output=True, env=PATH).returncode


def content(path: Path, name: str, offset: int = AT) -> bytes:
    where = f"{path}?offset={offset}" if offset else str(path)
    command = ["debugfs", "-R", f"cat {name}", where]
    return subprocess.run(command, capture_output=True, env=PATH).stdout


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def put(path: Path, image: Path, board: Board, **options: object) -> sdcard.Put:
    user = options.pop("user", None)
    with sdcard.opened(path, **options) as there:  # type: ignore[arg-type]
        return sdcard.apply(there, sdcard.plan(there, image, board, user))  # type: ignore[arg-type]


def with_slots(path: Path, folder: Path, images: list[Path]) -> None:
    """As a board's agent leaves them: two images tested, the second one active."""
    slots = Slots(str(folder))
    for slot, image in enumerate(images):
        slots.write(slot, 0, image.read_bytes())
        slots.activate(slot, image_id(image), image.stat().st_size, 0)
    slots.close()
    at = ""
    for name in HOME.split("/")[1:]:
        at += f"/{name}"
        debugfs(path, f"mkdir {at}", write=True)
    for file in folder.iterdir():
        debugfs(path, f"write {file} {HOME}/{file.name}", write=True)


def image_id(image: Path) -> str:
    return open_image(image).id.hex()
