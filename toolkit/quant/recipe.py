"""The types of an image's tensors, and the names that people have for them.

A type in capitals, or by another of its own names, is that type; one that is not made here is
answered with the nearest.  Nothing here quantizes.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass

from qedge.runtime._engine import KV_TYPES, TYPES
from qedge.runtime.errors import UsageError

# What an image can be made of, the most exact first.
FORMATS = ("f32", "f16", "q8_0", "q4_0")
# Other names of the same types.
SAME = {
    "fp16": "f16",
    "float16": "f16",
    "half": "f16",
    "fp32": "f32",
    "float32": "f32",
    "float": "f32",
    "full": "f32",
}
# Names of other types, and the nearest of ours.
NEAR = (
    (re.compile(r"bf16|bfloat16"), "f16", "it keeps three bits more of each weight"),
    (re.compile(r"(f|fp|float|int)?_?16(_?bits?)?"), "f16", ""),
    (re.compile(r"(f|fp|float|int|tf)?_?32(_?bits?)?|none"), "f32", ""),
    (re.compile(r"(f|fp|float)?_?64(_?bits?)?|double"), "f32", "a model needs no more"),
    (re.compile(r"q8.*|8_?bits?|[iuw](nt)?_?8.*|f(p|loat)?8.*|llm_int8"), "q8_0", ""),
    (re.compile(r"q[67].*|[67]_?bits?"), "q8_0", "the next finer one"),
    (re.compile(r"q5.*|5_?bits?"), "q4_0", "and the next finer one q8_0"),
    (re.compile(r"i?q4.*|4_?bits?|[iuw](nt)?_?4.*|(mx|nv)?n?fp?4.*|gptq|awq|bnb"), "q4_0", ""),
    (re.compile(r"[it]?q[123].*|[123]_?bits?"), "q4_0", "the smallest there is"),
)


def type_named(option: str, text: str, known: Iterable[str]) -> str:
    """The type that `text` names, one of `known`; UsageError names the nearest one."""
    types = list(known)
    plain = text.strip().lower().replace("-", "_")
    plain = SAME.get(plain, plain)
    if plain in types:
        return plain
    raise UsageError(f"{option} {text}: no such type here; {_nearest(plain, types)}")


def _nearest(plain: str, types: list[str]) -> str:
    listed = f"known are {', '.join(types)}"
    for pattern, name, why in NEAR:
        if name in types and pattern.fullmatch(plain):
            return f"the nearest is {name}{f' ({why})' if why else ''}; {listed}"
    near = difflib.get_close_matches(plain, types, 1)
    return f"did you mean {near[0]}? {listed}" if near else listed


@dataclass(frozen=True, slots=True)
class Recipe:
    """What the types of an image's tensors are."""

    quant: str
    embedding: str
    kv: str

    @classmethod
    def of(cls, quant: str, kv: str | None, embedding: str | None) -> Recipe:
        """The defaults: q4_0 keeps embedding and output in q8_0, as llama.cpp does; the KV
        cache is q8_0 for quantized images, and the weights' own type for f32 and f16 ones."""
        quant = type_named("--quant", quant, TYPES)
        if embedding is not None:
            embedding = type_named("--embedding", embedding, TYPES)
        if kv is not None:
            kv = type_named("--kv", kv, KV_TYPES)
        default = "q8_0" if quant in ("q4_0", "q8_0") else quant
        return cls(quant, embedding or ("q8_0" if quant == "q4_0" else quant), kv or default)

    def type_of(self, name: str) -> str:
        if "norm" in name:
            return "f32"
        return self.embedding if name.startswith(("token_embd", "output")) else self.quant
