"""Every kernel set equals the portable one bit for bit, and the portable one equals itself on
every machine."""

from __future__ import annotations

from typing import Any

import pytest
from support.toolchains import (
    ARM32,
    ARM64,
    EMULATED,
    NATIVE,
    THUMB,
    VNNI,
    ZIG,
    Machine,
    Programs,
)

from qedge.runtime.machine import kernel_sets

# What kernel_check's and numeric_check's data give in version 2 of the arithmetic. A change of
# either, unless it comes from new data in those programs, is a change of the image version.
KERNELS_V2 = "1e249189098dbdf475bc4f99961e7cc3365bccd6fa98afe71501ff06bfb89ec9"
NUMBERS_V2 = "7b616570746cb147c66f6f01e6ae1df952495e1397b24d3e7d06d2645fd3d663"


def the_only(lines: list[dict[str, Any]]) -> dict[str, Any]:
    (line,) = lines
    return line


@pytest.mark.parametrize("machine", [NATIVE, THUMB, ARM64[3], ARM32[1], *ZIG], ids=str)
def test_every_set_equals_portable_on_hard_data(machine: Machine, programs: Programs) -> None:
    found = the_only(programs.run(machine, "kernel_check"))
    usable = machine.kernels or [name for name, ok in kernel_sets() if ok]
    if machine is THUMB:
        usable = [*usable[:-1], "thumb", "portable"]
    assert [*found["sets"], "portable"] == list(usable)
    assert found["comparisons"] > 15_000_000


@pytest.mark.skipif(
    not any(name == "avx2" and ok for name, ok in kernel_sets()), reason="an x86-64-v3's text"
)
def test_products_of_avx512_and_avxvnni_equal_portable_on_machines_without(
    programs: Programs,
) -> None:
    found = the_only(programs.run(VNNI, "kernel_check", "--quick"))
    assert found["sets"][-2:] == ["avx512 emulated", "avxvnni emulated"]
    assert found["digest"] == KERNELS_V2


@pytest.mark.parametrize("machine", [NATIVE, *EMULATED], ids=str)
def test_portable_gives_the_same_bits_on_every_machine(
    machine: Machine, programs: Programs
) -> None:
    found = the_only(programs.run(machine, "kernel_check", "--quick"))
    if machine.kernels:
        assert [*found["sets"], "portable"] == list(machine.kernels)
    assert found["digest"] == KERNELS_V2


@pytest.mark.parametrize("machine", [NATIVE, *EMULATED, *ZIG], ids=str)
def test_check_at_import_passes_right_sets_and_notices_a_wrong_bit_on(
    machine: Machine, programs: Programs
) -> None:
    found = the_only(programs.run(machine, "self_check"))
    assert found["noticed"] == 6
    assert found["passed"] == list(
        machine.kernels or [name for name, ok in kernel_sets() if ok]
    )


@pytest.mark.parametrize("machine", [NATIVE, *EMULATED], ids=str)
def test_scalar_operations_round_as_ieee_does_on_every_machine(
    machine: Machine, programs: Programs
) -> None:
    stride = 1009 if machine is NATIVE else 1_000_003
    found = the_only(programs.run(machine, "numeric_check", stride))
    assert found["digest"] == NUMBERS_V2
    assert found["exp_ulp"] <= 1.4


def test_soft_floats_round_as_the_processor_does(programs: Programs) -> None:
    assert the_only(programs.run(NATIVE, "soft_check", 20_000_000))["wrong"] == 0


# Vocabulary, and the batch that makes the arena's scratch too small or large enough for lists.
SAMPLED = [(NATIVE, n, batch) for n in (1, 65, 512, 4096) for batch in (1, 512)]
SAMPLED += [(machine, 1500, 512) for machine in EMULATED]


@pytest.mark.parametrize(("machine", "vocabulary", "batch"), SAMPLED, ids=str)
def test_sampler_draws_what_a_sort_would_with_every_set(
    machine: Machine, vocabulary: int, batch: int, programs: Programs
) -> None:
    found = the_only(programs.run(machine, "sampler_check", vocabulary, batch))
    assert found["draws"] >= 960
