"""Two threads beside a busy neighbour: what a second thread is worth when a process spins.

    python bench/neighbour.py [--rounds 5] [--models smollm2] [--json FILE] [--csv FILE]

The neighbour is pinned to no core, and neither is the engine.  The aim for qedge: beside it,
two threads give at least 0.9 of what one gives.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common import (
    Others,
    build_of,
    cell,
    child,
    median,
    peer,
    show_builds,
    show_stamp,
    stamp,
    wait_for_quiet,
    warn_if_busy,
    write_csv,
    write_json,
)
from models import Pair, pair

AIM = 0.9
ENGINES = ("qedge", "llama.cpp")
CASES = {"alone 1t": (0, 1), "alone 2t": (0, 2), "beside 1t": (1, 1), "beside 2t": (1, 2)}
RATIOS = {"alone 2t/1t": ("alone 2t", "alone 1t"), "beside 2t/1t": ("beside 2t", "beside 1t")}


@contextlib.contextmanager
def spinning(count: int) -> Iterator[None]:
    """So many processes that do nothing but spin."""
    spin = [sys.executable, "-c", "print(flush=True)\nwhile True: pass"]
    started = [subprocess.Popen(spin, stdout=subprocess.PIPE) for _ in range(count)]
    try:
        for process in started:
            process.stdout.readline()  # type: ignore[union-attr]
        yield
    finally:
        for process in started:
            process.kill()
            process.communicate()


def one_round(files: Pair, turned: bool, decode: int) -> dict[str, dict[str, Any]]:
    """Every case of every engine: the engines next to each other, so that a ratio's two sides
    are minutes apart at most."""
    found: dict[str, dict[str, Any]] = {engine: {} for engine in ENGINES}
    asked = {"depths": [0], "decode": decode}
    for case in reversed(CASES) if turned else CASES:
        neighbours, threads = CASES[case]
        for engine in reversed(ENGINES) if turned else ENGINES:
            with spinning(neighbours):
                result = child(peer(engine, files, threads, asked))
            found[engine][case] = result["decode@0"]
            found[engine]["build"] = build_of(result)
    for values in found.values():
        values |= {name: values[a] / values[b] for name, (a, b) in RATIOS.items()}
    return found


def show(found: dict[str, Any]) -> None:
    name = f"{found['model']} {found['quant']} {found['engine']}"
    cells = "".join(f"{cell(found[case]):>11}" for case in CASES)
    ratios = "".join(f"{found[ratio]:>14.2f}" for ratio in RATIOS)
    missed = found["engine"] == "qedge" and found["beside 2t/1t"] < AIM
    print(f"{name:28}{cells}{ratios}{f'  below {AIM}' if missed else ''}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--models", default="smollm2")
    parser.add_argument("--quants", default="q4_0")
    parser.add_argument("--decode", type=int, default=256)
    for name in ("json", "csv"):
        parser.add_argument(f"--{name}", type=Path)
    options = parser.parse_args()
    about, builds, rows, runs, shares = stamp(), {}, [], [], []
    show_stamp(about)
    print(f"{'tokens/s':28}" + "".join(f"{c:>11}" for c in CASES), end="")
    print("".join(f"{ratio:>14}" for ratio in RATIOS))
    for model in options.models.split(","):
        for quant in options.quants.split(","):
            files = pair(model, quant)
            rounds = []
            for number in range(options.rounds):
                before = wait_for_quiet()
                others = Others()
                rounds.append(one_round(files, number % 2 == 1, options.decode))
                shares.append(max(before, others.share()))
            for engine in ENGINES:
                part = [r[engine] for r in rounds]
                figures = {key: median(r[key] for r in part) for key in [*CASES, *RATIOS]}
                rows.append({"model": model, "quant": quant, "engine": engine, **figures})
                show(rows[-1])
                builds[engine] = part[0]["build"]
            runs.append({"model": model, "quant": quant, "rounds": rounds})
    show_builds(builds)
    about |= {"builds": builds, "busy_rounds": warn_if_busy(shares)}
    write_json(options.json, {**about, "rows": rows, "runs": runs})
    write_csv(options.csv, rows, {**about, "builds": json.dumps(builds)})


if __name__ == "__main__":
    main()
