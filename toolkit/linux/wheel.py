"""Builds the runtime's wheel for another machine: the engine compiled by ziglang from PyPI, for
CPython's limited API, so that one wheel an architecture serves Python 3.10 and later.

The sources are package data, so it works from an installed package.  The same sources and tools
give the same bytes; what was built is kept in the cache under a name made of all of them.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import io
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import resources
from importlib.util import find_spec
from pathlib import Path

from qedge.runtime.errors import ToolError, WriteError
from qedge.runtime.machine import cpus
from qedge.toolkit.files import cache_folder, new_file
from qedge.toolkit.kept import kept_or_made, zig_environment
from qedge.toolkit.linux.architecture import Architecture, architecture

NAME = "qedge_runtime"  # not qedge: pip must not take one for another version of the other
ROOMS = ("", "agent", "measure")  # of Python
MODULE = "_engine.abi3.so"  # the ending that every CPython 3 on Linux looks for
LIMITED_API = "0x030A0000"  # 3.10
# As setup.py has them, beside runtime/engine/FLAGS; a Python has no position to speak of, so
# everything is movable.
FLAGS: tuple[str, ...] = ("-O3", "-fvisibility=hidden")
FLAGS += ("-fPIC", f"-DPy_LIMITED_API={LIMITED_API}", "-Wno-deprecated-declarations")
# Linux on 64-bit Arm has pages of 4, 16 (Pi 5) or 64 KiB; segments that begin on a multiple of
# 64 KiB can be mapped under each.
LINK = ("-shared", "-pthread", "-Wl,-z,max-page-size=65536", "-Wl,-s", "-Wl,--gc-sections")
# What takes no time that counts is made small: unrolled, it would be a fifth of the module.
SMALL: tuple[str, ...] = (
    "ed25519",
    "sha512",
    "signature",
    "characters",
    "folder",
    "normalize",
    "special",
)
SMALL += ("sentencepiece", "decode", "cpus", "image_file", "vocab", "_engine")
# zig's run-time library may come along as a whole, and with its own memcpy and so on; those
# names stay visible, so that libc's, which are faster, go before them.
EXPORTED = "{ global: PyInit__engine; mem*; bcmp*; local: *; };\n"
WHEN = (1980, 1, 1, 0, 0, 0)  # of every file: the first moment that a zip file knows


@dataclass(frozen=True, slots=True)
class Built:
    """A wheel. seconds: what building took, next to nothing when it was there."""

    path: Path
    sha256: str
    bytes: int
    seconds: float


def build_wheel(board_or_arch: str, output_folder: Path | None = None) -> Built:
    """The runtime's wheel for a board with Linux or an architecture; built unless
    the same was built before.

    output_folder: where it is written; default: it stays in the cache.

    NoBoardError for a board that has no Linux, ToolError where a tool is missing (ziglang,
    Python's headers) or fails, WriteError when it cannot be written."""
    begin = time.monotonic()
    arch = architecture(board_or_arch)
    sources = _sources()
    tools = _tools()
    version = importlib.metadata.version("qedge")
    name = f"{NAME}-{version}-cp310-abi3-{arch.tag}.whl"
    kept = cache_folder() / "wheels" / _key(arch, sources, [version, *tools]) / name

    def made() -> bytes:
        with tempfile.TemporaryDirectory() as work:
            library = _library(arch, sources, Path(work))
            return _zip(dict(_members(sources, library, version, arch)), version)

    try:
        data, path = kept_or_made(kept, made), kept
        if output_folder is not None:
            path = Path(output_folder) / name
            path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(f"{name}: cannot be written: {error}; free some space") from error
    if path != kept:
        with new_file(path) as file:
            file.write(data)
    digest = hashlib.sha256(data).hexdigest()
    return Built(path, digest, len(data), time.monotonic() - begin)


def _sources() -> dict[str, bytes]:
    """Everything a wheel is made of, by its name below qedge/runtime; sorted."""
    root = Path(str(resources.files("qedge.runtime")))
    found = [file for room in ROOMS for file in (root / room).glob("*.py")]
    found += [root / "_engine.pyx", *sorted(root.glob("_*.pxi"))]
    found.append(root / "engine" / "FLAGS")
    for folder in ("engine", "host"):
        found += (root / folder).rglob("*.[ch]")
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(found)}


def _tools() -> list[str]:
    """The versions of what takes part. UsageError when something is missing."""
    if not find_spec("ziglang"):
        raise ToolError("a wheel needs ziglang's compiler; pip install ziglang")
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        raise ToolError(
            f"a wheel needs Python's headers, {sysconfig.get_path('include')} has none; "
            "install them (Debian: python3-dev)"
        )
    found = [f"{tool} {importlib.metadata.version(tool)}" for tool in ("ziglang", "cython")]
    return [*found, f"python {sys.version}", f"zlib {zlib.ZLIB_RUNTIME_VERSION}"]


