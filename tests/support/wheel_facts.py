"""What is so of every wheel: its name, its record, its segments, the symbols that it needs."""

from __future__ import annotations

import base64
import csv
import hashlib
import re
import shutil
import struct
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

from abi3info import DATAS, FUNCTIONS
from abi3info.models import PyVersion, Symbol
from packaging.utils import parse_wheel_filename

from qedge.toolkit.linux.wheel import Built

ROOT = Path(__file__).resolve().parents[2]
MODULE = "qedge/runtime/_engine.abi3.so"
Fact = Callable[[str, Built, Path], None]  # (architecture, wheel, empty folder)


def library(found: Built) -> bytes:
    return zipfile.ZipFile(found.path).read(MODULE)


def loads(data: bytes) -> list[tuple[int, int, int]]:
    """(offset, address, alignment) of the segments that are mapped."""
    wide = data[4] == 2
    at = struct.unpack_from("<Q" if wide else "<I", data, 32 if wide else 28)[0]
    size, count = struct.unpack_from("<HH", data, 54 if wide else 42)
    found = []
    for i in range(count):
        if wide:
            kind, _, offset, address, _, _, _, align = struct.unpack_from(
                "<IIQQQQQQ", data, at + i * size
            )
        else:
            kind, offset, address, _, _, _, _, align = struct.unpack_from(
                "<8I", data, at + i * size
            )
        if kind == 1:
            found.append((offset, address, align))
    return found


def symbols(data: bytes, folder: Path, *options: str) -> list[str]:
    path = folder / "_engine.so"
    path.write_bytes(data)
    done = subprocess.run(["nm", "-D", *options, path], capture_output=True, check=True)
    return [line.split()[-1] for line in done.stdout.decode().splitlines()]


def name_says_which_pythons_and_machines_it_is_for(
    arch: str, built: Built, folder: Path
) -> None:
    name, _, _, tags = parse_wheel_filename(built.path.name)
    assert name == "qedge-runtime"
    (tag,) = tags
    assert (tag.interpreter, tag.abi) == ("cp310", "abi3")
    many = arch in ("aarch64", "x86_64")
    assert tag.platform == f"{'manylinux2014' if many else 'linux'}_{arch}"


def record_lists_every_file_with_its_hash(arch: str, built: Built, folder: Path) -> None:
    archive = zipfile.ZipFile(built.path)
    names = archive.namelist()
    (record,) = [name for name in names if name.endswith("/RECORD")]
    rows = list(csv.reader(archive.read(record).decode().splitlines()))
    assert sorted(row[0] for row in rows) == sorted(names)
    for name, digest, size in rows:
        data = archive.read(name)
        found = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
        if name != record:
            assert (digest, size) == (f"sha256={found}", str(len(data)))
    python = {
        f"qedge/{path.relative_to(ROOT).as_posix()}"
        for path in (ROOT / "runtime").rglob("*.py")
        if "engine" not in path.parts
    }
    assert {name for name in names if name.startswith("qedge/")} == {*python, MODULE}
    metadata = archive.read(record.replace("RECORD", "METADATA")).decode()
    assert "Requires-Dist" not in metadata and "Requires-Python: >=3.10" in metadata


def segments_can_be_mapped_with_pages_of_64_kib(arch: str, built: Built, folder: Path) -> None:
    found = loads(library(built))
    assert len(found) >= 2
    assert all(align >= 65536 for _, _, align in found)
    assert all(offset % 65536 == address % 65536 for offset, address, _ in found)
    pages = [address // 65536 for _, address, _ in found]
    assert len(set(pages)) == len(pages)


def library_needs_the_limited_api_of_310_and_an_old_libc_only(
    arch: str, built: Built, folder: Path
) -> None:
    assert shutil.which("nm"), "install binutils"
    for name in symbols(library(built), folder, "-u"):
        if name.startswith(("Py", "_Py")):
            known = FUNCTIONS.get(Symbol(name)) or DATAS.get(Symbol(name))
            assert known is not None and known.added <= PyVersion(3, 10), name
        elif name != "__gmon_start__":
            libc = [int(part) for part in name.split("@GLIBC_")[1].split(".")]
            assert libc <= ([2, 17] if arch in ("aarch64", "x86_64") else [2, 34]), name
    shown = set(symbols(library(built), folder, "--defined-only"))
    assert "PyInit__engine" in shown
    assert shown <= {"PyInit__engine", "memcpy", "memmove", "memset", "memcmp", "bcmp"}


def library_for_32_bit_arm_is_of_its_isa_and_passes_floats_in_registers(
    arch: str, built: Built, folder: Path
) -> None:
    path = folder / "_engine.so"
    path.write_bytes(library(built))
    done = subprocess.run(["readelf", "-hA", path], capture_output=True, check=True)
    text = done.stdout.decode()
    assert re.findall(r"Tag_CPU_arch: (\S+)", text) == [arch[3:5]]
    assert "hard-float ABI" in text


FACTS: list[Fact] = [
    name_says_which_pythons_and_machines_it_is_for,
    record_lists_every_file_with_its_hash,
    segments_can_be_mapped_with_pages_of_64_kib,
    library_needs_the_limited_api_of_310_and_an_old_libc_only,
]
