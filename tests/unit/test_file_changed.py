"""Files that others write to in use: what was checked stays; the rest is told."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.command import COMMAND, waiting_build
from support.image_bytes import WEIGHTS, parts

from qedge.runtime import ImageError, Model

PROMPT = "the rain in the train"
TENSORS = 6


@pytest.fixture
def image(tiny_image: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(tiny_image, tmp_path / "own.qimg"))


def overwrite(path: Path, data: bytes, at: int = 0) -> None:
    """In place, as cp does."""
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


def front(path: Path) -> int:
    """Bytes that opening checks."""
    return parts(path.read_bytes()).checked


def place(path: Path, section: int) -> int:
    return parts(path.read_bytes()).sections[section][0]


def whole(model: Model) -> tuple[str, str]:
    return "".join(model.generate(PROMPT, 12, hash=True)), model.logits_hash()


def test_what_opening_checked_stays_whatever_is_written_over_it(image: Path) -> None:
    """Header, tables, vocabulary: with any of them from the mapping this reads beyond it."""
    code = (
        "import sys\n"
        "from qedge.runtime import Model\n"
        "model = Model.open(sys.argv[1])\n"
        "def once(): return list(model.greedy(model.prompt_tokens('the rain'), 12))\n"
        "def facts(): return model.config, model.plan, model.image.tensors(), model.image_id\n"
        "right, before = once(), facts()\n"
        "with open(sys.argv[1], 'r+b') as file: file.write(b'\\xff' * int(sys.argv[2]))\n"
        "assert once() == right\n"
        "assert facts() == before\n"
        "print('well')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(image), str(front(image))],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, "well\n"), done


@pytest.mark.parametrize("seed", range(8))
def test_offsets_that_are_written_over_are_never_used(
    image: Path, seed: int, long_image: Path
) -> None:
    """Another image's bytes, shifted, under a model that runs: no crash, whatever it says."""
    other = long_image.read_bytes()
    with Model.open(image) as model:
        pieces = model.generate(PROMPT, 100, temperature=2.0, seed=1)
        next(pieces)
        start = 4 * seed
        overwrite(image, other[start : start + image.stat().st_size])
        with pytest.raises(ImageError):
            list(pieces)


def test_image_that_is_written_over_is_told_at_the_end(image: Path) -> None:
    with Model.open(image) as model:
        right = whole(model)
        at = place(image, WEIGHTS) + 4096
        before = image.read_bytes()[at : at + 4]
        overwrite(image, b"\x55\x55\x55\x55", at)
        for other in (model, model, model.session()):  # each of them, and every time
            with pytest.raises(ImageError, match=r"own\.qimg: was written over .* renaming"):
                whole(other)
        with Model.open(image) as again, pytest.raises(ImageError):
            overwrite(image, b"\x56\x55\x55\x55", at)
            again.test()
        overwrite(image, before, at)
        assert whole(model) == right  # the bytes are the image's again


def test_image_that_was_only_touched_or_rewritten_alike_is_trusted(image: Path) -> None:
    with Model.open(image) as model:
        right = whole(model)
        os.utime(image, (1, 1))
        assert whole(model) == right
        overwrite(image, image.read_bytes())
        assert whole(model) == right


def test_image_that_is_replaced_by_a_rename_is_not_what_runs(
    image: Path, tmp_path: Path
) -> None:
    with Model.open(image) as model:
        right = whole(model)
        (tmp_path / "new").write_bytes(b"another file")
        os.replace(tmp_path / "new", image)
        assert whole(model) == right
        image.unlink()
        assert whole(model) == right


def test_image_that_grew_is_said(image: Path) -> None:
    with Model.open(image) as model:
        right = whole(model)
        with image.open("ab") as file:
            file.write(b"a signature behind it")
        assert whole(model) == right  # its own bytes are as they were


def test_image_that_changes_while_it_is_opened_is_whole_or_refused(image: Path) -> None:
    """Another process writes its front all the time; no opening may take half of it."""
    at = place(image, TENSORS) + 8
    code = (
        "import os, sys\n"
        "file = os.open(sys.argv[1], os.O_RDWR); at = int(sys.argv[2])\n"
        "old = os.pread(file, 64, at); print('go', flush=True)\n"
        "while True:\n"
        "    os.pwrite(file, b'\\xff' * 64, at); os.pwrite(file, old, at)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(image), str(at)], stdout=subprocess.PIPE
    )
    try:
        assert child.stdout is not None and child.stdout.readline() == b"go\n"
        opened = refused = 0
        while min(opened, refused) < 5:
            try:
                with Model.open(image) as model:
                    assert max(one[6] for one in model.image.tensors()) < 1 << 32
                    opened += 1
            except ImageError:
                refused += 1
    finally:
        child.kill()
        child.communicate()


def test_image_that_is_cut_under_a_run_ends_it_with_a_sentence(
    long_image: Path, tmp_path: Path
) -> None:
    image = Path(shutil.copy(long_image, tmp_path / "cut.qimg"))
    child = subprocess.Popen(
        [*COMMAND, "run", str(image), "the rain", "-n", "100000", "--temperature", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert child.stdout is not None and os.read(child.stdout.fileno(), 1)  # it generates
    os.truncate(image, front(image))
    said = child.communicate(timeout=60)[1].decode()
    assert child.returncode == ImageError.exit_code
    assert said.startswith("ImageError: a file was cut short") and "mv" in said


def test_image_that_is_written_over_under_a_run_is_exit_code_6(
    long_image: Path, tmp_path: Path
) -> None:
    image = Path(shutil.copy(long_image, tmp_path / "over.qimg"))
    child = subprocess.Popen(
        [*COMMAND, "run", str(image), "the rain", "-n", "400", "--temperature", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert child.stdout is not None and os.read(child.stdout.fileno(), 1)
    overwrite(image, b"\x55" * 64, place(image, WEIGHTS) + 4096)
    said = child.communicate(timeout=60)[1].decode()
    assert child.returncode == ImageError.exit_code and "over.qimg: was written over" in said


def test_model_that_is_cut_under_a_build_ends_it_and_leaves_nothing(
    big_gguf: Path, tmp_path: Path
) -> None:
    model = Path(shutil.copy(big_gguf, tmp_path / "model.gguf"))
    child = waiting_build(model, "-b", "x86-64", "-o", tmp_path / "out.qimg")
    os.truncate(model, 4096)
    said = child.communicate(b"\n", timeout=60)[1].decode()
    assert child.returncode == ImageError.exit_code and "shorter while it was read" in said
    assert os.listdir(tmp_path) == ["model.gguf"]


def test_mapping_that_is_cut_while_a_file_is_written_leaves_none(tmp_path: Path) -> None:
    code = (
        "import mmap, os, sys; from pathlib import Path\n"
        "from qedge.toolkit.cli import end_when_cut\n"
        "from qedge.toolkit.files import new_file\n"
        "end_when_cut()\n"
        "os.chdir(sys.argv[1]); Path('read').write_bytes(bytes(1 << 20))\n"
        "with open('read', 'r+b') as file: view = mmap.mmap(file.fileno(), 0)\n"
        "with new_file(Path('first')) as first, new_file(Path('written')) as written:\n"
        "    written.write(b'half'); written.flush(); os.truncate('read', 0)\n"
        "    print(os.listdir('.'), flush=True); view[4096]\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == ImageError.exit_code and "cut short" in done.stderr
    assert done.stdout.count(".part") == 2
    left = os.listdir(tmp_path)
    assert "read" in left and not [name for name in left if name.startswith(".written")]
