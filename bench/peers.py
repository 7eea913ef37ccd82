"""qedge beside llama.cpp: one command, alternating rounds, medians and ratios.

    python bench/peers.py [--rounds 5] [--models smollm2,1b] [--json FILE] [--csv FILE]

Each engine runs in a process of its own and reports its own evaluation timings; the
limits of the machine (read bandwidth, int8 dot peak) are measured in the same round.
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from models import Pair, folder, pair

HERE = Path(__file__).parent
PEERS = {
    "qedge": "peer_qedge.py",
    "llama.cpp": "peer_llama.py",
    "xllamacpp": "peer_xllamacpp.py",
}
DEPTHS = {"smollm2": [0, 512, 2048, 4096], "1b": [0, 512]}
QUIET, WAIT_SECONDS = 0.08, 300


def cpu_times() -> tuple[float, float]:
    """(busy, all) ticks of the machine so far; stolen time counts as busy."""
    fields = [int(n) for n in Path("/proc/stat").read_text().split()[1:9]]
    return sum(fields) - fields[3] - fields[4], sum(fields)


def wait_for_quiet() -> float:
    """Waits until others use less than QUIET of the machine for a second; returns the last
    share."""
    ends = time.monotonic() + WAIT_SECONDS
    while True:
        busy, total = cpu_times()
        time.sleep(1)  # the measurement itself: a second of the machine's time
        busy_after, total_after = cpu_times()
        share = (busy_after - busy) / max(1, total_after - total)
        if share < QUIET or time.monotonic() > ends:
            return share


def child(*command: object) -> dict[str, Any]:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{command[1]} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def roofline(threads: int) -> dict[str, float]:
    program = folder() / "roofline"
    source = HERE / "roofline.c"
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        subprocess.run(["gcc", "-O2", "-pthread", source, "-o", program], check=True)
    return child(program, threads)


def first_token(script: str, path: Path, threads: int) -> float:
    """Milliseconds from the start of a process to its first token."""
    began = time.clock_gettime(time.CLOCK_MONOTONIC)
    found = child(sys.executable, HERE / script, path, threads, '{"first": true}')
    return (found["first_at"] - began) * 1000


def one_round(files: Pair, threads: int, engines: list[str], decode: int) -> dict[str, Any]:
    asked = {"prefill": 512, "decode": decode, "depths": DEPTHS[files.name], "sampling": True}
    found: dict[str, Any] = {"limits": roofline(threads)}
    for engine in engines:
        path = files.image if engine == "qedge" else files.gguf
        script = PEERS[engine]
        result = child(sys.executable, HERE / script, path, threads, json.dumps(asked))
        if engine != "xllamacpp":
            result["first"] = first_token(script, path, threads)
        found[engine] = result
    return found


def bytes_per_token(image: Path) -> int:
    """Weights that decoding one token reads: all matrices once (a tied embedding as output)."""
    from qedge.runtime.image import open_image

    opened = open_image(image)
    tied = opened.config["tied"]
    return sum(size for kind, *_, size in opened.tensors() if kind != 0 or tied)


def macs_per_token(image: Path) -> int:
    """Multiplications of a prefilled token's matrices, without output and attention."""
    from qedge.runtime.image import open_image

    tensors = open_image(image).tensors()
    return sum(rows * columns for kind, _, _, _, _, rows, columns, _ in tensors if kind > 3)


def middle(rounds: list[dict[str, Any]], engine: str, key: str) -> float | None:
    values = [r[engine][key] for r in rounds if engine in r and key in r[engine]]
    return statistics.median(values) if values else None


