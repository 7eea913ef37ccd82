"""Rotary embeddings of a config.json: rope_scaling and rope_theta, or rope_parameters
(transformers 5), to what the image's table can be made from.

Source: transformers' modeling_rope_utils.  A scaling that is the identity is none; one that is
the identity up to some position bounds the context; any other is refused by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from qedge.runtime.errors import ImageError
from qedge.toolkit.source.model import Bound, RopeScaling
from qedge.toolkit.source.settings import Settings

UNTRAINED_BASE = 10000.0
SUPPORTED = "default, linear and llama3 are, and others where they change nothing"


@dataclass(frozen=True, slots=True)
class Rope:
    """The base, how frequencies are stretched, and up to which position that holds."""

    base: float
    scaling: RopeScaling | None
    bound: Bound | None = None


def read_rope(settings: Settings, context: int, head_size: int) -> Rope:
    """ImageError for what the table cannot be.  `context`: max_position_embeddings."""
    parts = Settings(_parameters(settings), settings.path)
    for found in (parts, settings):
        found.only("partial_rotary_factor", (1, None))
    base = parts.number("rope_theta", settings.number("rope_theta", UNTRAINED_BASE))
    kind = parts.get("rope_type", parts.get("type", "default"))
    make = _KINDS.get(kind) if isinstance(kind, str) else None
    if make is None:
        raise ImageError(
            f"{settings.path}: rope type {kind!r:.60} is not supported; {SUPPORTED}"
        )
    scaling, bound = make(parts, context, head_size)
    return Rope(base, scaling, bound)


def _parameters(settings: Settings) -> dict[str, Any]:
    """rope_scaling when there is one, else rope_parameters; of one that has an object a kind of
    layers, what all of them have."""
    for key in ("rope_scaling", "rope_parameters"):
        found = settings.get(key, {})
        if not isinstance(found, dict):
            raise ImageError(f"{settings.path}: {key} is {found!r:.60}, not an object")
        kinds = [part for part in found.values() if isinstance(part, dict)]
        if kinds and len(kinds) == len(found):
            if any(part != kinds[0] for part in kinds):
                raise ImageError(
                    f"{settings.path}: {key} differs from one kind of layers to another, which "
                    "is not supported"
                )
            found = kinds[0]
        if found:
            return found
    return {}


_Found = tuple[RopeScaling | None, Bound | None]


def _default(parts: Settings, context: int, head_size: int) -> _Found:
    return None, None


def _linear(parts: Settings, context: int, head_size: int) -> _Found:
    factor = parts.number("factor")
    return (None if factor == 1 else RopeScaling("linear", factor=factor)), None


def _dynamic(parts: Settings, context: int, head_size: int) -> _Found:
    """NTK by the length so far: the base itself up to max_position_embeddings."""
    parts.number("factor", 1.0)
    return None, None  # an image's context is never longer


def _llama3(parts: Settings, context: int, head_size: int) -> _Found:
    factor = parts.number("factor")
    found = RopeScaling(
        "llama3",
        factor=factor,
        low_freq_factor=parts.number("low_freq_factor"),
        high_freq_factor=parts.number("high_freq_factor"),
        original_context=parts.integer("original_max_position_embeddings"),
    )
    return (None if factor == 1 else found), None


def _yarn(parts: Settings, context: int, head_size: int) -> _Found:
    """Blends two frequencies that are one when the factor is 1; never the identity else."""
    if _factor(parts, context) != 1 or parts.number("attention_factor", 1.0) != 1:
        raise ImageError(
            f"{parts.path}: rope type 'yarn' is not supported (its factor is "
            f"{_factor(parts, context):g}, and it changes the first positions too); {SUPPORTED}"
        )
    return None, None


def _longrope(parts: Settings, context: int, head_size: int) -> _Found:
    """Its short factors count up to the original length, and are the image's own kind."""
    factor = _factor(parts, context)
    original = parts.integer("original_max_position_embeddings", context)
    if parts.number("attention_factor", 1.0 if factor <= 1 else 0.0) != 1:
        raise ImageError(
            f"{parts.path}: rope type {'longrope'!r} is not supported where it scales "
            f"attention (its factor is {factor:g}); {SUPPORTED}"
        )
    short = parts.numbers("short_factor", head_size // 2)
    long = parts.numbers("long_factor", head_size // 2)
    scaling = None
    if any(value != 1 for value in short):
        scaling = RopeScaling("factors", factors=tuple(short))
    bound = Bound(original, "its longrope scaling changes after")
    return scaling, None if long == short else bound


def _factor(parts: Settings, context: int) -> float:
    """The factor, or the ratio of the lengths when it is not given."""
    original = parts.number("original_max_position_embeddings", float(context))
    return parts.number("factor", context / original if original > 0 else 0.0)


_KINDS = {
    "default": _default,
    "linear": _linear,
    "proportional": _linear,  # of a head that is rotated whole
    "dynamic": _dynamic,
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
    "su": _longrope,
}
