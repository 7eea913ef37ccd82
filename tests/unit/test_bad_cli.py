"""The command line's failures: the exit code, a line that says what to do, no litter."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.command import COMMAND, VERBS_OF_AN_IMAGE
from support.image_bytes import GOLDEN, WEIGHTS, parts, with_section
from support.tiny_models import TinyConfig, make_weights, write_gguf

Run = Callable[..., "subprocess.CompletedProcess[bytes]"]
CLASSES = {
    2: "UsageError",
    3: "NoBoardError",
    6: "ImageError",
    7: "BudgetError",
    8: "WriteError",
    10: "BoardTestError",
}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def call(*arguments: object, **options: Any) -> subprocess.CompletedProcess[bytes]:
        words = [a if isinstance(a, bytes) else os.fsencode(str(a)) for a in arguments]
        options = {"stdin": subprocess.DEVNULL, "cwd": tmp_path, "timeout": 60, **options}
        if "input" in options:
            del options["stdin"]
        return subprocess.run([*COMMAND, *words], capture_output=True, check=False, **options)

    return call


@pytest.fixture
def fails(run: Run, tmp_path: Path) -> Callable[..., str]:
    """Runs to a failure and returns its line; nothing on stdout but --json's error, no
    traceback, no litter."""

    def call(code: int, *arguments: object, **options: Any) -> str:
        before = sorted(tmp_path.rglob("*"))
        done = run(*arguments, **options)
        message = done.stderr.decode("utf-8", "backslashreplace")
        assert done.returncode == code, message
        assert "Traceback" not in message
        assert re.match(f"({CLASSES[code]}: .|Usage: )", message), message
        if "--json" in arguments:
            found = json.loads(done.stdout)
            assert (found["error"], found["exit_code"]) == (CLASSES[code], code)
            assert found["message"] in message and len(found) == 3
        else:
            assert done.stdout == b""
        assert sorted(tmp_path.rglob("*")) == before
        return message

    return call


# ---- 2: usage ----


@pytest.mark.parametrize(
    "options",
    [
        ["--bogus"],
        ["-n", "0"],
        ["-n", "many"],
        ["--temperature", "-1"],
        ["--temperature", "nan"],
        ["--top-p", "2"],
        ["--seed", "-1"],
        ["--stop", ""],
        ["--kernels", "mmx"],
        ["--memory", "lots"],
        ["--memory", "9" * 400],
        ["--context", "text"],
        ["--context", "0"],
        ["--threads", "0"],
        ["--batch", "513"],
    ],
    ids=lambda options: "".join(options)[:20],
)
def test_wrong_option_of_run_is_a_usage_error(
    fails: Callable[..., str], tiny_image: Path, options: list[str]
) -> None:
    fails(2, "run", tiny_image, "hi", *options)


@pytest.mark.parametrize(
    "options",
    [
        ["--quant", "q3_X"],
        ["--kv", "q9"],
        ["--embedding", "x"],
        ["--context", "long"],
        ["--context", "0"],
        ["--context", "100000"],
        ["--tokenizer", "none.bin"],
    ],
    ids=lambda options: "".join(options),
)
def test_wrong_option_of_build_is_a_usage_error(
    fails: Callable[..., str], tiny_gguf: Path, options: list[str]
) -> None:
    fails(2, "build", tiny_gguf, "-b", "x86-64", "-o", "out.qimg", *options)


def test_build_never_replaces_its_own_model(fails: Callable[..., str], tiny_gguf: Path) -> None:
    before = tiny_gguf.read_bytes()
    assert "the model itself" in fails(2, "build", tiny_gguf, "-b", "x86-64", "-o", tiny_gguf)
    assert tiny_gguf.read_bytes() == before


def test_verbs_without_what_they_need_are_usage_errors(
    fails: Callable[..., str], tiny_image: Path, tiny_gguf: Path
) -> None:
    fails(2, "run", tiny_image)
    fails(2, "tokenize", tiny_image)
    fails(2, "bench", tiny_image, "--repeat", "0")
    fails(2, "eval", tiny_image, "/dev/null", "--chunks", "0")
    fails(2, "conquer")
    assert "machine's profile" in fails(2, "run", "x86-64", "hi")


# ---- 3: no board ----


def test_unknown_board_names_the_nearest(fails: Callable[..., str], tiny_gguf: Path) -> None:
    assert "x86-64-v3" in fails(3, "build", tiny_gguf, "-b", "x86-64-v33", "-o", "out.qimg")


# ---- 6: bad image, model or text ----


def test_image_that_is_missing_cut_or_none_is_exit_code_6_for_every_verb(
    fails: Callable[..., str], tiny_image: Path, tiny_gguf: Path, tmp_path: Path
) -> None:
    cut = tmp_path / "cut.qimg"
    cut.write_bytes(tiny_image.read_bytes()[:5000])
    text = tmp_path / "text"
    text.write_text("the rain " * 40)
    os.mkfifo(tmp_path / "pipe")
    for image in (cut, tmp_path / "pipe"):
        for verb in VERBS_OF_AN_IMAGE:
            words = [word.format(image=image, text=text) for word in verb]
            assert image.name in fails(6, *words)
    for image in (tmp_path / "none.qimg", tmp_path):
        fails(6, "run", image, "hi")
    assert "qedge build" in fails(6, "flash", tiny_gguf, "-b", "sim")


def test_flipped_weight_is_found_by_verify(
    fails: Callable[..., str], run: Run, tiny_image: Path, tmp_path: Path
) -> None:
    data = bytearray(tiny_image.read_bytes())
    data[parts(data).sections[WEIGHTS][0] + 100] ^= 1
    path = tmp_path / "flipped.qimg"
    path.write_bytes(data)
    assert run("inspect", path).returncode == 0
    assert "hash" in fails(6, "inspect", path, "--verify")


def test_model_of_no_use_is_exit_code_6_and_leaves_nothing(
    fails: Callable[..., str], tmp_path: Path
) -> None:
    config = TinyConfig(
        layers=1, dim=32, ffn=32, heads=4, kv_heads=2, vocab_size=288, context=32
    )
    weights = make_weights(1, config)
    others = {name: w for name, w in weights.items() if name != "blk.0.attn_q.weight"}
    integers = {"blk.0.attn_q.weight": (np.zeros((32, 32), np.int8), "I8")}
    whole = write_gguf(tmp_path / "whole.gguf", config, weights)
    models = {
        "cut": tmp_path / "cut.gguf",
        "other": write_gguf(tmp_path / "other.gguf", config, weights, architecture="mamba"),
        "types": write_gguf(tmp_path / "types.gguf", config, others, raw=integers),
        "text": tmp_path / "text.gguf",
        "empty": tmp_path / "empty.gguf",
        "none": tmp_path / "none.gguf",
    }
    models["cut"].write_bytes(whole.read_bytes()[:-2000])
    models["text"].write_text("a text")
    models["empty"].touch()
    said = {
        name: fails(6, "build", path, "-b", "x86-64", "-o", tmp_path / "out.qimg")
        for name, path in models.items()
    }
    assert "mamba" in said["other"] and "I8" in said["types"]


def test_model_whose_numbers_run_over_is_refused_by_its_name(
    fails: Callable[..., str], tmp_path: Path
) -> None:
    config = TinyConfig(
        layers=1, dim=32, ffn=32, heads=4, kv_heads=2, vocab_size=288, context=32
    )
    weights = make_weights(1, config)
    weights["blk.0.attn_q.weight"][:] = 3e38
    weights["blk.0.attn_v.weight"][:] = 3e38
    path = write_gguf(tmp_path / "big.gguf", config, weights)
    for quant in ("q8_0", "f32"):
        said = fails(6, "build", path, "-b", "x86-64", "-o", "big.qimg", "--quant", quant)
        assert "big.gguf" in said and ".part" not in said


def test_norm_epsilon_that_the_engine_does_not_take_is_refused_by_its_name(
    fails: Callable[..., str], tmp_path: Path
) -> None:
    config = TinyConfig(
        layers=1, dim=32, ffn=32, heads=4, kv_heads=2, vocab_size=288, context=32, norm_eps=1.0
    )
    path = write_gguf(tmp_path / "eps.gguf", config, make_weights(1, config))
    assert "norm_eps" in fails(6, "build", path, "-b", "x86-64", "-o", "eps.qimg")


def test_text_that_is_not_utf8_is_exit_code_6(
    fails: Callable[..., str], tiny_image: Path, tmp_path: Path
) -> None:
    bad = b"caf\xe9"
    path = tmp_path / "latin1.txt"
    path.write_bytes(bad * 400)
    for arguments in (
        ("run", tiny_image, bad),
        ("run", tiny_image, bad, "--chat"),
        ("tokenize", tiny_image, bad),
        ("tokenize", tiny_image, "--file", path),
        ("eval", tiny_image, path, "--context", "16"),
    ):
        assert "UTF-8" in fails(6, *arguments)
    assert "UTF-8" in fails(6, "run", tiny_image, "-", input=bad)


def test_missing_text_files_are_exit_code_6(
    fails: Callable[..., str], tiny_image: Path
) -> None:
    fails(6, "tokenize", tiny_image, "--file", "none.txt")
    fails(6, "eval", tiny_image, "none.txt")
    fails(6, "eval", tiny_image, "/dev/null", "--context", "16")  # too short for a chunk


# ---- 7: does not fit ----


@pytest.mark.parametrize("share", [0.9, 0.5, 0.2])
def test_memory_too_small_names_a_cure_that_works(
    fails: Callable[..., str], run: Run, tiny_image: Path, share: float
) -> None:
    plan = json.loads(run("inspect", tiny_image, "--json").stdout)["plan"]
    memory = str(int(plan["arena_bytes"] * share))
    said = fails(7, "run", tiny_image, "hi", "-n", "2", "--memory", memory)
    cure = re.search(r"try ((?:--\w+ \d+ ?)+)", said)
    assert cure, said
    done = run("run", tiny_image, "hi", "-n", "2", "--memory", memory, *cure[1].split())
    assert done.returncode == 0, done.stderr


def test_memory_in_which_nothing_runs_says_so(
    fails: Callable[..., str], tiny_image: Path
) -> None:
    assert "smaller model" in fails(7, "run", tiny_image, "hi", "--memory", "4K")


def test_context_longer_than_built_is_exit_code_7(
    fails: Callable[..., str], tiny_image: Path
) -> None:
    assert "--context 4000" in fails(7, "run", tiny_image, "hi", "--context", "4000")


def test_prompt_longer_than_the_context_is_exit_code_7(
    fails: Callable[..., str], tiny_image: Path
) -> None:
    text = b"the rain in the train " * 100
    assert "128" in fails(7, "run", tiny_image, "-", input=text)
    assert "cannot fit" in fails(7, "run", tiny_image, "-", input=text * 10000)
    assert "context" in fails(7, "bench", tiny_image)
    assert "context" in fails(7, "test", tiny_image, "--context", "4")


def test_image_larger_than_ram_is_refused_and_paging_allows_it(
    tiny_image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qedge.runtime import BudgetError, Model, session

    with Model.open(tiny_image) as model:
        need = model.image.bytes + model.arena_bytes + session.PRIVATE_BYTES
    monkeypatch.setattr(session, "available_bytes", lambda: need)
    Model.open(tiny_image).close()
    monkeypatch.setattr(session, "available_bytes", lambda: need - 1)
    with pytest.raises(BudgetError, match="MiB available.*--allow-paging"):
        Model.open(tiny_image)
    Model.open(tiny_image, allow_paging=True).close()


# ---- 8: write failed ----


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of one megabyte."""
    if os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("mounting a small disk takes root and mount")
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine does not allow mounting; run it with CAP_SYS_ADMIN")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_full_disk_is_a_write_error_and_the_old_image_stays(
    fails: Callable[..., str], small_disk: Path, big_gguf: Path
) -> None:
    old = small_disk / "model.qimg"
    old.write_bytes(b"an older image")
    assert "No space left" in fails(
        8, "build", big_gguf, "-q", "f16", "-b", "x86-64", "-o", old
    )
    assert old.read_bytes() == b"an older image"
    assert os.listdir(small_disk) == ["model.qimg"]


