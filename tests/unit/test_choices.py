"""Multiple-choice tasks in llama.cpp's files: read, refused when they are damaged, drawn as
llama.cpp draws them, and scored by the model's own logits."""

from __future__ import annotations

import json
import random
import struct
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from qedge.runtime import BudgetError, ImageError, Model, QedgeError
from qedge.toolkit.quality import tasks
from qedge.toolkit.quality.choices import answer
from qedge.toolkit.quality.tasks import CHOICE, HELLASWAG, WINOGRANDE, parse_tasks, part_of

Call = Callable[..., "subprocess.CompletedProcess[str]"]
ENDINGS = (b"eats the rest", b"sits", b"tears the net at sea", b"is a hat")


def hellaswag(count: int) -> bytes:
    return b"".join(
        b"A cat: sees %d\n%d\n" % (n, n % 4) + b"\n".join(ENDINGS) + b"\n" for n in range(count)
    )


def text(data: bytes) -> bytes:
    return struct.pack("<I", len(data)) + data


def answers(texts: Sequence[bytes], right: int) -> bytes:
    labels = struct.pack(f"<{len(texts)}i", *(n == right for n in range(len(texts))))
    return struct.pack("<I", len(texts)) + b"".join(map(text, texts)) + labels


def choice(count: int) -> bytes:
    bodies = [
        text(b"what is %d" % n) + answers(ENDINGS[: 2 + n % 3], n % 2) + answers([], 0)
        for n in range(count)
    ]
    places, at = [], 4 + 4 * count
    for body in bodies:
        places.append(at)
        at += len(body)
    return struct.pack(f"<{count + 1}I", count, *places) + b"".join(bodies)


def winogrande(count: int) -> bytes:
    line = b'%d,"one set the hat, as _ had the rest",the hat,a net,%d\n'
    return b"".join(line % (n, 1 + n % 2) for n in range(count))


FILES = {HELLASWAG: hellaswag, CHOICE: choice, WINOGRANDE: winogrande}


# ---- reading ----


def test_hellaswag_has_six_lines_a_task() -> None:
    found = parse_tasks(HELLASWAG, hellaswag(3).replace(b"\n", b"\r\n"), "file").tasks
    assert [task.right for task in found] == [{0}, {1}, {2}]
    assert found[1].texts[1] == b"A cat: sees 1 sits"


def test_choices_have_as_many_answers_as_they_say() -> None:
    found = parse_tasks(CHOICE, choice(3), "file").tasks
    assert [len(task.texts) for task in found] == [2, 3, 4]
    assert [task.right for task in found] == [{0}, {1}, {0}]
    assert found[2].texts[3] == b"what is 2 is a hat"


def test_winogrande_has_a_gap_and_two_choices() -> None:
    data = b"qID,sentence,option1,option2,answer\n" + winogrande(2) + b"2,A _ b,x,y,1"
    found = parse_tasks(WINOGRANDE, data, "file")
    assert found.skipped == 1 and len(found.tasks) == 3
    assert found.tasks[1].texts[1] == b"one set the hat, as a net had the rest"
    assert found.tasks[1].heads[1] == b"one set the hat, as a net" and found.tasks[1].right == {
        1
    }
    assert found.tasks[2].texts == (b"A x b", b"A y b")  # a last line without an end counts


@pytest.mark.parametrize(
    ("kind", "data", "why"),
    [
        (HELLASWAG, hellaswag(2)[:-9], "is the file cut off|multiple of 6"),
        (HELLASWAG, hellaswag(1).replace(b"\n0\n", b"\n4\n"), "file:2: '4'"),
        (HELLASWAG, b"", "no task"),
        (CHOICE, b"", "0 are left"),
        (CHOICE, choice(3)[:-1], "task 3 asks for"),
        (CHOICE, b"\xff" * 64, "asks for 17,179,869,180 bytes"),
        (CHOICE, struct.pack("<3I", 1, 8, 0xFFFFFFFF), "asks for 4,294,967,295 bytes"),
        (CHOICE, struct.pack("<2I", 1, 8) + text(b"q") + b"\xff" * 4, "4,294,967,295 answers"),
        (CHOICE, struct.pack("<2I", 1, 8) + text(b"") + answers(ENDINGS, 0) * 2, "empty"),
        (CHOICE, struct.pack("<I", 0), "no task"),
        (WINOGRANDE, b"a,b,c\n\n\xff\xfe,\n", "no task"),
        (WINOGRANDE, winogrande(1).replace(b"_", b"-"), "no task"),
    ],
)
def test_damaged_files_say_what_is_wrong(kind: str, data: bytes, why: str) -> None:
    with pytest.raises(ImageError, match=why):
        parse_tasks(kind, data, "file")


@pytest.mark.parametrize("kind", FILES)
def test_any_damage_is_an_error_or_tasks(kind: str) -> None:
    whole, draw = FILES[kind](5), random.Random(7)
    for _ in range(3000):
        data = bytearray(whole[: draw.randint(0, len(whole))])
        for _ in range(draw.randint(0, 4)):
            if data:
                data[draw.randrange(len(data))] = draw.randrange(256)
        try:
            found = parse_tasks(kind, bytes(data), "file").tasks
        except QedgeError:
            continue
        assert all(len(task.texts) >= 1 for task in found)


