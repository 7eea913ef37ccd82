"""The wheels run on the processors that they are for: qemu-user, Debian's Python for Arm."""

from __future__ import annotations

import ast
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from conformance.conftest import PROMPT, SHAPES, TOKENS, Shape, Truth
from support.debian import python_root
from support.toolchains import need
from support.wheel_facts import (
    FACTS,
    MODULE,
    Fact,
    library_for_32_bit_arm_is_of_its_isa_and_passes_floats_in_registers,
)

from qedge.toolkit.linux.wheel import build_wheel

NEON = ["neon", "portable"]
PLACES = [
    ("aarch64", "cortex-a53", NEON),  # has no dot product: touching one would end it
    ("aarch64", "cortex-a72", NEON),
    ("aarch64", "cortex-a76", ["dotprod", *NEON]),
    ("aarch64", "max", ["i8mm", "dotprod", *NEON]),
    ("armv7l", "cortex-a7", ["armv7", "dsp", "portable"]),
    # Debian's own Python for armhf needs ARMv7; test_wheel.py says what the wheel needs.
    ("armv6l", "cortex-a7", ["dsp", "portable"]),
]
IMAGES = ("q4_0, kv q8_0, heads of 32", "q8_0, rough", "f16, kv f32, heads of 12")
PROGRAM = """
import sys
from qedge.runtime import Model
from qedge.runtime._engine import __file__, kernel_sets
usable = [name for name, ok in kernel_sets() if ok]
found = {"module": __file__, "kernels": usable, "answers": []}
prompt, count, images = eval(sys.argv[1])  # a minimal Python has no json
for image in images:
    for kernels in [None, *usable]:
        with Model.open(image, threads=2, kernels=kernels) as model:
            found["answers"].append(model.greedy(prompt, count))
print(found)
"""


OF_ARM = [(fact, arch) for arch in ("aarch64", "armv7l", "armv6l") for fact in FACTS]
_ABI = library_for_32_bit_arm_is_of_its_isa_and_passes_floats_in_registers


@pytest.mark.parametrize(
    ("fact", "arch"),
    [*OF_ARM, (_ABI, "armv7l"), (_ABI, "armv6l")],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_wheel_for_arm(fact: Fact, arch: str, tmp_path: Path) -> None:
    fact(arch, build_wheel(arch), tmp_path)


@pytest.mark.parametrize(("arch", "cpu", "kernels"), PLACES)
def test_wheel_gives_this_machines_hashes_on(
    arch: str,
    cpu: str,
    kernels: list[str],
    tmp_path: Path,
    make_image: Callable[[Shape], Path],
    truth_of: Callable[[Path], Truth],
) -> None:
    emulator = "qemu-aarch64" if arch == "aarch64" else "qemu-arm"
    need(emulator, "qemu-user")
    root = python_root("arm64" if arch == "aarch64" else "armhf")
    wheel = build_wheel(arch)
    zipfile.ZipFile(wheel.path).extractall(tmp_path)
    truths = [truth_of(make_image(SHAPES[name])) for name in IMAGES]
    images = [str(truth.image) for truth in truths]
    command = [emulator, "-cpu", cpu, "-L", root]
    command += ["-E", f"PYTHONPATH={tmp_path}", "-E", f"PYTHONHOME={root / 'usr'}"]
    command += [root / "usr/bin/python3.11", "-S", "-c", PROGRAM]
    done = subprocess.run(
        [*command, repr([PROMPT, TOKENS, images])], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = ast.literal_eval(done.stdout)
    assert found["module"] == str(tmp_path / MODULE)
    assert found["kernels"] == kernels
    runs = len(kernels) + 1
    expected = [(t.tokens, t.logits_hash) for t in truths for _ in range(runs)]
    assert found["answers"] == expected
