"""One logits_hash for the same image and prompt: kernel sets, batches, threads, instruction
sets, layouts, and Python or C around the engine."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from conformance.conftest import PROMPT, SHAPES, TOKENS, Shape, Truth
from support.toolchains import ARM64, EMULATED, NATIVE, Machine, Programs

from qedge.runtime.machine import kernel_sets
from qedge.runtime.model import Model

LAYOUTS = (1, 4, 16)
SAMPLER = {"temperature": 0.75, "top_k": 40, "top_p": 0.875, "min_p": 0.0625}
USABLE = [name for name, usable in kernel_sets() if usable]
COUNTS = {"threads": (1, 2, 3), "batch": (1, 3, 64)}


def check(truth: Truth, lines: list[dict], count: int) -> None:
    assert len(lines) == count
    assert {line["logits_hash"] for line in lines} == {truth.logits_hash}
    assert all(line["tokens"] == truth.tokens for line in lines)
    assert len({line["all_logits_hash"] for line in lines if "all_logits_hash" in line}) <= 1


@pytest.mark.parametrize("kernels", USABLE)
def test_python_gives_one_hash_for_every_thread_count_and_batch(
    kernels: str, truth: Truth
) -> None:
    for threads in COUNTS["threads"]:
        for batch in COUNTS["batch"]:
            with Model.open(
                truth.image, kernels=kernels, threads=threads, batch=batch
            ) as model:
                assert model.greedy(PROMPT, TOKENS) == (truth.tokens, truth.logits_hash)


def test_a_prompt_given_token_by_token_gives_the_hash_of_one_batch(truth: Truth) -> None:
    with Model.open(truth.image, batch=64) as model:
        for token in PROMPT[:-1]:
            model.engine.eval((token,))
        by_token = bytes(model.logits())
        model.engine.rewind(0)
        model.engine.eval(PROMPT[:-1])
        assert bytes(model.logits()) == by_token
        tokens: list[int] = []
        model.engine.hash_reset()
        model.engine.eval(PROMPT[-1:])
        model.engine.set_sampler(0.0, 0, 1.0, 0.0, 1.0, 0)
        for i in range(TOKENS):
            model.engine.hash_logits()
            tokens.append(model.engine.sample())
            if i + 1 < TOKENS:
                model.engine.eval(tokens[-1:])
        assert (tokens, model.logits_hash()) == (truth.tokens, truth.logits_hash)


def test_every_row_of_logits_is_the_same_whatever_the_batch_threads_and_kernels(
    truth: Truth, programs: Programs
) -> None:
    lists = []
    for name, values in COUNTS.items():
        lists += [f"--{name}", ",".join(map(str, values))]
    lines = programs.run(
        NATIVE, "engine_check", *truth.options, *lists, "--kernels", "all", "--all-logits"
    )
    check(truth, lines, 9 * len(USABLE))


@pytest.mark.parametrize("machine", EMULATED, ids=str)
def test_hash_is_the_same_on(machine: Machine, truth: Truth, programs: Programs) -> None:
    lines = programs.run(
        machine, "engine_check", *truth.options, "--kernels", "all", "--batch", "64,3"
    )
    check(truth, lines, 2 * len(machine.kernels))
    assert [line["kernels"] for line in lines[::2]] == list(machine.kernels)


@pytest.mark.parametrize("machine", EMULATED, ids=str)
def test_hash_is_the_same_with_two_threads_on(
    machine: Machine,
    programs: Programs,
    make_image: Callable[[Shape], Path],
    truth_of: Callable[[Path], Truth],
) -> None:
    truth = truth_of(make_image(SHAPES["q4_0, kv q8_0, heads of 32"]))
    lines = programs.run(machine, "engine_check", *truth.options, "--threads", "2")
    check(truth, lines, 1)


@pytest.mark.parametrize("quant", ["q4_0", "q8_0"])
def test_every_layout_of_a_model_gives_one_hash(
    quant: str,
    programs: Programs,
    make_image: Callable[[Shape], Path],
    truth_of: Callable[[Path], Truth],
) -> None:
    config = SHAPES["q8_0, kv q8_0, ffn of 172, heads of 8"].config
    images = [make_image(Shape(quant, "q8_0", config, layout)) for layout in LAYOUTS]
    truths = [truth_of(image) for image in images]
    assert len({image.read_bytes() for image in images}) == len(LAYOUTS)
    assert len({truth.logits_hash for truth in truths}) == 1
    for truth in truths:
        lines = programs.run(
            NATIVE, "engine_check", *truth.options, "--kernels", "all", "--batch", "1,5"
        )
        check(truth, lines, 2 * len(USABLE))
        for machine in (ARM64[2], EMULATED[4]):
            check(truth, programs.run(machine, "engine_check", *truth.options), 1)


@pytest.mark.parametrize("machine", [NATIVE, *EMULATED], ids=str)
def test_sampler_draws_the_same_tokens_on(
    machine: Machine, programs: Programs, make_image: Callable[[Shape], Path]
) -> None:
    image = make_image(SHAPES["q8_0, kv q8_0, heads of 32"])
    with Model.open(image, kernels="portable") as model:
        drawn = []
        model.engine.set_sampler(*SAMPLER.values(), 1.25, 42)
        model.evaluate(PROMPT)
        for _ in range(20):
            drawn.append(model.engine.sample())
            model.engine.eval(drawn[-1:])
    assert len(set(drawn)) > 10  # it does draw
    values = [*SAMPLER.values(), 1.25, 42]
    lines = programs.run(
        machine,
        "engine_check",
        image,
        *("--prompt", ",".join(map(str, PROMPT)), "--tokens", 20, "--kernels", "all"),
        *("--sample", ",".join(map(str, values))),
    )
    assert [line["tokens"] for line in lines] == [drawn] * len(lines)


@pytest.mark.parametrize("machine", [m for m in EMULATED if m.kernels], ids=str)
def test_fastest_set_is_found_without_being_named_on(
    machine: Machine, programs: Programs, make_image: Callable[[Shape], Path]
) -> None:
    image = make_image(SHAPES["q8_0, kv q8_0, heads of 32"])
    (line,) = programs.run(machine, "engine_check", image, "--prompt", "1,2", "--tokens", 1)
    assert line["kernels"] == machine.kernels[0]


@pytest.mark.parametrize("machine", ARM64[:2], ids=str)
def test_dotprod_is_refused_where_it_would_be_an_illegal_instruction_on(
    machine: Machine, programs: Programs, make_image: Callable[[Shape], Path]
) -> None:
    image = make_image(SHAPES["q8_0, kv q8_0, heads of 32"])
    options = ("engine_check", image, "--prompt", "1,2", "--kernels", "dotprod")
    refused = programs.start(machine, *options)
    assert refused.returncode == 3
    assert "dotprod: no such kernel set on this machine" in refused.stderr
    forced = programs.start(machine, *options, "--pretend")  # so the refusal is no idle one
    assert forced.returncode in (-signal.SIGILL, 128 + signal.SIGILL)
