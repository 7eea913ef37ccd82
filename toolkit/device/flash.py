"""Puts an image on a board: looks before it writes, sends only what the board does not have,
and calls it done when the board has verified and tested it.

The active slot is never touched. Whatever is interrupted, running it again goes on where it
stopped, because what was already sent counts as there. What a record says is not believed:
blocks are compared by their hashes, and the board has read all of the image before it is called
verified. What is sent is what was verified here, out of one mapping of the file.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qedge.runtime._engine import Image
from qedge.runtime.agent.frame import encode
from qedge.runtime.agent.numbers import DIGEST_BYTES, DIGESTS_AT_ONCE
from qedge.runtime.errors import BudgetError, VerifyError, WriteError, WrongBoardError
from qedge.runtime.image import verify_image
from qedge.runtime.session import PRIVATE_BYTES
from qedge.runtime.sizes import show_size
from qedge.toolkit.board import Board
from qedge.toolkit.link import Hello, LinkedDevice
from qedge.toolkit.link.device import SourceGone
from qedge.toolkit.make import signature
from qedge.toolkit.make.signature import SignedImage

Progress = Callable[[str, int, int], None]  # step, done, of
WRITE_HEAD_BYTES = 55  # of its packet beside them: SMP's 8, and the keys and numbers
# A step of a job verifies at least 16 leaves of 256 bytes; a golden section has 4 KiB of ids.
STEP_BYTES, GOLDEN_STEPS = 4096, 4096


@dataclass(frozen=True, slots=True)
class Copy:
    """A block that the board has: its number in the image, and where it lies."""

    number: int
    slot: int
    source: int  # its number there


@dataclass(frozen=True, slots=True)
class Transfer:
    """What flashing would do. Blocks by their number: kept, copied from what a slot holds, or
    sent."""

    hello: Hello
    image: Image
    path: Path
    board: Board
    image_id: str
    image_bytes: int  # with its signature
    arena_bytes: int
    slot: int
    sent: tuple[int, ...]
    copied: tuple[Copy, ...]
    active: bool  # it is active already: it only has to be verified
    present: bool  # the slot holds it: it only has to be verified, tested and made active

    @property
    def bytes_sent(self) -> int:
        """Without the padding behind the image's end."""
        block = self.hello.block
        return sum(min(block, self.image_bytes - n * block) for n in self.sent)

    def piece(self, at: int) -> bytes:
        """What one message writes; whole blocks are written, with 0xff behind the image."""
        count = max(0, min(self.write_bytes, self.image_bytes - at))
        return self.image.read(at, count).ljust(self.write_bytes, b"\xff")

    @property
    def write_bytes(self) -> int:
        """In one message: as many pages as fit, a power of two of them."""
        count = self.hello.page
        while 2 * count + WRITE_HEAD_BYTES <= self.hello.packet and count < self.hello.block:
            count *= 2
        return count

    @property
    def job_steps(self) -> int:
        """At most what verifying and testing it takes."""
        return self.image_bytes // STEP_BYTES + GOLDEN_STEPS

    def seconds(self, baud: int) -> float:
        """What sending takes on a line of this speed, 10 bits a byte; other work not
        counted."""
        message = len(encode(bytes(self.write_bytes + WRITE_HEAD_BYTES)))
        return len(self.sent) * (self.hello.block // self.write_bytes) * message * 10 / baud


@dataclass(frozen=True, slots=True)
class Flashed:
    """What flashing did."""

    board: str
    board_id: str
    slot: int
    image_id: str
    bytes_total: int
    bytes_sent: int
    seconds: float
    verified: bool
    emulated: bool


def check_board(hello: Hello, board: Board, port: str) -> None:
    """WrongBoardError when another board answers than the one that was named."""
    if hello.board != board.name:
        raise WrongBoardError(
            f"{port}: a {hello.board} answers (id {hello.board_id}), not a {board.name}; give "
            "the right port, or the right board"
        )


def _check_writable(hello: Hello, board: Board, port: str) -> None:
    """WriteError for an emulated board whose emulator cannot write its flash."""
    if hello.emulated and board.device is not None and board.device.flash_loaded:
        raise WriteError(
            f"{port}: {board.device.machine} cannot write the flash of a {board.name}; start "
            "it with the image: qedge emulate -b BOARD --image IMAGE"
        )


def check_image(
    image: Image, size: int, path: Path, capacity: int, arena: int, board: Board
) -> None:
    """WrongBoardError or BudgetError unless an image that takes `size` bytes with its signature
    is for this board, a slot of `capacity` bytes and an arena of `arena`."""
    if image.plan["board"] != board.name:
        raise WrongBoardError(
            f"{path}: was built for {image.plan['board']}, not for {board.name}; build it with "
            f"-b {board.name}"
        )
    if size > capacity:
        raise BudgetError(
            f"{path}: {size:,} bytes, a slot of {board.name} holds {capacity:,}; "
            "take a smaller quantization or model"
        )
    if board.linux is not None:  # `arena` is all its RAM
        need = image.bytes + image.plan["arena_bytes"] + PRIVATE_BYTES
        if need > arena:
            raise BudgetError(
                f"{path}: needs {show_size(need)} of RAM, the board has "
                f"{show_size(arena)}; take a smaller quantization, model or --context"
            )
    elif image.plan["arena_bytes"] > arena:
        raise BudgetError(
            f"{path}: its arena takes {image.plan['arena_bytes']:,} bytes, the board has "
            f"{arena:,}; build it with a shorter --context"
        )


def _blocks(image: Image, size: int, block: int) -> list[bytes]:
    """The digest of each block of an image, the last one filled up."""
    found = []
    for at in range(0, size, block):
        data = image.read(at, min(block, size - at)).ljust(block, b"\xff")
        found.append(hashlib.sha256(data).digest()[:DIGEST_BYTES])
    return found


def _digests(device: LinkedDevice, slot: int, count: int, *, part: bool = False) -> list[bytes]:
    found: list[bytes] = []
    while len(found) < count:
        some = min(DIGESTS_AT_ONCE, count - len(found))
        found += device.digests(slot, len(found), some, part=part)
    return found


def _held(device: LinkedDevice, hello: Hello, slot: int, most: int) -> list[bytes]:
    """Digests of the blocks that a slot's image takes; at most so many of them."""
    size = hello.slots[slot].bytes + signature.TRAILER_BYTES
    return _digests(device, slot, min(-(-size // hello.block), most))


def plan(device: LinkedDevice, file: SignedImage | Path, board: Board) -> Transfer:
    """Asks the board what it has and decides what to send. Writes nothing."""
    signed = file if isinstance(file, SignedImage) else SignedImage.open(file)
    image, path, size = signed.image, signed.path, signed.bytes
    verify_image(image, path)
    hello = device.hello()
    check_board(hello, board, device.name)
    check_image(image, size, path, hello.capacity, hello.arena, board)
    if hello.key is not None:
        signature.check(image, path, hello.key, hello.floor)
    image_id = image.id.hex()
    wanted = _blocks(image, size, hello.block)
    most = hello.capacity // hello.block  # of a slot
    active = hello.active
    there: dict[int, list[bytes]] = {}  # by slot, what may be copied from
    if active is not None:
        there[active] = _held(device, hello, active, most)
    slot = 1 if active == 0 else 0
    is_active = hello.image_id == image_id and there[active or 0][: len(wanted)] == wanted
    present, sent, copied = False, list[int](), list[Copy]()
    if not is_active:
        _check_writable(hello, board, device.name)
    if is_active:
        slot = active or 0
    else:
        if hello.parts:
            if hello.slots[slot].sequence:
                there[slot] = _held(device, hello, slot, most)
            here = _digests(device, slot, len(wanted), part=True)
            holds = there.get(slot, [])
        else:
            here = holds = _digests(device, slot, len(wanted))
        present = hello.slots[slot].image_id == image_id and holds[: len(wanted)] == wanted
        places = {
            digest: (other, number)
            for other in sorted(there, key=lambda other: other == active)
            for number, digest in reversed(list(enumerate(there[other])))
        }
        for number, digest in enumerate(wanted if not present else ()):
            if here[number] == digest:
                continue
            if digest in places:
                copied.append(Copy(number, *places[digest]))
            else:
                sent.append(number)
    return Transfer(
        hello=hello,
        image=image,
        path=path,
        board=board,
        image_id=image_id,
        image_bytes=size,
        arena_bytes=image.plan["arena_bytes"],
        slot=slot,
        sent=tuple(sent),
        copied=tuple(copied),
        active=is_active,
        present=present,
    )


def apply(device: LinkedDevice, plan: Transfer, progress: Progress | None = None) -> Flashed:
    """Does what the plan says, on the very board that it was made with."""
    began = time.monotonic()
    tell = progress or (lambda step, done, of: None)
    hello = plan.hello
    now = device.hello()  # ports may have been swapped since
    if (now.board, now.board_id, now.slots) != (hello.board, hello.board_id, hello.slots):
        raise WrongBoardError(
            f"{device.name}: a {now.board} answers (id {now.board_id}), and not the board "
            f"that was there before ({hello.board_id}, or with other images); nothing was "
            "written"
        )
    try:
        _send(device, plan, tell)
    except SourceGone:  # the board's disk was full, and the image that was to be replaced went
        plan = _plan_again(device, plan)
        _send(device, plan, tell)
    work = "verify" if plan.active else "activate"
    values: dict[str, Any] = {"slot": plan.slot, "id": bytes.fromhex(plan.image_id)}
    for found in device.job(work, most=plan.job_steps, **values):
        tell("verify" if plan.active else "verify and test", found["at"], found["of"])
    after = device.hello()
    if after.image_id != plan.image_id or after.board_id != hello.board_id:
        raise VerifyError(
            f"{device.name}: the board says that {after.image_id} is active, not "
            f"{plan.image_id}; flash it again"
        )
    return Flashed(
        board=hello.board,
        board_id=hello.board_id,
        slot=plan.slot,
        image_id=plan.image_id,
        bytes_total=plan.image_bytes,
        bytes_sent=plan.bytes_sent,
        seconds=time.monotonic() - began,
        verified=True,
        emulated=hello.emulated,
    )


def _plan_again(device: LinkedDevice, old: Transfer) -> Transfer:
    """A plan for the same image, though its file may be another by now."""
    new = plan(device, old.path, old.board)
    if new.image_id != old.image_id:
        raise VerifyError(f"{old.path}: changed meanwhile; run this again")
    return new


def _send(device: LinkedDevice, plan: Transfer, tell: Progress) -> None:
    """What the board lacks: first what it can copy, then what it cannot."""
    hello, block, step = plan.hello, plan.hello.block, plan.write_bytes
    if plan.copied:
        places = ((c.number * block, c.slot, c.source * block) for c in plan.copied)
        copied = device.copy_all(hello.board_id, plan.slot, places)
        for done, _ in enumerate(copied, 1):
            tell("copy", done, len(plan.copied))
    pieces = (
        (at, plan.piece(at))
        for number in plan.sent
        for at in range(number * block, (number + 1) * block, step)
    )
    count = len(plan.sent) * block // step
    for done, _ in enumerate(device.write_all(hello.board_id, plan.slot, pieces), 1):
        tell("send", done, count)
