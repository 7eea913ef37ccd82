"""One engine of the comparison: llama.cpp through llama-cpp-python, by its own timings."""

from __future__ import annotations

import json
import re
import sys
import time

import llama_cpp as ll
from memory import memory


class Engine:
    def __init__(self, path: str, threads: int, context: int, small: bool) -> None:
        """small: weights stay where they are mapped, and batches are no longer than qedge's:
        the least memory."""
        ll.llama_backend_init()
        self._quiet = ll.llama_log_callback(lambda level, text, data: None)
        ll.llama_log_set(self._quiet, None)
        options = ll.llama_model_default_params()
        if small:
            options.load_mode, options.use_extra_bufts = ll.LLAMA_LOAD_MODE_MMAP, False
        self.model = ll.llama_model_load_from_file(path.encode(), options)
        params = ll.llama_context_default_params()
        self.batch = 128 if small else 512
        params.n_ctx, params.n_batch, params.n_ubatch = context, self.batch, self.batch
        params.n_threads = params.n_threads_batch = threads
        params.no_perf = False
        self.context = ll.llama_init_from_model(self.model, params)
        self.size = ll.llama_vocab_n_tokens(ll.llama_model_get_vocab(self.model))

    def reset(self) -> None:
        ll.llama_memory_clear(ll.llama_get_memory(self.context), True)
        ll.llama_perf_context_reset(self.context)

    def evaluate(self, tokens: list[int]) -> None:
        for start in range(0, len(tokens), self.batch):
            part = tokens[start : start + self.batch]
            ids = (ll.llama_token * len(part))(*part)
            if ll.llama_decode(self.context, ll.llama_batch_get_one(ids, len(part))):
                raise SystemExit("llama_decode failed")
        ll.llama_synchronize(self.context)


def main() -> None:
    path, threads, asked = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
    depths = asked.get("depths", [0])
    context = asked.get("context") or max(1024, max(depths) + asked.get("decode", 0) + 64)
    engine = Engine(path, threads, context, asked.get("small", False))
    tokens = [(n * 7919 + 13) % (engine.size - 1000) + 500 for n in range(8192)]
    if asked.get("first"):
        engine.evaluate(tokens[:32])
        chain = ll.llama_sampler_init_greedy()
        ll.llama_sampler_sample(chain, engine.context, -1)
        print(json.dumps({"first_at": time.clock_gettime(time.CLOCK_MONOTONIC)}))
        return
    isa = re.findall(r"(\w+) = 1", ll.llama_print_system_info().decode())
    build = f"llama.cpp {ll.llama_version().decode()} (llama-cpp-python {ll.__version__})"
    found: dict[str, object] = {"build": build, "isa": " ".join(isa)}
    engine.evaluate(tokens[:64])
    if count := asked.get("prefill"):
        engine.reset()
        engine.evaluate(tokens[:count])
        perf = ll.llama_perf_context(engine.context)
        found["prefill"] = perf.n_p_eval / perf.t_p_eval_ms * 1000
    for depth in depths:
        engine.reset()
        engine.evaluate(tokens[: max(2, depth)])
        ll.llama_perf_context_reset(engine.context)
        for token in tokens[: asked["decode"]]:
            engine.evaluate([token])
        perf = ll.llama_perf_context(engine.context)
        found[f"decode@{depth}"] = perf.n_eval / perf.t_eval_ms * 1000
    found.update(memory())
    if asked.get("sampling"):
        for name in ("greedy", "top-p", "chain"):
            chain = ll.llama_sampler_chain_init(ll.llama_sampler_chain_default_params())
            if name == "chain":
                ll.llama_sampler_chain_add(
                    chain, ll.llama_sampler_init_penalties(engine.size, 64, 1.1, 0.0, 0.0)
                )
                ll.llama_sampler_chain_add(chain, ll.llama_sampler_init_top_k(40))
            if name != "greedy":
                ll.llama_sampler_chain_add(chain, ll.llama_sampler_init_top_p(0.95, 1))
            if name == "chain":
                ll.llama_sampler_chain_add(chain, ll.llama_sampler_init_min_p(0.05, 1))
            last = ll.llama_sampler_init_greedy()
            if name != "greedy":
                ll.llama_sampler_chain_add(chain, ll.llama_sampler_init_temp(0.8))
                last = ll.llama_sampler_init_dist(1)
            ll.llama_sampler_chain_add(chain, last)
            began = time.perf_counter()
            for _ in range(100):
                ll.llama_sampler_sample(chain, engine.context, -1)
            found[f"sample {name}"] = (time.perf_counter() - began) / 100 * 1000
    print(json.dumps(found))


main()
