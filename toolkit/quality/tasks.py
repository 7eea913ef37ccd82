"""Multiple-choice tasks in the files that llama.cpp's perplexity tool reads: HellaSwag (text,
six lines a task), multiple choice (binary: ARC, MMLU, TruthfulQA) and WinoGrande (CSV).

Layouts and the choice of a part are llama.cpp's (tools/perplexity/perplexity.cpp); whatever a
file says of itself is checked against what it holds.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from qedge.runtime.errors import ImageError
from qedge.toolkit.files import opened

HELLASWAG, CHOICE, WINOGRANDE = "hellaswag", "multiple-choice", "winogrande"
MOST_BYTES = 256 << 20  # of a file: the largest that are published have 30 MB
MOST_ANSWERS = 100  # of a task
_LINES = 6  # of a HellaSwag task
_SHOWN = 60  # characters of a wrong line


@dataclass(frozen=True, slots=True)
class Task:
    """Texts of which one is right. `texts` are whole: what they share, and an answer each;
    `heads` are what of each is not scored where both are long enough (WinoGrande)."""

    texts: tuple[bytes, ...]
    right: frozenset[int]
    heads: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class TaskFile:
    """Tasks of a file in its order, and how many lines were none."""

    kind: str
    tasks: list[Task]
    skipped: int = 0


def read_tasks(kind: str, path: Path) -> TaskFile:
    """All tasks of a file. ImageError: it cannot be read, or is not what its kind should be."""
    try:
        with opened(path) as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror}; give a readable file") from None
    if len(data) > MOST_BYTES:
        raise ImageError(f"{path}: has more than {MOST_BYTES >> 20} MiB; give a file of tasks")
    return parse_tasks(kind, data, str(path))


def parse_tasks(kind: str, data: bytes, name: str) -> TaskFile:
    """The tasks in a file's bytes; `name` is for errors. ImageError."""
    found = _PARSERS[kind](data, name)
    if not found.tasks:
        raise ImageError(f"{name}: holds no task; give a {kind} file in llama.cpp's format")
    return found


def _hellaswag(data: bytes, name: str) -> TaskFile:
    """Six lines a task: context, number of the right ending, four endings."""
    lines = [line.removesuffix(b"\r") for line in data.split(b"\n")]
    if lines and not lines[-1]:
        lines.pop()
    if len(lines) % _LINES:
        raise ImageError(
            f"{name}: has {len(lines):,} lines, not a multiple of {_LINES}; each task has a "
            "context, the right ending's number, and four endings: is the file cut off?"
        )
    tasks = []
    for at in range(0, len(lines), _LINES):
        context, number, *endings = lines[at : at + _LINES]
        if number.strip() not in (b"0", b"1", b"2", b"3"):
            raise ImageError(
                f"{name}:{at + 2}: {_shown(number)} where the right ending's number, 0 to 3, "
                "should stand"
            )
        texts = tuple(context + b" " + ending for ending in endings)
        tasks.append(Task(texts, frozenset({int(number)})))
    return TaskFile(HELLASWAG, tasks)


def _winogrande(data: bytes, name: str) -> TaskFile:
    """index,sentence with _,choice 1,choice 2,1 or 2. The sentence may be quoted; a line that
    is no task (a title) is skipped, as llama.cpp does."""
    tasks, skipped = [], 0
    for line in data.split(b"\n"):
        line = line.removesuffix(b"\r")
        if not line:
            continue
        found = _sentence(line)
        skipped += found is None
        if found is not None:
            tasks.append(found)
    return TaskFile(WINOGRANDE, tasks, skipped)


def _sentence(line: bytes) -> Task | None:
    commas, quoted = [], False
    for at, letter in enumerate(line):
        if letter == 0x22:
            quoted = not quoted
        elif letter == 0x2C and not quoted:
            commas.append(at)
            if len(commas) == 4:
                break
    if len(commas) != 4:
        return None
    sentence, *choices = (line[a + 1 : b] for a, b in zip(commas, commas[1:]))
    if len(sentence) > 1 and sentence[:1] == sentence[-1:] == b'"':
        sentence = sentence[1:-1]
    answer = line[commas[3] + 1 :].strip()
    first, gap, second = sentence.partition(b"_")
    if answer not in (b"1", b"2") or not gap:
        return None
    heads = tuple(first + choice for choice in choices)
    return Task(tuple(head + second for head in heads), frozenset({int(answer) - 1}), heads)


