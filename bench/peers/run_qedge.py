"""One engine of the comparison: qedge. Arguments: image, threads, JSON of what to measure."""

from __future__ import annotations

import json
import sys
import time

from memory import memory

from qedge.runtime import BudgetError, Model
from qedge.runtime.sampling import GREEDY, Sampling


def open_model(path: str, threads: int, context: int | None) -> tuple[Model, bool]:
    """The model, and whether it opens only with paging allowed."""
    try:
        return Model.open(path, threads=threads, context=context), False
    except BudgetError:
        allowed = Model.open(path, threads=threads, context=context, allow_paging=True)
        return allowed, True


def main() -> None:
    path, threads, asked = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
    model, paging = open_model(path, threads, asked.get("context"))
    with model:
        size = model.config["vocab_size"]
        tokens = [(n * 7919 + 13) % (size - 1000) + 500 for n in range(8192)]
        engine = model.engine
        if asked.get("first"):
            model.evaluate(tokens[:32])
            engine.set_sampler(*GREEDY.values)
            engine.sample()
            print(json.dumps({"first_at": time.clock_gettime(time.CLOCK_MONOTONIC)}))
            return
        found: dict[str, object] = {"isa": model.kernels, "paging": paging}
        model.evaluate(tokens[:64])
        if count := asked.get("prefill"):
            model.reset()
            began = time.perf_counter()
            model.evaluate(tokens[:count])
            found["prefill"] = count / (time.perf_counter() - began)
        for depth in asked.get("depths", []):
            model.reset()
            model.evaluate(tokens[: max(1, depth)])
            began = time.perf_counter()
            for token in tokens[: asked["decode"]]:
                engine.eval((token,))
            found[f"decode@{depth}"] = asked["decode"] / (time.perf_counter() - began)
        found.update(memory())
        if asked.get("sampling"):
            for name, chain in {
                "greedy": Sampling(seed=1),
                "top-p": Sampling(seed=1, temperature=0.8, top_p=0.95),
                "chain": Sampling(
                    seed=1,
                    temperature=0.8,
                    top_k=40,
                    top_p=0.95,
                    min_p=0.05,
                    repeat_penalty=1.1,
                ),
            }.items():
                engine.set_sampler(*chain.values)
                began = time.perf_counter()
                for _ in range(100):
                    engine.sample()
                found[f"sample {name}"] = (time.perf_counter() - began) / 100 * 1000
    from importlib.metadata import version  # after all that is timed

    print(json.dumps({"build": f"qedge {version('qedge')}", **found}))


main()