def summary(files: Pair, threads: int, rounds: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row a figure: each engine's median, and the median of each round's ratio to
    llama.cpp."""
    keys = ["prefill", *(f"decode@{d}" for d in DEPTHS[files.name]), "first"]
    keys += [k for k in rounds[0]["qedge"] if k.startswith("sample ")]
    rows = []
    for key in keys:
        row: dict[str, Any] = {
            "model": files.name,
            "quant": files.quant,
            "threads": threads,
            "figure": key,
            **{engine: middle(rounds, engine, key) for engine in PEERS},
        }
        pairs = [(r["qedge"].get(key), r["llama.cpp"].get(key)) for r in rounds]
        lower_is_better = key == "first" or key.startswith("sample ")
        row["ratio"] = statistics.median(
            (b / a if lower_is_better else a / b) for a, b in pairs
        )
        if key == "decode@0":
            need = bytes_per_token(files.image) / 1e9
            row["limit"] = statistics.median(
                r["qedge"][key] * need / r["limits"]["read_gb_s"] for r in rounds
            )
        if key == "prefill":
            need = macs_per_token(files.image) / 1e9
            row["limit"] = statistics.median(
                r["qedge"][key] * need / r["limits"]["dot_gmac_s"] for r in rounds
            )
        rows.append(row)
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    print(
        f"{'figure':34}{'qedge':>10}{'llama.cpp':>11}{'xllamacpp':>11}{'ratio':>8}{'limit':>8}"
    )
    for row in rows:
        name = f"{row['model']} {row['quant']} {row['threads']}t {row['figure']}"
        cells = ["-" if row[e] is None else f"{row[e]:.4g}" for e in PEERS]
        limit = f"{row['limit']:.0%}" if "limit" in row else ""
        print(
            f"{name:34}{cells[0]:>10}{cells[1]:>11}{cells[2]:>11}{row['ratio']:>7.2f}x{limit:>8}"
        )


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = [r for r in rows if r["figure"] == "prefill" or r["figure"].startswith("decode")]
    names = [f"{r['model']} {r['quant']} {r['threads']}t\n{r['figure']}" for r in shown]
    figure, axes = pyplot.subplots(figsize=(max(8, len(shown) * 0.55), 5))
    axes.bar(range(len(shown)), [r["ratio"] for r in shown], color="#3b6ea5")
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_xticks(range(len(shown)), names, rotation=90, fontsize=6)
    axes.set_ylabel("qedge / llama.cpp, tokens a second")
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=HERE,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"


def machine() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--models", default="smollm2,1b")
    parser.add_argument("--quants", default="q4_0,q8_0")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--decode", type=int, default=128)
    parser.add_argument("--without-xllamacpp", action="store_true")
    for name in ("json", "plot", "csv"):
        parser.add_argument(f"--{name}", type=Path)
    options = parser.parse_args()
    engines = [e for e in PEERS if e != "xllamacpp" or not options.without_xllamacpp]
    rows, kept, busy = [], [], 0
    for name in options.models.split(","):
        for quant in options.quants.split(","):
            files = pair(name, quant)
            for threads in map(int, options.threads.split(",")):
                rounds = []
                for number in range(options.rounds):
                    share = wait_for_quiet()
                    busy += share >= QUIET
                    order = engines if number % 2 == 0 else engines[::-1]
                    rounds.append(one_round(files, threads, order, options.decode))
                    rounds[-1]["others"] = share
                part = summary(files, threads, rounds)
                show(part)
                rows += part
                kept.append(
                    {"model": name, "quant": quant, "threads": threads, "rounds": rounds}
                )
    if busy:
        print(
            f"{busy} rounds began on a busy machine: do not trust this table", file=sys.stderr
        )
    if options.json:
        options.json.write_text(json.dumps({"busy_rounds": busy, "rows": rows, "runs": kept}))
    if options.plot:
        plot(rows, options.plot)
    if options.csv:
        stamp = {"machine": machine(), "commit": commit(), "command": " ".join(sys.argv)}
        with options.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, [*rows[0], "limit", *stamp], extrasaction="ignore")
            writer.fieldnames = list(dict.fromkeys(writer.fieldnames))
            writer.writeheader()
            writer.writerows({**row, **stamp} for row in rows)


main()
