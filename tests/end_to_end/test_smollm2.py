"""The real model through the command line: pull, build, inspect, run, bench, eval."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from qedge.toolkit.fetch.pull import Pulled

ROOT = Path(__file__).resolve().parents[2]
Call = Callable[..., subprocess.CompletedProcess[str]]

# One paragraph, and llama.cpp's perplexities for it (llama-cpp-python 0.3.36, the same GGUF
# requantized, chunks of 128): see docs/numerics.md.
PASSAGE = Path(__file__).parent / "passage.txt"
QUESTION = "What is the capital of France? Answer in one sentence."
Q8_REFERENCE, Q4_REFERENCE = 27.2029, 29.7034


def one_json(done: subprocess.CompletedProcess[str]) -> dict:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_build_tells_what_run_then_uses(qedge: Call, smollm2: Pulled, tmp_path: Path) -> None:
    output = tmp_path / "m.qimg"
    arguments = ("build", smollm2.path, "-b", "host", "--quant", "q4_0", "--context", 512)
    arguments += ("--rounding", "ggml")
    built = one_json(qedge(*arguments, "-o", output, "--json"))
    assert built["bytes"] == output.stat().st_size
    assert built["seconds"] < 15
    assert (built["quant"], built["embedding"], built["kv"]) == ("q4_0", "q8_0", "q8_0")
    ran = one_json(qedge("run", output, "Once upon a time", "-n", 8, "--json", "--hash"))
    assert ran["arena_bytes"] == built["arena_bytes"]
    assert ran["image_id"] == built["image_id"]
    assert len(ran["tokens"]) == 8 and ran["finish_reason"] == "length"
    assert re.fullmatch("[0-9a-f]{64}", ran["logits_hash"])
    assert [p for p in tmp_path.iterdir()] == [output]


def test_model_answers_sensibly_through_its_chat_template(
    qedge: Call, smollm2_q8: Path
) -> None:
    done = qedge("run", smollm2_q8, QUESTION, "--chat", "--json")
    ran = one_json(done)
    assert "Paris" in ran["text"] and ran["finish_reason"] == "stop"
    assert "<|im" not in ran["text"]


def test_threads_batches_and_kernels_share_one_hash(qedge: Call, smollm2_q8: Path) -> None:
    hashes = set()
    for options in (
        ("--threads", 1),
        ("--threads", 2),
        ("--batch", 1),
        ("--batch", 7, "--threads", 2),
        ("--kernels", "avx2"),
        ("--kernels", "portable"),
    ):
        done = qedge(
            "run", smollm2_q8, "The sky is blue because", "-n", 6, "--json", "--hash", *options
        )
        if "no kernel set" in done.stderr:
            continue
        hashes.add(one_json(done)["logits_hash"])
    assert len(hashes) == 1


@pytest.mark.parametrize("kind", ["q8", "q4"])
def test_perplexity_is_llama_cpps_within_its_bounds(
    kind: str, qedge: Call, request: pytest.FixtureRequest
) -> None:
    image = request.getfixturevalue(f"smollm2_{kind}")
    reference, within = {"q8": (Q8_REFERENCE, 0.005), "q4": (Q4_REFERENCE, 0.01)}[kind]
    found = one_json(qedge("eval", image, PASSAGE, "--context", 128, "--json"))
    assert found["perplexity"] == pytest.approx(reference, rel=within)
    assert found["scored_tokens"] == 63 * found["chunks"]


def test_own_four_bits_are_nearer_to_the_file_than_q4_0(
    qedge: Call, smollm2: Pulled, smollm2_q4: Path, tmp_path: Path
) -> None:
    """The file's own blocks are the base: nothing is lost in them."""
    base, own = tmp_path / "keep.qimg", tmp_path / "a4.qimg"
    words = ("build", smollm2.path, "--context", 512, "--json")
    assert one_json(qedge(*words, "-o", base))["quant"] == "keep"
    small = one_json(qedge(*words, "-q", "a4", "--calibrate", "none", "-o", own))["bytes"]
    assert small < 1.02 * smollm2_q4.stat().st_size
    losses = [
        one_json(qedge("eval", one, PASSAGE, "--against", base, "--context", 128, "--json"))[
            "kl_mean"
        ]
        for one in (own, smollm2_q4)
    ]
    assert 0 < losses[0] < 0.5 * losses[1]


def test_bench_reports_medians_of_what_was_asked(qedge: Call, smollm2_q8: Path) -> None:
    options = ("--prompt-tokens", 64, "--decode-tokens", 8, "--depth", 100, "--repeat", 2)
    found = one_json(qedge("bench", smollm2_q8, *options, "--threads", 1, "--json"))
    assert found["prefill_tokens_per_second"] > found["decode_tokens_per_second"] > 0
    asked = {"prompt_tokens": 64, "decode_tokens": 8, "depth": 100, "repeat": 2, "threads": 1}
    assert {key: found[key] for key in asked} == asked


def test_verify_passes_and_golden_test_passes(qedge: Call, smollm2_q8: Path) -> None:
    assert one_json(qedge("inspect", smollm2_q8, "--verify", "--json"))["verified"] is True
    assert one_json(qedge("test", smollm2_q8, "--json"))["passed"] is True


def test_image_and_gguf_tokenize_alike(qedge: Call, smollm2_q8: Path, smollm2: Pulled) -> None:
    texts = ("Hello world", "1234 ünï\n\ncode")
    of_image = one_json(qedge("tokenize", smollm2_q8, *texts, "--json"))
    assert of_image == one_json(qedge("tokenize", smollm2.path, *texts, "--json"))
    assert len(of_image["tokens"]) == 2


def test_readme_python_example_runs_as_written(smollm2_q8: Path, tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    example = re.search(r"```python\n(.*?)```", readme, re.DOTALL)[1]
    (tmp_path / "smollm2-135m.qimg").symlink_to(smollm2_q8)
    done = subprocess.run(
        [sys.executable, "-c", example],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Paris" in done.stdout
