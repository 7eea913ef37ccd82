"""A model in little memory: qedge and llama.cpp in a memory cgroup, their files cold.

    python bench/limits.py [--limits 160,128,112,100] [--rounds 3] [--json FILE] [--csv FILE]

Everything that the process touches counts: Python, libraries, the model's pages.  The model is
a copy that nobody else has read, dropped from the page cache before each run.  llama.cpp small:
its weights stay where they are mapped instead of being copied into another order.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from common import (
    Others,
    answer,
    build_of,
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
from memory_group import MIB, NoGroup, group, hierarchy
from models import Pair, folder, pair

CONTEXT, PROMPT, DECODE = 512, 32, 128
LIMITS = "160,128,120,112,108,104,100,96,92"
SIGKILL = -9
TOO_SLOW = "too slow"
# name of the row: engine, and what it is asked beside the rest
ENGINES: dict[str, tuple[str, dict[str, Any]]] = {
    "qedge": ("qedge", {}),
    "llama.cpp": ("llama.cpp", {}),
    "llama.cpp small": ("llama.cpp", {"small": True}),
}


def make_cold(path: Path) -> None:
    """Drops a file's pages, and all others' that may be, so that the next reader pays."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    try:
        Path("/proc/sys/vm/drop_caches").write_text("1")
    except OSError:
        return  # then libraries that others have read are not charged


def run(
    name: str, files: Pair, limit_mib: int | None, parent: Path, options: argparse.Namespace
) -> dict[str, Any]:
    """One process in its group: its figures, or how it ended without any."""
    engine, extra = ENGINES[name]
    asked = {"context": CONTEXT, "depths": [PROMPT], "decode": DECODE, **extra}
    command = peer(engine, files, options.threads, asked)
    make_cold(files.image if engine == "qedge" else files.gguf)
    with group(parent, limit_mib) as found:
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                check=False,
                preexec_fn=found.join,
                timeout=options.patience,
            )
        except subprocess.TimeoutExpired:
            return {"ended": TOO_SLOW, "group_peak_mib": found.peak_mib()}
        if done.returncode == SIGKILL:
            return {"ended": "killed", "group_peak_mib": found.peak_mib()}
        result = answer(done)
        result["tokens_per_second"] = result.pop(f"decode@{PROMPT}")
        counted = {"group_peak_mib": found.peak_mib(), "group_cache_mib": found.cache_mib()}
        return {"ended": "done", **counted, **result}


def refuse_warm(files: Pair, result: dict[str, Any]) -> None:
    """The file's pages must have been charged, or the limits would mean nothing."""
    if result["group_cache_mib"] < files.image.stat().st_size / MIB * 0.9:
        raise SystemExit(
            f"{files.image}: its pages did not leave the page cache; put QEDGE_CACHE on a disk "
            "(tmpfs has nowhere to drop them to)"
        )


def row(name: str, limit_mib: int | None, results: list[dict[str, Any]]) -> dict[str, Any]:
    keys = ["tokens_per_second", "group_peak_mib", "peak_mib", "anonymous_mib", "file_mib"]
    failed = sorted(r["ended"] for r in results if r["ended"] != "done")
    return {
        "limit_mib": limit_mib,
        "engine": name,
        "ended": "done" if not failed else f"{failed[0]} {len(failed)}/{len(results)}",
        "paging": any(r.get("paging") for r in results),
        **{key: median(r.get(key) for r in results) for key in keys},
    }


def show(found: dict[str, Any]) -> None:
    limit = found["limit_mib"] or "none"
    rate = found["tokens_per_second"]
    speed = found["ended"] if rate is None else f"{rate:.1f}"
    keys = ("group_peak_mib", "peak_mib", "anonymous_mib", "file_mib")
    sizes = "".join(f"{'-' if found[k] is None else format(found[k], '.1f'):>11}" for k in keys)
    notes = [found["ended"]] if rate is not None and found["ended"] != "done" else []
    notes += ["only with --allow-paging"] if found["paging"] else []
    print(f"{limit:>5}  {found['engine']:20}{speed:>12}{sizes}  {', '.join(notes)}", flush=True)


def measure(
    files: Pair, limits: list[int | None], options: argparse.Namespace, shares: list[float]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows, and every run: at each limit the engines in turn, the order turned each round."""
    rows, runs = [], []
    with hierarchy() as parent:
        for limit in limits:
            results: dict[str, list[dict[str, Any]]] = {name: [] for name in ENGINES}
            for number in range(options.rounds):
                before = wait_for_quiet()
                others = Others()
                for name in ENGINES if number % 2 == 0 else reversed(ENGINES):
                    if any(r["ended"] == TOO_SLOW for r in results[name]):
                        continue  # once is enough
                    result = run(name, files, limit, parent, options)
                    if name == "qedge" and limit is None:
                        refuse_warm(files, result)
                    results[name].append(result)
                    runs.append({"limit_mib": limit, "engine": name, **result})
                shares.append(max(before, others.share()))
            for name in ENGINES:
                rows.append(row(name, limit, results[name]))
                show(rows[-1])
    return rows, runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--limits", default=LIMITS, help="MiB; none is always measured first")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="smollm2", choices=["smollm2", "1b"])
    parser.add_argument("--quant", default="q4_0", choices=["q4_0", "q8_0"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--patience", type=float, default=60, help="seconds until too slow")
    for name in ("json", "csv"):
        parser.add_argument(f"--{name}", type=Path)
    options = parser.parse_args()
    about, shares = stamp(), []
    show_stamp(about)
    made = pair(options.model, options.quant, CONTEXT)
    image_mib, gguf_mib = (p.stat().st_size / MIB for p in (made.image, made.gguf))
    print(
        f"{made.name} {made.quant}, context {CONTEXT}, {options.threads} threads, {DECODE} "
        f"tokens after {PROMPT}; image {image_mib:.1f} MiB, GGUF {gguf_mib:.1f}\n"
        f"{'limit':>5}  {'engine':20}{'tokens/s':>12}{'group peak':>11}{'resident':>11}"
        f"{'anonymous':>11}{'file':>11}  (MiB)"
    )
    limits = [None, *map(int, options.limits.split(","))]
    with tempfile.TemporaryDirectory(dir=folder()) as place:
        copies = (Path(shutil.copy(path, place)) for path in (made.image, made.gguf))
        image, gguf = copies
        files = replace(made, image=image, gguf=gguf)
        try:
            rows, runs = measure(files, limits, options, shares)
        except NoGroup as error:
            raise SystemExit(str(error)) from None
    builds = {ENGINES[r["engine"]][0]: build_of(r) for r in runs if "build" in r}
    show_builds(builds)
    about |= {"builds": builds, "busy_rounds": warn_if_busy(shares)}
    write_json(options.json, {**about, "rows": rows, "runs": runs})
    write_csv(options.csv, rows, {**about, "builds": json.dumps(builds)})


if __name__ == "__main__":
    main()
