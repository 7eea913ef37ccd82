"""Wrong calls of the runtime: a clean error each, and the model goes on working."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qedge.runtime import BudgetError, ImageError, Model, UsageError
from qedge.runtime._engine import EngineError
from qedge.runtime.sizes import parse_size

PROMPT = "the rain in the train"


@pytest.fixture
def model(tiny_image: Path) -> Iterator[Model]:
    with Model.open(tiny_image) as opened:
        yield opened


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("300M", 300 << 20),
        ("1.5G", 3 << 29),
        (" 64 KiB ", 64 << 10),
        ("2kb", 2048),
        (4096, 4096),
        ("9007199254740993", 9007199254740993),  # no float holds it
    ],
)
def test_sizes_are_read_exactly(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "M",
            "-1",
            "0",
            "1T",
            "1e9",
            "1,000",
            "0.0001K",
            "nan",
            "inf",
            "9" * 400,
            "1.5.5M",
        ),
        *(0, -5, True, "0x10", "٣M"),
    ],
)
def test_sizes_that_are_none_are_usage_errors(text: Any) -> None:
    with pytest.raises(UsageError) as caught:
        print(parse_size(text), "was taken")
    assert "is not a size" in str(caught.value)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"context": 0}, UsageError),
        ({"context": -1}, UsageError),
        ({"context": 1 << 40}, BudgetError),
        ({"threads": 0}, UsageError),
        ({"threads": 65}, UsageError),
        ({"batch": 0}, UsageError),
        ({"batch": 1 << 40}, UsageError),
        ({"kernels": "sse9"}, UsageError),
        ({"kernels": ""}, UsageError),
        ({"memory": "much"}, UsageError),
        ({"memory": 1}, BudgetError),
    ],
)
def test_options_out_of_range_are_refused_at_open(
    tiny_image: Path, options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        Model.open(tiny_image, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_p": float("nan")},
        {"top_k": -1},
        {"top_k": 1 << 40},
        {"repeat_penalty": float("inf")},
        {"seed": 1 << 64},
        {"max_tokens": -1},
    ],
)
def test_sampling_values_out_of_range_are_usage_errors(
    model: Model, options: dict[str, Any]
) -> None:
    with pytest.raises(UsageError):
        model.generate(PROMPT, **options)


WRONG: dict[str, list[Any]] = {
    "max_tokens": [None, "5", 5.0, True, [5], float("nan"), 10**5000],
    "seed": [None, "1", 1.5, -1, True, b"1"],
    "top_k": [None, "1", 1.5],
    "temperature": [None, "1", [], object(), 1j, 10**400, True],
    "top_p": [None, "1", b"1"],
    "min_p": [None, ()],
    "repeat_penalty": [None, "1", {}],
    "stop": [None, 5, [None], ["a", 5], b"end", [b"end"], [""], object()],
}


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name, values in WRONG.items() for value in values],
    ids=lambda value: str(type(value).__name__) if not isinstance(value, str) else value,
)
def test_argument_of_a_wrong_type_is_a_usage_error_that_names_it(
    model: Model, name: str, value: Any
) -> None:
    with pytest.raises(UsageError, match=name):
        model.generate(PROMPT, **{name: value})


@pytest.mark.parametrize("prompt", [None, 5, 1.5, object(), True])
def test_prompt_that_is_neither_text_nor_ids_is_a_usage_error(
    model: Model, prompt: Any
) -> None:
    with pytest.raises(UsageError, match="the prompt is"):
        model.generate(prompt)
    with pytest.raises(UsageError, match="the prompt is"):
        model.prompt_tokens(prompt)
    with pytest.raises(UsageError, match="the text is"):
        model.tokenize(prompt)
    with pytest.raises(UsageError):
        model.evaluate(prompt)
    with pytest.raises(UsageError):
        model.detokenize(prompt)


@pytest.mark.parametrize("text", [["a", "b"], [5], {"role": "user"}])
def test_what_is_no_text_is_not_tokenized(model: Model, text: Any) -> None:
    with pytest.raises(UsageError, match="str or bytes"):
        model.tokenize(text)


def test_texts_are_taken_as_any_bytes(model: Model) -> None:
    wanted = model.tokenize(PROMPT)
    for kind in (
        str.encode,
        lambda text: bytearray(text.encode()),
        lambda t: memoryview(t.encode()),
    ):
        assert model.tokenize(kind(PROMPT)) == wanted
        assert list(model.generate(kind(PROMPT), 3)) == list(model.generate(PROMPT, 3))


def test_numbers_of_numpy_are_numbers(model: Model) -> None:
    taken = list(
        model.generate(PROMPT, np.int64(6), temperature=np.float32(1), seed=np.uint64(3))
    )
    assert taken == list(model.generate(PROMPT, 6, temperature=1, seed=3))


@pytest.mark.parametrize(
    "options",
    [
        {"context": "512"},
        {"context": 5.0},
        {"context": True},
        {"threads": "2"},
        {"threads": 1.5},
        {"batch": "8"},
        {"batch": [8]},
        {"memory": []},
        {"memory": b"300M"},
        {"kernels": 5},
        {"kernels": ["portable"]},
    ],
)
def test_option_of_a_wrong_type_is_refused_at_open_and_for_a_session(
    model: Model, options: dict[str, Any]
) -> None:
    (name,) = options
    with pytest.raises(UsageError, match="size" if name == "memory" else name[:6]):
        Model.open(model.path, **options)
    with pytest.raises(UsageError):
        model.session(**options)


def test_option_that_a_session_does_not_know_is_named(model: Model) -> None:
    with pytest.raises(UsageError, match="knows no contxt; it takes context, memory"):
        model.session(contxt=16)


@pytest.mark.parametrize("path", [None, 5, 1.5, [], object()])
def test_what_is_no_path_is_a_usage_error(path: Any) -> None:
    with pytest.raises(UsageError, match="is not a path"):
        Model.open(path)


def test_path_as_bytes_is_a_path(tiny_image: Path) -> None:
    with Model.open(os.fsencode(tiny_image)) as opened:
        assert opened.path == str(tiny_image)


def test_model_made_by_its_class_is_told_of_open(tiny_image: Path) -> None:
    for arguments in ((tiny_image,), (), (tiny_image, 5)):
        with pytest.raises(UsageError, match=r"Model\.open"):
            Model(*arguments)


def test_logits_are_the_last_tokens_and_of_nothing_else(model: Model) -> None:
    with pytest.raises(UsageError, match="no logits yet"):
        model.logits()
    model.evaluate([5])
    assert model.logits().shape == (300,)
    with pytest.raises(UsageError, match="last token"):
        model.logits("Hi")


@pytest.mark.parametrize(
    "ids", [[-1], [300], [1 << 32], [(1 << 32) + 5], [1 << 70], [5, 1.5], [None], ["5"]]
)
def test_ids_that_are_no_tokens_are_usage_errors(model: Model, ids: list[Any]) -> None:
    with pytest.raises(UsageError, match="from 0 to 299"):
        list(model.generate(ids, 3))
    with pytest.raises(UsageError, match="from 0 to 299"):
        model.detokenize(ids)
    with pytest.raises((OverflowError, TypeError, EngineError)):
        model.engine.eval(ids)
    assert list(model.generate(PROMPT, 3)) is not None


def test_ids_of_numpy_are_ids(model: Model) -> None:
    list(model.generate([5, 6], 4))
    tokens = model.tokens
    list(model.generate(np.array([5, 6], np.int64), 4))
    assert model.tokens == tokens


@pytest.mark.parametrize("prompt", ["", b"", [], ()])
def test_empty_prompt_is_a_usage_error(model: Model, prompt: Any) -> None:
    with pytest.raises(UsageError, match="empty"):
        model.generate(prompt)


@pytest.mark.parametrize(
    "text", [b"\xff", "\udcff", b"\xed\xa0\x80", b"a\xc0\x80", b"\xf5\x80\x80\x80"]
)
def test_text_that_is_not_utf8_is_an_image_error(model: Model, text: str | bytes) -> None:
    with pytest.raises(ImageError, match="UTF-8"):
        model.generate(text)
    with pytest.raises(ImageError, match="UTF-8"):
        model.tokenize(text)


def test_prompt_that_cannot_fit_is_refused_before_it_is_tokenized(model: Model) -> None:
    with pytest.raises(BudgetError, match="cannot fit"):
        model.generate("x" * (64 << 20))


def test_text_longer_than_one_call_takes_is_a_budget_error(model: Model) -> None:
    with pytest.raises(BudgetError, match="split it"):
        model.tokenize(b"x" * ((64 << 20) + 1))


def test_eval_with_a_buffer_too_small_or_read_only_evaluates_nothing(model: Model) -> None:
    engine = model.engine
    model.reset()
    with pytest.raises(EngineError):
        engine.eval([1, 2], np.empty(2 * 300, np.float32))  # rows are 320 wide
    with pytest.raises((BufferError, ValueError)):
        engine.eval([1], bytes(320 * 4))
    with pytest.raises(EngineError):
        engine.eval([])
    assert engine.position == 0


def test_rewind_beyond_the_tokens_is_refused(model: Model) -> None:
    model.reset()
    model.evaluate([1, 2, 3])
    for position in (4, 1 << 31):
        with pytest.raises(EngineError):
            model.engine.rewind(position)
    with pytest.raises(OverflowError):
        model.engine.rewind(-1)
    assert model.engine.position == 3


def test_sample_before_any_token_is_refused(model: Model) -> None:
    model.reset()
    with pytest.raises(EngineError):
        model.engine.sample()


class Growing:
    """A sequence that holds more than it says."""

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[int]:
        return iter([1] * 100000)


def test_sequence_that_lies_about_its_length_writes_nothing_beyond_it(model: Model) -> None:
    model.reset()
    with pytest.raises(EngineError):
        model.engine.eval(Growing())
    assert model.engine.position == 0


def test_session_used_while_it_is_at_work_is_a_usage_error(model: Model) -> None:
    model.reset()

    class Tokens(list):
        """Evaluates a token while it is read."""

        def __iter__(self) -> Iterator[int]:
            model.engine.eval([1])
            return iter([1])

    with pytest.raises(UsageError, match="another thread"):
        model.engine.eval(Tokens([1]))
    model.engine.eval([1])
    assert model.engine.position == 1


def test_one_session_from_many_threads_gives_errors_and_never_a_crash(model: Model) -> None:
    errors: list[Exception] = []

    def work() -> None:
        for _ in range(200):
            try:
                model.reset()
                model.evaluate([1, 2, 3, 4])
                model.engine.sample()
            except (UsageError, BudgetError, ImageError, EngineError) as error:
                errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert model.engine.position <= model.context
    assert "".join(model.generate(PROMPT, 4)) == "".join(model.generate(PROMPT, 4))


def test_closing_in_the_middle_ends_the_generation(tiny_image: Path) -> None:
    model = Model.open(tiny_image)
    pieces = model.generate([5] * 4, 100, temperature=2.0, seed=1)
    next(pieces)
    model.close()
    with pytest.raises(UsageError, match="closed"):
        next(pieces)
    model.close()
    with pytest.raises(UsageError, match="closed"):
        model.generate(PROMPT)
    with pytest.raises(UsageError, match="closed"):
        model.reset()


def test_abandoned_generation_leaves_a_model_that_works(model: Model) -> None:
    whole = "".join(model.generate([5] * 4, 20))
    next(model.generate([5] * 4, 20, temperature=1.0, seed=3))
    model.generate([6], 5)  # never begun
    assert "".join(model.generate([5] * 4, 20)) == whole


def test_new_generation_keeps_its_own_numbers(model: Model) -> None:
    old = model.generate([5] * 4, 100, temperature=2.0, seed=1)
    next(old)
    new = model.generate([6], 4, temperature=2.0, seed=2)
    assert model.stats is None and model.tokens == []
    with pytest.raises(UsageError, match="gone on to something else"):
        next(old)
    list(new)
    assert model.stats.prompt_tokens == 1 and model.stats.generated_tokens == len(model.tokens)


def test_keep_after_a_reset_begins_anew(model: Model) -> None:
    list(model.generate([5, 6], 5))
    alone = list(model.tokens)
    model.reset()
    list(model.generate([5, 6], 5, keep=True))
    assert model.tokens == alone


def test_error_in_a_generation_leaves_a_model_that_works(model: Model) -> None:
    good = "".join(model.generate(PROMPT, 5))
    with pytest.raises(BudgetError):
        list(model.generate([5] * 4000))
    assert "".join(model.generate(PROMPT, 5)) == good


def test_image_that_cannot_be_mapped_is_no_bad_image(tiny_image: Path) -> None:
    """What the process has too little of is a budget's matter, and named."""
    code = (
        "import os, resource, sys\n"
        "from qedge.runtime import BudgetError, Model\n"
        "files = []\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16))\n"
        "try:\n"
        "    while True: files.append(Model.open(sys.argv[1], threads=1))\n"
        "except BudgetError as error: print('files:', error)\n"
        "files.clear()\n"
        "with open(sys.argv[2], 'wb') as file: file.truncate(1 << 40)\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 32, 1 << 32))\n"
        "try: Model.open(sys.argv[2])\n"
        "except BudgetError as error: print('space:', error)\n"
    )
    large = tiny_image.with_name("large.qimg")
    done = subprocess.run(
        [sys.executable, "-c", code, str(tiny_image), str(large)],
        capture_output=True,
        text=True,
    )
    large.unlink()
    files, space = done.stdout.splitlines()
    assert files.startswith("files: ") and "ulimit -n" in files and "tiny.qimg" in files
    assert space.startswith("space: ") and "ulimit -v" in space and "large.qimg" in space
