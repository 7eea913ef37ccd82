"""qedge.runtime.Model: generation, sessions, stops, budget."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from qedge.runtime import BudgetError, ImageError, Model, UsageError
from qedge.runtime.text import StopText
from qedge.toolkit.board import load
from qedge.toolkit.make.build import build

PROMPT = "the rain in the train"


def test_generation_is_the_same_each_time(tiny_image: Path) -> None:
    with Model.open(tiny_image) as model:
        first = "".join(model.generate(PROMPT, 20, hash=True))
        digest, tokens = model.logits_hash(), model.tokens
        assert "".join(model.generate(PROMPT, 20, hash=True)) == first
        assert (model.logits_hash(), model.tokens) == (digest, tokens)
        assert model.stats.prompt_tokens == len(model.prompt_tokens(PROMPT))
        assert model.stats.generated_tokens == len(tokens)


def test_readme_style_loop_closes_the_model(tiny_image: Path) -> None:
    with Model.open(tiny_image, context=64, memory="300M", threads=2) as model:
        assert "".join(model.generate(PROMPT, max_tokens=8)) is not None
    with pytest.raises(UsageError, match="closed"):
        model.generate(PROMPT)


def test_golden_test_passes_with_every_kernel_set(tiny_image: Path) -> None:
    from qedge.runtime.machine import kernel_sets

    hashes = set()
    for name, usable in kernel_sets():
        if usable:
            with Model.open(tiny_image, kernels=name) as model:
                hashes.add(model.test())
                assert model.kernels == name
    assert len(hashes) == 1


def test_prompt_longer_than_context_is_refused_with_both_numbers(tiny_image: Path) -> None:
    refusal = pytest.raises(BudgetError, match=r"40 tokens, the context has room for 16 of 16")
    with Model.open(tiny_image, context=16) as model, refusal:
        list(model.generate([5] * 40))


def test_full_context_ends_generation(tiny_image: Path) -> None:
    with Model.open(tiny_image, context=16) as model:
        for seed in range(50):  # until a draw without an early stop token
            list(model.generate([5] * 10, 100, temperature=2.0, seed=seed))
            if model.finish_reason == "context":
                break
        assert model.finish_reason == "context"
        assert len(model.tokens) == 7  # the last one is drawn, and has no room to be evaluated


def test_arena_limit_is_exact(tiny_image: Path) -> None:
    with Model.open(tiny_image) as model:
        need = model.arena_bytes
    Model.open(tiny_image, memory=need).close()
    with pytest.raises(BudgetError, match=r"try --context \d+"):
        Model.open(tiny_image, memory=need - 1)


def test_cure_in_a_budget_error_works(tiny_image: Path) -> None:
    with pytest.raises(BudgetError) as caught:
        Model.open(tiny_image, memory="100K")
    words = str(caught.value).split()
    context = int(words[words.index("--context") + 1])
    batch = int(words[words.index("--batch") + 1]) if "--batch" in words else None
    Model.open(tiny_image, memory="100K", context=context, batch=batch).close()
    with pytest.raises(BudgetError):
        Model.open(tiny_image, memory="100K", context=context + 1, batch=batch)


def test_two_sessions_on_one_image_do_not_disturb_each_other(tiny_image: Path) -> None:
    with Model.open(tiny_image) as one, one.session(context=64) as two:
        alone = list(one.generate(PROMPT, 12))
        first, second = one.generate(PROMPT, 12), two.generate(PROMPT, 12)
        pairs = list(zip(first, second))
        assert [a for a, _ in pairs] == [b for _, b in pairs] == alone[: len(pairs)]


def test_sessions_run_in_threads_at_once(tiny_image: Path) -> None:
    results: dict[int, str] = {}
    with Model.open(tiny_image) as model:
        sessions = [model.session(threads=2) for _ in range(4)]

        def work(number: int) -> None:
            results[number] = "".join(sessions[number].generate(PROMPT, 20))

        workers = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert set(results.values()) == {"".join(model.generate(PROMPT, 20))}


def test_kept_session_goes_on_as_if_it_were_one_prompt(tiny_image: Path) -> None:
    with Model.open(tiny_image) as model:
        list(model.generate([7, 8, 9], 3))
        drawn = list(model.tokens)
        list(model.generate([10, 11], 5, keep=True))
        kept = list(model.tokens)
        list(model.generate([7, 8, 9, *drawn, 10, 11], 5))
        assert model.tokens == kept


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_pieces_never_split_a_character(size: int) -> None:
    text = "aé漢😀z"
    data = text.encode()
    stream = StopText([])
    pieces = [stream.add(data[n : n + size]) for n in range(0, len(data), size)]
    assert "".join([*pieces, stream.finish()]) == text
    assert all("\ufffd" not in piece for piece in pieces)


def test_stop_string_across_pieces_ends_the_text_before_it() -> None:
    stream = StopText(["END", "\n\n"])
    out = [stream.add(piece) for piece in (b"one EN", b"X two E", b"N", b"D three")]
    assert "".join(out) == "one ENX two " and stream.stopped
    assert stream.finish() == ""


def test_held_back_text_is_released_at_the_end() -> None:
    stream = StopText(["STOP"])
    assert stream.add(b"go ST") + stream.finish() == "go ST"


@pytest.mark.parametrize(
    "options",
    [
        {"max_tokens": 0},
        {"temperature": -1.0},
        {"top_p": 1.5},
        {"min_p": -0.1},
        {"repeat_penalty": 0.0},
        {"stop": [""]},
        {"seed": -1},
    ],
)
def test_values_out_of_range_are_usage_errors(tiny_image: Path, options: dict) -> None:
    with Model.open(tiny_image) as model, pytest.raises(UsageError):
        model.generate(PROMPT, **options)


def test_context_longer_than_built_names_the_cure(tiny_image: Path) -> None:
    with pytest.raises(BudgetError, match="build it with --context 4000"):
        Model.open(tiny_image, context=4000)


def test_missing_file_is_an_image_error(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="No such file"):
        Model.open(tmp_path / "none.qimg")


def test_images_are_reproducible_byte_by_byte(tiny_gguf: Path, tmp_path: Path) -> None:
    for kind in ("q4_0", "f16"):
        one = build(tiny_gguf, load("x86-64"), tmp_path / "one.qimg", quant=kind)
        two = build(tiny_gguf, load("x86-64"), tmp_path / "two.qimg", quant=kind)
        assert one.image.read_bytes() == two.image.read_bytes()
        assert one.image_id == two.image_id
        with Model.open(one.image) as model:  # the promise is the use
            assert model.arena_bytes == one.plan.arena_bytes == model.plan["arena_bytes"]
