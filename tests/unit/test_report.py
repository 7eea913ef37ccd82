"""Lines of results are whole or not there, and a page of them shows what they are worth."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from support.fake_machine import FakeMachine

from qedge.runtime import ImageError, UsageError, WriteError
from qedge.toolkit.results.record import Records, append, read, record
from qedge.toolkit.results.report import render, write_report
from qedge.toolkit.results.trust import judge

Call = Callable[..., subprocess.CompletedProcess[str]]
QUICK = ("--prompt-tokens", 8, "--decode-tokens", 2, "--repeat", 1)
HOSTILE = "<script>alert('x')</script>\"&"


def line(number: int = 1, **fields: Any) -> dict[str, Any]:
    decode = 100.0 + number
    return {
        "when": f"2026-01-01T00:00:{number:02d}+00:00",
        "board": "pi5",
        "target": "story.qimg",
        "image_id": "ab" * 32,
        "threads": 4,
        "prefill_tokens_per_second": 900.0,
        "decode_tokens_per_second": decode,
        "decode": [
            {"depth": 0, "tokens_per_second": decode, "interval": [decode - 1, decode + 1]},
            {"depth": 512, "tokens_per_second": 77.7, "interval": None},
        ],
        "depth": 0,
        "valid": True,
        "flags": [],
        **fields,
    }


def page(*lines: dict[str, Any], skipped: tuple[str, ...] = ()) -> str:
    return render(Records([{"source": "runs.jsonl:1", **one} for one in lines], list(skipped)))


def drawn(text: str) -> list[ElementTree.Element]:
    """The page's plots: each must be well-formed."""
    return [ElementTree.fromstring(one) for one in re.findall(r"<svg.*?</svg>", text, re.S)]


