"""What a user's program may look like to a type checker; it is never run."""

from __future__ import annotations

from pathlib import Path

import qedge
from qedge import Model
from qedge.runtime.image import open_image
from qedge.toolkit.device.target import Ask, Target


def local(path: Path) -> int:
    with Model.open(path, context=512, memory="30M") as model:
        text = "".join(model.generate("Once", max_tokens=8, temperature=0.7, seed=1))
        stats = model.stats
        if stats is not None and stats.decode_tokens_per_second is not None:
            rate: float = stats.decode_tokens_per_second
            print(text, f"{rate:.1f}", stats.prompt_tokens + stats.generated_tokens)
        with model.session(threads=1) as second:
            ids: list[int] = second.prompt_tokens("twice")
        return len(ids)


def there(name: str) -> str:
    with qedge.Board.connect(name, "pi@raspberrypi.local", threads=4) as board:
        board.test()
        return "".join(board.generate("Once upon a time", 64, chat=True))


def any_target(target: Target) -> dict[str, object]:
    running = target.run(Ask(b"hello", 4))
    for piece in running:
        print(piece.upper())
    return running.fields()


def section(path: str) -> bytes:
    found = open_image(path).section(3)
    return b"" if found is None else found[:4]
