"""The types of an image's tensors, and the names that people have for them.

A type in capitals, or by another of its own names, is that type; one that is not made here is
answered with the nearest.  Nothing here quantizes.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qedge.runtime._engine import KV_TYPES, TYPES
from qedge.runtime.errors import UsageError
from qedge.toolkit.quant.mixtures import MIXTURES, Shape, types_of
from qedge.toolkit.quant.search import KINDS

if TYPE_CHECKING:
    from qedge.toolkit.source.model import SourceModel, SourceTensor

# What is compared unasked, the most exact first.
FORMATS = (
    *("f32", "bf16", "f16", "keep", "q8_0", "a6", "q5_K_M", "a5", "q4_K_M", "a4_M", "a4"),
    *("q4_0", "a3"),
)
# What they lose: mean KL divergence, nats a token, of SmolLM2-135M-Instruct in full precision,
# its weights off the grid of the file that it comes from, over 12 chunks of WikiText-2's test
# text (qedge compare MODEL.gguf -b host --text wiki.test.raw --chunks 12). 0.0030 of each is
# the rounding of activations. Rows of 576 and 1,536 columns: q5_K_M and q4_K_M fall back to
# q5_0, q5_1 and q8_0 in part.
SMOLLM2_KL = {
    "q8_0": 0.0052,
    "a6": 0.0093,
    "q5_K_M": 0.0164,
    "a5": 0.0215,
    "q4_K_M": 0.0369,
    "a4_M": 0.0471,
    "a4": 0.0646,
    "q4_0": 0.1759,
    "a3": 0.2886,
}
# Other names of the same types.
SAME = {
    "fp16": "f16",
    "float16": "f16",
    "half": "f16",
    "fp32": "f32",
    "float32": "f32",
    "float": "f32",
    "full": "f32",
    "q3_k": "q3_K_M",
    "q4_k": "q4_K_M",
    "q5_k": "q5_K_M",
}
# Names of other types, and the nearest of ours.
NEAR = (
    (re.compile(r"(f|fp|float|int)?_?16(_?bits?)?"), "f16", ""),
    (re.compile(r"bfloat16"), "bf16", ""),
    (re.compile(r"(f|fp|float|int|tf)?_?32(_?bits?)?|none"), "f32", ""),
    (re.compile(r"(f|fp|float)?_?64(_?bits?)?|double"), "f32", "a model needs no more"),
    (re.compile(r"q8.*|8_?bits?|[iuw](nt)?_?8.*|f(p|loat)?8.*|llm_int8"), "q8_0", ""),
    (re.compile(r"q7.*|7_?bits?"), "q8_0", "the next finer one"),
    (re.compile(r"q6.*|6_?bits?"), "a6", ""),
    (re.compile(r"q5.*|5_?bits?"), "a5", ""),
    (re.compile(r"i?q4.*|4_?bits?|[iuw](nt)?_?4.*|(mx|nv)?n?fp?4.*|gptq|awq|bnb"), "a4", ""),
    (re.compile(r"[it]?q3.*|3_?bits?"), "a3", ""),
    (re.compile(r"[it]?q[12].*|[12]_?bits?"), "a2", "the smallest that is made here"),
)


KEEP = "keep"
LONGEST_NAME = 40  # of a recipe, characters
# Types that are made here; the others are only taken over.
MADE = ("f32", "f16", "bf16", *KINDS)
# What --quant takes: mixtures of the K types go by llama.cpp's names.
QUANTS = (KEEP, *(kind for kind in MADE if not kind.endswith("_K")), *MIXTURES)
_FLOATS = ("f32", "f16", "bf16")


def type_named(option: str, text: str, known: Iterable[str]) -> str:
    """The type that `text` names, one of `known`; UsageError names the nearest one."""
    types = list(known)
    plain = text.strip().lower().replace("-", "_")
    plain = SAME.get(plain, plain).lower()
    for name in types:
        if plain == name.lower():
            return name
    raise UsageError(f"{option} {text}: no such type here; {_nearest(plain, types)}")


def kept_type(source_type: str) -> str | None:
    """The type of an image's tensor that holds exactly the values of GGML's type; None when
    there is none."""
    name = {"TQ1_0": "TQ2_0", "F64": "F32"}.get(source_type, source_type).lower()
    return next((known for known in TYPES if known.lower() == name), None)


def own_precision(stored: str) -> str:
    """The format that holds what a file of that type holds, to compare the others with: its own
    type of floats, its blocks as they are where an image can keep them, else f16."""
    kept = kept_type(stored)
    if kept in _FLOATS:
        return kept
    return KEEP if kept is not None else "f16"


def usual(base: str) -> tuple[str, ...]:
    """The formats that are compared unasked, the most exact first: of floats and kept blocks
    the base alone, which is the file's own precision."""
    return tuple(name for name in FORMATS if name == base or name not in (*_FLOATS, KEEP))


