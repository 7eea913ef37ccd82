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
def dequantize(
    kind: str, stored: npt.NDArray[np.uint8], values: npt.NDArray[np.float32]
) -> None: ...
