"""What runs on one thread, counted: instructions outside of parallel steps, and parallel steps.

    python bench/one_thread.py [IMAGE] [--threads 2] [--kernels avx2] [--json FILE] [--csv FILE]

callgrind counts (Debian: valgrind), so any machine will do, busy or not; it knows no AVX-512.
Without IMAGE it takes SmolLM2 in q4_0.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from common import stamp, write_csv, write_json
from models import folder, image

HERE = Path(__file__).parent
ROOT = HERE.parent
FLAGS = (*(ROOT / "runtime" / "engine" / "FLAGS").read_text().split(), "-O3", "-g")
CASES = {"decode": (0, 1), "decode@512": (512, 1), "prefill of 8": (0, 8), "prefill": (0, 512)}
_COST = re.compile(r"^\s*([\d,]+) .*?:(\w+)(?: \[|$)", re.MULTILINE)


def build() -> Path:
    output = folder() / "one_thread"
    code = [*ROOT.glob("runtime/engine/**/*.c"), *ROOT.glob("runtime/host/*.c")]
    sources = [*map(str, sorted(code)), str(HERE / "native" / "one_thread.c")]
    subprocess.run(["cc", *FLAGS, *sources, "-o", output, "-lm", "-pthread"], check=True)
    return output


def count(command: list[str]) -> dict[str, Any]:
    """What the program said, and its instructions: in all, and in parallel steps."""
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "out"
        options = [f"--callgrind-out-file={out}", "--toggle-collect=measured"]
        done = subprocess.run(
            ["valgrind", "--tool=callgrind", *options, *command],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise SystemExit(done.stderr.strip())
        table = subprocess.run(
            ["callgrind_annotate", "--inclusive=yes", "--threshold=100", out],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    costs: dict[str, int] = {}
    for cost, name in _COST.findall(table):
        costs[name] = max(costs.get(name, 0), int(cost.replace(",", "")))
    return {**json.loads(done.stdout), "all": costs["measured"], "in": costs["in_parallel"]}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("image", nargs="?", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--kernels", default="avx2")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--csv", type=Path)
    chosen = parser.parse_args()
    path = chosen.image or image("smollm2", "q4_0")
    program, rows = build(), []
    print(f"{'':<14}{'M instructions':>16}{'on one thread':>15}{'steps':>7}{'waits':>7}")
    for name, (depth, tokens) in CASES.items():
        command = [program, path, chosen.kernels, chosen.threads, depth, tokens]
        found = count([str(word) for word in command])
        serial = 1 - found["in"] / found["all"]
        row = {"figure": name, "tokens": tokens, "threads": chosen.threads, **found}
        rows.append({**row, "serial": serial})
        millions = found["all"] / tokens / 1e6
        print(
            f"{name:<14}{millions:>16.2f}{serial:>15.2%}{found['steps']:>7}{found['waits']:>7}"
        )
    print("instructions of a token; steps and waits of all for all of the whole evaluation")
    write_json(chosen.json, {**stamp(), "rows": rows})
    write_csv(chosen.csv, rows, stamp())


if __name__ == "__main__":
    main()