class _Reader:
    """Little-endian words and texts of a file that may end anywhere."""

    def __init__(self, data: bytes, name: str) -> None:
        self._data, self._name, self._at = data, name, 0
        self.task = 0

    def words(self, count: int) -> tuple[int, ...]:
        return struct.unpack(f"<{count}I", self.take(4 * count))

    def text(self) -> bytes:
        return self.take(*self.words(1))

    def take(self, count: int) -> bytes:
        left = len(self._data) - self._at
        if count > left:
            raise ImageError(
                f"{self._name}: task {self.task} asks for {count:,} bytes at {self._at:,}, "
                f"{left:,} are left; the file is cut off, or no multiple-choice file"
            )
        self._at += count
        return self._data[self._at - count : self._at]

    def answers(self) -> tuple[list[bytes], tuple[int, ...]]:
        (count,) = self.words(1)
        if count > MOST_ANSWERS:
            raise ImageError(
                f"{self._name}: task {self.task} has {count:,} answers, {MOST_ANSWERS} are the "
                "most; is it a multiple-choice file?"
            )
        return [self.text() for _ in range(count)], self.words(count)


def _choice(data: bytes, name: str) -> TaskFile:
    """u32 tasks, u32 place of each, then the tasks: question, answers with one right, answers
    with several right (which are not scored). A text has its u32 length before it."""
    reader = _Reader(data, name)
    (count,) = reader.words(1)
    reader.take(4 * count)  # places: tasks follow each other
    tasks = []
    for number in range(1, count + 1):
        reader.task = number
        question = reader.text()
        answers, labels = reader.answers()
        reader.answers()
        if not question or not answers or not all(answers):
            raise ImageError(f"{name}: task {number} has an empty question or answer")
        right = frozenset(n for n, label in enumerate(labels) if label == 1)
        tasks.append(Task(tuple(question + b" " + answer for answer in answers), right))
    return TaskFile(CHOICE, tasks)


_PARSERS: dict[str, Callable[[bytes, str], TaskFile]] = {
    HELLASWAG: _hellaswag,
    CHOICE: _choice,
    WINOGRANDE: _winogrande,
}


def _shown(line: bytes) -> str:
    return repr(line[:_SHOWN].decode("utf-8", "replace"))


def part_of(found: TaskFile, count: int | None) -> list[Task]:
    """`count` of the tasks, those that llama.cpp draws (std::mt19937 with seed 1), or all."""
    tasks = found.tasks
    if count is None or count >= len(tasks):
        return tasks
    draw = _uniform if found.kind == HELLASWAG else _scaled
    left = list(range(len(tasks)))
    return [tasks[n] for n in draw(left, count)]


def _words() -> Iterator[int]:
    """The 32-bit words of std::mt19937(1)."""
    import numpy as np

    random = np.random.RandomState(1)
    while True:
        yield from random.randint(0, 1 << 32, 1024, np.uint32).tolist()


def _scaled(left: list[int], count: int) -> Iterator[int]:
    """A word times the number left, in floats; the last one takes a drawn one's place."""
    import numpy as np

    words, scale = _words(), np.float32(2.0**-32)
    for _ in range(count):
        at = int(scale * np.float32(next(words)) * np.float32(len(left)))
        at = min(at, len(left) - 1)
        yield left[at]
        left[at] = left[-1]
        left.pop()


def _uniform(left: list[int], count: int) -> Iterator[int]:
    """std::uniform_int_distribution of libstdc++ (D. Lemire, Fast random integer generation in
    an interval, 2019); a drawn one is taken out."""
    words = _words()
    for _ in range(count):
        product = next(words) * len(left)
        while product % 2**32 < (2**32 - len(left)) % len(left):
            product = next(words) * len(left)
        yield left.pop(product >> 32)
