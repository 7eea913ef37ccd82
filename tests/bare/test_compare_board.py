"""`qedge compare -p`: formats are put on the board and measured there, once."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.tiny_models import TinyConfig, make_weights, write_gguf

from qedge.toolkit.board import Board
from qedge.toolkit.emulators.bare import Emulator
from qedge.toolkit.quality import speeds
from qedge.toolkit.quality.compare import compare


def test_formats_are_measured_on_the_board_that_has_the_last_one_then(
    sim: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TinyConfig()
    model = write_gguf(tmp_path / "tiny.gguf", config, make_weights(1, config))
    flashed: list[Path] = []
    whole = speeds.there

    def there(board: Board, port: object, identity: object, image: Path, say: object) -> object:
        flashed.append(image)
        return whole(board, port, identity, image, say)

    monkeypatch.setattr(speeds, "there", there)
    with Emulator(sim, tmp_path / "sim.bin") as emulator:
        options = {"quant": ["q8_0", "q4_0"], "chunks": 2, "cache": tmp_path / "cache"}
        reached = (emulator.port, None)
        first = compare(model, sim, reached=reached, **options)
        again = compare(model, sim, reached=reached, **options)
        active = emulator.hello().image_id
    assert len(flashed) == 3 and first.formats == again.formats  # the base, too
    assert active == first.formats[-1].facts.image_id
    assert {row.speed.how for row in first.formats} == {"measured"}
    assert "the board has the image of q4_0 now" in first.notes
    assert any("emulated" in note for note in first.notes)  # and no speed is told of it