def test_file_size_limit_is_a_write_error_and_the_old_image_stays(
    fails: Callable[..., str], big_gguf: Path, tmp_path: Path
) -> None:
    old = tmp_path / "model.qimg"
    old.write_bytes(b"an older image")
    limit = (1 << 20, 1 << 20)
    said = fails(
        *(8, "build", big_gguf, "-q", "f16", "-b", "x86-64", "-o", old),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit),
    )
    assert "too large" in said and old.read_bytes() == b"an older image"


def test_output_that_cannot_be_written_is_exit_code_8(
    fails: Callable[..., str], tiny_gguf: Path, tmp_path: Path
) -> None:
    for output in (
        *("none/out.qimg", tiny_gguf / "out.qimg", tmp_path, "/", ".", "/dev/full"),
        "n" * 256,
    ):
        fails(8, "build", tiny_gguf, "-b", "x86-64", "-o", output)
    fails(8, "build", tiny_gguf, "-b", "x86-64", "-o", b"")


# ---- 10: the test failed ----


def test_altered_golden_is_exit_code_10(
    fails: Callable[..., str], tiny_image: Path, tmp_path: Path
) -> None:
    path = tmp_path / "golden.qimg"
    path.write_bytes(with_section(tiny_image, GOLDEN, 16, bytes(32)))
    fails(10, "test", path)
    fails(10, "test", path, "--json", "--kernels", "portable")


