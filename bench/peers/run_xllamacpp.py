"""One engine of the comparison: PyPI's prebuilt llama.cpp (xllamacpp), by its server's own
timings."""

from __future__ import annotations

import json
import re
import sys
import time

import xllamacpp
from memory import memory


def main() -> None:
    path, threads, asked = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
    params = xllamacpp.CommonParams()
    params.model.path = path
    longest = max(asked.get("depths", [0])) + asked.get("decode", 0) + 64
    params.n_ctx, params.n_parallel = max(1024, longest), 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    server = xllamacpp.Server(params)
    tokens = [(n * 7919 + 13) % 48000 + 500 for n in range(8192)]
    fixed = {"temperature": 0, "cache_prompt": False, "ignore_eos": True}

    def timings(prompt: list[int], count: int) -> dict[str, float]:
        return server.handle_completions({"prompt": prompt, "n_predict": count, **fixed})[
            "timings"
        ]

    if asked.get("first"):
        timings(tokens[:32], 1)
        print(json.dumps({"first_at": time.clock_gettime(time.CLOCK_MONOTONIC)}))
        return
    timings(tokens[:64], 4)
    found: dict[str, object] = {
        "build": f"xllamacpp {xllamacpp.__version__}",
        "isa": " ".join(re.findall(r"(\w+) = 1", xllamacpp.get_system_info())),
        "prefill": timings(tokens[: asked["prefill"]], 1)["prompt_per_second"],
    }
    for depth in asked["depths"]:
        part = timings(tokens[: max(1, depth)], asked["decode"])
        found[f"decode@{depth}"] = part["predicted_per_second"]
    found.update(memory())
    print(json.dumps(found))


main()
