"""A whole flash in one call: from a board's name and an image to the board with that image
active, or to what that would take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from qedge.toolkit.board import Board, device_of
from qedge.toolkit.device import flash
from qedge.toolkit.device.reach import reach
from qedge.toolkit.make.signature import SignedImage

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Visit:
    """What a flash did. seconds_before: of the parts of getting there, where there are any."""

    flashed: flash.Flashed
    seconds_before: dict[str, float] = field(default_factory=dict)


def flash_board(
    board: Board,
    port: str | None,
    signed: SignedImage,
    *,
    identity: str | None = None,
    service: str | None = None,
    say: Say = lambda text: None,
    progress: flash.Progress | None = None,
) -> Visit:
    """Puts an image on a board: changed blocks only, verified and tested there, then active.

    service: of a board with Linux, the serial line on which its agent runs as a service from
    then on. What reach, plan and apply raise."""
    with reach(board, port, identity, say, service=bool(service)) as there:
        done = flash.apply(there.device, flash.plan(there.device, signed, board), progress)
        if service and (found := there.linux) is not None:
            from qedge.toolkit.linux.service import enable, unit

            text = unit(board, found.python, found.runtime, signed.image, service)
            there.device.reset()  # the service has its own lock
            enable(found.shell, text)
        return Visit(done, there.seconds)


def would_flash(
    board: Board,
    port: str | None,
    signed: SignedImage,
    *,
    identity: str | None = None,
    say: Say = lambda text: None,
) -> dict[str, Any]:
    """What a flash would write; nothing is written. Sizes are bytes."""
    if board.linux is None:
        with reach(board, port, identity, say) as there:
            plan = flash.plan(there.device, signed, board)
        speed = {"seconds": plan.seconds(device_of(board).baud)}
        return {**_planned(plan), **speed, "board_arena_bytes": plan.hello.arena}
    from qedge.toolkit.linux.board import NotInstalled

    try:
        with reach(board, port, identity, say, dry=True) as there:
            plan = flash.plan(there.device, signed, board)
            return {**_planned(plan), "board_ram_bytes": plan.hello.ram, "runtime_bytes": 0}
    except NotInstalled as found:
        image, facts = signed.image, found.facts
        flash.check_image(image, signed.bytes, signed.path, facts.free, facts.ram, board)
        return {
            "board": board.name,
            "board_id": facts.serial or None,
            "slot": 0,
            "image_id": image.id.hex(),
            "bytes_total": signed.bytes,
            "bytes_to_send": signed.bytes,
            "arena_bytes": image.plan["arena_bytes"],
            "board_ram_bytes": facts.ram,
            "runtime_bytes": found.wheel.bytes,
        }


def _planned(plan: flash.Transfer) -> dict[str, Any]:
    return {
        "board": plan.hello.board,
        "board_id": plan.hello.board_id,
        "slot": plan.slot,
        "image_id": plan.image_id,
        "bytes_total": plan.image_bytes,
        "bytes_to_send": plan.bytes_sent,
        "arena_bytes": plan.arena_bytes,
    }
