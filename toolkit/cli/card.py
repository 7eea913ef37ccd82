"""The part of `qedge flash` that writes to a memory card: shows, asks, writes."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from qedge.runtime import UsageError
from qedge.toolkit.cli.common import emit


def flash_card(
    image: Path,
    board: Any,
    path: Path,
    partition: int | None,
    user: str | None,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Puts an image on a card, after showing what that overwrites and asking."""
    from qedge.toolkit.card import put as sdcard
    from qedge.toolkit.cli import show

    if not (dry_run or yes or sys.stdin.isatty()):
        raise UsageError(f"{path}: there is no terminal to ask at; give --yes or --dry-run")
    with sdcard.opened(path, write=not dry_run, partition=partition) as card:
        plan = sdcard.plan(card, image, board, user)
        if dry_run:
            emit(as_json, sdcard.fields(plan))
            if not as_json:
                show.table("would write", _rows(plan), answer=True)
            return
        show.table("card", _rows(plan))
        if not (plan.present or yes):
            click.confirm(f"Write to {path}?", abort=True, err=True)
        with show.bar(True, lines=True) as tell:
            done = sdcard.apply(card, plan, tell)
    emit(as_json, asdict(done))
    if not as_json:
        show.table(
            "on the card" if done.bytes_written else "there already", asdict(done), answer=True
        )
        if done.pending:
            show.say("the board tests it at its next start, and makes it active if it passes")


def _rows(plan: Any) -> dict[str, Any]:
    """A plan as people read it."""
    rows: dict[str, Any] = {
        "card": f"{plan.card}, {plan.card_bytes:,} bytes {plan.model}".strip(),
        "partition": f"{plan.partition or 'all of it'} {plan.label}".strip(),
        "folder": plan.folder,
    }
    for one in plan.slots:
        lies = f"{one.state} {one.image_id}".strip()
        rows[f"slot {one.slot}"] = f"{lies}, {one.bytes:,} bytes" if one.bytes else lies
    rows["image"] = f"{plan.image_id}, {plan.image_bytes:,} bytes"
    if plan.present:
        rows["writes"] = "nothing: it is there already"
        return rows
    rows["writes"] = f"{plan.slot}.qimg, {plan.image_bytes:,} bytes; {plan.slot}.pending"
    gone = ", ".join(f"{name} ({size:,} bytes)" for name, size in plan.replaces.items())
    rows["overwrites"] = gone or "nothing"
    return rows
