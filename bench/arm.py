"""Instructions a token on Arm, counted: the engine under qemu-user with a counting plugin.

    python bench/arm.py [--machines cortex-a76,cortex-a53] [--quants q4_0,q8_0] [--functions]
                        [--depth 512] [--json FILE] [--csv FILE]

A count is repeatable to the instruction where a clock on a busy machine is not; but it is no
time: caches, memory and pipelines are not in it.  Needs Debian's qemu-user (not the static
one), gcc-aarch64-linux-gnu and gcc-arm-linux-gnueabihf; armv6 is built by the ziglang package.
"""

from __future__ import annotations

import argparse
import bisect
import json
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import stamp, write_csv, write_json
from models import folder, image

HERE = Path(__file__).parent
ROOT = HERE.parent
FLAGS = (*(ROOT / "runtime" / "engine" / "FLAGS").read_text().split(), "-O3", "-static", "-g")
AARCH64 = ("aarch64-linux-gnu-gcc",)
ARMV7 = ("arm-linux-gnueabihf-gcc",)
ARMV6 = (
    *(sys.executable, "-m", "ziglang", "cc"),
    *("-target", "arm-linux-musleabihf", "-mcpu=arm1176jzf_s"),
)


@dataclass(frozen=True, slots=True)
class Machine:
    name: str
    compiler: tuple[str, ...]
    emulator: tuple[str, ...]
    boards: str
    prompt: int = 256  # tokens whose second half is counted


MACHINES = [
    Machine("cortex-a76", AARCH64, ("qemu-aarch64", "-cpu", "cortex-a76"), "Pi 5"),
    Machine(
        "cortex-a72", AARCH64, ("qemu-aarch64", "-cpu", "cortex-a72"), "Pi 4; a53: 3, Zero 2 W"
    ),
    Machine("i8mm", AARCH64, ("qemu-aarch64", "-cpu", "max,sve=off"), "newer than any Pi"),
    Machine("armv7", ARMV7, ("qemu-arm", "-cpu", "cortex-a7"), "Pi 2, 32-bit systems", 32),
    Machine("armv6", ARMV6, ("qemu-arm", "-cpu", "arm1176"), "Pi 1, Zero", 16),
]


def build(compiler: tuple[str, ...], target: str) -> Path:
    output = folder() / "arm" / target
    output.parent.mkdir(exist_ok=True)
    code = [*ROOT.glob("runtime/engine/**/*.c"), *ROOT.glob("runtime/host/*.c")]
    sources = [*map(str, sorted(code)), str(HERE / "native" / "arm_tokens.c")]
    command = [*compiler, *FLAGS, *sources, "-o", str(output), "-lm", "-pthread"]
    subprocess.run(command, check=True)
    return output


def build_plugin() -> Path:
    output = folder() / "arm" / "arm_count.so"
    output.parent.mkdir(exist_ok=True)
    source = HERE / "native" / "arm_count.c"
    subprocess.run(["gcc", "-O2", "-shared", "-fPIC", source, "-o", output], check=True)
    return output


def functions(program: Path) -> tuple[list[int], list[str]]:
    """Start addresses and names of the program's functions, ascending."""
    done = subprocess.run(["nm", "-n", program], capture_output=True, text=True, check=True)
    rows = [line.split() for line in done.stdout.splitlines()]
    found = [
        (int(r[0], 16) & ~1, r[2])
        for r in rows
        if len(r) == 3 and r[1] in "tTwW" and not r[2].startswith("$")
    ]
    return [address for address, _ in found], [name for _, name in found]


def count(
    machine: Machine,
    program: Path,
    plugin: Path,
    model: Path,
    kernels: str,
    tokens: tuple[int, int],
) -> tuple[Counter[str], dict[str, str]]:
    """Executed instructions by function, and what the program said."""
    addresses, names = functions(program)
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "blocks"
        command = [*machine.emulator, "-plugin", f"{plugin},out={out}", program, model]
        done = subprocess.run(
            [*map(str, command), kernels, *map(str, tokens)], capture_output=True, text=True
        )
        if done.returncode:
            raise SystemExit(f"{machine.name}: {done.stderr.strip()}")
        by_function: Counter[str] = Counter()
        for line in out.read_text().splitlines():
            address, executed, _ = line.split()
            place = bisect.bisect_right(addresses, int(address, 16)) - 1
            by_function[names[place] if place >= 0 else "?"] += int(executed)
    return by_function, json.loads(done.stdout)


def measure(
    machine: Machine, quant: str, kernels: str, depth: int, program: Path, plugin: Path
) -> list[dict[str, Any]]:
    """A row a figure, with millions of instructions a token and their split."""
    model = image("smollm2", quant)
    # name, prompt and decoded tokens of the longer and of the shorter run
    figures = [
        ("prefill", (machine.prompt, 0), (machine.prompt // 2, 0)),
        ("decode", (1, 4), (1, 0)),
    ]
    if depth:
        figures.append((f"decode@{depth}", (depth, 2), (depth, 0)))
    rows = []
    for name, longer, shorter in figures:
        with ThreadPoolExecutor(2) as both:
            runs = [
                both.submit(count, machine, program, plugin, model, kernels, tokens)
                for tokens in (longer, shorter)
            ]
            (more, said), (less, _) = (run.result() for run in runs)
        tokens = sum(longer) - sum(shorter)
        split = {f: (n - less[f]) / tokens / 1e6 for f, n in more.items() if n != less[f]}
        rows.append(
            {
                "machine": machine.name,
                "kernels": said["kernels"],
                "quant": quant,
                "figure": name,
                "million_instructions": sum(split.values()),
                "logits_hash": said["logits_hash"],
                "functions": dict(sorted(split.items(), key=lambda item: -item[1])),
            }
        )
    return rows


def show(row: dict[str, Any], split: bool) -> None:
    print(
        f"{row['machine']:<12}{row['kernels']:<10}{row['quant']:<6}{row['figure']:<12}"
        f"{row['million_instructions']:9.2f} M  {row['logits_hash'][:12]}",
        flush=True,
    )
    for name, millions in list(row["functions"].items())[: 12 if split else 0]:
        print(f"    {millions:9.3f}  {name}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--machines", default=",".join(m.name for m in MACHINES))
    parser.add_argument("--kernels", default="-", help="a kernel set; - is the machine's best")
    parser.add_argument("--quants", default="q4_0,q8_0")
    parser.add_argument("--depth", type=int, default=512, help="0: not counted")
    parser.add_argument("--functions", action="store_true", help="split by function")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    wanted = options.machines.split(",")
    rows: list[dict[str, Any]] = []
    about = stamp()
    plugin = build_plugin()
    for machine in (m for m in MACHINES if m.name in wanted):
        program = build(machine.compiler, machine.name)
        for quant in options.quants.split(","):
            for row in measure(machine, quant, options.kernels, options.depth, program, plugin):
                show(row, options.functions)
                rows.append(row)
        write_json(options.json, {**about, "rows": rows})  # as far as it came
        named = [{key: row[key] for key in row if key != "functions"} for row in rows]
        write_csv(options.csv, named, about)


if __name__ == "__main__":
    main()
