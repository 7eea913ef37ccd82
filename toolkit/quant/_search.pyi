import numpy as np
import numpy.typing as npt

KINDS: dict[str, int]

def block(kind: str) -> int: ...
def row_bytes(kind: str, columns: int) -> int: ...
def quantize(
    kind: str,
    values: npt.NDArray[np.float32],
    importance: npt.NDArray[np.float32] | None,
    out: npt.NDArray[np.uint8],
) -> int: ...
def can_spread(kind: str) -> bool: ...
def triangle(columns: int) -> int: ...
def add_products(
    x: npt.NDArray[np.float32], first: int, sums: npt.NDArray[np.float32]
) -> None: ...
def factor(
    correlations: npt.NDArray[np.int8],
    roots: npt.NDArray[np.float32],
    kept: float,
    factors: npt.NDArray[np.float32],
    weights: npt.NDArray[np.float32],
) -> None: ...
def quantize_spread(
    kind: str,
    values: npt.NDArray[np.float32],
    piece: int,
    factors: npt.NDArray[np.float32],
    weights: npt.NDArray[np.float32],
    out: npt.NDArray[np.uint8],
) -> int: ...
def dequantize(
    kind: str, stored: npt.NDArray[np.uint8], values: npt.NDArray[np.float32]
) -> None: ...
