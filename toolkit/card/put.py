"""Puts an image on a board's memory card, offline: into the slot that is not active, with a
pending mark, which the board's agent verifies, tests and activates at its next start.

The order, each step on the card before the next: the file system is marked as not clean; the
slot's record and marks go; the slot's file is written and read back; the pending mark; a check
of the whole file system; the mark of not clean goes. The active slot and its record are never
touched. What fails, or is interrupted by a signal, is taken back; after a power cut the file
system says that it has to be checked, which a board does at its start.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from qedge.runtime.agent.slots import ERROR_NAME, NAMES, Slots
from qedge.runtime.errors import BudgetError, UsageError, VerifyError, WriteError
from qedge.runtime.image import open_image, verify_image
from qedge.runtime.model import Model
from qedge.toolkit.board import Board, linux_of
from qedge.toolkit.card import ext4 as card
from qedge.toolkit.device.flash import check_image
from qedge.toolkit.files import cache_folder, private_folder, writing
from qedge.toolkit.make import signature

FOLDER = (".local", "share", "qedge")  # in the home: toolkit/linux/board.py's ROOT
SPARE_BYTES = 256 << 10  # of the file system, for folders, marks and the map of a file's blocks
_NO_LIMIT = 1 << 62
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
Progress = Callable[[str, int, int], None]  # step, done, of


@dataclass(frozen=True, slots=True)
class Lying:
    """What lies in a slot. state: active, tested, pending, unknown or empty."""

    slot: str
    state: str
    image_id: str
    bytes: int


@dataclass(frozen=True, slots=True)
class CardEdit:
    """What would be written, and over what. Sizes are bytes."""

    card: str
    card_bytes: int
    model: str  # of the card; empty for a file
    partition: int  # 0: it has no partition table
    label: str
    folder: str
    slots: tuple[Lying, ...]
    slot: str
    image: Path
    image_id: str
    image_bytes: int
    replaces: dict[str, int]  # file: bytes that it has now
    free_bytes: int  # for the slot's file
    present: bool  # it is active, or pending, there: nothing to do
    owner: tuple[int, int, int]  # user, group and mode of the home
    makes: tuple[str, ...]  # folders


@dataclass(frozen=True, slots=True)
class Put:
    """What was done."""

    card: str
    partition: int
    folder: str
    slot: str
    image_id: str
    bytes_total: int
    bytes_written: int
    seconds: float
    verified: bool  # read back, and equal
    pending: bool  # the board has yet to test it


class Card(card.FileSystem):
    """An open card, and its folder for temporary files."""

    def __init__(self, path: Path, number: int, wanted: int | None, folder: Path) -> None:
        super().__init__(path, number, card.choose(path, number, wanted), folder)
        self.folder = folder
        self.bytes = os.lseek(number, 0, os.SEEK_END)


@contextmanager
def opened(
    path: Path,
    *,
    write: bool = True,
    partition: int | None = None,
    system: card.System | None = None,
) -> Iterator[Card]:
    """A card that nothing else uses meanwhile. UsageError, WriteError."""
    cache = private_folder(cache_folder())
    with writing(cache):
        scratch = tempfile.TemporaryDirectory(prefix="card-", dir=cache)
    with scratch as folder, card.opened(path, write=write, system=system) as number:
        yield Card(path, number, partition, Path(folder))


def plan(there: Card, path: Path, board: Board, user: str | None = None) -> CardEdit:
    """Looks at image and card, and decides. Writes nothing. user: whose home on the card has
    the slots. ImageError, WrongBoardError, BudgetError, WriteError for a file system that is
    not clean, UsageError."""
    linux_of(board)
    image = open_image(path)
    verify_image(image, path)
    size = signature.end(image)
    # Its RAM is not known before it tests the image.
    check_image(image, size, path, _NO_LIMIT, _NO_LIMIT, board)
    part = there.partition
    if not part.clean or part.recover:
        raise WriteError(f"{there.path}: {_needs_check(there)}; nothing was written")
    if wrong := there.check():
        raise WriteError(
            f"{there.path}: {_needs_check(there)} (e2fsck: {wrong[-300:]}); nothing was written"
        )
    home, owner = _home(there, user)
    folder, makes, files = _walk(there, home)
    slots, active = _slots(there, folder, files)
    number = 1 if active == 0 else 0
    name = NAMES[number]
    names = [f"{name}.{end}" for end in ("record", "pending", "part", "qimg")] + [ERROR_NAME]
    replaces = {one: files[one][3] for one in names if one in files}
    old = replaces.get(f"{name}.qimg", 0)
    free = max(0, part.free + old // part.block * part.block - SPARE_BYTES - size // 1024)
    image_id = image.id.hex()
    wanted = _file_digest(path, size)
    present = active is not None and slots[active].image_id == image_id
    if present:  # a record is no proof: what lies there may be damaged
        present = _digest(there, f"{folder}/{slots[active or 0].slot}.qimg") == wanted
    if (slots[number].state, slots[number].image_id) == ("pending", image_id):
        present = _digest(there, f"{folder}/{name}.qimg") == wanted
    if size > free and not present:
        raise BudgetError(
            f"{path}: {size:,} bytes, {there.path} has room for {free:,}; take a smaller "
            "quantization or model, or make room on the card"
        )
    return CardEdit(
        card=str(there.path),
        card_bytes=there.bytes,
        model=card.model(there.path),
        partition=part.number,
        label=part.label,
        folder=folder,
        slots=slots,
        slot=name,
        image=path,
        image_id=image_id,
        image_bytes=size,
        replaces=replaces,
        free_bytes=free,
        present=present,
        owner=owner,
        makes=makes,
    )


def _needs_check(there: Card) -> str:
    part = there.partition
    place = f"partition {part.number}" if part.number else "its file system"
    name = f"'{there.path}?offset={part.offset}'" if part.offset else str(there.path)
    return f"{place} was not left clean; start its board once, or run: e2fsck -f {name}"


def _home(there: Card, user: str | None) -> tuple[str, tuple[int, int, int]]:
    """A home on the card, and its owner, group and mode."""
    if user is not None and not _USER.fullmatch(user):
        raise UsageError(f"--user {user}: not a user's name")
    homes = {
        name: entry
        for name, entry in (there.listing("/home") or {}).items()
        if entry[0] >> 12 == 4 and _USER.fullmatch(name) and name != "lost+found"
    }
    names = ", ".join(sorted(homes)) or "none"
    if user is None and len(homes) > 1:
        raise UsageError(f"{there.path}: several homes ({names}); choose with --user")
    if user is None:
        user = next(iter(homes), "root")
    root = (there.listing("/") or {}).get("root", (0, 0, 0, 0))
    if user == "root" and root[0] >> 12 == 4:
        found, path = root, "/root"
    elif user in homes:
        found, path = homes[user], f"/home/{user}"
    else:
        raise UsageError(
            f"{there.path}: no home of {user} (homes: {names}); is it the board's system?"
        )
    return path, (found[1], found[2], found[0] & 0o7777)


def _walk(
    there: Card, home: str
) -> tuple[str, tuple[str, ...], dict[str, tuple[int, int, int, int]]]:
    """The slots' folder, which folders have to be made, and the files in it."""
    at, makes, files = home, [], there.listing(home) or {}
    for name in FOLDER:
        entry = files.get(name)
        at = f"{at}/{name}"
        if entry is None:
            makes.append(at)
            files = {}
            continue
        if entry[0] >> 12 != 4:
            raise UsageError(
                f"{there.path}: {at} is a link, or no folder; flash this board over the network"
            )
        files = there.listing(at) or {}
    for name, entry in files.items():
        if name.endswith((".qimg", ".record", ".pending")) and entry[0] >> 12 != 8:
            raise UsageError(f"{there.path}: {at}/{name} is not a file; remove it")
    return at, tuple(makes), files