# ---- --json ----


def test_json_is_one_object_and_nothing_else_for_every_verb(
    run: Run, tiny_image: Path, tiny_gguf: Path, tmp_path: Path
) -> None:
    text = tmp_path / "text"
    text.write_text("the rain " * 40)
    build = ["build", str(tiny_gguf), "-b", "x86-64", "-o", str(tmp_path / "out.qimg")]
    for verb in (*VERBS_OF_AN_IMAGE, build, ["boards"]):
        words = [word.format(image=tiny_image, text=text) for word in verb]
        done = run(*words, "--json")
        assert done.returncode == 0, done.stderr
        assert isinstance(json.loads(done.stdout), dict)
        assert done.stdout.count(b"\n") == 1 and b"NaN" not in done.stdout


def test_json_of_a_failure_is_one_object_with_the_error(
    fails: Callable[..., str], tiny_image: Path, tiny_gguf: Path, tmp_path: Path
) -> None:
    cut = tmp_path / "cut.qimg"
    cut.write_bytes(tiny_image.read_bytes()[:-1])
    fails(2, "run", tiny_image, "hi", "-n", "0", "--json")
    fails(3, "build", tiny_gguf, "-b", "none", "--json")
    fails(6, "inspect", cut, "--json")
    fails(7, "run", tiny_image, "hi", "--memory", "1K", "--json")
    fails(8, "build", tiny_gguf, "-b", "x86-64", "-o", "none/out.qimg", "--json")