def _header(name: str) -> bytes:
    return (resources.files("qedge.toolkit.linux") / name).read_bytes()


def _key(arch: Architecture, sources: dict[str, bytes], words: list[str]) -> str:
    digest = hashlib.sha256(
        "\0".join([*words, repr((arch, FLAGS, SMALL, LINK, EXPORTED))]).encode()
    )
    digest.update(_license().encode() + Path(__file__).read_bytes())
    digest.update(_header("wheel_pyconfig.h") + _header("wheel_python.h"))
    for name, data in sources.items():
        digest.update(f"\0{name}\0{len(data)}\0".encode() + data)
    return digest.hexdigest()[:16]


def _library(arch: Architecture, sources: dict[str, bytes], work: Path) -> bytes:
    """The extension module. Everything lies in `work` and is named from there, so that no path
    of this machine gets into it."""
    for name, data in sources.items():
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_bytes(data)
    headers = sysconfig.get_path("include")
    shutil.copytree(headers, work / "python", ignore=shutil.ignore_patterns("internal"))
    (work / "python" / "pyconfig.h").write_bytes(_header("wheel_pyconfig.h"))
    (work / "python" / "wheel_python.h").write_bytes(_header("wheel_python.h"))
    cython = [sys.executable, "-m", "cython", "-3", "--module-name", "qedge.runtime._engine"]
    _run([*cython, "_engine.pyx", "-o", "_engine.c"], work, arch)
    zig = [sys.executable, "-m", "ziglang", "cc", "-target", arch.triple]
    cpu_of = arch.cpu_of
    always = sources["engine/FLAGS"].decode().split()
    codes = ["_engine.c", *(name for name in sources if name.endswith(".c"))]

    def compile_one(code: str) -> str:
        output = code.replace("/", "-").replace(".c", ".o")
        flags = [*always, *FLAGS, *arch.flags, f"-mcpu={cpu_of.get(code, arch.cpu)}"]
        flags += ["-Os"] if Path(code).stem in SMALL else []
        if code == "_engine.c":
            flags += ["-I.", "-Ipython", "-include", "wheel_python.h"]
        _run([*zig, *flags, "-c", code, "-o", output], work, arch)
        return output

    with ThreadPoolExecutor(cpus()) as pool:
        objects = list(pool.map(compile_one, codes))
    (work / "exported").write_text(EXPORTED, "utf-8")
    link = [*LINK, "-Wl,--version-script=exported", f"-mcpu={arch.cpu}"]
    _run([*zig, *link, *objects, "-o", MODULE], work, arch)
    return (work / MODULE).read_bytes()


def _run(command: list[str], work: Path, arch: Architecture) -> None:
    done = subprocess.run(
        command, cwd=work, capture_output=True, text=True, check=False, env=zig_environment()
    )
    if done.returncode:
        raise ToolError(
            f"{arch.name}: {' '.join(command[2:4])} could not build the wheel:\n{done.stderr}"
        )


def _license() -> str:
    """The licence's text, which goes with every copy, as the installed package has it."""
    return importlib.metadata.distribution("qedge").read_text("licenses/LICENSE") or ""


def _members(
    sources: dict[str, bytes], library: bytes, version: str, arch: Architecture
) -> Iterator[tuple[str, bytes]]:
    """The wheel's files but RECORD (PyPA's binary distribution format)."""
    for name, data in sources.items():
        if name.endswith(".py"):
            yield f"qedge/runtime/{name}", data
    yield f"qedge/runtime/{MODULE}", library
    info = f"{NAME}-{version}.dist-info"
    metadata = f"""Metadata-Version: 2.1
Name: {NAME.replace("_", "-")}
Version: {version}
Summary: qedge.runtime alone: runs flash images, needs nothing but Python.
License: Apache-2.0
Requires-Python: >=3.10
"""
    wheel = f"""Wheel-Version: 1.0
Generator: qedge {version}
Root-Is-Purelib: false
Tag: cp310-abi3-{arch.tag}
"""
    yield f"{info}/METADATA", metadata.encode()
    yield f"{info}/WHEEL", wheel.encode()
    if text := _license():
        yield f"{info}/LICENSE", text.encode()


def _zip(members: dict[str, bytes], version: str) -> bytes:
    """A zip file in which nothing depends on when and where it was made."""
    record = f"{NAME}-{version}.dist-info/RECORD"
    lines = []
    for name, data in sorted(members.items()):
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
        lines.append(f"{name},sha256={digest},{len(data)}\n")
    lines.append(f"{record},,\n")
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, data in [*sorted(members.items()), (record, "".join(lines).encode())]:
            info = zipfile.ZipInfo(name, WHEN)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.create_system = 3  # Unix, whose modes follow
            info.external_attr = (0o100755 if name.endswith(".so") else 0o100644) << 16
            archive.writestr(info, data)
    return out.getvalue()
