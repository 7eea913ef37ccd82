"""How a board's kernels want quantized weights to lie. Apart from quantize.py, so that boards
are known without numpy: a run of a model by its name stays within its plan."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Layout:
    """Rows interleaved, and columns kept together, in a tile of quantized weights."""

    rows: int
    group: int

    @property
    def code(self) -> int:
        return self.rows | self.group << 8
