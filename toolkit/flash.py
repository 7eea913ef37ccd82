"""Puts an image on a board: looks before it writes, sends only what the board does not have,
and calls it done when the board has verified and tested it.

The active slot is never touched.  Whatever is interrupted, running it again goes on where it
stopped, because what already lies in the other slot counts as there.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from qedge.runtime._engine import Image
from qedge.runtime.errors import BudgetError, NoBoardError, VerifyError, WrongBoardError
from qedge.runtime.frame import encode
from qedge.runtime.image import open_image, verify_image
from qedge.runtime.session import PRIVATE_BYTES
from qedge.runtime.sizes import show_size
from qedge.toolkit import signature
from qedge.toolkit.board import Board
from qedge.toolkit.link import Device, Hello
from qedge.toolkit.link.device import DIGEST_BYTES

Progress = Callable[[str, int, int], None]  # step, done, of
WRITE_HEAD_BYTES = 55  # of its packet beside them: SMP's 8, and the keys and numbers
DIGESTS_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class Plan:
    """What flashing would do. Blocks by their number: kept, copied from the active slot, or
    sent."""

    hello: Hello
    image_id: str
    image_bytes: int
    arena_bytes: int
    slot: int
    data: bytes  # the image
    sent: tuple[int, ...]
    copied: tuple[int, ...]
    active: bool  # it is active already: nothing to do
    present: bool  # the slot holds it, verified before: it only has to be made active

    @property
    def bytes_sent(self) -> int:
        """Without the padding behind the image's end."""
        block = self.hello.block
        return sum(min(block, self.image_bytes - n * block) for n in self.sent)

    def piece(self, at: int) -> bytes:
        """What one message writes; whole blocks are written, with 0xff behind the image."""
        return self.data[at : at + self.write_bytes].ljust(self.write_bytes, b"\xff")

    @property
    def write_bytes(self) -> int:
        """In one message: as many pages as fit, a power of two of them."""
        count = self.hello.page
        while 2 * count + WRITE_HEAD_BYTES <= self.hello.packet and count < self.hello.block:
            count *= 2
        return count

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


def _blocks(data: bytes, block: int) -> list[bytes]:
    return [
        hashlib.sha256(data[at : at + block].ljust(block, b"\xff")).digest()[:DIGEST_BYTES]
        for at in range(0, len(data), block)
    ]


def _digests(device: Device, slot: int, count: int) -> list[bytes]:
    found: list[bytes] = []
    while len(found) < count:
        some = device.digests(slot, len(found), min(DIGESTS_AT_ONCE, count - len(found)))
        if not some:
            raise NoBoardError(f"{device.name}: it stopped answering as qedge's firmware does")
        found += some
    return found


def plan(device: Device, path: Path, board: Board) -> Plan:
    """Asks the board what it has and decides what to send. Writes nothing."""
    image = open_image(path)
    verify_image(image, path)
    with open(path, "rb") as file:
        data = file.read()
    hello = device.hello()
    check_board(hello, board, device.name)
    data = data[: signature.end(data, image.bytes)]
    check_image(image, len(data), path, hello.capacity, hello.arena, board)
    if hello.key is not None:
        signature.check(data, image, path, hello.key, hello.floor)
    image_id = image.id.hex()
    active = hello.image_id == image_id
    slot = (
        hello.active if active and hello.active is not None else 1 if hello.active == 0 else 0
    )
    other = hello.slots[slot]
    present = not active and other.sequence > 0 and other.image_id == image_id
    sent: list[int] = []
    copied: list[int] = []
    if not active and not present:
        wanted = _blocks(data, hello.block)
        here = _digests(device, slot, len(wanted))
        there = [b""] * len(wanted)
        if hello.active is not None:
            there = _digests(device, hello.active, len(wanted))
        for number, digest in enumerate(wanted):
            if here[number] != digest:
                (copied if there[number] == digest else sent).append(number)
    return Plan(
        hello=hello,
        image_id=image_id,
        image_bytes=len(data),
        arena_bytes=image.plan["arena_bytes"],
        slot=slot,
        data=data,
        sent=tuple(sent),
        copied=tuple(copied),
        active=active,
        present=present,
    )


def apply(device: Device, plan: Plan, progress: Progress | None = None) -> Flashed:
    """Does what the plan says, on the very board that it was made with."""
    began = time.monotonic()
    tell = progress or (lambda step, done, of: None)
    hello, block, step = plan.hello, plan.hello.block, plan.write_bytes
    if not plan.active:
        now = device.hello()  # ports may have been swapped since
        if (now.board, now.board_id, now.slots) != (hello.board, hello.board_id, hello.slots):
            raise WrongBoardError(
                f"{device.name}: a {now.board} answers (id {now.board_id}), and not the board "
                f"that was there before ({hello.board_id}, or with other images); nothing was "
                "written"
            )
        if plan.copied:
            assert hello.active is not None
            places = (number * block for number in plan.copied)
            copied = device.copy_all(hello.board_id, plan.slot, places, hello.active)
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
        for found in device.job("activate", slot=plan.slot):
            tell("verify and test", found.get("at", 0), found.get("of", 1))
        after = device.hello()
        if after.image_id != plan.image_id:
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
