"""SmolLM2-135M: one prompt and four tokens give one logits_hash on every machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support.toolchains import ARM32, ARM64, NATIVE, Machine, Programs

from qedge.runtime.machine import kernel_sets
from qedge.runtime.model import Model

ARMV7, ARMV6 = ARM32
PROMPT = "Once upon a time,"
TOKENS = 4


@pytest.fixture(scope="session")
def expected() -> Callable[[Path], tuple[list[int], list[int], str]]:
    """(prompt, tokens, logits_hash) of an image, by the Python runtime."""
    found: dict[Path, tuple[list[int], list[int], str]] = {}

    def of(image: Path) -> tuple[list[int], list[int], str]:
        if image not in found:
            with Model.open(image, context=64, threads=2) as model:
                prompt = model.tokenize(PROMPT)
                found[image] = (prompt, *model.greedy(prompt, TOKENS))
        return found[image]

    return of


def check(
    machine: Machine, programs: Programs, image: Path, truth: tuple, *options: object
) -> None:
    prompt, tokens, digest = truth
    lines = programs.run(
        machine,
        "engine_check",
        *(image, "--prompt", ",".join(map(str, prompt)), "--tokens", TOKENS, "--context", 64),
        *options,
    )
    assert [(line["tokens"], line["logits_hash"]) for line in lines] == [
        (tokens, digest)
    ] * len(lines)


@pytest.mark.parametrize("fixture", ["smollm2_q4", "smollm2_q8"])
def test_smollm2_gives_one_hash_for_every_kernel_set_batch_and_thread_count(
    fixture: str, request: pytest.FixtureRequest, programs: Programs, expected: Callable
) -> None:
    image = Path(request.getfixturevalue(fixture))
    check(
        NATIVE,
        programs,
        image,
        expected(image),
        *("--kernels", "all", "--batch", "1,64", "--threads", "1,2"),
    )


@pytest.mark.parametrize("fixture", ["smollm2_q4", "smollm2_q8"])
@pytest.mark.parametrize("kernels", [name for name, usable in kernel_sets() if usable])
def test_smollm2_gives_the_same_hash_in_python_token_by_token(
    fixture: str, kernels: str, request: pytest.FixtureRequest, expected: Callable
) -> None:
    image = Path(request.getfixturevalue(fixture))
    prompt, tokens, digest = expected(image)
    with Model.open(image, context=64, threads=1, batch=1, kernels=kernels) as model:
        assert model.greedy(prompt, TOKENS) == (tokens, digest)


@pytest.mark.parametrize(
    ("machine", "fixture"),
    [
        *(
            (machine, name)
            for machine in [*ARM64, ARMV7]
            for name in ("smollm2_q4", "smollm2_q8")
        ),
        (ARMV6, "smollm2_q4"),  # one type: the slowest machine takes 20 seconds
    ],
    ids=str,
)
def test_smollm2_gives_the_same_hash_on(
    machine: Machine,
    fixture: str,
    request: pytest.FixtureRequest,
    programs: Programs,
    expected: Callable,
) -> None:
    image = Path(request.getfixturevalue(fixture))
    check(machine, programs, image, expected(image), "--threads", 2)
