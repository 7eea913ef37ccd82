"""The link's numbers stand in one place; everybody else has the same ones."""

from __future__ import annotations

import re
from pathlib import Path

from qedge.runtime.agent import numbers
from qedge.toolkit.link import device

ROOT = Path(__file__).resolve().parents[2]
OURS = {name: value for name, value in vars(numbers).items() if name.isupper()}
ERRORS = {value: name for name, value in OURS.items() if name.startswith("LINK_")}


def enumerators(path: str) -> dict[str, int]:
    text = re.sub(r"/\*.*?\*/", "", (ROOT / path).read_text("utf-8"), flags=re.S)
    found = {}
    for body in re.findall(r"enum\s*\w*\s*\{([^}]*)\}", text):
        for name, value in re.findall(r"(\w+)\s*=\s*(-?\d+)", body):
            found[name] = int(value)
    return found


def test_the_firmware_has_them_all_and_no_others() -> None:
    assert enumerators("firmware/link.h") == OURS


def rows(heading: str) -> list[list[str]]:
    """The cells of the table of docs/link.md whose heading begins so."""
    lines = (ROOT / "docs/link.md").read_text("utf-8").splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith(heading))
    found = []
    for line in lines[at + 2 :]:
        if not line.startswith("|"):
            break
        found.append([cell.strip() for cell in line.strip("|").split("|")])
    return found


def test_the_page_tells_every_command() -> None:
    told = {
        f"QEDGE_{name.upper()}": int(number) for number, name, *_ in rows("| id | message |")
    }
    assert told == {name: value for name, value in OURS.items() if name.startswith("QEDGE_")}


def test_the_page_and_the_toolkit_tell_every_error() -> None:
    told = {int(number) for number, *_ in rows("| rc | means |")}
    engine = {
        -value
        for name, value in enumerators("runtime/engine/qedge.h").items()
        if name.startswith("QE_ERR_")
    }
    assert told == set(ERRORS) - {0, numbers.LINK_ENGINE}
    assert set(device._ERRORS) == told | {numbers.LINK_ENGINE + number for number in engine}