def _slots(
    there: Card, folder: str, files: dict[str, tuple[int, int, int, int]]
) -> tuple[tuple[Lying, ...], int | None]:
    """What lies in the slots, by the runtime's own rules."""
    copy = there.folder / "slots"
    copy.mkdir(exist_ok=True)
    for slot in NAMES:
        for end in ("qimg", "record", "pending"):
            name = f"{slot}.{end}"
            if name in files and end == "qimg":
                (copy / name).touch()
                os.truncate(copy / name, files[name][3])  # sparse: only its size counts
            elif name in files:
                content = next(there.content(f"{folder}/{name}"), b"")
                (copy / name).write_bytes(content)
    slots = Slots(str(copy))
    active = slots.active()
    found = []
    for number, name in enumerate(NAMES):
        record, size = slots.record(number), files.get(f"{name}.qimg", (0, 0, 0, 0))[3]
        state, image_id = "unknown" if size else "empty", ""
        if record:
            state, image_id = "tested", str(record.get("id", ""))
        if number == active:
            state = "active"
        elif f"{name}.pending" in files:
            state, image_id = "pending", _pending_id(copy / f"{name}.pending")
        found.append(Lying(name, state, image_id, size))
    return tuple(found), active


def _pending_id(path: Path) -> str:
    try:
        return str(json.loads(path.read_bytes())["id"])
    except (ValueError, KeyError, TypeError):
        return ""


def _digest(there: Card, path: str) -> bytes:
    found = hashlib.sha256()
    for piece in there.content(path):
        found.update(piece)
    return found.digest()


