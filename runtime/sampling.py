"""How tokens are drawn (runtime/engine/SPEC.md 2.11): one value and its checks, for every door:
`Model.generate`, the command line, the link and the agent. The engine checks the same ranges
(`qe_sampler_check`)."""

from __future__ import annotations

from qedge.runtime import arguments
from qedge.runtime.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

MOST_TOKENS = (1 << 32) - 1  # of one generation
# default, least, most; whole numbers where the default is one
RANGES: dict[str, tuple[Any, Any, Any]] = {
    "temperature": (0.0, 0.0, 1e6),  # 0: greedy
    "top_k": (0, 0, 1 << 31),  # 0: off
    "top_p": (1.0, 0.0, 1.0),  # 1: off
    "min_p": (0.0, 0.0, 1.0),  # 0: off
    "repeat_penalty": (1.0, 9.999999974752427e-07, 1e6),  # 1: off; least: float32 of 1e-6
    "seed": (0, 0, (1 << 64) - 1),
}


class Sampling:
    """The values that tokens are drawn by; greedy unless said otherwise. Never changed."""

    __slots__ = ("values",)

    def __init__(self, **values: Any) -> None:
        """Values by name, of RANGES. UsageError for one that is out of its range."""
        for name in values.keys() - RANGES.keys():
            raise UsageError(f"there is no {name}; tokens are drawn by {', '.join(RANGES)}")
        found = {}
        for name, (default, low, high) in RANGES.items():
            check = arguments.whole if isinstance(default, int) else arguments.number
            found[name] = check(name, values.get(name, default), low, high)
        self.values: tuple[Any, ...] = tuple(found.values())  # in the order of RANGES

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sampling) and self.values == other.values

    def __hash__(self) -> int:
        return hash(self.values)

    def __repr__(self) -> str:
        pairs = zip(RANGES.items(), self.values)
        changed = [f"{name}={value}" for (name, row), value in pairs if value != row[0]]
        return f"Sampling({', '.join(changed)})"

    def to_link(self) -> dict[str, Any]:
        """The fields of a `run` job (docs/link.md): floats as the bits of a float32, the
        seed as 8 bytes."""
        found: dict[str, Any] = dict(zip(RANGES, self.values))
        for name, value in found.items():
            if isinstance(value, float):
                found[name] = float_bits(value)
        found["seed"] = found["seed"].to_bytes(8, "little")
        return found

    @classmethod
    def from_link(cls, fields: Mapping[str, Any]) -> Sampling:
        """Of a `run` job's fields; what is absent is the default. UsageError."""
        found: dict[str, Any] = {name: fields[name] for name in RANGES if name in fields}
        for name, value in found.items():
            if isinstance(RANGES[name][0], float):
                found[name] = bits_float(name, value)
        if "seed" in found:
            seed = found["seed"]
            if not isinstance(seed, bytes) or len(seed) != 8:
                raise UsageError("seed is not 8 bytes")
            found["seed"] = int.from_bytes(seed, "little")
        return cls(**found)


def float_bits(value: float) -> int:
    """A float as the link has it: the bits of the float32 that is nearest."""
    import struct  # not for those who only generate: a start's milliseconds are counted

    return int(struct.unpack("<I", struct.pack("<f", value))[0])


def bits_float(name: str, bits: Any) -> float:
    """The float of such bits. UsageError for what are none."""
    import struct

    whole = arguments.whole(name, bits, 0, (1 << 32) - 1)
    return float(struct.unpack("<f", struct.pack("<I", whole))[0])


GREEDY = Sampling()
