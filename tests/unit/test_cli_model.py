"""The verbs of models as people type them first: no board, types in any case, a text on
standard input, a model where an image was meant; and what is said, not done in silence."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.tiny_models import TinyConfig, make_weights, write_gguf, write_hf

from qedge.runtime import BudgetError, ImageError, Model
from qedge.runtime.image import open_image
from qedge.toolkit.board import host_name, load
from qedge.toolkit.fetch.pull import CATALOGUE
from qedge.toolkit.make.build import build

Call = Callable[..., "subprocess.CompletedProcess[str]"]
CONFIG = TinyConfig(layers=1)
WEIGHTS = make_weights(1, CONFIG)


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    return write_gguf(tmp_path / "tiny.gguf", CONFIG, WEIGHTS)


def answer(done: subprocess.CompletedProcess[str]) -> dict:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# ---- build and advise ----


def test_build_without_a_board_is_for_this_machine_and_says_so(
    qedge: Call, gguf: Path, tmp_path: Path
) -> None:
    done = qedge("build", gguf, "--json", cwd=tmp_path)
    found = answer(done)
    assert found["board"] == host_name() and found["image"] == "tiny-a4_M.qimg"
    assert f"for this machine ({host_name()}); -b names another board" in done.stderr
    assert "for this machine" not in qedge("build", gguf, "-b", "host", cwd=tmp_path).stderr
    assert answer(qedge("advise", gguf, "--json"))["board"] == host_name()


def test_images_of_two_formats_or_for_two_boards_have_two_names(
    qedge: Call, gguf: Path, tmp_path: Path
) -> None:
    words = (("host", "-q", "Q4_0"), ("pico", "-q", "Q4_0"), ("mps2-m4", "-q", "Q4_0"))
    names = [
        answer(qedge("build", gguf, "-b", *more, "--json", cwd=tmp_path))["image"]
        for more in (*words, ("host",), ("pico",))
    ]
    assert names == [
        *("tiny-q4_0.qimg", "tiny-q4_0-pico.qimg", "tiny-q4_0-mps2-m4.qimg"),
        *("tiny-a4_M.qimg", "tiny-q8_0-pico.qimg"),
    ]
    assert all((tmp_path / name).is_file() for name in names)


def test_another_boards_image_is_never_replaced_in_silence(
    qedge: Call, gguf: Path, tmp_path: Path
) -> None:
    output = tmp_path / "m.qimg"
    words = ("build", gguf, "-o", output)
    assert "replaced" not in qedge(*words, "-b", "pico").stderr
    assert "replaced" not in qedge(*words, "-b", "pico").stderr
    said = qedge(*words, "-b", "host").stderr
    assert f"{output} was an image for pico, and is replaced" in said
    output.write_bytes(b"my thesis")
    assert "was no image that can be opened, and is replaced" in qedge(*words).stderr


def test_a_hub_repositorys_image_has_the_models_name(qedge: Call, tmp_path: Path) -> None:
    snapshot = tmp_path / "models--acme--tiny" / "snapshots" / ("a" * 40)
    write_hf(snapshot, CONFIG, WEIGHTS)
    done = qedge("build", snapshot.parents[1], "--json", cwd=tmp_path)
    assert answer(done)["image"] == "tiny-a4_M.qimg"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("-q", "IQ4_XS"), "--quant IQ4_XS: no such type here; the nearest is a4"),
        (("--kv", "int8"), "the nearest is q8_0"),
        (("--embedding", "nf4"), "the nearest is a4"),
    ],
)
def test_a_type_of_another_program_is_answered(
    qedge: Call, gguf: Path, tmp_path: Path, words: tuple[str, str], said: str
) -> None:
    done = qedge("build", gguf, *words, cwd=tmp_path)
    assert done.returncode == 2 and said in done.stderr
    assert os.listdir(tmp_path) == ["tiny.gguf"]


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("none/m.qimg", "there is no folder none; make it first"),
        ("tiny.gguf/m.qimg", "tiny.gguf is not a folder"),
        (".", "is a folder; name a file in it"),
    ],
)
def test_an_output_without_a_place_is_said_before_the_work(
    qedge: Call, gguf: Path, tmp_path: Path, output: str, said: str
) -> None:
    for words in (("build", gguf), ("report", "none.jsonl")):
        done = qedge(*words, "-o", output, cwd=tmp_path)
        assert done.returncode == 8 and said in done.stderr, done.stderr


def test_a_4_bit_source_is_said_by_pull_and_build(qedge: Call, tmp_path: Path) -> None:
    assert "Q4_1, 4 bits each" in CATALOGUE["smollm2-135m"].note
    config = TinyConfig(layers=1, dim=64, ffn=64)
    weights = make_weights(1, config)
    for kind, said in (("Q4_1", True), ("Q5_0", True), ("Q8_0", False), ("F16", False)):
        path = write_gguf(tmp_path / "m.gguf", config, weights, types={"*": kind})
        done = qedge("build", path, "-q", "q8_0", "-o", tmp_path / "m.qimg", "--json")
        assert (f"note: most of its weights are {kind} already" in done.stderr) == said
        assert bool(answer(done)["notes"]) == said
        kept = qedge("build", path, "-o", tmp_path / "m.qimg", "--json")
        assert answer(kept)["quant"] == ("a4_M" if kind == "F16" else "keep")
        assert f"note: --quant {answer(kept)['quant']}: " in kept.stderr
    path = write_gguf(tmp_path / "m.gguf", config, weights, types={"*": "Q4_0"})
    assert "already" not in qedge("build", path, "-q", "q4_0", "-o", tmp_path / "m.qimg").stderr


# ---- eval ----


def test_evals_chunk_is_the_images_context_when_that_is_less(
    qedge: Call, tiny_image: Path, tmp_path: Path
) -> None:
    (tmp_path / "text").write_text("the rain in spain " * 400)
    done = qedge("eval", tiny_image, tmp_path / "text", "--json")
    assert answer(done)["chunks"] > 1
    assert "chunks of 128 tokens, the image's context (512 is usual)" in done.stderr
    assert (
        "chunks of"
        not in qedge("eval", tiny_image, "-", "--context", "64", input="a " * 500).stderr
    )


def test_eval_reads_standard_input(qedge: Call, tiny_image: Path, tmp_path: Path) -> None:
    text = "the rain in spain " * 400
    (tmp_path / "text").write_text(text)
    given = answer(qedge("eval", tiny_image, "-", "--context", "64", "--json", input=text))
    file = answer(qedge("eval", tiny_image, tmp_path / "text", "--context", "64", "--json"))
    assert given["perplexity"] == file["perplexity"]


def test_eval_of_a_model_builds_its_image_once(qedge: Call, gguf: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "QEDGE_CACHE": str(tmp_path / "cache")}
    text = "the rain in spain " * 400
    first = qedge("eval", gguf, "-", "--json", input=text, env=environment)
    again = qedge("eval", gguf, "-", "--json", input=text, env=environment)
    assert answer(first)["perplexity"] == answer(again)["perplexity"]
    assert "once (`qedge" in first.stderr and "once (`qedge" not in again.stderr


# ---- inspect ----


def test_inspect_of_a_model_says_what_an_image_would_be_made_of(
    qedge: Call, gguf: Path, tmp_path: Path
) -> None:
    folder = write_hf(tmp_path / "hf", CONFIG, WEIGHTS)
    for path, stored in ((gguf, "F32"), (folder, "F32")):
        found = answer(qedge("inspect", path, "--verify", "--json"))
        assert found["verified"] is True and found["config"]["layers"] == 1
        assert list(found["tensors"]) == [stored] and found["vocabulary"]["tokens"] == 300
        assert found["config"]["longest_context"] == CONFIG.context
    said = qedge("inspect", gguf).stdout
    assert "qedge build" in said and "tiny.gguf" in said


def test_inspect_of_a_gguf_that_cannot_be_built_says_what_it_is(
    qedge: Call, tmp_path: Path
) -> None:
    path = write_gguf(tmp_path / "m.gguf", CONFIG, WEIGHTS, architecture="mamba")
    found = answer(qedge("inspect", path, "--json"))
    assert found["metadata"]["general.architecture"] == "mamba"
    assert "none can be made" in found["image"] and "'mamba'" in found["image"]
    path.write_bytes(path.read_bytes()[:200])
    done = qedge("inspect", path)
    assert done.returncode == 6 and "cut short" in done.stderr
    done = qedge("inspect", tmp_path)
    assert done.returncode == 6 and "cut short" in done.stderr


def test_a_pointer_in_place_of_an_image_or_model_is_named(qedge: Call, tmp_path: Path) -> None:
    pointer = tmp_path / "m.qimg"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    for words in (("inspect",), ("test",), ("build",), ("advise",)):
        done = qedge(*words, pointer)
        assert done.returncode == 6, done.stderr
        assert "is a Git LFS pointer, not the file itself; run `git lfs pull`" in done.stderr


# ---- names in any bytes ----


def test_every_verb_takes_names_in_any_bytes(gguf: Path, tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/d\xe9p\xf4t"
    os.mkdir(folder)
    model, image = folder + b"/mod\xe8le.gguf", folder + b"/im\xe8ge.qimg"
    runs, page = folder + b"/mesur\xe9.jsonl", folder + b"/r\xe9sum\xe9.html"
    shutil.copyfile(os.fsencode(gguf), model)
    quick = ["--prompt-tokens", "8", "--decode-tokens", "2", "--repeat", "1"]
    text = folder + b"/t\xe9xte"
    with open(text, "w") as file:
        file.write("the rain " * 200)
    for words in (
        ["build", model, "-o", image],
        ["build", model],
        ["inspect", image],
        ["inspect", model],
        ["inspect", image, "--json"],
        ["advise", model],
        ["tokenize", model, "the rain"],
        ["eval", image, text, "--context", "16"],
        ["bench", image, *quick, "--append", runs],
        ["bench", image, *quick, "--append", runs, "--json"],
        ["report", runs, "-o", page],
        ["run", image, "hi", "-n", "2"],
        ["test", image],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "qedge.toolkit", *words],
            capture_output=True,
            check=False,
            cwd=folder,
        )
        assert done.returncode == 0, (words, done.stderr)
    assert sorted(os.listdir(folder)) == sorted(
        [b"mod\xe8le.gguf", b"im\xe8ge.qimg", b"mod\xe8le-a4_M.qimg"]
        + [b"t\xe9xte", b"mesur\xe9.jsonl", b"r\xe9sum\xe9.html"]
    )
    with open(page, "rb") as file:
        assert "im" in file.read().decode("utf-8")


# ---- bench --append ----


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("none/runs.jsonl", "there is no folder"),
        (".", "is not a regular file"),
        ("pipe", "is not a regular file"),
        ("closed/runs.jsonl", ""),
        ("image.qimg/runs.jsonl", "Not a directory"),
    ],
)
def test_a_file_that_cannot_be_appended_to_is_said_before_the_rounds(
    qedge: Call, tiny_image: Path, tmp_path: Path, name: str, said: str
) -> None:
    os.mkfifo(tmp_path / "pipe")
    shutil.copyfile(tiny_image, tmp_path / "image.qimg")
    if name.startswith("closed"):
        (tmp_path / "closed").symlink_to("/proc/self/fdinfo")
        said = "nothing was added"
    # rounds that would never end in time
    words = ("bench", tiny_image, "--decode-tokens", "100", "--repeat", "1000000")
    done = qedge(*words, "--append", tmp_path / name, "--json")
    assert done.returncode == 8 and said in done.stderr, done.stderr
    assert json.loads(done.stdout)["error"] == "WriteError"  # and no figures


def test_figures_are_said_before_an_append_that_fails(tiny_image: Path, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from qedge.toolkit.results import record\n"
        "from qedge.runtime import WriteError\n"
        "from qedge.toolkit.cli import main\n"
        "def full(path, fields): raise WriteError(f'{path}: no space')\n"
        "record.append = full\n"
        "sys.argv[0] = 'qedge'\n"
        "main()\n"
    )
    words = ["bench", tiny_image, "--prompt-tokens", "8", "--decode-tokens", "2"]
    words += ["--repeat", "1", "--append", tmp_path / "runs", "--json"]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 8 and "no space" in done.stderr
    assert json.loads(done.stdout)["decode_tokens_per_second"] > 0


def test_a_check_before_the_rounds_leaves_nothing(
    qedge: Call, tiny_image: Path, tmp_path: Path
) -> None:
    done = qedge("bench", tiny_image, "--repeat", "0", "--append", tmp_path / "runs.jsonl")
    assert done.returncode == 2 and os.listdir(tmp_path) == []


# ---- images ----


@pytest.mark.parametrize("share", [0.999, 0.5, 0.01])
def test_an_image_that_is_cut_short_says_how_much_is_there(
    tiny_image: Path, tmp_path: Path, share: float
) -> None:
    whole = tiny_image.read_bytes()
    cut = tmp_path / "cut.qimg"
    cut.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ImageError) as told:
        open_image(cut)
    size = f"{int(len(whole) * share):,} of {len(whole):,} bytes"
    assert str(told.value) == f"{cut}: cut short: {size}; copy the image again"


def test_an_image_that_cannot_be_mapped_is_a_matter_of_memory(
    tiny_gguf: Path, tmp_path: Path
) -> None:
    """As `ulimit -v` does it, or a machine without room."""
    image = build(tiny_gguf, load("host"), tmp_path / "m.qimg").image
    with Model.open(image) as model:
        assert model.test()
    code = (
        "import resource, sys\n"
        "from qedge.runtime import BudgetError, Model\n"
        "from qedge.runtime.image import open_image\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * 4096\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 16), -1))\n"
        "try:\n"
        "    open_image(sys.argv[1])\n"
        "except BudgetError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, image], capture_output=True, text=True, check=False
    )
    assert f"{image}: the system cannot map it (Cannot allocate memory)" in done.stdout, (
        done.stderr
    )
    assert BudgetError.exit_code == 7


def test_advice_for_a_tiny_model_argues_with_no_large_models_figures(
    qedge: Call, gguf: Path
) -> None:
    done = qedge("advise", gguf, "-b", "pi5")
    assert done.returncode == 0 and "Llama 3" not in done.stdout
    assert "SmolLM2" not in done.stdout and "not measured" in done.stdout