def _file_digest(path: Path, size: int) -> bytes:
    found = hashlib.sha256()
    with open(path, "rb") as file:
        while size and (piece := file.read(min(size, 1 << 20))):
            found.update(piece)
            size -= len(piece)
    return found.digest()


def apply(there: Card, plan: CardEdit, progress: Progress | None = None) -> Put:
    """Does what the plan says. BoardTestError when the image's golden test fails here, and
    VerifyError when what was written does not read back; the card is then as it was."""
    began = time.monotonic()
    tell = progress or (lambda step, done, of: None)
    if not plan.present:
        tell("test here", 0, 1)
        with Model.open(plan.image, allow_paging=True) as model:
            if model.image_id != plan.image_id:
                raise VerifyError(f"{plan.image}: changed meanwhile; nothing was written")
            model.test()
        tell("test here", 1, 1)
        source = _source(there, plan)
        wanted = _file_digest(source, plan.image_bytes)
        there.begin()
        try:
            _write(there, plan, source, wanted, tell)
        except BaseException as error:
            if there.undo():
                raise
            raise VerifyError(
                f"{there.path}: could not be taken back ({error}); {_needs_check(there)}"
            ) from error
    return Put(
        card=plan.card,
        partition=plan.partition,
        folder=plan.folder,
        slot=plan.slot,
        image_id=plan.image_id,
        bytes_total=plan.image_bytes,
        bytes_written=0 if plan.present else plan.image_bytes,
        seconds=round(time.monotonic() - began, 3),
        verified=True,
        pending=not any(
            (one.state, one.image_id) == ("active", plan.image_id) for one in plan.slots
        ),
    )


def _source(there: Card, plan: CardEdit) -> Path:
    """The image without what may follow it, under a name that debugfs takes; WriteError when
    there is no room for what is needed to take the writing back."""
    need, free = plan.image_bytes + (16 << 20), shutil.disk_usage(there.folder).free
    name = there.folder / "image"
    if plan.image.stat().st_size == plan.image_bytes:
        name.symlink_to(plan.image.resolve())
    else:
        need += plan.image_bytes
    if free < need:
        raise WriteError(
            f"{there.folder.parent}: {free:,} bytes are free, {need:,} are needed to be "
            "able to take the writing back; make room, or set QEDGE_CACHE; nothing was written"
        )
    if not name.is_symlink():
        shutil.copyfile(plan.image, name)
        os.truncate(name, plan.image_bytes)
    return name


def _write(there: Card, plan: CardEdit, source: Path, wanted: bytes, tell: Progress) -> None:
    user, group, mode = plan.owner
    slot, mark = f"{plan.folder}/{plan.slot}.qimg", f"{plan.folder}/{plan.slot}.pending"

    def owned(path: str, kind: int) -> list[str]:
        bits = kind | (mode if kind == 0o040000 else mode & 0o666 | 0o600)
        fields = (("uid", user), ("gid", group), ("mode", f"0{bits:o}"))
        return [f"set_inode_field {path} {field} {value}" for field, value in fields]

    steps = 5
    tell("write", 0, steps)
    before = [
        f"rm {plan.folder}/{name}" for name in plan.replaces if name != f"{plan.slot}.qimg"
    ]
    for folder in plan.makes:
        before += [f"mkdir {folder}", *owned(folder, 0o040000)]
    if before:
        there.edit(*before)
    tell("write", 1, steps)
    gone = [f"rm {slot}"] if f"{plan.slot}.qimg" in plan.replaces else []
    there.edit(
        *gone, f"cd {plan.folder}", f"write {source.name} {plan.slot}.qimg",
        *owned(slot, 0o100000),
    )  # fmt: skip
    tell("write", 2, steps)
    if _digest(there, slot) != wanted:
        raise VerifyError(
            f"{there.path}: {slot} does not read back as written; try another card"
        )
    tell("write", 3, steps)
    text = json.dumps({"id": plan.image_id, "bytes": plan.image_bytes, "tries": 0})
    (there.folder / "mark").write_text(text)
    there.edit(
        f"cd {plan.folder}", f"write mark {plan.slot}.pending", *owned(mark, 0o100000)
    )  # fmt: skip
    if b"".join(there.content(mark)) != text.encode():
        raise VerifyError(f"{there.path}: {mark} does not read back as written")
    tell("write", 4, steps)
    if wrong := there.check():
        raise VerifyError(
            f"{there.path}: its file system is not right after writing (e2fsck: {wrong[-300:]})"
        )
    there.end()
    tell("write", 5, steps)


def fields(plan: CardEdit) -> dict[str, Any]:
    """A plan as --json has it."""
    found = asdict(plan)
    for name in ("owner", "makes"):
        found.pop(name)
    return found
