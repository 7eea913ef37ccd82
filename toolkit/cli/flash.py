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
    from qedge.toolkit.board import load
    from qedge.toolkit.cli import show
    from qedge.toolkit.device.visit import flash_board, would_flash
    from qedge.toolkit.make.signature import SignedImage

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
    signed = SignedImage.open(image)  # what is wrong with it is said before a board is met
    if dry_run:
        fields = would_flash(board, port, signed, identity=identity, say=show.say)
        emit(as_json, fields)
        if not as_json:
            show.table("would write", fields, answer=True)
        return
    with _stopped(), show.bar(True, lines=True) as tell:
        visit = flash_board(
            board, port, signed, identity=identity, service=service, say=show.say, progress=tell
        )
    fields = asdict(visit.flashed)
    before = visit.seconds_before
    if before:
        fields["seconds_before"] = before
    emit(as_json, fields)
    if not as_json:
        if before:
            parts = (f"{name} {seconds:.1f}" for name, seconds in before.items())
            fields["seconds_before"] = ", ".join(parts)
        fields["seconds"] = round(visit.flashed.seconds, 2)
        show.table("flashed", fields, answer=True)


@contextmanager
def _stopped() -> Iterator[None]:
    """Says what an interrupted flash leaves behind."""
    from qedge.toolkit.cli import show

    try:
        yield
    except KeyboardInterrupt:
        show.say("what is active on the board stays so; run this again, and it goes on")
        raise


VERBS = (flash,)
