"""One engine of the comparison: qedge. Arguments: image, threads, JSON of what to measure."""

from __future__ import annotations

import json
import sys
import time

from memory import memory

from qedge.runtime import BudgetError, Model


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
            engine.set_sampler(0.0, 0, 1.0, 0.0, 1.0, 0)
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
                "greedy": (0.0, 0, 1.0, 0.0, 1.0),
                "top-p": (0.8, 0, 0.95, 0.0, 1.0),
                "chain": (0.8, 40, 0.95, 0.05, 1.1),
            }.items():
                engine.set_sampler(*chain, 1)
                began = time.perf_counter()
                for _ in range(100):
                    engine.sample()
                found[f"sample {name}"] = (time.perf_counter() - began) / 100 * 1000
    from importlib.metadata import version  # after all that is timed

    print(json.dumps({"build": f"qedge {version('qedge')}", **found}))


main()