def test_append_adds_whole_lines_in_order(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    for number in range(3):
        append(path, line(number))
    found = read([path])
    assert [one["decode_tokens_per_second"] for one in found.lines] == [100.0, 101.0, 102.0]
    assert [one["source"] for one in found.lines] == [f"{path}:{n}" for n in (1, 2, 3)]
    assert found.skipped == []


def test_damaged_last_line_is_not_merged_into(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    append(path, line(1))
    path.write_bytes(path.read_bytes() + b'{"when": "2026')
    append(path, line(2))
    found = read([path])
    assert [one["source"] for one in found.lines] == [f"{path}:1", f"{path}:3"]
    assert found.skipped == [f"{path}:2: not JSON, or cut off"]


@pytest.mark.parametrize("reason", [OSError(errno.ENOSPC, "No space"), KeyboardInterrupt()])
def test_append_that_fails_half_way_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: BaseException
) -> None:
    path = tmp_path / "runs.jsonl"
    append(path, line(1))
    before, write, calls = path.read_bytes(), os.write, []

    def half(descriptor: int, data: bytes) -> int:
        calls.append(len(data))
        if len(calls) > 1:
            raise reason
        return write(descriptor, data[: len(data) // 2])

    monkeypatch.setattr(os, "write", half)
    expected = WriteError if isinstance(reason, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        append(path, line(2))
    assert len(calls) == 2 and path.read_bytes() == before


def test_record_holds_what_json_can(tmp_path: Path) -> None:
    results = {"decode_tokens_per_second": float("nan"), "board_id": b"\x01", "t": (1, 2.0)}
    fields = record(results, judge({}), board="pi5", target="pi5")
    append(tmp_path / "runs", fields)
    found = json.loads((tmp_path / "runs").read_text())
    assert found["decode_tokens_per_second"] is None
    assert (found["board_id"], found["t"], found["valid"]) == ("01", [1, 2.0], True)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "not JSON"),
        ("[1]", "not a JSON object"),
        ("{}", "no prefill_tokens_per_second"),
        ('{"prefill_tokens_per_second": 1, "decode_tokens_per_second": "x"}', "not a rate"),
        ('{"prefill_tokens_per_second": NaN, "decode_tokens_per_second": 1}', "not a rate"),
        ('{"prefill_tokens_per_second": -1, "decode_tokens_per_second": 1}', "not a rate"),
        ("[" * 100000, "not JSON"),
        ("\x00\x01", "not JSON"),
    ],
)
def test_bad_line_is_named_with_file_and_line_and_skipped(
    tmp_path: Path, text: str, why: str
) -> None:
    path = tmp_path / "runs.jsonl"
    path.write_text(f"{json.dumps(line())}\n\n{text}\n")
    found = read([path])
    assert len(found.lines) == 1
    assert found.skipped[0].startswith(f"{path}:3: ") and why in found.skipped[0]


def test_nothing_left_is_an_error_that_says_why(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    path.write_text("{")
    with pytest.raises(ImageError, match="runs.jsonl:1: not JSON"):
        read([path])
    with pytest.raises(ImageError, match="missing"):
        read([tmp_path / "missing"])


def test_everything_in_a_line_is_escaped() -> None:
    hostile = line(
        **dict.fromkeys(("when", "board", "target", "machine", "image_id", "cache"), HOSTILE),
        flags=[{"name": HOSTILE, "text": HOSTILE, "invalidates": True}],
        valid=False,
        source=HOSTILE,
        threads=HOSTILE,
        depth=HOSTILE,
    )
    hostile["decode"][1]["depth"] = HOSTILE
    text = page(hostile, skipped=(HOSTILE,))
    assert "<script" not in text and text.count("&lt;script") >= 8
    assert drawn(text)


def test_page_is_self_contained() -> None:
    text = page(line())
    assert not re.search(r"""(src|href|url)\s*[=(]|https?://|@import""", text)


def test_invalid_run_is_marked_with_its_reason_and_does_not_count_for_its_board() -> None:
    flag = {"name": "throttled", "text": "the firmware slowed the board", "invalidates": True}
    bad = line(2, decode_tokens_per_second=10.0, valid=False, flags=[flag])
    text = page(line(1), bad, line(3))
    assert "throttled: the firmware slowed the board" in text
    runs, _, boards, _ = drawn(text)
    hollow = [one.get("class") for one in runs.iter("circle")]
    assert hollow == ["mark", "mark hollow", "mark"]
    assert [one.text for one in boards.iter("title")] == [
        "pi5, story.qimg, 4 threads: 102.0, median of 2 valid runs"
    ]


def test_run_without_a_verdict_is_not_called_valid() -> None:
    old = line()
    del old["valid"]
    assert "not judged" in page(old) and len(drawn(page(old))) == 2


def test_predicted_stands_beside_measured() -> None:
    text = page(line(1, predicted_tokens_per_second=202.0))
    assert "202.0" in text and "50%" in text
    dashed = [sum(one.get("class") == "predicted" for one in svg.iter()) for svg in drawn(text)]
    assert dashed == [1, 0, 1, 0]
    assert "50%" not in page(line(1))


def test_marks_stand_where_their_values_are() -> None:
    runs = drawn(page(line(1, decode_tokens_per_second=50.0), line(2)))[0]
    low, high = (float(one.get("cy")) for one in runs.iter("circle"))
    grid = sorted(float(one.get("y1")) for one in runs.iter("line") if one.get("x2") == "845")
    zero, top = grid[-1], grid[0]
    assert (zero - low) / (zero - high) == pytest.approx(50 / 102, abs=0.001)
    assert top <= high < low < zero


def test_emulated_run_is_in_the_table_and_in_no_plot() -> None:
    rates = dict.fromkeys(("prefill_tokens_per_second", "decode_tokens_per_second"))
    text = page(line(1, **rates, emulated=True, decode=[{"depth": 0}]))
    assert drawn(text) == [] and "1 runs" in text


@pytest.mark.parametrize("value", [HOSTILE, [], {}, -1, 1e300, True, [None], [[1]], None])
def test_page_takes_any_value_of_any_field(value: Any) -> None:
    whole = line()
    kept = ("prefill_tokens_per_second", "decode_tokens_per_second")
    for name in [*whole, "samples", "prefill", "predicted_tokens_per_second", "machine"]:
        if name not in kept:
            assert "</html>" in page({**whole, name: value})


def test_report_does_not_overwrite_results(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    append(path, line())
    with pytest.raises(UsageError, match="holds results"):
        write_report([path], path)
    assert read([path]).lines


def test_bench_appends_lines_that_report_makes_a_page_of(
    qedge: Call, tiny_image: Path, tmp_path: Path
) -> None:
    runs, output = tmp_path / "runs.jsonl", tmp_path / "page.html"
    first = qedge("bench", tiny_image, *QUICK, "--append", runs, "--json", "--depth", 9)
    assert first.returncode == 0 and json.loads(first.stdout) == json.loads(runs.read_text())
    second = qedge("bench", tiny_image, *QUICK, "--append", runs)
    assert second.returncode == 0 and "invalid: not-converged" in second.stderr
    assert "decode" in second.stdout and len(runs.read_text().splitlines()) == 2
    with open(runs, "a") as file:
        file.write("{")
    made = qedge("report", runs, "-o", output)
    assert made.returncode == 0 and f"skipped {runs}:3: not JSON" in made.stderr
    assert "2 runs, of which 0 valid" in output.read_text()
    (tmp_path / "bad").write_text("{")
    failed = qedge("report", tmp_path / "bad", "-o", tmp_path / "other")
    assert failed.returncode == 6 and not (tmp_path / "other").exists()


def test_strict_bench_ends_with_10_when_invalid_and_names_the_fault(
    qedge: Call, tiny_image: Path, tmp_path: Path
) -> None:
    machine = FakeMachine(tmp_path).set(throttled=0x50005)
    folder = os.pathsep.join([str(Path(machine.vcgencmd).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": folder}
    done = qedge("bench", tiny_image, *QUICK, "--strict", "--json", env=environment)
    assert done.returncode == 10 and "BoardTestError" in done.stderr
    for name in ("under-voltage", "throttled"):
        assert f"invalid: {name}: " in done.stderr
    names = [flag["name"] for flag in json.loads(done.stdout)["flags"]]
    assert {"under-voltage", "throttled", "not-converged"} <= set(names)


@pytest.mark.parametrize(
    "options", [("--rounds", "x"), ("--rounds", "9-8"), ("--rounds", "-3"), ("--repeat", "0")]
)
def test_rounds_that_make_no_sense_are_usage_errors(
    qedge: Call, tiny_image: Path, options: tuple[str, str]
) -> None:
    done = qedge("bench", tiny_image, *options)
    assert done.returncode == 2 and "Traceback" not in done.stderr


def test_append_that_cannot_be_written_is_exit_code_8(
    qedge: Call, tiny_image: Path, tmp_path: Path
) -> None:
    done = qedge("bench", tiny_image, *QUICK, "--append", tmp_path / "no" / "runs.jsonl")
    assert done.returncode == 8 and "nothing was added" in done.stderr
