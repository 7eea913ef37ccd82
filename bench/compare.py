"""qedge beside llama.cpp: one command, alternating rounds, medians and ratios.

    python bench/compare.py [--rounds 5] [--models smollm2,1b] [--json FILE] [--csv FILE]
                          [--plot FILE] [--depths 0,2048]

Each engine runs in a process of its own and reports its own evaluation timings; the
limits of the machine (read bandwidth, int8 dot peak) are measured in the same round.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import (
    HERE,
    PEERS,
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
from models import Pair, folder, pair

from qedge.runtime.image import open_image

DEPTHS = {"smollm2": [0, 512, 2048, 4096], "1b": [0, 512]}  # unless --depths says others
LOWER_IS_BETTER = ("first", "sample ", "peak_mib", "anonymous_mib", "file_mib")
Round = dict[int, dict[str, Any]]  # by threads: read_gb_s, dot_gmac_s, engines' results


def roofline(threads: int) -> dict[str, float]:
    program = folder() / "roofline"
    source = HERE / "native" / "roofline.c"
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        subprocess.run(["gcc", "-O2", "-pthread", source, "-o", program], check=True)
    return child([program, threads])


def first_token(engine: str, files: Pair, threads: int) -> float:
    """Milliseconds from the start of a process to its first token, after a prompt of 32."""
    began = time.clock_gettime(time.CLOCK_MONOTONIC)
    found = child(peer(engine, files, threads, {"first": True}))
    return (found["first_at"] - began) * 1000


def measure(files: Pair, threads: int, engines: list[str], decode: int) -> dict[str, Any]:
    asked = {"prefill": 512, "decode": decode, "depths": DEPTHS[files.name], "sampling": True}
    found: dict[str, Any] = roofline(threads)
    for engine in engines:
        found[engine] = child(peer(engine, files, threads, asked))
        found[engine]["first"] = first_token(engine, files, threads)
    return found


@dataclass(frozen=True, slots=True)
class Work:
    """What an image's tokens cost at least, in bytes read and in multiplications."""

    weight_bytes: int  # of decoding a token: all matrices once, a tied embedding as output
    cache_bytes: float  # of decoding, for each token before it: its keys and values
    macs: int  # of prefilling a token: its matrices, without output and attention

    @classmethod
    def of(cls, path: Path) -> Work:
        image = open_image(path)
        config, tensors = image.config, image.tensors()
        value_bytes = {0: 4, 1: 2}.get(image.plan["kv"], 34 / 32)  # f32, f16, q8_0
        values = 2 * config["layers"] * config["kv_heads"] * config["head_size"]
        return cls(
            sum(size for kind, *_, size in tensors if kind != 0 or config["tied"]),
            values * value_bytes,
            sum(rows * columns for kind, _, _, _, rows, columns, _ in tensors if kind > 3),
        )

    def limit(self, key: str, tokens: int, round_: dict[str, Any]) -> float | None:
        """How much of the round's bandwidth (decode) or dot peak (prefill) qedge used."""
        name, _, depth = key.partition("@")
        if name == "prefill":
            return round_["qedge"][key] * self.macs / 1e9 / round_["dot_gmac_s"]
        if name != "decode":
            return None
        need = self.weight_bytes + self.cache_bytes * (int(depth) + tokens / 2)
        return round_["qedge"][key] * need / 1e9 / round_["read_gb_s"]


def row(
    files: Pair, threads: str, key: str, rounds: list[dict[str, Any]], engines: list[str]
) -> dict[str, Any]:
    """A figure: each engine's median, and the median of each round's ratio to llama.cpp."""
    ratios = [r["qedge"][key] / r["llama.cpp"][key] for r in rounds]
    if key.startswith(LOWER_IS_BETTER):
        ratios = [1 / ratio for ratio in ratios]
    return {
        "model": files.name,
        "quant": files.quant,
        "threads": threads,
        "figure": key,
        **{engine: median(r[engine].get(key) for r in rounds) for engine in engines},
        "ratio": None if key == "file_mib" else median(ratios),  # mapped, so no virtue
        "limit": None,
    }


