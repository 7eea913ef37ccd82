"""What people type first becomes an image: built once, kept, verified."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support.tiny_models import TinyConfig, make_weights, write_gguf, write_hf, write_llama2c

from qedge.runtime import ImageError, Model, UsageError, WriteError
from qedge.toolkit.make import auto
from qedge.toolkit.make.auto import image_for

CONFIG = TinyConfig(layers=1)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QEDGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    return write_gguf(tmp_path / "tiny model.gguf", CONFIG, make_weights(1, CONFIG))


def kept(cache: Path) -> list[str]:
    return sorted(path.name for path in (cache / "images").glob("*.qimg"))


def test_an_image_is_given_back_as_it_is(tiny_image: Path, cache: Path) -> None:
    said: list[str] = []
    assert image_for(str(tiny_image), said.append) == tiny_image
    assert said == [] and not cache.exists()


def test_a_gguf_is_built_once_and_said_once(gguf: Path, cache: Path) -> None:
    said: list[str] = []
    steps: list[str] = []
    first = image_for(str(gguf), said.append, lambda step, done, of: steps.append(step))
    assert "building its image for this machine" in said[0] and "quantize" in steps
    with Model.open(first) as model:
        assert model.plan["context"] == CONFIG.context and model.test()
    before, count = first.stat(), len(said)
    assert image_for(str(gguf), said.append) == first
    assert first.stat().st_mtime_ns == before.st_mtime_ns and len(said) == count


def test_one_model_in_two_places_has_one_image(gguf: Path, cache: Path, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere"
    other.mkdir()
    shutil.copyfile(gguf, other / gguf.name)
    assert image_for(str(gguf), print) == image_for(str(other / gguf.name), print)
    assert len(kept(cache)) == 1


def test_another_model_under_the_same_name_has_another_image(gguf: Path, cache: Path) -> None:
    first = image_for(str(gguf), print)
    write_gguf(gguf, CONFIG, make_weights(2, CONFIG))
    second = image_for(str(gguf), print)
    assert first != second and len(kept(cache)) == 2


def test_a_folders_settings_count_as_the_model(tmp_path: Path, cache: Path) -> None:
    folder = write_hf(tmp_path / "hf", CONFIG, make_weights(1, CONFIG))
    first = image_for(str(folder), print)
    write_hf(folder, CONFIG, make_weights(1, CONFIG), settings={"rope_theta": 5e5})
    assert image_for(str(folder), print) != first


@pytest.mark.parametrize(
    "damage", ["flipped", "cut", "empty", "another", "unsigned", "missing"]
)
def test_a_damaged_image_in_the_cache_is_built_again(
    damage: str, gguf: Path, cache: Path
) -> None:
    image = image_for(str(gguf), print)
    whole = image.read_bytes()
    broken = {
        "flipped": whole[:-5000] + bytes([whole[-5000] ^ 1]) + whole[-4999:],
        "cut": whole[:-1000],
        "empty": b"",
        "another": b"GGUF" + whole[4:],
        "unsigned": whole,
        "missing": None,
    }
    if damage == "unsigned":
        image.with_name(f"{image.name}.sha256").write_bytes(b"\xff")
    if broken[damage] is None:
        image.unlink()
    else:
        image.write_bytes(broken[damage])
    said: list[str] = []
    assert image_for(str(gguf), said.append) == image
    assert image.read_bytes() == whole
    assert any("built again" in line for line in said) == (damage != "missing")


def test_two_at_once_build_once(gguf: Path, cache: Path) -> None:
    code = "import sys; from qedge.toolkit.make.auto import image_for; "
    code += "print(image_for(sys.argv[1], lambda text: print(text, file=sys.stderr)))"
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(gguf)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    ended = [process.communicate(timeout=120) for process in running]
    assert all(process.returncode == 0 for process in running), ended
    assert len({out for out, _ in ended}) == 1
    assert sum("building its image" in said for _, said in ended) == 1
    names = sorted(p.name for p in (cache / "images").iterdir() if p.suffix != ".lock")
    assert len(kept(cache)) == 1 and names == [*kept(cache), f"{kept(cache)[0]}.sha256"]


def test_a_catalogue_name_is_pulled_and_built(
    gguf: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def pulled(name: str, cache: Path | None, progress: object) -> auto.pull.Pulled:
        asked.append(name)
        return auto.pull.Pulled(gguf, gguf.stat().st_size, "")

    monkeypatch.setattr(auto.pull, "pull", pulled)
    said: list[str] = []
    image = image_for("smollm2-135m", said.append)
    assert asked == ["smollm2-135m"] and image == image_for(str(gguf), print)
    assert said[0] == "smollm2-135m: fetching it, once"
    assert auto.make("hf:org/repo/model.gguf", said.append) == image
    assert asked[1:] == ["hf:org/repo/model.gguf"]


def test_a_model_is_given_back_and_a_name_fetched(
    gguf: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    assert auto.model_for(str(gguf), said.append) == gguf and said == []
    monkeypatch.setattr(auto.pull, "pull", lambda *a: auto.pull.Pulled(gguf, 1, ""))
    assert auto.model_for("smollm2-135m", said.append) == gguf
    assert said == ["smollm2-135m: fetching it, once"]
    with pytest.raises(ImageError, match="no such file; give a model's file or folder, or a"):
        auto.model_for("none.gguf", print)


def test_an_unknown_name_says_what_could_be_meant(cache: Path) -> None:
    with pytest.raises(
        ImageError, match=r"SmolLM2-135: .*no such file \(did you mean smollm2-135m\?\)"
    ):
        image_for("SmolLM2-135", print)
    with pytest.raises(ImageError, match="no such file; give an image"):
        image_for("nothing.qimg", print)
    assert not cache.exists()


def test_a_failure_of_the_build_is_the_callers(tmp_path: Path, cache: Path) -> None:
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(ImageError, match=r"damaged\.gguf: GGUF version 0"):
        image_for(str(damaged), print)
    checkpoint = tmp_path / "stories.bin"
    write_llama2c(checkpoint, CONFIG, make_weights(1, CONFIG))
    with pytest.raises(UsageError, match=r"qedge build .*stories\.bin --tokenizer FILE"):
        image_for(str(checkpoint), print)
    assert kept(cache) == []


def test_a_cache_that_cannot_be_written_is_said(gguf: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(WriteError, match=r"cannot be written.*QEDGE_CACHE"):
        image_for(str(gguf), print, cache=tmp_path / "file")


def test_a_model_that_changes_while_it_is_built_is_not_kept(
    gguf: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = auto._build

    def slow(model: Path, output: Path, *rest: object) -> None:
        built(model, output, *rest)
        write_gguf(gguf, CONFIG, make_weights(3, CONFIG))

    monkeypatch.setattr(auto, "_build", slow)
    with pytest.raises(ImageError, match="changed while its image was built"):
        auto.make(str(gguf), print)
    assert [path.suffix for path in (cache / "images").iterdir()] == [".lock"]


def test_a_name_in_any_bytes_is_built(gguf: Path, cache: Path, tmp_path: Path) -> None:
    name = os.fsdecode(os.fsencode(tmp_path) + b"/mod\xe8le.gguf")
    shutil.copyfile(gguf, name)
    with Model.open(image_for(name, print)) as model:
        assert model.test()


def test_a_run_by_a_name_needs_no_numpy_so_it_stays_within_its_plan(
    cache: Path, tmp_path: Path
) -> None:
    code = "import sys; from qedge.toolkit.cli.common import image_at; image_at('commander'); "
    code += "sys.exit('numpy' in sys.modules)"
    for _ in range(2):  # the first builds, in a process of its own
        ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False)
        assert ended.returncode == 0


def test_finding_a_kept_image_needs_no_numpy(gguf: Path, cache: Path) -> None:
    image = image_for(str(gguf), print)
    code = "import sys; from qedge.toolkit.make.auto import image_for; "
    code += "print(image_for(sys.argv[1], print)); "
    code += "sys.exit('numpy' in sys.modules)"
    ended = subprocess.run(
        [sys.executable, "-c", code, str(gguf)], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0 and ended.stdout.strip() == str(image)


def test_waiting_for_another_process_is_said(gguf: Path, cache: Path) -> None:
    image = image_for(str(gguf), print)
    image.unlink()
    waits = threading.Event()
    found: list[Path] = []

    def say(text: str) -> None:
        if text.endswith("another process builds it; waiting"):
            waits.set()

    with open(image.with_name(f".{image.name}.lock"), "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        thread = threading.Thread(target=lambda: found.append(auto.make(str(gguf), say)))
        thread.start()
        assert waits.wait(60)
    thread.join(60)
    assert found == [image] and image.is_file()


def test_an_interrupted_build_leaves_nothing(cache: Path, tmp_path: Path) -> None:
    config = TinyConfig(layers=8, dim=256, ffn=512, context=4096)
    model = write_gguf(tmp_path / "m.gguf", config, make_weights(1, config))
    code = (
        "import os, signal, sys\n"
        "from qedge.toolkit.make.auto import image_for\n"
        "def say(text):\n"
        "    if 'building' in text:\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "try:\n"
        "    image_for(sys.argv[1], say)\n"
        "except KeyboardInterrupt:\n"
        "    sys.exit(7)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, str(model)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert ended.returncode == 7 and "Traceback" not in ended.stderr, ended.stderr
    assert [path.suffix for path in (cache / "images").iterdir()] == [".lock"]
