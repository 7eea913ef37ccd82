"""The 1B shape from f16 to q4_0 and q8_0, by `qedge build` and by llama.cpp's quantizer.

Both are whole processes that read the same warm file and leave one file, alternating.  qedge's
time has more in it: the budget, the hash of the source, the hash tree, a sync to the disk and
the golden test, run twice.  Peak memory is resident, mapped files counted.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import common
from models import LLAMA, LLAMA_TYPES, source_of

ENGINES = "qedge", "llama.cpp"


def command(engine: str, source: Path, quant: str, output: Path) -> list[str]:
    if engine == "qedge":
        verb = sys.executable, "-m", "qedge.toolkit", "build"
        build = *verb, source, "-b", "host", "--quant", quant, "--context", 1024
        return [*map(str, build), "-o", str(output), "--json"]
    return [sys.executable, "-c", LLAMA, str(source), str(output), str(LLAMA_TYPES[quant])]


def timed(arguments: list[str]) -> tuple[float, float]:
    """(seconds, peak resident MiB) of a process that must succeed."""
    began = time.perf_counter()
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            errors.seek(0)
            raise SystemExit(
                f"{arguments[0]} ended with {process.returncode}:\n{errors.read()}"
            )
    return time.perf_counter() - began, usage.ru_maxrss / 1024


def read_through(path: Path) -> None:
    """Brings the file into the page cache."""
    with path.open("rb") as file:
        while file.read(1 << 24):
            pass


def measure(quant: str, rounds: int, source: Path, folder: Path) -> dict[str, Any]:
    found: dict[str, list[tuple[float, float]]] = {engine: [] for engine in ENGINES}
    busy = []
    for _ in range(rounds):
        common.wait_for_quiet()
        others = common.Others()
        for engine in ENGINES:
            output = folder / f"quantized-{engine}"
            read_through(source)
            found[engine].append(timed(command(engine, source, quant, output)))
            output.unlink()
        busy.append(others.share())
    pairs = list(zip(*found.values(), strict=True))
    row: dict[str, Any] = {"quant": quant, "rounds": rounds}
    for engine in ENGINES:
        row[f"{engine} s"] = round(common.median(s for s, _ in found[engine]), 2)
        row[f"{engine} MiB"] = round(max(peak for _, peak in found[engine]))
    row["ratio"] = round(common.median(theirs[0] / ours[0] for ours, theirs in pairs), 2)
    row["busy rounds"] = common.warn_if_busy(busy)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quants", default="q4_0,q8_0")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    about, source = common.stamp(), source_of("1b")
    common.show_stamp(about)
    rows = []
    with tempfile.TemporaryDirectory(dir=source.parent) as folder:
        for quant in options.quants.split(","):
            rows.append(measure(quant, options.rounds, source, Path(folder)))
            print("  ".join(f"{name} {value}" for name, value in rows[-1].items()), flush=True)
    common.write_json(options.json, {**about, "rows": rows})
    common.write_csv(options.csv, rows, about)


if __name__ == "__main__":
    main()
