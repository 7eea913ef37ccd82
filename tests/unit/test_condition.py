"""Faults injected into a machine of files: each is flagged by its name, and only by it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.fake_machine import PMIC_WATTS, FakeMachine

from qedge.runtime import Model
from qedge.runtime.measure import condition, page_cache
from qedge.runtime.measure.condition import sample
from qedge.runtime.measure.rounds import measure
from qedge.toolkit.results.trust import judge

Judged = Callable[..., list[str]]


@pytest.fixture
def machine(tmp_path: Path) -> FakeMachine:
    return FakeMachine(tmp_path)


@pytest.fixture
def flags(machine: FakeMachine, tiny_image: Path) -> Judged:
    """Names of the flags of a real measurement on a machine whose facts change in it: `first`
    holds from the start on, `then` from the first round on. Our own work and idling go on."""

    def call(first: dict[str, Any], then: dict[str, Any], allow_paging: bool = False) -> Any:
        machine.set(**first)
        taken: list[int] = []

        def notice() -> dict[str, Any]:
            if len(taken) == 2:  # after "before" and "warm"
                machine.set(**{"busy": 5400, "idle": 90100, "own": 595, **then})
            taken.append(1)
            return sample(machine.root, machine.vcgencmd)

        results = measure(
            tiny_image,
            lambda: Model.open(tiny_image),
            prompt_tokens=8,
            decode_tokens=2,
            within=1e9,
            allow_paging=allow_paging,
            sample=notice,
        )
        return [flag.name for flag in judge(results).flags]

    return call


def test_clean_run_is_valid_and_raises_no_flag(flags: Judged) -> None:
    assert flags({}, {}) == []


@pytest.mark.parametrize(
    ("name", "first", "then"),
    [
        ("throttled", {"throttled": 0x4}, {}),
        ("throttled", {}, {"throttled": 0x2}),
        ("throttled", {}, {"throttled": 0x80008}),
        ("throttled", {}, {"throttled": 0x40000}),  # came and went between two samples
        ("throttled", {"throttled": 0x20000}, {"throttled": 0x60000}),
        ("throttled-earlier", {"throttled": 0x60000}, {}),
        ("throttled-earlier", {"throttled": 0x80000}, {}),
        ("under-voltage", {"throttled": 0x1}, {}),
        ("under-voltage", {}, {"throttled": 0x10000}),
        ("under-voltage-earlier", {"throttled": 0x10000}, {}),
        ("slow-clock", {}, {"measured_hz": 1500345728}),
        ("slow-clock", {"measured_hz": None}, {"clock_khz": 1500000}),
        ("slow-clock", {"limit_khz": 1500000}, {}),
        ("slow-clock", {"governor": "powersave", "measured_hz": None, "clock_khz": None}, {}),
        ("swapped", {}, {"swap_in": 121}),
        ("swapped", {}, {"swap_out": 400}),
        ("busy", {}, {"busy": 5500}),
        ("paging", {}, {"faults": 200}),
        ("hot", {}, {"temperature": 82500}),
    ],
)
def test_fault_is_flagged_by_its_name_and_only_by_it(
    flags: Judged, name: str, first: dict[str, Any], then: dict[str, Any]
) -> None:
    assert flags(first, then) == [name]


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ({"governor": "ondemand", "clock_khz": 2400000}, {}),
        ({"governor": "powersave"}, {}),  # of a driver that does not hold the clock
        ({"measured_hz": 600117184}, {"measured_hz": 2400033792}),  # idle before the rounds
        ({}, {"measured_hz": 2390000000}),  # clocks waver
        ({"temperature": 79000}, {}),
        ({"faults": 0}, {"faults": 5}),
        ({"throttled": None, "measured_hz": None}, {}),
        ({"swap_in": None, "swap_out": None}, {}),
        ({"max_khz": None, "limit_khz": None, "clock_khz": None, "governor": None}, {}),
    ],
)
def test_what_is_no_fault_raises_no_flag(
    flags: Judged, first: dict[str, Any], then: dict[str, Any]
) -> None:
    assert flags(first, then) == []


def test_two_faults_are_two_flags(flags: Judged) -> None:
    both = {"throttled": 0x50005, "measured_hz": 1000000000}
    assert flags({}, both) == ["under-voltage", "throttled", "slow-clock"]


def test_paging_that_was_allowed_is_no_fault(flags: Judged) -> None:
    assert flags({}, {"faults": 5000}, allow_paging=True) == []


def test_sample_tells_every_fact_in_its_unit(machine: FakeMachine) -> None:
    found = sample(machine.root, machine.vcgencmd)
    assert found.pop("page_bytes") in (4096, 16384, 65536)
    assert found.pop("watts") == pytest.approx(PMIC_WATTS)
    assert found == {
        "governor": "performance",
        "clock_hz": 2400033792,
        "clock_limit_hz": 2400000000,
        "clock_max_hz": 2400000000,
        "temperature_millidegrees": 61200,
        "throttled_bits": 0,
        "cpus": 2,
        "total_ticks": 95000,
        "busy_ticks": 5000,
        "own_ticks": 200,
        "major_faults": 7,
        "swap_in_pages": 120,
        "swap_out_pages": 340,
        "available_bytes": 4096000,
    }
    assert condition.machine(machine.root) == "Raspberry Pi 5 Model B Rev 1.0"


def test_absent_facts_are_none_and_no_error(tmp_path: Path) -> None:
    found = sample(str(tmp_path / "nothing"), str(tmp_path / "no vcgencmd"))
    assert found.pop("page_bytes") > 0
    assert set(found.values()) == {None}
    assert condition.machine(str(tmp_path)) is None


def test_nonsense_in_files_is_none_and_no_error(machine: FakeMachine) -> None:
    for path in [one for one in Path(machine.root).rglob("*") if one.is_file()]:
        path.write_bytes(b"\xff\x00 cpu ( nonsense) pswpin\n")
    for path in (Path(machine.vcgencmd).parent / "answers").iterdir():
        path.write_bytes(b"\xff=VDD_A=_V=nan\n")
    found = sample(machine.root, machine.vcgencmd)
    assert {name for name, value in found.items() if value is not None} <= {
        "governor",
        "page_bytes",
    }


def test_throttled_bits_come_from_sysfs_where_vcgencmd_has_none(machine: FakeMachine) -> None:
    place = "sys/devices/platform/soc/soc:firmware/get_throttled"
    machine.add(place, "50005\n")
    assert sample(machine.root, machine.vcgencmd)["throttled_bits"] == 0
    assert sample(machine.root)["throttled_bits"] == 0x50005


def test_voltage_alarm_is_the_under_voltage_bit_where_nothing_else_tells(
    machine: FakeMachine,
) -> None:
    machine.add("sys/class/hwmon/hwmon1/name", "rpi_volt\n")
    machine.add("sys/class/hwmon/hwmon1/in0_lcrit_alarm", "1\n")
    assert sample(machine.root)["throttled_bits"] == condition.UNDER_VOLTAGE


def test_clock_is_that_of_the_fastest_cores_without_turbo(machine: FakeMachine) -> None:
    place = "sys/devices/system/cpu/cpufreq/policy4"
    for name, khz in {"cpuinfo_max_freq": 2600000, "scaling_cur_freq": 2500000}.items():
        machine.add(f"{place}/{name}", f"{khz}\n")
    found = sample(machine.root)
    assert (found["clock_max_hz"], found["clock_hz"]) == (2600000000, 2500000000)
    machine.add(f"{place}/base_frequency", "2000000\n")
    assert sample(machine.root)["clock_max_hz"] == 2000000000


def test_vcgencmd_that_hangs_or_fails_costs_its_facts_only(
    machine: FakeMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(condition, "_SECONDS", 0.05)
    for text in ("exec tail -f /dev/null", "echo throttled=0x4; exit 1"):
        Path(machine.vcgencmd).write_text(f"#!/bin/sh\n{text}\n")
        found = sample(machine.root, machine.vcgencmd)
        assert found["throttled_bits"] is None and found["watts"] is None
        assert found["clock_hz"] == 2400000000


def test_watts_are_none_where_there_is_no_power_chip(machine: FakeMachine) -> None:
    answers = Path(machine.vcgencmd).parent / "answers" / "pmic_read_adc"
    answers.write_text('error=1 error_msg="Command not registered"\n')
    assert condition.watts(machine.vcgencmd) is None
    assert condition.watts(None) is None


def test_sample_of_this_machine_counts_its_ticks_and_ours() -> None:
    first = sample()
    spent = sum(n * n for n in range(10**6))
    second = sample()
    assert spent and second["total_ticks"] >= first["total_ticks"] > 0
    assert second["busy_ticks"] >= first["busy_ticks"] >= first["own_ticks"] >= 0
    assert second["own_ticks"] > first["own_ticks"]
    assert first["available_bytes"] > 1 << 20


def test_page_cache_forgets_a_file_and_tells_how_much_of_it_is_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(1 << 20))
    assert page_cache.share(path) == 1.0
    assert page_cache.forget(path)
    if page_cache.share(path) == 1.0:
        pytest.skip("this folder is on a file system in memory, which keeps what it has")
    assert page_cache.share(path) == 0.0
    with open(path, "rb", buffering=0) as file:
        file.read(4096)
    assert 0.0 < page_cache.share(path) <= 1.0


def test_page_cache_of_an_empty_file_or_of_none_is_not_known(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert page_cache.share(tmp_path / "empty") is None
    os.mkfifo(tmp_path / "pipe")
    for name in ("missing", "pipe"):
        assert page_cache.share(tmp_path / name) is None
        assert not page_cache.forget(tmp_path / name)
