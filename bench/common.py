"""What the measuring scripts share: a quiet machine, an engine in a process of its own,
medians, and files that say where they come from.  Not for the engines' own processes."""

from __future__ import annotations

import csv
import json
import os
import platform
import resource
import shlex
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from models import Pair

HERE = Path(__file__).parent
PEERS = {
    "qedge": "peers/run_qedge.py",
    "llama.cpp": "peers/run_llama.py",
    "xllamacpp": "peers/run_xllamacpp.py",
}
QUIET, WAIT_SECONDS = 0.08, 300


def cpu_times() -> tuple[float, float]:
    """(busy, all) seconds of the machine so far; stolen time counts as busy."""
    fields = [int(n) / os.sysconf("SC_CLK_TCK") for n in _first_line("/proc/stat")[1:9]]
    return sum(fields) - fields[3] - fields[4], sum(fields)


def _first_line(path: str) -> list[str]:
    return Path(path).read_text().split("\n", 1)[0].split()


class Others:
    """The share of the machine that others use from its making on; own ended children do not
    count."""

    def __init__(self) -> None:
        self._busy, self._total = cpu_times()
        self._own = self._children()

    @staticmethod
    def _children() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    def share(self) -> float:
        busy, total = cpu_times()
        others = busy - self._busy - (self._children() - self._own)
        return max(0.0, others) / max(0.01, total - self._total)


def wait_for_quiet() -> float:
    """Waits until others use less than QUIET of the machine for a second; returns the last
    share."""
    ends = time.monotonic() + WAIT_SECONDS
    while True:
        others = Others()
        time.sleep(1)  # the measurement itself: a second of the machine's time
        share = others.share()
        if share < QUIET or time.monotonic() > ends:
            return share


def warn_if_busy(shares: Iterable[float]) -> int:
    """Rounds in which others used more than QUIET of the machine, said when there are any."""
    shares = list(shares)
    busy = sum(share >= QUIET for share in shares)
    if busy:
        print(
            f"others used {max(shares):.0%} of the machine, {QUIET:.0%} or more in {busy} of "
            f"{len(shares)} rounds: do not trust these figures",
            file=sys.stderr,
        )
    return busy


def peer(engine: str, files: Pair, threads: int, asked: dict[str, Any]) -> list[str]:
    """The command that measures in a process of its own what is asked of an engine."""
    path = files.image if engine == "qedge" else files.gguf
    command = [sys.executable, HERE / PEERS[engine], path, threads, json.dumps(asked)]
    return list(map(str, command))


def answer(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The JSON object on a process's last line; the end of this program if it failed."""
    if done.returncode:
        code = done.returncode
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with {code}"
        raise SystemExit(f"{shlex.join(done.args)} ended {how}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def child(command: Iterable[object]) -> dict[str, Any]:
    return answer(
        subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    )


def median(values: Iterable[float | None]) -> float | None:
    """Of the values that there are."""
    found = [value for value in values if value is not None]
    return statistics.median(found) if found else None


def cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=HERE,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(("model name", "Model\t")):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def command(words: list[str]) -> str:
    """What was asked for, without where it was to be written."""
    kept, written = [], False
    for word in words[1:]:
        name = word.split("=")[0]
        if not written and name not in ("--json", "--csv", "--plot"):
            kept.append(word)
        written = not written and word == name and name in ("--json", "--csv", "--plot")
    return shlex.join(["python", f"bench/{Path(words[0]).name}", *kept])


def stamp() -> dict[str, Any]:
    """Where figures come from: machine, commit and command, for every file of them."""
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "kernel": f"{platform.system()} {platform.release()}",
        "commit": commit(),
        "command": command(sys.argv),
        "date": time.strftime("%Y-%m-%d"),
    }


def show_stamp(found: dict[str, Any]) -> None:
    print(f"{found['processor']}, {found['cores']} cores, {found['kernel']}; {found['commit']}")


def show_builds(builds: dict[str, str]) -> None:
    for engine, build in builds.items():
        print(f"{engine:10} {build}")


def build_of(result: dict[str, Any]) -> str:
    """Version and instruction set of the engine that gave a result."""
    return f"{result['build']}, {result['isa']}"


def write_json(path: Path | None, content: dict[str, Any]) -> None:
    if path:
        path.write_text(json.dumps(content, indent=1) + "\n")


def write_csv(path: Path | None, rows: list[dict[str, Any]], about: dict[str, Any]) -> None:
    """Rows with all their columns, and what they are about in every row."""
    if path:
        names = list(dict.fromkeys(name for row in rows for name in row))
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, [*names, *about], lineterminator="\n")
            writer.writeheader()
            writer.writerows({**row, **about} for row in rows)
