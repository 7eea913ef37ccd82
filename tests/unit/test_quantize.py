"""Quantized bytes: gguf's, bit for bit, where that is asked for, laid out as SPEC 3.5 says."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from qedge.runtime._engine import TYPES
from qedge.runtime.errors import ImageError, UsageError
from qedge.toolkit.quant import _tiles
from qedge.toolkit.quant.quantize import BLOCK, GGML, SEARCH, pack, packed_bytes
from qedge.toolkit.source.model import SourceTensor

RNG = np.random.default_rng(5)
QUANTS = ("q4_0", "q8_0")
PLAIN = 1  # rows of one: GGML's own order of blocks


def awkward(rows: int, columns: int) -> np.ndarray:
    """Values with zero rows, ties of the largest, halves to round, tiny and huge scales."""
    values = RNG.standard_normal((rows, columns)).astype(np.float32)
    values[0] = 0
    values[1, :BLOCK] = np.float32(1e-30)
    values[2] *= np.float32(1e4)
    values[3, 3] = -np.abs(values[3]).max() * 2  # the largest is negative
    values[4, 4:8] = (4, -4, 4, -4)
    values[5, 4:8] = (-4, 4, -4, 4)
    values[6] = np.arange(columns) % 255 / 2 - 63.5
    values[7] *= np.exp2(np.arange(columns) % 50 - 40).astype(np.float32)
    values[8] = -0.0
    values[9] *= np.float32(1e-7)
    return values


def stored_as(values: np.ndarray, kind: str, order: np.ndarray | None = None) -> SourceTensor:
    """The values as a file holds them. With order: stored row order[r] is row r."""
    place = values
    if order is not None:
        place = np.empty_like(values)
        place[order] = values
    raw = gguf.quants.quantize(place, gguf.GGMLQuantizationType[kind])
    rows, columns = values.shape
    return SourceTensor("w", rows, columns, kind, raw.view(np.uint8), Path("model"), order)


def packed(tensor: SourceTensor, kind: str, layout: int = PLAIN) -> bytes:
    return b"".join(piece.tobytes() for piece in pack(tensor, kind, layout, None, GGML))


def ggufs(values: np.ndarray, kind: str) -> np.ndarray:
    """(rows, bytes of a row), by numpy; partial blocks are filled up with zeros."""
    missing = -values.shape[1] % BLOCK
    with np.errstate(all="ignore"):
        return gguf.quants.quantize(
            np.pad(values, ((0, 0), (0, missing))), gguf.GGMLQuantizationType[kind.upper()]
        )


@pytest.mark.parametrize("columns", [96, 172, 32, 8])
@pytest.mark.parametrize("source", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("kind", QUANTS)
def test_bytes_equal_ggufs_numpy_quantizer(kind: str, source: str, columns: int) -> None:
    tensor = stored_as(awkward(200, columns), source)
    values = tensor.read(0, 200)
    assert packed(tensor, kind) == ggufs(values, kind).tobytes()


@pytest.mark.parametrize("kind", QUANTS)
def test_every_f16_is_read_for_what_it_is(kind: str) -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    finite = bits[(bits & 0x7C00) != 0x7C00].reshape(-1, 64)
    tensor = SourceTensor("w", *finite.shape, "F16", finite.view(np.uint8), Path("model"))
    assert packed(tensor, kind) == ggufs(finite.view(np.float16).astype("f4"), kind).tobytes()


@pytest.mark.parametrize("kind", QUANTS)
def test_scales_round_to_f16_as_ieee_says(kind: str) -> None:
    """Scales over all exponents of f16, its subnormals and what runs over among them."""
    scales = np.exp2(RNG.uniform(-30, 19, 40000)).astype(np.float32).reshape(-1, 1)
    values = np.concatenate([scales * 127, scales * -8] * 16, axis=1)
    tensor = stored_as(values, "F32")
    assert packed(tensor, kind) == ggufs(values, kind).tobytes()


@pytest.mark.parametrize("kind", QUANTS)
def test_rows_are_taken_in_their_order(kind: str) -> None:
    values, order = awkward(40, 64), RNG.permutation(40)
    tensor = stored_as(values, "F16", order)
    whole = stored_as(values, "F16")
    for layout in (PLAIN, 16):
        assert packed(tensor, kind, layout) == packed(whole, kind, layout)


def value_at(
    tiles: np.ndarray, kind: str, columns: int, layout: int, row: int, column: int
) -> float:
    """One weight, read from the tiles by SPEC 3.5's formulas."""
    R = layout
    tile = tiles.reshape(-1, columns // BLOCK, R * (18 if kind == "q4_0" else 34))
    tile = tile[row // R, column // 32]
    r, c = row % R, column % 32
    scale = tile[2 * r : 2 * r + 2].view("<f2")[0]
    j = c % 16 if kind == "q4_0" else c
    byte = int(tile[2 * R + j // 4 * R * 4 + r * 4 + j % 4])
    if kind == "q8_0":
        return float(scale) * (byte - 256 if byte > 127 else byte)
    return float(scale) * ((byte & 15 if c < 16 else byte >> 4) - 8)


@pytest.mark.parametrize("source", ["F32", "the same"])
@pytest.mark.parametrize("kind", QUANTS)
@pytest.mark.parametrize("layout", [1, 4, 16])
def test_every_layout_holds_every_weight(kind: str, layout: int, source: str) -> None:
    values = awkward(21, 64)
    tensor = stored_as(values, source if source == "F32" else kind.upper())
    plain = gguf.quants.dequantize(ggufs(values, kind), gguf.GGMLQuantizationType[kind.upper()])
    tiles = np.frombuffer(packed(tensor, kind, layout), np.uint8)
    assert tiles.nbytes == packed_bytes(kind, layout, 21, 64)
    for row in range(21):
        for column in range(64):
            assert value_at(tiles, kind, 64, layout, row, column) == plain[row, column]


@pytest.mark.parametrize("kind", QUANTS)
def test_other_block_types_go_through_their_values(kind: str) -> None:
    raw = RNG.integers(0, 256, (8, 2 * 210), np.uint8)  # Q6_K, of 256 columns a block
    raw[:, 208::210], raw[:, 209::210] = 0x34, 0x2C
    tensor = SourceTensor("w", 8, 512, "Q6_K", raw, Path("model"))
    assert packed(tensor, kind) == ggufs(tensor.read(0, 8), kind).tobytes()


@pytest.mark.parametrize("kind", QUANTS)
@pytest.mark.parametrize("source", ["F32", "F16", "BF16", "the same"])
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_a_weight_that_is_not_finite_is_refused_by_row(
    kind: str, source: str, value: float
) -> None:
    source = kind.upper() if source == "the same" else source
    tensor = stored_as(awkward(2000, 64), source)
    for row in (1999, 1234):
        if source in ("Q4_0", "Q8_0"):
            tensor.stored[row, 1] = 0x7C
        else:
            width = 4 if source == "F32" else 2
            kinds = {"F32": np.float32(value), "F16": np.float16(value)}
            raw = (
                kinds[source].tobytes() if source in kinds else np.float32(value).tobytes()[2:]
            )
            tensor.stored[row, 5 * width : 6 * width] = np.frombuffer(raw, np.uint8)
    with pytest.raises(ImageError, match="w row 1234 holds a weight that is not finite"):
        packed(tensor, kind, 16)


def test_a_large_tensor_comes_in_pieces_and_in_order() -> None:
    tensor = stored_as(awkward(9000, 1024), "F16")
    pieces = list(pack(tensor, "q8_0", PLAIN, None, GGML))
    assert len(pieces) > 4
    assert b"".join(map(bytes, pieces)) == ggufs(tensor.read(0, 9000), "q8_0").tobytes()


@pytest.mark.parametrize("kind", ["q4_0", "q5_1", "a4", "a5", "q4_K", "q6_K"])
def test_searched_rows_are_nearer_where_it_counts(kind: str) -> None:
    values = RNG.standard_normal((32, 512)).astype(np.float32)
    counts = np.exp(RNG.standard_normal(512) * 2).astype(np.float32)
    tensor = stored_as(values, "F32")
    errors = []
    for importance in (counts, None):
        groups = np.concatenate(list(pack(tensor, kind, 16, importance, SEARCH)))
        found = np.empty_like(values)
        _tiles.unpack(groups, TYPES[kind], 16, found)
        errors.append(float((counts * (found - values) ** 2).sum()))
    assert errors[0] < 0.97 * errors[1]


def test_a_type_that_ggml_does_not_round_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match="a4 is not made here by ggml's rounding"):
        packed(stored_as(awkward(16, 32), "F32"), "a4")


def test_an_unknown_type_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown type q3_x"):
        packed(stored_as(awkward(16, 32), "F32"), "q3_x")


@pytest.mark.parametrize(
    "change",
    [
        {"columns": 65},
        {"columns": 63, "source": TYPES["q8_0"]},
        {"source": TYPES["q4_0"]},
        {"source": 5},
        {"target": TYPES["f32"]},
        {"target": TYPES["q4_K"]},
        {"first": 8},
        {"stop": 33},
        {"stop": 0},
        {"layout": 0},
        {"layout": 8},
        {"out": np.empty(2 * 16 * 68 - 1, np.uint8)},
    ],
)
def test_the_binding_refuses_what_does_not_fit(change: dict[str, object]) -> None:
    call = {
        "stored": np.zeros((32, 128), np.uint8),
        "order": None,
        "columns": 64,
        "source": TYPES["f16"],
        "target": TYPES["q8_0"],
        "first": 0,
        "stop": 32,
        "layout": 16,
        "out": np.empty(2 * 16 * 68, np.uint8),
    }
    assert _tiles.pack(**call) == -1
    with pytest.raises(ValueError, match=r"no way|rows|columns|bytes"):
        _tiles.pack(**{**call, **change})
