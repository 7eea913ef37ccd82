"""`qedge flash`: onto a board, a memory card, or into files to drag and drop."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from qedge.runtime import UsageError
from qedge.toolkit.cli.card import flash_card
from qedge.toolkit.cli.common import check_identity, emit, json_option, port_option
from qedge.toolkit.cli.device import key_option, trusted


@click.command()
@click.argument("image", type=click.Path(path_type=Path))
@click.option("-b", "--board", "name", required=True, help="The board's name.")
@port_option
@click.option("--dry-run", is_flag=True, help="Look and say, write nothing.")
@click.option(
    "--uf2",
    type=click.Path(path_type=Path),
    help="Write FILE-firmware.uf2 and FILE-model.uf2 to drag and drop, and no board.",
)
@key_option
@click.option(
    "--service",
    is_flag=False,
    flag_value="/dev/serial0",
    metavar="[LINE]",
    help="A board with Linux: run the agent as a service on a serial line (/dev/serial0).",
)
@click.option(
    "--sdcard",
    type=click.Path(path_type=Path),
    help="Put it on a board's memory card instead: a block device, or a file that is one.",
)
@click.option("--partition", type=int, help="Of the card; default: the last one with ext4.")
@click.option("--user", help="Whose home on the card; default: the only one, or root's.")
@click.option("--yes", is_flag=True, help="Write to the card without asking.")
@json_option
def flash(
    image: Path,
    name: str,
    port: str | None,
    identity: str | None,
    dry_run: bool,
    uf2: Path | None,
    key: Path | None,
    service: str | None,
    sdcard: Path | None,
    partition: int | None,
    user: str | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Put IMAGE on a board: changed blocks only, verified and tested there, then active."""
    from qedge.runtime.image import open_image
    from qedge.toolkit.board import load
    from qedge.toolkit.cli import show
    from qedge.toolkit.device import flash as flashing
    from qedge.toolkit.device.reach import reach

    board = load(name)
    fields: dict[str, Any]
    if sdcard is not None:
        if port is not None or uf2 is not None:
            raise UsageError("--sdcard writes to a card: give neither --port nor --uf2")
        flash_card(image, board, sdcard, partition, user, dry_run, yes, as_json)
        return
    if partition is not None or user is not None or yes:
        raise UsageError("--partition, --user and --yes go with --sdcard")
    if uf2 is not None:
        from qedge.toolkit.bare.uf2 import write

        firmware_file, model_file = write(board, image, uf2, trusted(key))
        fields = {"firmware": firmware_file, "model": model_file}
        emit(as_json, fields)
        if not as_json:
            show.table("drag and drop, in this order", fields, answer=True)
        return
    if key is not None:
        raise UsageError("--key goes with --uf2; a board on a line has its key already")
    if service and board.linux is None:
        raise UsageError(f"--service is for boards with Linux, and {name} has none")
    if service and dry_run:
        raise UsageError("--service writes to the board, --dry-run does not: leave one out")
    check_identity(board)
    if service:
        from qedge.toolkit.linux.service import check_line

        check_line(service)
    open_image(image)  # what is wrong with it is said before a board is looked for
    if dry_run:
        fields = _would_flash(image, board, port, identity)
        emit(as_json, fields)
        if not as_json:
            show.table("would write", fields, answer=True)
        return
    with (
        _stopped(),
        reach(board, port, identity, show.say, service=bool(service)) as there,
        show.bar(True, lines=True) as tell,
    ):
        plan = flashing.plan(there.device, image, board)
        done = flashing.apply(there.device, plan, tell)
        if service and there.linux is not None:
            from qedge.toolkit.linux.service import enable, unit

            found = there.linux
            text = unit(board, found.python, found.runtime, open_image(image), service)
            there.device.reset()  # the service has its own lock
            enable(found.shell, text)
    fields = asdict(done)
    if there.seconds:
        fields["seconds_before"] = there.seconds
    emit(as_json, fields)
    if not as_json:
        if there.seconds:
            parts = (f"{name} {seconds:.1f}" for name, seconds in there.seconds.items())
            fields["seconds_before"] = ", ".join(parts)
        show.table("flashed", {**fields, "seconds": round(done.seconds, 2)}, answer=True)


@contextmanager
def _stopped() -> Iterator[None]:
    """Says what an interrupted flash leaves behind."""
    from qedge.toolkit.cli import show

    try:
        yield
    except KeyboardInterrupt:
        show.say("what is active on the board stays so; run this again, and it goes on")
        raise


def _would_flash(
    image: Path, board: Any, port: str | None, identity: str | None
) -> dict[str, Any]:
    """What --dry-run says."""
    from qedge.runtime.image import open_image
    from qedge.toolkit.board import device_of
    from qedge.toolkit.cli import show
    from qedge.toolkit.device import flash as flashing
    from qedge.toolkit.device.reach import reach

    if board.linux is None:
        with reach(board, port, identity, show.say) as there:
            plan = flashing.plan(there.device, image, board)
        speed = {"seconds": plan.seconds(device_of(board).baud)}
        return {**_planned(plan), **speed, "board_arena_bytes": plan.hello.arena}
    from qedge.toolkit.linux.board import NotInstalled

    try:
        with reach(board, port, identity, show.say, dry=True) as there:
            plan = flashing.plan(there.device, image, board)
            return {**_planned(plan), "board_ram_bytes": plan.hello.ram, "runtime_bytes": 0}
    except NotInstalled as found:
        opened, size = open_image(image), image.stat().st_size
        facts = found.facts
        flashing.check_image(opened, size, image, facts.free, facts.ram, board)
        return {
            "board": board.name,
            "board_id": facts.serial or None,
            "slot": 0,
            "image_id": opened.id.hex(),
            "bytes_total": size,
            "bytes_to_send": size,
            "arena_bytes": opened.plan["arena_bytes"],
            "board_ram_bytes": facts.ram,
            "runtime_bytes": found.wheel.bytes,
        }


def _planned(plan: Any) -> dict[str, Any]:
    return {
        "board": plan.hello.board,
        "board_id": plan.hello.board_id,
        "slot": plan.slot,
        "image_id": plan.image_id,
        "bytes_total": plan.image_bytes,
        "bytes_to_send": plan.bytes_sent,
        "arena_bytes": plan.arena_bytes,
    }


VERBS = (flash,)
