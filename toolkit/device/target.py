"""What a model runs on, whatever that is: an image on this machine (here.py), a microcontroller
or a board with Linux (there.py). One protocol, so that a verb, a test or a program need not
know which. What a target cannot do it refuses; nothing that was asked for is ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

Progress = Callable[[str, int, int], None]

# How a model is opened: the options of `Model.open`.
SESSION = ("context", "memory", "threads", "batch", "kernels", "allow_paging", "pin")


class Ask(NamedTuple):
    """What a model is asked."""

    prompt: bytes
    max_tokens: int = 256
    chat: bool = False  # through the model's chat template
    system: str | None = None  # a system message in front of it
    raw: bool = False  # as it is, though the template asks for every prompt
    special: bool = False  # control tokens that are written in it count
    hash: bool = False  # of the logits
    stop: tuple[str, ...] = ()
    sampling: Mapping[str, Any] = {}  # values of runtime/sampling.py by name

    @property
    def form(self) -> dict[str, Any]:
        """What becomes of the prompt (chat/prompts.py)."""
        names = ("chat", "system", "raw", "special")
        return {name: getattr(self, name) for name in names}


class Rounds(NamedTuple):
    """What is measured; None is the target's own default."""

    prompt_tokens: int | None = None
    decode_tokens: int | None = None
    depths: tuple[int, ...] = ()
    repeat: int | None = None  # exactly so many rounds
    least: int | None = None
    most: int | None = None
    within: float | None = None  # of the median, each way: 0.02
    cold: bool = False  # the system forgets the image first


class Running(Protocol):
    """A generation. Iterate over it for the text's pieces, once."""

    def __iter__(self) -> Iterator[str]: ...

    def fields(self) -> dict[str, Any]:
        """All there is to say of it, as `qedge run --json` has it; after its last piece."""


class Target(Protocol):
    """Where a model runs."""

    @property
    def name(self) -> str:
        """Of the image or the board, for people."""

    @property
    def board(self) -> str:
        """The board's name; of this machine its own."""

    def run(self, ask: Ask) -> Running:
        """UsageError for a value out of its range, before anything is done."""

    def test(self) -> dict[str, Any]:
        """Runs the golden test, when every byte of the image was verified: passed, logits_hash,
        kernels. VerifyError for a damaged image, BoardTestError."""

    def bench(self, rounds: Rounds, progress: Progress | None = None) -> dict[str, Any]:
        """Measures; FIELDS of runtime/measure/rounds.py, None where it cannot be known."""
