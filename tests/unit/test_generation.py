"""A generation and its model: who keeps whom alive, whose turn it is, and giving up a step."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from qedge.runtime import Model, UsageError

PROMPT = "the rain in the train"
LONG = [5] * 4
SAMPLED = {"temperature": 2.0, "seed": 1}


@pytest.fixture
def model(tiny_image: Path) -> Iterator[Model]:
    with Model.open(tiny_image) as opened:
        yield opened


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Nothing but counted references frees anything."""
    gc.disable()
    yield
    gc.enable()


# ---- who keeps whom alive ----


def begun(model: Model) -> Any:
    pieces = model.generate(LONG, 100, **SAMPLED)
    next(pieces)
    return pieces


def abandoned(model: Model) -> None:
    begun(model)


def never_begun(model: Model) -> None:
    model.generate(LONG, 100)


def superseded(model: Model) -> None:
    held = begun(model)
    begun(model)
    with pytest.raises(UsageError):
        next(held)


def failed(model: Model) -> None:
    with pytest.raises(UsageError):
        list(model.generate([1 << 40], 5))


def finished(model: Model) -> None:
    list(model.generate(LONG, 5))


def closed(model: Model) -> None:
    begun(model).close()


@pytest.mark.parametrize(
    "use",
    [abandoned, never_begun, superseded, failed, finished, closed],
    ids=lambda use: use.__name__,
)
def test_dropped_model_is_freed_at_once(
    tiny_image: Path, no_collector: None, use: Callable[[Model], None]
) -> None:
    model = Model.open(tiny_image, threads=2)
    use(model)
    engine, gone = weakref.ref(model), weakref.ref(model)
    del model
    assert engine() is None and gone() is None


def test_fifty_dropped_models_leave_no_thread_no_mapping_and_no_file(
    tiny_image: Path, no_collector: None
) -> None:
    def held() -> tuple[int, int, int]:
        with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
            mapped = sum("tiny.qimg" in line for line in maps)
        return len(os.listdir("/proc/self/task")), mapped, len(os.listdir("/proc/self/fd"))

    abandoned(Model.open(tiny_image, threads=2))
    before = held()
    for _ in range(50):
        abandoned(Model.open(tiny_image, threads=2))
    assert held() == before


def test_generation_keeps_its_model_alive(tiny_image: Path) -> None:
    with Model.open(tiny_image) as model:
        whole = "".join(model.generate(PROMPT, 10))
    assert "".join(Model.open(tiny_image).generate(PROMPT, 10)) == whole


def test_closing_gives_arena_and_workers_back_though_a_generation_is_held(
    tiny_image: Path,
) -> None:
    before = len(os.listdir("/proc/self/task"))
    model = Model.open(tiny_image, threads=3)
    pieces = begun(model)
    assert len(os.listdir("/proc/self/task")) == before + 2
    model.close()
    assert len(os.listdir("/proc/self/task")) == before
    with pytest.raises(UsageError, match="closed"):
        next(pieces)


# ---- whose turn it is ----


def use_reset(model: Model) -> None:
    model.reset()


def use_evaluate(model: Model) -> None:
    model.evaluate([1, 2])


def use_test(model: Model) -> None:
    model.test()


def use_engine(model: Model) -> None:
    model.engine.eval([1])


@pytest.mark.parametrize(
    "use",
    [begun, never_begun, finished, use_reset, use_evaluate, use_test, use_engine],
    ids=lambda use: use.__name__,
)
@pytest.mark.parametrize("started", [True, False], ids=["begun", "not begun"])
def test_older_generation_is_refused_and_never_ends_silently(
    model: Model, use: Callable[[Model], Any], started: bool
) -> None:
    old = begun(model) if started else model.generate(LONG, 5)
    kept = use(model)
    for _ in range(2):
        with pytest.raises(UsageError, match="model.session"):
            next(old)
    del kept


def test_two_generations_of_one_model_do_not_mix(model: Model) -> None:
    alone = list(model.generate([6], 8))
    old, new = model.generate(LONG, 8), model.generate([6], 8)
    with pytest.raises(UsageError):
        list(zip(new, old))
    assert list(model.generate([6], 8)) == alone


def test_closed_generation_ends_as_a_generator_does(model: Model) -> None:
    pieces = begun(model)
    pieces.close()
    pieces.close()
    assert list(pieces) == []
    never = model.generate(LONG, 5)
    never.close()
    assert list(never) == []


def test_closing_an_older_generation_leaves_the_newer_one_alone(model: Model) -> None:
    whole = list(model.generate([6], 8))
    old = begun(model)
    new = model.generate([6], 8)
    first = next(new)
    old.close()
    assert [first, *new] == whole


