"""The runtime's wheel: what is in it, what it needs, and that it runs where nothing else is."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from support.wheel_facts import FACTS, MODULE, Fact

from qedge.runtime.errors import NoBoardError, ToolError, UsageError
from qedge.runtime.model import Model
from qedge.toolkit import board
from qedge.toolkit.emulators.machine import machine
from qedge.toolkit.linux import wheel
from qedge.toolkit.linux.architecture import architecture, architectures

ROOT = Path(__file__).resolve().parents[2]
PROMPT = "hello there"
PROGRAM = f"""
import sys
sys.path.insert(0, sys.argv[1])
from qedge.runtime import Model
with Model.open(sys.argv[2]) as model:
    text = "".join(model.generate({PROMPT!r}, 8, hash=True))
    import qedge.runtime._engine as engine
    from array import array
    rows = array("f", bytes(4 * 2 * 320))
    model.reset()
    model.engine.eval([1, 2], rows)  # the one buffer that it writes to
    last = rows.tobytes()[4 * 320 : 4 * 320 + len(model.engine.logits())]
    print(repr((engine.__file__, model.logits_hash(), last == model.engine.logits(),
                "inspect" in sys.modules)))
    try:
        model.engine.eval([1, 2], array("f", bytes(4 * 319 * 2)))
    except engine.EngineError as error:
        assert error.code == -7, error.code
    else:
        raise AssertionError("a buffer that is too small")
    try:
        model.engine.eval([1, 2], bytes(4 * 320 * 2))
    except (TypeError, BufferError):
        pass
    else:
        raise AssertionError("a buffer that cannot be written to")
"""


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> wheel.Built:
    """A wheel for x86-64, from a cache of its own."""
    folder = tmp_path_factory.mktemp("wheels")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QEDGE_CACHE", str(folder / "cache"))
        return wheel.build_wheel("x86_64", folder)


@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: fact.__name__)
def test_wheel_for_a_pc(fact: Fact, built: wheel.Built, tmp_path: Path) -> None:
    fact("x86_64", built, tmp_path)


def test_verb_builds_the_same_bytes_elsewhere_from_the_same_sources(
    qedge: Callable[..., subprocess.CompletedProcess[str]],
    built: wheel.Built,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("QEDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    done = qedge("wheel", "-b", "x86_64", "-o", tmp_path / "out", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    path = Path(found["path"])
    assert path.parent == tmp_path / "out" and path.name == built.path.name
    assert path.read_bytes() == built.path.read_bytes()
    assert (found["sha256"], found["bytes"]) == (built.sha256, path.stat().st_size)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == built.sha256
    monkeypatch.setattr(wheel, "_run", lambda *_: pytest.fail("it was there"))
    assert wheel.build_wheel("x86_64").sha256 == built.sha256


def test_flags_that_make_bits_equal_are_written_once() -> None:
    flags = (ROOT / "runtime" / "engine" / "FLAGS").read_text("utf-8").split()
    assert flags == ["-std=c11", "-ffp-contract=off", "-fno-math-errno"]
    for folder in ("runtime", "toolkit", "tests", "bench"):
        for path in (ROOT / folder).rglob("*.py"):
            if path != Path(__file__):
                assert '"-ffp-contract=off"' not in path.read_text("utf-8"), path
    setup = (ROOT / "setup.py").read_text("utf-8")
    assert f'[*file.read().split(), "{wheel.FLAGS[0]}", "{wheel.FLAGS[1]}"]' in setup


def pythons() -> list[str]:
    """This Python, and others of this machine that start."""
    found = {sys.version_info[:2]: sys.executable}
    for minor in range(10, 15):
        folders = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
        near = sorted(folders.glob(f"3.{minor}.*/bin/python"))
        path = str(near[-1]) if near else shutil.which(f"python3.{minor}")
        if path and subprocess.run([path, "-c", ""], capture_output=True).returncode == 0:
            found.setdefault((3, minor), path)
    return list(found.values())


needs_pc = pytest.mark.skipif(
    platform.machine() != "x86_64" or sys.platform != "linux",
    reason="runs the wheel for x86-64 Linux",
)


@needs_pc
@pytest.mark.parametrize("python", pythons())
def test_installed_alone_it_gives_the_hash_of_the_normal_build(
    python: str, built: wheel.Built, tiny_image: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", "--quiet"]
    command += ["--disable-pip-version-check", "--target", tmp_path, built.path]
    subprocess.run(command, check=True, capture_output=True)
    assert sorted(path.name for path in tmp_path.iterdir() if "dist" not in path.name) == [
        "qedge"
    ]
    done = subprocess.run(
        [python, "-I", "-S", "-c", PROGRAM, tmp_path, tiny_image],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    with Model.open(tiny_image) as model:
        list(model.generate(PROMPT, 8, hash=True))
        expected = (str(tmp_path / MODULE), model.logits_hash(), True, False)
    assert ast.literal_eval(done.stdout) == expected


@needs_pc
def test_import_refuses_kernels_that_compute_something_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = wheel._sources()
    right = sources["engine/kernels/check.c"]
    sources["engine/kernels/check.c"] = right.replace(b"sizeof a->out[0]) == 0", b"1) != 0")
    assert sources["engine/kernels/check.c"] != right
    monkeypatch.setenv("QEDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(wheel, "_sources", lambda: sources)
    zipfile.ZipFile(wheel.build_wheel("x86_64").path).extractall(tmp_path)
    code = "import sys; sys.path.insert(0, sys.argv[1]); import qedge.runtime"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, tmp_path], capture_output=True, text=True
    )
    usable = [name for name, ok in board.kernel_sets() if ok][:-1]
    if not usable:
        pytest.skip("this machine has portable kernels only")
    assert done.returncode != 0
    assert f"BoardTestError: qedge.runtime: its {usable[0]} kernels" in done.stderr


def test_board_without_linux_is_refused() -> None:
    with pytest.raises(NoBoardError, match="pico is not a board with Linux"):
        wheel.build_wheel("pico")


def test_missing_tools_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(wheel.sysconfig, "get_path", lambda _: str(tmp_path))
    with pytest.raises(ToolError, match="python3-dev"):
        wheel.build_wheel("x86_64")
    monkeypatch.setattr(wheel, "find_spec", lambda _: None)
    with pytest.raises(ToolError, match="pip install ziglang"):
        wheel.build_wheel("x86_64")


@pytest.mark.parametrize("name", [n for n in board.names() if board.load(n).linux])
def test_every_board_with_linux_has_a_wheel(name: str) -> None:
    assert architecture(name) in architectures().values()


def test_a_board_file_names_architectures_and_machines_that_there_are(tmp_path: Path) -> None:
    text = (ROOT / "boards" / "virt-a53.toml").read_text("utf-8")
    own = tmp_path / "mine.toml"
    own.write_text(text.replace('wheel = "aarch64"', 'wheel = "riscv64"'), "utf-8")
    with pytest.raises(UsageError, match="'riscv64' is not an architecture .* aarch64, armv6l"):
        architecture(str(own))
    with pytest.raises(UsageError, match="'sifive_u': no machine .* raspi3b, virt"):
        machine("sifive_u")