def test_oversized_files_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "MOST_BYTES", 1 << 20)
    with (tmp_path / "large").open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(ImageError, match="more than 1 MiB"):
        tasks.read_tasks(CHOICE, tmp_path / "large")
    with pytest.raises(ImageError, match="give a readable file"):
        tasks.read_tasks(CHOICE, tmp_path)


def test_part_of_a_file_is_what_llama_cpp_draws() -> None:
    """Of 1,000 tasks with std::mt19937(1), compiled with libstdc++ 12."""
    wanted = {
        HELLASWAG: [417, 997, 719, 931, 0, 128, 302, 999, 147, 236],
        WINOGRANDE: [417, 996, 718, 929, 0, 127, 300, 992, 145, 233],
        CHOICE: [417, 996, 718, 929, 0, 127, 300, 992, 145, 233],
    }
    for kind, make in FILES.items():
        found = parse_tasks(kind, make(1000), "file")
        drawn = part_of(found, 10)
        places = {id(task): n for n, task in enumerate(found.tasks)}
        assert [places[id(task)] for task in drawn] == wanted[kind]
        assert part_of(found, 1000) == part_of(found, None) == found.tasks


# ---- scoring ----


def logs(model: Model, ids: list[int]) -> np.ndarray:
    """log p of each token behind those before it; 0 for the first."""
    rows = np.empty((len(ids), 320), np.float32)
    model.reset()
    model.engine.eval(ids, rows)
    x = rows[:, :300].astype(float)
    x -= np.log(np.exp(x).sum(axis=1, keepdims=True))
    return np.array([0, *x[np.arange(len(ids) - 1), ids[1:]]])


def test_answer_with_the_best_mean_of_its_own_tokens_is_chosen(tiny_image: Path) -> None:
    with Model.open(tiny_image) as model:
        for kind in (HELLASWAG, CHOICE):
            found, right = parse_tasks(kind, FILES[kind](9), "file"), 0
            for task in found.tasks:
                ids = [model.tokenize(one, bos=True) for one in task.texts]
                common = next(n for n in range(99) if len({tuple(i[: n + 1]) for i in ids}) > 1)
                means = [logs(model, one)[common:].mean() for one in ids]
                right += int(np.argmax(means)) in task.right
            told = answer(model, found)
            assert (told.right, told.tasks) == (
                right,
                9,
            ) and told.low < told.accuracy < told.high


def test_winogrande_scores_what_comes_behind_the_choice(tiny_image: Path) -> None:
    found, right = parse_tasks(WINOGRANDE, winogrande(6), "file"), 0
    with Model.open(tiny_image) as model:
        for task in found.tasks:
            ids = [model.tokenize(one, bos=True) for one in task.texts]
            heads = [len(model.tokenize(one, bos=True)) for one in task.heads]
            means = [logs(model, i)[head:-1].mean() for i, head in zip(ids, heads)]
            right += int(np.argmax(means)) in task.right
        told = answer(model, found)
    assert told.right == right and told.chance == 0.5


def test_short_and_odd_tasks_are_scored(tiny_image: Path) -> None:
    lines = (b"0,_ is,a,b,1\n", b"1,it is _,a,b,2\n", b"2,a_,t,th,2\n")
    with Model.open(tiny_image) as model:
        for line in lines:
            assert answer(model, parse_tasks(WINOGRANDE, line, "file")).tasks == 1
        prefix = b"a\n0\nb\nb c\nb c d\nb\n"  # one ending begins another
        assert answer(model, parse_tasks(HELLASWAG, prefix, "file")).tasks == 1


def test_task_that_does_not_fit_or_is_no_text_is_named(tiny_image: Path) -> None:
    long = hellaswag(1) + b"\n".join([b"word " * 200, b"1", *ENDINGS])
    with Model.open(tiny_image) as model:
        with pytest.raises(BudgetError, match="task 2 has .* --context"):
            answer(model, parse_tasks(HELLASWAG, long, "file"))
        wrong = hellaswag(1).replace(b"cat", b"c\xfft")
        with pytest.raises(ImageError, match="task 1: .*UTF-8"):
            answer(model, parse_tasks(HELLASWAG, wrong, "file"))


# ---- the verb ----


@pytest.mark.parametrize("kind", FILES)
def test_eval_answers_tasks(qedge: Call, tiny_image: Path, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "tasks"
    path.write_bytes(FILES[kind](12))
    done = qedge("eval", tiny_image, f"--{kind}", path, "--tasks", 8, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["tasks"] == 8 and found["low"] <= found["accuracy"] <= found["high"]
    assert f"{kind}: " in qedge("eval", tiny_image, f"--{kind}", path).stdout
    path.write_bytes(FILES[kind](12)[:-20] + b"\xff")
    if kind == CHOICE:
        assert qedge("eval", tiny_image, f"--{kind}", path).returncode == 6
    assert qedge("eval", tiny_image, f"--{kind}", path, "--chunks", 1).returncode == 2
