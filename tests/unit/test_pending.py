"""The agent takes up, at its start, an image that was put on its board's card; whatever is
wrong with that, the active image stays."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.tiny_models import TinyConfig, make_weights, write_gguf

from qedge.runtime.agent import cbor
from qedge.runtime.agent.answers import TRIES, Agent
from qedge.runtime.agent.jobs import Jobs
from qedge.runtime.agent.numbers import LINK_TEST
from qedge.runtime.agent.slots import SlotError, Slots
from qedge.runtime.image import open_image
from qedge.toolkit.board import load
from qedge.toolkit.make.build import build


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder, found = tmp_path_factory.mktemp("images"), []
    for seed, board in ((1, "arm64"), (2, "arm64"), (3, "pi5")):
        write_gguf(folder / f"{seed}.gguf", TinyConfig(), make_weights(seed, TinyConfig()))
        found.append(build(folder / f"{seed}.gguf", load(board), folder / f"{seed}.qimg").image)
    return found


def image_id(image: Path) -> str:
    return open_image(image).id.hex()


@pytest.fixture
def root(tmp_path: Path, images: list[Path]) -> Path:
    """Slots whose first one is active; the second one's file and mark are put."""
    slots = Slots(str(tmp_path))
    slots.write(0, 0, images[0].read_bytes())
    slots.activate(0, image_id(images[0]), images[0].stat().st_size, 0)
    slots.close()
    put(tmp_path, images[1])
    return tmp_path


def put(root: Path, image: Path, **more: object) -> None:
    (root / "b.qimg").write_bytes(image.read_bytes())
    (root / "b.pending").write_text(json.dumps({"id": image_id(image), "tries": 0, **more}))


def started(root: Path) -> dict[str, object]:
    """What a new agent says of itself."""
    agent = Agent(str(root), "arm64")
    try:
        answer = agent.answer(bytes([2, 0, 0, 1, 0, 64, 1, 0]) + cbor.dumps({}))
        assert answer is not None
        return cbor.loads(answer[8:])
    finally:
        agent.close()


def test_what_is_pending_is_tested_and_active(root: Path, images: list[Path]) -> None:
    found = started(root)
    assert found["active"] == 1 and "pending_error" not in found
    assert Slots(str(root)).record(1)["id"] == image_id(images[1])
    assert not (root / "b.pending").exists()


def test_a_first_image_needs_no_active_one(tmp_path: Path, images: list[Path]) -> None:
    put(tmp_path, images[1])
    for end in ("qimg", "pending"):
        (tmp_path / f"b.{end}").rename(tmp_path / f"a.{end}")
    assert started(tmp_path)["active"] == 0


def damaged(root: Path, images: list[Path]) -> None:
    data = bytearray(images[1].read_bytes())
    data[len(data) // 2] ^= 1
    (root / "b.qimg").write_bytes(data)


def cut_short(root: Path, images: list[Path]) -> None:
    os.truncate(root / "b.qimg", 1000)


def gone(root: Path, images: list[Path]) -> None:
    (root / "b.qimg").unlink()


def another_id(root: Path, images: list[Path]) -> None:
    put(root, images[1], id="00" * 32)


def another_board(root: Path, images: list[Path]) -> None:
    put(root, images[2])


def no_mark(root: Path, images: list[Path]) -> None:
    (root / "b.pending").write_bytes(b"\xff{")


def odd_mark(root: Path, images: list[Path]) -> None:
    put(root, images[1], tries="x")


def tried_often(root: Path, images: list[Path]) -> None:
    put(root, images[1], tries=TRIES)


HARMS = (damaged, cut_short, gone, another_id, another_board, no_mark, odd_mark, tried_often)


@pytest.mark.parametrize("harm", HARMS)
def test_what_cannot_be_taken_up_leaves_the_active_image_and_a_reason(
    harm: Callable[[Path, list[Path]], None], root: Path, images: list[Path]
) -> None:
    harm(root, images)
    found = started(root)
    assert found["active"] == 0 and found["pending_error"]
    assert not (root / "b.pending").exists() and not Slots(str(root)).record(1)
    assert (root / "pending.error").read_text().strip() == found["pending_error"]
    put(root, images[1])  # a good one takes the reason away
    found = started(root)
    assert found["active"] == 1 and "pending_error" not in found


def test_a_golden_test_that_fails_leaves_the_active_image(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(jobs: Jobs, model: object) -> Iterator[dict[str, object]]:
        raise SlotError(LINK_TEST)
        yield

    monkeypatch.setattr(Jobs, "_golden", fails)
    found = started(root)
    assert found["active"] == 0 and "golden test" in str(found["pending_error"])


class Cut(BaseException):
    """The power fails."""


def test_power_may_fail_at_any_time(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before each change of the folder: the next start ends with the new image active."""
    before = {path.name: path.read_bytes() for path in root.iterdir()}
    left = cuts = 0
    changes = {name: getattr(os, name) for name in ("replace", "unlink")}

    def counted(name: str) -> Callable[..., None]:
        def change(*arguments: object) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise Cut
            changes[name](*arguments)

        return change

    for at in range(1, 100):
        for path in root.iterdir():
            path.unlink()
        for name, data in before.items():
            (root / name).write_bytes(data)
        left = at
        with monkeypatch.context() as patch:
            for name in changes:
                patch.setattr(os, name, counted(name))
            with contextlib.suppress(Cut):
                started(root)
        cuts += left <= 0
        assert Slots(str(root)).active() in (0, 1)
        found = started(root)
        assert found["active"] == 1 and "pending_error" not in found
        assert not (root / "b.pending").exists()
        if cuts < at:
            break
    assert cuts >= 3


def test_an_image_that_ends_the_agent_is_not_tried_for_ever(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ends(jobs: Jobs, values: object) -> None:
        raise Cut

    monkeypatch.setattr(Jobs, "begin", ends)
    for _ in range(TRIES):
        with pytest.raises(Cut):
            started(root)
    assert "ended 3 times" in str(started(root)["pending_error"])


def test_writing_the_slot_takes_the_mark_away_first(root: Path) -> None:
    slots = Slots(str(root))
    slots.write(1, 0, b"other")
    assert slots.pending() is None
    slots.close()


def test_it_waits_while_another_writes(root: Path) -> None:
    other = Slots(str(root))
    other.lock()
    found = started(root)
    assert found["active"] == 0 and (root / "b.pending").exists()
    other.close()
    assert started(root)["active"] == 1


def test_a_start_without_a_mark_takes_no_lock(root: Path) -> None:
    (root / "b.pending").unlink()
    (root / "lock").unlink()
    assert started(root)["active"] == 0 and not (root / "lock").exists()
