"""Rounds end by the stated rule, and a verdict says what a measurement is worth."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from qedge.runtime import BudgetError, ImageError, Model, UsageError
from qedge.runtime.measure.rounds import FIELDS, closed, interval, measure, median, summary
from qedge.toolkit.results.trust import judge


def measured(image: Path, **options: Any) -> dict[str, Any]:
    asked = {"prompt_tokens": 8, "decode_tokens": 2, "sample": dict, **options}
    return measure(image, lambda: Model.open(image), **asked)


@pytest.mark.parametrize(
    ("count", "kept"), [(6, 1), (8, 1), (9, 2), (11, 2), (12, 3), (20, 6), (25, 8), (30, 10)]
)
def test_interval_is_the_order_statistics_of_published_tables(count: int, kept: int) -> None:
    values = list(range(count, 0, -1))
    assert interval(values) == (kept, count + 1 - kept)


def test_five_rounds_have_no_interval_of_95_percent() -> None:
    assert interval([1.0] * 5) is None
    assert not closed([1.0] * 5, 0.02)
    assert summary([3.0, 1.0, 2.0, 9.0]) == {
        "tokens_per_second": 2.5,
        "interval": None,
        "rounds": [3.0, 1.0, 2.0, 9.0],
    }


def test_one_outlier_of_nine_does_not_keep_the_interval_open() -> None:
    rates = [100.0, 101.0, 99.0, 100.5, 99.5, 100.2, 99.8, 100.1, 50.0]
    assert median(rates) == 100.0
    assert closed(rates, 0.02)
    assert not closed(rates[3:], 0.02)  # of six, the smallest is its end
    assert not closed([*rates[:7], 50.0, 50.0], 0.02)


def test_rounds_end_as_soon_as_the_interval_closes(tiny_image: Path) -> None:
    told: list[tuple[int, int]] = []
    found = measured(tiny_image, within=1e9, progress=lambda *done: told.append(done))
    assert found["repeat"] == 6 and found["converged"] is True
    assert told == [(n, 30) for n in range(1, 7)]
    assert judge(found).valid


def test_rounds_end_at_the_most_when_the_interval_stays_open(tiny_image: Path) -> None:
    found = measured(tiny_image, within=0.0, least=6, most=8)
    assert found["repeat"] == 8 and found["converged"] is False
    (flag,) = judge(found).flags
    assert flag.name == "not-converged" and "after 8 rounds, not to ±0.0%" in flag.text


def test_repeat_makes_exactly_so_many_rounds(tiny_image: Path) -> None:
    found = measured(tiny_image, repeat=2, within=1e9)
    assert found["repeat"] == 2
    assert [flag.name for flag in judge(found).flags] == ["not-converged"]
    assert "too few" in judge(found).reasons[0]


def test_results_have_all_fields_and_plain_values(tiny_image: Path) -> None:
    import cbor2

    found = measured(tiny_image, repeat=1, depths=(40, 0, 3, 40))
    assert sorted(found) == sorted(FIELDS)
    assert [one["depth"] for one in found["decode"]] == [0, 3, 40]
    assert found["decode_tokens_per_second"] == found["decode"][0]["rounds"][0] > 0
    assert found["first_answer_seconds"] > found["open_seconds"] > 0
    assert cbor2.loads(cbor2.dumps(found)) == found


def test_conditions_are_noted_before_between_and_after(tiny_image: Path) -> None:
    found = measured(tiny_image, repeat=2)
    phases = [one["phase"] for one in found["samples"]]
    assert phases == ["before", "warm", "round", "round", "after"]


def test_joules_a_token_come_from_watts_read_while_it_decodes(tiny_image: Path) -> None:
    told = iter([2.0, 9.0, 5.0, 7.0, 3.0])  # before, warm, two rounds, after
    found = measured(tiny_image, repeat=2, sample=lambda: {"watts": next(told)})
    assert (found["idle_watts"], found["decode_watts"]) == (2.0, 6.0)
    assert found["joules_per_token"] == 6.0 / found["decode_tokens_per_second"]
    unread = measured(tiny_image, repeat=1)
    assert unread["decode_watts"] is None and unread["joules_per_token"] is None


def test_conditions_of_a_round_are_those_of_a_model_that_decodes(tiny_image: Path) -> None:
    models: list[Model] = []

    def opener() -> Model:
        models.append(Model.open(tiny_image))
        return models[-1]

    def notice() -> dict[str, Any]:
        if not models:
            return {"decodes": False}
        engine = models[0].engine
        seen, until = engine.position, time.monotonic() + 0.1
        while engine.position == seen and time.monotonic() < until:
            pass
        return {"decodes": engine.position != seen}

    found = measure(
        tiny_image, opener, prompt_tokens=8, decode_tokens=100, repeat=2, sample=notice
    )
    decodes = [one["decodes"] for one in found["samples"]]
    assert decodes == [False, True, True, True, False]


def test_failing_or_interrupted_sample_ends_the_measurement(tiny_image: Path) -> None:
    calls: list[int] = []
    before = threading.active_count()

    def interrupt() -> dict[str, Any]:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return {}

    with pytest.raises(KeyboardInterrupt):
        measured(tiny_image, sample=interrupt)
    assert threading.active_count() == before


def test_cold_start_finds_less_of_the_image_in_memory(tiny_image: Path, tmp_path: Path) -> None:
    image = tmp_path / "own.qimg"
    image.write_bytes(tiny_image.read_bytes())
    assert measured(image, repeat=1)["cached_share_at_open"] == 1.0
    found = measured(image, repeat=1, cold=True)
    assert found["cache"] == "cold"
    cold = found["cached_share_at_open"] < 0.05  # or this file system is in memory
    names = [flag.name for flag in judge(found).flags]
    assert ("not-cold" in names) == (not cold)


def test_what_cannot_be_measured_is_refused_with_the_cure(tiny_image: Path) -> None:
    for options, word in (
        ({"repeat": 0}, "--repeat"),
        ({"depths": (0, -1)}, "--depth"),
        ({"prompt_tokens": 0}, "--prompt-tokens"),
        ({"least": 9, "most": 8}, "at most"),
    ):
        with pytest.raises(UsageError, match=word):
            measured(tiny_image, **options)
    with pytest.raises(BudgetError, match="--depth"):
        measured(tiny_image, depths=(0, 127))
    with pytest.raises(ImageError, match="no such file|No such file"):
        measured(tiny_image.with_name("missing"), cold=True)


def test_emulated_board_is_never_valid_as_speed() -> None:
    verdict = judge({"emulated": True, "converged": True, "samples": []})
    assert not verdict.valid and verdict.reasons[0].startswith("emulated:")


def test_notes_are_flags_that_leave_a_run_valid() -> None:
    verdict = judge({"samples": [{"throttled_bits": 0x50000, "temperature_millidegrees": 9e4}]})
    names = ["under-voltage-earlier", "throttled-earlier", "hot"]
    assert [flag.name for flag in verdict.flags] == names
    assert verdict.valid and verdict.reasons == []
    assert [one["invalidates"] for one in verdict.fields()["flags"]] == [False] * 3


def test_page_size_is_information_only() -> None:
    for size in (4096, 16384, None):
        assert judge({"samples": [{"page_bytes": size}]}).flags == ()


def test_facts_that_a_machine_does_not_tell_are_named_as_unseen() -> None:
    found = judge({"samples": [{"clock_hz": 1, "clock_max_hz": 1, "busy_ticks": 0}]})
    assert found.unseen == ("temperature", "throttling", "swap")


@pytest.mark.parametrize(
    "results",
    [
        {},
        {"samples": None},
        {"samples": ["x", None, 3, {}]},
        {"samples": [{"throttled_bits": "0x4", "clock_hz": [], "busy_ticks": None}]},
        {"converged": False},
        {"converged": False, "decode": [{"tokens_per_second": 0, "interval": [0, 0]}]},
        {"converged": False, "decode": [None, 3, {"interval": [1]}], "within": "x"},
        {"cache": "cold", "cached_share_at_open": "much"},
        {"samples": [{"throttled_bits": float("inf"), "clock_hz": float("nan")}] * 2},
        {"samples": [{"busy_ticks": 0, "total_ticks": 0}, {"busy_ticks": 9, "total_ticks": 9}]},
    ],
)
def test_damaged_results_of_a_board_are_judged_without_an_error(results: Any) -> None:
    assert {flag.name for flag in judge(results).flags} <= {"not-converged"}
