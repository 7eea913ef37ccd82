"""Mixtures: which type each tensor of a model gets under names like q4_K_M.

llama.cpp's are its llama-quant.cpp as of October 2026, for dense models of its Llama kind: the
same types on the same tensors, and the same fall-backs where a block does not divide a row.
Nothing here quantizes, and nothing knows what this package can store.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from qedge.runtime.errors import UsageError

Rules = tuple[tuple["When", str], ...]  # the first that holds says the type


@dataclass(frozen=True, slots=True)
class Shape:
    """What of a model's configuration the mixtures ask for."""

    layers: int
    heads: int
    kv_heads: int
    tied: bool  # the output matrix is the embedding


@dataclass(frozen=True, slots=True)
class Place:
    """The index-th of `count` tensors of its sort, in a model of that shape."""

    index: int
    count: int
    shape: Shape


When = Callable[[Place], bool]


def always(_: Place) -> bool:
    return True


def grouped(place: Place) -> bool:
    """Four or more heads share a key and a value."""
    return place.shape.heads >= 4 * place.shape.kv_heads


def first(number: int) -> When:
    return lambda place: place.index < number


def first_part(part: int) -> When:
    """The first 1 / part of them."""
    return lambda place: place.index < place.count // part


def more(place: Place) -> bool:
    """The first and the last eighth, and every third between."""
    eighth = place.count // 8
    ends = place.index < eighth or place.index >= 7 * place.count // 8
    # never negative here: what lies below eighth has been answered
    return ends or (place.index - eighth) % 3 == 2


@dataclass(frozen=True, slots=True)
class Mixture:
    """`head`: the output matrix, and the embedding where it is that, too; `embedding`: where it
    is not."""

    default: str
    attn_v: Rules = ()
    ffn_down: Rules = ()
    attn_output: Rules = ()
    head: str = "q6_K"
    embedding: str | None = None  # the default type


MIXTURES = {
    "q2_K": Mixture(
        "q2_K",
        attn_v=((grouped, "q4_K"), (always, "q3_K")),
        ffn_down=((always, "q3_K"),),
        attn_output=((always, "q3_K"),),
    ),
    "q3_K_S": Mixture("q3_K"),
    "q3_K_M": Mixture(
        "q3_K",
        attn_v=((first(2), "q5_K"), (always, "q4_K")),
        ffn_down=((first_part(16), "q5_K"), (always, "q4_K")),
        attn_output=((always, "q4_K"),),
    ),
    "q3_K_L": Mixture(
        "q3_K",
        attn_v=((always, "q5_K"),),
        ffn_down=((always, "q5_K"),),
        attn_output=((always, "q5_K"),),
    ),
    "q4_K_S": Mixture(
        "q4_K",
        attn_v=((first(4), "q5_K"),),
        ffn_down=((first_part(8), "q5_K"),),
    ),
    "q4_K_M": Mixture("q4_K", attn_v=((more, "q6_K"),), ffn_down=((more, "q6_K"),)),
    "q5_K_S": Mixture("q5_K"),
    "q5_K_M": Mixture("q5_K", attn_v=((more, "q6_K"),), ffn_down=((more, "q6_K"),)),
    "q6_K": Mixture("q6_K"),
    # ours: values and what leads back to the stream are what a model feels most
    "a4_M": Mixture(
        "a4",
        attn_v=((always, "a6"),),
        ffn_down=((always, "a5"),),
        head="q8_0",
        embedding="q8_0",
    ),
}

# Where a block of 256 does not divide the row.
FALL_BACKS = {"q2_K": "q4_0", "q3_K": "q4_0", "q4_K": "q5_0", "q5_K": "q5_1", "q6_K": "q8_0"}
_PADDED = ("a2", "a3", "a4", "a5", "a6")  # rows of any length
_LAYER = re.compile(r"blk\.(\d+)\.(.+)\.weight")
_VALUES = ("attn_v", "attn_qkv")  # a fused matrix is treated as the values in it


def types_of(mixture: str, columns: dict[str, int], shape: Shape) -> dict[str, str]:
    """The type of each tensor; columns: of each matrix, by GGUF's name.

    Norms, biases and what is no matrix do not belong there; they stay f32.  UsageError for a
    mixture that is not known."""
    if mixture not in MIXTURES:
        raise UsageError(f"unknown mixture {mixture}; known are {', '.join(MIXTURES)}")
    mixed = MIXTURES[mixture]
    values = _in_order(columns, _VALUES)
    downs = _in_order(columns, ("ffn_down",))
    found = {}
    for name, width in columns.items():
        matched = _LAYER.fullmatch(name)
        sort = matched[2] if matched else name
        if name == "output.weight" or (name == "token_embd.weight" and shape.tied):
            # judged by the default's block, not its own
            kind = mixed.head if _fits(mixed.default, width) else "q8_0"
        elif name == "token_embd.weight":
            kind = mixed.embedding or mixed.default
        elif sort in _VALUES:
            place = Place(values.index(name), len(values), shape)
            kind = _chosen(mixed.attn_v, place, mixed.default)
            if kind in ("q3_K", "q4_K") and _is_70b(shape):
                kind = "q5_K"
        elif sort == "ffn_down":
            place = Place(downs.index(name), shape.layers, shape)
            kind = _chosen(mixed.ffn_down, place, mixed.default)
        elif sort == "attn_output":
            kind = _chosen(mixed.attn_output, Place(0, 1, shape), mixed.default)
        else:
            kind = mixed.default
        found[name] = _fitting(kind, width)
    return found


def _in_order(names: Iterable[str], sorts: tuple[str, ...]) -> list[str]:
    """Tensors of these sorts, by layer."""
    layers = {}
    for name in names:
        matched = _LAYER.fullmatch(name)
        if matched and matched[2] in sorts:
            layers[name] = int(matched[1])
    return sorted(layers, key=lambda name: layers[name])


def _chosen(rules: Rules, place: Place, default: str) -> str:
    return next((kind for when, kind in rules if when(place)), default)


def _is_70b(shape: Shape) -> bool:
    """Eight heads share each value there, so that more bits for it cost next to nothing."""
    return shape.layers == 80 and shape.heads != shape.kv_heads


def _fits(kind: str, columns: int) -> bool:
    return kind in _PADDED or columns % (256 if kind.endswith("_K") else 32) == 0


def _fitting(kind: str, columns: int) -> str:
    if not _fits(kind, columns):
        kind = FALL_BACKS.get(kind, kind)
    return kind if _fits(kind, columns) else "f16"