def summary(
    files: Pair, rounds: list[Round], engines: list[str], decode: int
) -> list[dict[str, Any]]:
    """A row a figure and number of threads, and what the most threads give over the fewest."""
    rows = []
    work = Work.of(files.image)
    first = next(iter(rounds[0].values()))["qedge"]
    rates = ["prefill", *(f"decode@{d}" for d in DEPTHS[files.name])]
    rest = [key for key in first if key.startswith(LOWER_IS_BETTER)]
    for threads in rounds[0]:
        part = [r[threads] for r in rounds]
        for key in [*rates, *rest]:
            found = row(files, str(threads), key, part, engines)
            found["limit"] = median(work.limit(key, decode, r) for r in part)
            rows.append(found)
    few, many = min(rounds[0]), max(rounds[0])
    if few != many:
        over = [
            {e: {k: r[many][e][k] / r[few][e][k] for k in rates} for e in engines}
            for r in rounds
        ]
        rows += [row(files, f"{many}/{few}", key, over, engines) for key in rates]
    return rows


def show(rows: list[dict[str, Any]], engines: list[str]) -> None:
    print(f"{'':36}" + "".join(f"{engine:>11}" for engine in engines) + "   ratio   limit")
    for found in rows:
        threads = found["threads"].replace("/", "t/") + "t"
        name = f"{found['model']} {found['quant']} {threads} {found['figure']}"
        cells = "".join(f"{cell(found[engine]):>11}" for engine in engines)
        limit = "" if found["limit"] is None else f"{found['limit']:.0%}"
        ratio = "" if found["ratio"] is None else f"{found['ratio']:.2f}x"
        print(f"{name:36}{cells}{ratio:>8}{limit:>8}")


def show_limits(files: Pair, rounds: list[Round]) -> None:
    for threads in rounds[0]:
        read, dots = (
            median(r[threads][key] for r in rounds) for key in ("read_gb_s", "dot_gmac_s")
        )
        print(
            f"{files.name} {files.quant} {threads}t: machine reads {cell(read)} GB/s, "
            f"multiplies {cell(dots)} GMAC/s"
        )


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = [r for r in rows if r["figure"].startswith(("prefill", "decode"))]
    shown = [r for r in shown if "/" not in r["threads"]]
    names = [f"{r['model']} {r['quant']} {r['threads']}t\n{r['figure']}" for r in shown]
    figure, axes = pyplot.subplots(figsize=(max(8, len(shown) * 0.55), 5))
    axes.bar(range(len(shown)), [r["ratio"] for r in shown], color="#3b6ea5")
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_xticks(range(len(shown)), names, rotation=90, fontsize=6)
    axes.set_ylabel("qedge / llama.cpp, tokens a second")
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def alternate(
    files: Pair, options: argparse.Namespace, engines: list[str], shares: list[float]
) -> list[Round]:
    """The rounds of a model: every engine with every number of threads, the order turned."""
    rounds: list[Round] = []
    for number in range(options.rounds):
        found: Round = {}
        for threads in map(int, options.threads.split(",")):
            before = wait_for_quiet()
            others = Others()
            order = engines if number % 2 == 0 else engines[::-1]
            found[threads] = measure(files, threads, order, options.decode)
            found[threads]["others"] = max(before, others.share())
            shares.append(found[threads]["others"])
        rounds.append(found)
    return rounds


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
    parser.add_argument("--depths", type=lambda text: [int(n) for n in text.split(",")])
    options = parser.parse_args()
    if options.depths:
        DEPTHS.update({name: options.depths for name in DEPTHS})
    engines = [e for e in PEERS if e != "xllamacpp" or not options.without_xllamacpp]
    about, builds, rows, runs, shares = stamp(), {}, [], [], []
    show_stamp(about)
    for name in options.models.split(","):
        for quant in options.quants.split(","):
            files = pair(name, quant)
            rounds = alternate(files, options, engines, shares)
            last = next(iter(rounds[-1].values()))
            if not builds:
                builds = {engine: build_of(last[engine]) for engine in engines}
                show_builds(builds)
            part = summary(files, rounds, engines, options.decode)
            show_limits(files, rounds)
            show(part, engines)
            rows += part
            runs.append({"model": name, "quant": quant, "rounds": rounds})
    print(
        "prefill, decode: tokens/s; first, sample: ms; ratio: how many times better than "
        "llama.cpp;\nlimit: qedge's share of the int8 dot peak (prefill), of the bandwidth "
        "(decode)"
    )
    busy = warn_if_busy(shares)
    about |= {"builds": builds, "busy_rounds": busy}
    write_json(options.json, {**about, "rows": rows, "runs": runs})
    write_csv(options.csv, rows, {**about, "builds": json.dumps(builds)})
    if options.plot:
        plot(rows, options.plot)


if __name__ == "__main__":
    main()
