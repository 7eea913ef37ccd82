"""One generation: from tokens to text pieces, one at a time, and the iterator that its caller
holds. That keeps its model alive, and not the other way round. Whose turn it is says the
model."""

from __future__ import annotations

import time
from collections import namedtuple

from qedge.runtime._engine import EngineError
from qedge.runtime.errors import UsageError
from qedge.runtime.image import check_untouched
from qedge.runtime.text import StopText, engine_failure

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing these takes milliseconds of a start that is counted in them
    from collections.abc import Generator, Sequence
    from typing import NamedTuple

    from qedge.runtime.model import Model


if TYPE_CHECKING:

    class _Stats(NamedTuple):
        prompt_tokens: int
        generated_tokens: int
        ttft_seconds: float | None
        prefill_tokens_per_second: float | None
        decode_tokens_per_second: float | None

else:
    _Stats = namedtuple(
        "Stats",
        "prompt_tokens generated_tokens ttft_seconds prefill_tokens_per_second "
        "decode_tokens_per_second",
    )


class Stats(_Stats):
    """What one generation took. Rates are tokens a second; None where nothing was measured."""

    __slots__ = ()  # no dataclass: importing that module costs more than opening an image


class Clock:
    """When a generation began, had read its prompt, and drew its first and its last token."""

    __slots__ = ("began", "first", "last", "prefilled", "prompt_tokens")

    def __init__(self) -> None:
        self.prompt_tokens = 0
        self.began = self.prefilled = self.first = self.last = 0.0

    def begin(self, prompt_tokens: int) -> None:
        self.prompt_tokens = prompt_tokens
        self.began = time.perf_counter()

    def drawn(self) -> None:
        self.last = time.perf_counter()
        self.first = self.first or self.last

    def stats(self, generated: int) -> Stats | None:
        """What it took so far; None before it began."""
        if not self.began:
            return None
        prefill = self.prefilled - self.began if self.prefilled else 0.0
        return Stats(
            prompt_tokens=self.prompt_tokens,
            generated_tokens=generated,
            ttft_seconds=self.first - self.began if self.first else None,
            prefill_tokens_per_second=self.prompt_tokens / prefill if prefill else None,
            decode_tokens_per_second=(generated - 1) / (self.last - self.first)
            if self.last > self.first
            else None,
        )


class Generation:
    """Text pieces, each made when it is asked for. Any thread may ask, one at a time, and any
    may `close`: a step that runs then ends with its batch or its token.

    UsageError when the model has gone on to something else meanwhile, whose tokens these are
    not."""

    __slots__ = ("__weakref__", "_closed", "_mark", "_model", "_pieces")

    def __init__(self, model: Model, mark: object, pieces: Generator[str, None, None]) -> None:
        """mark: what `model` knows this generation by while it is the current one."""
        self._model: Model | None = model
        self._mark, self._pieces = mark, pieces
        self._closed = False

    def __iter__(self) -> Generation:
        return self

    def __next__(self) -> str:
        model = self._model
        if model is None:
            raise StopIteration
        try:
            return model.next_piece(self._mark, self._pieces)
        except StopIteration:
            self._model = None
            raise
        except UsageError:
            if self._closed:  # its owner wanted no more
                self._model = None
                raise StopIteration from None
            raise

    def close(self) -> None:
        """Ends it: there are no more pieces. A step in another thread is not waited for; the
        model's next use does that."""
        self._closed = True
        if self._model is not None:
            self._model.forget(self._mark)
            self._model = None
        self.release()

    def release(self) -> None:
        """Holds nothing of the session any more, unless a step runs."""
        try:  # noqa: SIM105 (contextlib takes a millisecond of every start)
            self._pieces.close()
        except ValueError:  # it runs, in another thread, and sees that it is not current
            pass


def pieces(
    model: Model,
    mark: object,
    position: int,
    prompt: Sequence[int],
    max_tokens: int,
    stops: list[str],
    hash: bool,
) -> Generator[str, None, None]:
    """Draws tokens and gives their text, for as long as mark's generation is `model`'s current
    one. position: of the session when it was asked for. `Model.generate` says the rest."""
    engine, image, clock, tokens = model.engine, model.image, model.clock, model.tokens
    text = StopText(stops)
    clock.begin(len(prompt))
    try:
        if engine.position != position:
            model.forget(mark)
        model.append(prompt, mark)
        clock.prefilled = time.perf_counter()
        position += len(prompt)
        while True:
            if engine.position != position:  # somebody used the engine itself
                model.forget(mark)
            model.expect(mark)
            if hash:
                engine.hash_logits()
            token = engine.sample()
            tokens.append(token)
            clock.drawn()
            if image.is_stop(token):
                model.finish_reason = "stop"
            elif piece := text.add(image.decode(token)):
                yield piece
            if text.stopped:
                model.finish_reason = "stop"
            if not model.finish_reason and len(tokens) >= max_tokens:
                model.finish_reason = "length"
            if not model.finish_reason and engine.position >= model.context:
                model.finish_reason = "context"
            if model.finish_reason:
                break
            engine.eval((token,))
            position += 1
        if rest := text.finish():
            yield rest
        check_untouched(image, model.path)
    except EngineError as error:
        raise engine_failure(model.path, error) from None