# What is made when nothing is asked for, and why.
WHY = {
    KEEP: "its weights are quantized already and are taken over with their very values",
    "a4_M": "the best balance that was measured; q8_0 is more exact, a4 smaller",
    "q8_0": "the least loss at once; `qedge compare` shows what smaller types cost",
}


def default_quant(source: SourceModel, *, quick: bool = False) -> str:
    """What becomes of a model when nothing is asked for: keep where most of its weights are
    quantized already in a way that can be kept, else a4_M. quick: q8_0 in place of that, which
    needs no calibration, and no levels of 5 and 6 bits, at which small boards take twice as
    long."""
    if own_precision(source.stored_type()) == KEEP:
        return KEEP
    return "q8_0" if quick else "a4_M"


def _nearest(plain: str, types: list[str]) -> str:
    listed = f"known are {', '.join(types)}"
    for pattern, name, why in NEAR:
        if name in types and pattern.fullmatch(plain):
            return f"the nearest is {name}{f' ({why})' if why else ''}; {listed}"
    near = difflib.get_close_matches(plain, types, 1)
    return f"did you mean {near[0]}? {listed}" if near else listed


@dataclass(frozen=True, slots=True)
class Recipe:
    """What the types of an image's tensors are. quant: what all of it is called; types: of each
    matrix, by its name."""

    quant: str
    embedding: str
    kv: str
    types: Mapping[str, str]
    loss: float | None = None  # what its weights lose by estimate, nats a token

    @classmethod
    def of(
        cls, source: SourceModel, quant: str, kv: str | None, embedding: str | None
    ) -> Recipe:
        """quant: one of QUANTS. The defaults: embedding and output are q8_0 where layers are
        quantized, as llama.cpp has it for q4_0; the KV cache is q8_0 for quantized images, and
        the weights' own type for f32 and f16 ones."""
        quant = type_named("--quant", quant, QUANTS)
        if embedding is not None:
            embedding = type_named("--embedding", embedding, MADE)
        if kv is not None:
            kv = type_named("--kv", kv, KV_TYPES)
        matrices = matrices_of(source)
        if quant in MIXTURES:
            config = source.config
            shape = Shape(config.layers, config.heads, config.kv_heads, config.tied)
            widths = {name: tensor.columns for name, tensor in matrices.items()}
            types = types_of(quant, widths, shape)
        elif quant == KEEP:
            types = {name: kept_type(t.source_type) or "q8_0" for name, t in matrices.items()}
        else:
            end = quant if quant in _FLOATS else "q8_0"
            types = {name: end if _is_end(name) else quant for name in matrices}
        if embedding is not None:
            types |= {name: embedding for name in matrices if _is_end(name)}
        return cls(quant, types["token_embd.weight"], kv or kv_for(types), types)

    def type_of(self, name: str) -> str:
        return self.types.get(name, "f32")


def _is_end(name: str) -> bool:
    return name.startswith(("token_embd", "output"))


def matrices_of(source: SourceModel) -> dict[str, SourceTensor]:
    """What a recipe says a type of; norms are f32."""
    return {name: tensor for name, tensor in source.tensors.items() if "norm" not in name}


def kv_for(types: Mapping[str, str]) -> str:
    """Of layers in f32 (or bf16, which f16 does not hold) or f16 alone, their own; else
    q8_0."""
    layers = {kind for name, kind in types.items() if name.startswith("blk.")}
    if layers == {"f16"}:
        return "f16"
    return "f32" if layers <= {"f32", "bf16"} else "q8_0"