def test_abandoned_generation_has_stats_of_what_it_did(model: Model) -> None:
    assert model.stats is None
    pieces = begun(model)
    so_far = model.stats
    assert so_far.prompt_tokens == 4 and so_far.generated_tokens == len(model.tokens) >= 1
    assert so_far.ttft_seconds > 0
    del pieces
    assert model.stats == so_far


# ---- steps in other threads ----


class Slow:
    """An image whose first decoded token waits for `go_on`."""

    def __init__(self, model: Model) -> None:
        self._image = model.image
        self.inside, self.go_on = threading.Event(), threading.Event()
        model._image = self  # type: ignore[assignment]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._image, name)

    def decode(self, token: int) -> bytes:
        self.inside.set()
        assert self.go_on.wait(60)
        return self._image.decode(token)


@pytest.mark.parametrize("use", [finished, use_reset, use_evaluate, Model.close])
def test_whatever_comes_next_waits_for_a_step_in_another_thread(
    tiny_image: Path, use: Callable[[Model], Any]
) -> None:
    model = Model.open(tiny_image)
    slow = Slow(model)
    caught: list[BaseException] = []

    def generate() -> None:
        try:
            list(model.generate(LONG, 50, **SAMPLED))
        except UsageError as error:
            caught.append(error)

    thread = threading.Thread(target=generate)
    thread.start()
    assert slow.inside.wait(60)
    other = threading.Thread(target=use, args=(model,))
    other.start()
    other.join(0.2)
    assert other.is_alive()  # it waits
    slow.go_on.set()
    for one in (other, thread):
        one.join(60)
        assert not one.is_alive()
    assert len(caught) == 1  # and was told, not ended in silence
    model.close()


def test_prompt_that_is_read_in_another_thread_is_given_up_between_batches(
    tiny_image: Path,
) -> None:
    """The first batch asks for something else; the second is never evaluated."""
    with Model.open(tiny_image, batch=4) as model:
        sizes: list[int] = []
        engine = model.engine

        class Counting:
            def __getattr__(self, name: str) -> Any:
                return getattr(engine, name)

            def eval(self, tokens: Any) -> None:
                sizes.append(len(tokens))
                engine.eval(tokens)
                model.forget(pieces._mark)

        model._session = Counting()  # type: ignore[assignment]
        pieces = model.generate([5] * 40, 5)
        with pytest.raises(UsageError, match="gone on"):
            next(pieces)
        assert sizes == [4]
        model._session = engine


def test_cancelled_task_and_the_next_one_at_once(tiny_image: Path) -> None:
    """As a server of asyncio's does: a client leaves in the middle, another one comes."""

    async def answer(model: Model, tokens: list[int]) -> str:
        pieces = await asyncio.to_thread(model.generate, tokens, 12)
        text = ""
        while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
            text += piece
        return text

    async def serve(model: Model) -> list[str]:
        found = []
        for turn in range(20):
            first = asyncio.ensure_future(answer(model, [5] * (40 + turn)))
            for _ in range(turn % 5):
                await asyncio.sleep(0.001)
            first.cancel()
            found.append(await answer(model, [6]))
        return found

    with Model.open(tiny_image) as model:
        whole = "".join(model.generate([6], 12))
        assert asyncio.run(serve(model)) == [whole] * 20


def test_model_asked_from_within_its_own_step_says_so_and_does_not_hang(model: Model) -> None:
    class Asking(list):
        def __getitem__(self, at: Any) -> Any:
            model.reset()
            return super().__getitem__(at)

    with pytest.raises(UsageError, match="middle of a step"):
        mark = model.generate([5], 3)._mark
        list(pieces_of(model, mark, Asking([5, 6])))


def pieces_of(model: Model, mark: object, prompt: Any) -> Iterator[str]:
    from qedge.runtime.generation import pieces

    stream = pieces(model, mark, 0, prompt, 3, [], False)
    while True:
        try:
            yield model.next_piece(mark, stream)
        except StopIteration:
            return


def test_a_call_that_is_refused_within_a_step_ends_nothing(model: Model) -> None:
    whole = "".join(model.generate([5, 6], 8))
    told: list[str] = []

    class Asking(list):
        def __getitem__(self, at: Any) -> Any:
            for call in (model.reset, model.close, lambda: model.generate([5], 1)):
                with pytest.raises(UsageError, match="middle of a step"):
                    call()
                told.append("refused")
            return super().__getitem__(at)

    found = model.generate([5, 6], 8)
    original = model.append
    model.append = lambda ids, mark: original(Asking(ids), mark)  # type: ignore[method-assign]
    try:
        assert "".join(found) == whole and told
    finally:
        del model.append
