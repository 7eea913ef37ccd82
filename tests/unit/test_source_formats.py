"""One tiny model in three formats gives one SourceModel; every number comes from the file."""

from __future__ import annotations

import hashlib
import json
import tracemalloc
from pathlib import Path

import gguf
import numpy as np
import pytest
from support.tiny_models import (
    CHATML,
    TinyConfig,
    hf_tensors,
    make_weights,
    write_gguf,
    write_hf,
    write_llama2c,
)

from qedge.runtime.errors import ImageError, UsageError
from qedge.toolkit.source.gguf_file import read_metadata
from qedge.toolkit.source.model import RopeScaling, SourceModel, expected_shapes
from qedge.toolkit.source.opening import open_source

CONFIG = TinyConfig()
UNTIED = TinyConfig(tied=False, kv_heads=8)
WIDE_HEADS = TinyConfig(heads=4, kv_heads=2, head_size=32)


def whole(model: SourceModel, name: str) -> np.ndarray:
    tensor = model.tensors[name]
    return tensor.read(0, tensor.rows)


def assert_same_weights(model: SourceModel, weights: dict[str, np.ndarray]) -> None:
    assert set(model.tensors) == set(weights)
    for name, values in weights.items():
        np.testing.assert_array_equal(whole(model, name), np.atleast_2d(values), name)


@pytest.mark.parametrize("config", [CONFIG, UNTIED, WIDE_HEADS])
def test_gguf_gives_the_weights_that_were_written(tmp_path: Path, config: TinyConfig) -> None:
    weights = make_weights(1, config)
    model = open_source(write_gguf(tmp_path / "m.gguf", config, weights))
    assert_same_weights(model, weights)
    assert list(model.tensors) == list(expected_shapes(model.config))


@pytest.mark.parametrize("config", [CONFIG, UNTIED, WIDE_HEADS])
def test_hf_folder_gives_the_weights_of_the_gguf(tmp_path: Path, config: TinyConfig) -> None:
    weights = make_weights(2, config)
    assert_same_weights(open_source(write_hf(tmp_path / "hf", config, weights)), weights)


@pytest.mark.parametrize("config", [CONFIG, UNTIED, TinyConfig(ffn=172, layers=3)])
def test_llama2c_gives_the_weights_of_the_gguf(tmp_path: Path, config: TinyConfig) -> None:
    weights = make_weights(3, config)
    tokenizer = write_llama2c(tmp_path / "m.bin", config, weights)
    assert_same_weights(open_source(tmp_path / "m.bin", tokenizer), weights)


def test_three_formats_give_equal_configs_but_for_their_names(tmp_path: Path) -> None:
    weights = make_weights(4, CONFIG)
    tokenizer = write_llama2c(tmp_path / "tiny.bin", CONFIG, weights)
    a = open_source(write_gguf(tmp_path / "m.gguf", CONFIG, weights)).config
    b = open_source(write_hf(tmp_path / "tiny", CONFIG, weights)).config
    c = open_source(tmp_path / "tiny.bin", tokenizer).config
    assert b == c
    assert a.norm_eps == np.float32(1e-5)  # GGUF stores float32, config.json a decimal
    assert (a.dim, a.ffn, a.heads, a.kv_heads, a.head_size) == (64, 96, 8, 4, 8)
    assert (a.layers, a.context, a.vocab_size, a.tied) == (2, 128, 300, True)
    assert (a.name, a.architecture, a.rope_base) == ("tiny", "llama", 10000.0)


def test_permuted_rows_keep_every_attention_score(tmp_path: Path) -> None:
    """Half-split rotation of HF's rows and pair rotation of ours give equal products."""
    weights = make_weights(5, CONFIG)
    stored = hf_tensors(CONFIG, weights)
    model = open_source(write_hf(tmp_path / "hf", CONFIG, weights))
    x = np.random.default_rng(5).standard_normal(CONFIG.dim)
    half = CONFIG.head // 2
    angles = 7 * CONFIG.rope_base ** (-np.arange(half) / half)
    turn = np.exp(1j * angles)
    for part, name in (("attn_q", "q_proj"), ("attn_k", "k_proj")):
        split = (stored[f"model.layers.0.self_attn.{name}.weight"] @ x).reshape(-1, 2, half)
        pairs = (whole(model, f"blk.0.{part}.weight") @ x).reshape(-1, half, 2)
        turned_split = (split[:, 0] + 1j * split[:, 1]) * turn
        turned_pairs = (pairs[..., 0] + 1j * pairs[..., 1]) * turn
        np.testing.assert_allclose(turned_split, turned_pairs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_half_precision_folder_reads_as_rounded(tmp_path: Path, dtype: str) -> None:
    weights = make_weights(6, CONFIG)
    model = open_source(write_hf(tmp_path / "hf", CONFIG, weights, dtype=dtype))
    kind = gguf.GGMLQuantizationType[dtype]
    for name, values in weights.items():
        rounded = gguf.quants.dequantize(gguf.quants.quantize(values, kind), kind)
        np.testing.assert_array_equal(whole(model, name), np.atleast_2d(rounded), name)
        assert model.tensors[name].source_type == dtype


def test_sharded_folder_equals_whole_folder(tmp_path: Path) -> None:
    weights = make_weights(7, CONFIG)
    assert_same_weights(
        open_source(write_hf(tmp_path / "hf", CONFIG, weights, shards=3)), weights
    )


# fmt: off
DECODED_TYPES = [
    "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K",
    "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ1_S", "IQ1_M", "IQ4_NL", "IQ4_XS",
    "TQ1_0", "TQ2_0", "F16", "BF16",
]
# fmt: on


@pytest.mark.parametrize("kind", DECODED_TYPES)
def test_every_type_reads_as_gguf_decodes_it(tmp_path: Path, kind: str) -> None:
    config = TinyConfig(layers=1, dim=256, ffn=256)
    weights = make_weights(8, config)
    name = "blk.0.ffn_up.weight"
    del weights[name]
    number = gguf.GGMLQuantizationType[kind]
    block, size = gguf.GGML_QUANT_SIZES[number]
    random = np.random.default_rng(8)
    # Scales stay finite: no byte has an exponent's top bit.
    blocks = random.integers(0, 0x3F, (256, 256 // block * size), dtype=np.uint8)
    path = write_gguf(tmp_path / "m.gguf", config, weights, raw={name: (blocks, kind)})
    tensor = open_source(path).tensors[name]
    expected = gguf.quants.dequantize(blocks, number).reshape(256, 256)
    np.testing.assert_array_equal(tensor.read(0, 256), expected)
    np.testing.assert_array_equal(tensor.read(37, 41), expected[37:41])


@pytest.mark.parametrize("kind", ["Q4_0", "Q8_0", "F16", "F32"])
def test_raw_gives_the_blocks_of_the_file(tmp_path: Path, kind: str) -> None:
    weights = make_weights(9, CONFIG)
    name = "blk.1.ffn_down.weight"
    model = open_source(write_gguf(tmp_path / "m.gguf", CONFIG, weights, {"blk.*": kind}))
    blocks = gguf.quants.quantize(weights[name], gguf.GGMLQuantizationType[kind])
    raw = model.tensors[name].raw(3, 9)
    assert raw is not None
    assert bytes(raw) == blocks[3:9].tobytes()


def test_raw_is_none_for_a_type_that_an_image_has_not(tmp_path: Path) -> None:
    weights = make_weights(9, CONFIG)
    model = open_source(write_gguf(tmp_path / "m.gguf", CONFIG, weights, {"blk.*": "Q4_1"}))
    assert model.tensors["blk.0.attn_q.weight"].raw(0, 1) is None


def test_raw_of_a_folder_is_in_pair_order(tmp_path: Path) -> None:
    weights = make_weights(10, CONFIG)
    model = open_source(write_hf(tmp_path / "hf", CONFIG, weights))
    raw = model.tensors["blk.0.attn_k.weight"].raw(1, 30)
    assert raw is not None
    assert bytes(raw) == weights["blk.0.attn_k.weight"][1:30].tobytes()


def test_spans_cover_every_row_once(tmp_path: Path) -> None:
    weights = make_weights(9, CONFIG)
    tensor = open_source(write_gguf(tmp_path / "m.gguf", CONFIG, weights)).tensors[
        "token_embd.weight"
    ]
    rows = [row for start, stop in tensor.spans(5000) for row in range(start, stop)]
    assert rows == list(range(CONFIG.vocab_size))
    assert list(tensor.spans(1))[0] == (0, 1)


def test_reading_a_few_rows_allocates_a_few_rows(tmp_path: Path) -> None:
    """Matrices of 512 MB (a file of holes) are opened, and rows of one read, in 30 MB."""
    config = TinyConfig(layers=1, dim=32, ffn=1 << 22, heads=4, kv_heads=2, vocab_size=290)
    small = TinyConfig(layers=1, dim=32, ffn=32, heads=4, kv_heads=2, vocab_size=290)
    path = write_hf(tmp_path / "hf", small, make_weights(1, small))
    file = path / "model.safetensors"
    header, places, at = {}, expected_hf_shapes(config), 0
    for name, shape in places.items():
        size = 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    with file.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        stream.truncate(8 + len(text) + at)
    settings = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(settings | {"intermediate_size": 1 << 22}))
    tracemalloc.start()
    tensor = open_source(path).tensors["blk.0.ffn_gate.weight"]
    values = tensor.read(tensor.rows - 1000, tensor.rows)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert values.shape == (1000, 32)
    assert tensor.rows * tensor.columns * 4 > 500 << 20
    assert peak < 30 << 20


def expected_hf_shapes(config: TinyConfig) -> dict[str, list[int]]:
    query, key = config.heads * config.head, config.kv_heads * config.head
    block = "model.layers.0."
    return {
        "model.embed_tokens.weight": [config.vocab_size, config.dim],
        "model.norm.weight": [config.dim],
        block + "input_layernorm.weight": [config.dim],
        block + "self_attn.q_proj.weight": [query, config.dim],
        block + "self_attn.k_proj.weight": [key, config.dim],
        block + "self_attn.v_proj.weight": [key, config.dim],
        block + "self_attn.o_proj.weight": [config.dim, query],
        block + "post_attention_layernorm.weight": [config.dim],
        block + "mlp.gate_proj.weight": [config.ffn, config.dim],
        block + "mlp.up_proj.weight": [config.ffn, config.dim],
        block + "mlp.down_proj.weight": [config.dim, config.ffn],
    }


def test_gguf_rope_factors_become_the_scaling(tmp_path: Path) -> None:
    factors = np.array([1.0, 1.5, 8.0, 8.0], np.float32)
    weights = make_weights(1, CONFIG)
    path = write_gguf(tmp_path / "m.gguf", CONFIG, weights, rope_factors=factors)
    model = open_source(path)
    assert model.config.rope_scaling == RopeScaling("factors", factors=(1.0, 1.5, 8.0, 8.0))
    assert "rope_freqs.weight" not in model.tensors


def test_gguf_linear_scaling_is_read(tmp_path: Path) -> None:
    extra = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
    path = write_gguf(tmp_path / "m.gguf", CONFIG, make_weights(1, CONFIG), extra=extra)
    assert open_source(path).config.rope_scaling == RopeScaling("linear", factor=4.0)


LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 8192}


@pytest.mark.parametrize(
    "settings",
    [
        {"rope_scaling": {"rope_type": "llama3", **LLAMA3}, "rope_theta": 5e5},
        {
            "rope_theta": None,
            "rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5} | LLAMA3,
        },
    ],
)
def test_hf_llama3_scaling_is_read_from_either_place(tmp_path: Path, settings: dict) -> None:
    folder = write_hf(tmp_path / "hf", CONFIG, make_weights(1, CONFIG), settings=settings)
    config = open_source(folder).config
    assert config.rope_base == 500000.0
    assert config.rope_scaling == RopeScaling("llama3", 8.0, 1.0, 4.0, 8192)


def test_mistral_without_sliding_window_is_a_llama(tmp_path: Path) -> None:
    settings = {"architectures": ["MistralForCausalLM"], "sliding_window": None}
    weights = make_weights(1, CONFIG)
    assert_same_weights(
        open_source(write_hf(tmp_path / "hf", CONFIG, weights, settings=settings)), weights
    )


def test_tied_folder_ignores_a_stored_output_matrix(tmp_path: Path) -> None:
    weights = make_weights(1, UNTIED)
    folder = write_hf(tmp_path / "hf", UNTIED, weights, settings={"tie_word_embeddings": True})
    assert "output.weight" not in open_source(folder).tensors


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        (CHATML, CHATML),
        (None, None),
        ([{"name": "tool", "template": "t"}, {"name": "default", "template": "d"}], "d"),
        ([{"name": "tool", "template": "t"}], None),
    ],
)
def test_hf_chat_template_is_the_text_or_the_default(
    tmp_path: Path, stored: object, expected: str | None
) -> None:
    folder = write_hf(tmp_path / "hf", CONFIG, make_weights(1, CONFIG), chat_template=stored)
    assert open_source(folder).chat_template == expected


def test_hf_jinja_file_goes_before_the_setting(tmp_path: Path) -> None:
    folder = write_hf(tmp_path / "hf", CONFIG, make_weights(1, CONFIG))
    (folder / "chat_template.jinja").write_text("of the file")
    assert open_source(folder).chat_template == "of the file"


def test_gguf_chat_template_is_read(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", CONFIG, make_weights(1, CONFIG))
    assert open_source(path).chat_template == CHATML


def test_vocabularies_of_gguf_and_folder_are_equal(tmp_path: Path) -> None:
    weights = make_weights(1, CONFIG)
    a = open_source(write_gguf(tmp_path / "m.gguf", CONFIG, weights)).vocabulary
    b = open_source(write_hf(tmp_path / "hf", CONFIG, weights)).vocabulary
    assert len(a.tokens) == CONFIG.vocab_size
    assert (a.tokens, a.merges, a.bos, a.eos) == (b.tokens, b.merges, b.bos, b.eos)


def test_vocabularies_of_gguf_and_llama2c_are_equal(tmp_path: Path) -> None:
    weights = make_weights(1, CONFIG)
    path = write_gguf(tmp_path / "m.gguf", CONFIG, weights, tokenizer="spm")
    tokenizer = write_llama2c(tmp_path / "m.bin", CONFIG, weights)
    a, b = open_source(path).vocabulary, open_source(tmp_path / "m.bin", tokenizer).vocabulary
    assert (a.tokens, a.scores, a.types) == (b.tokens, b.scores, b.types)


def test_metadata_equals_what_gguf_reader_finds(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", CONFIG, make_weights(1, CONFIG), tokenizer="spm")
    found = read_metadata(path)
    reader = gguf.GGUFReader(path)
    fields = {name: f for name, f in reader.fields.items() if not name.startswith("GGUF.")}
    assert set(found) == set(fields)
    for name, field in fields.items():
        value = found[name]
        if isinstance(value, list):
            value = [item.decode() for item in value]
        expected = field.contents()
        assert (value.tolist() if isinstance(value, np.ndarray) else value) == expected, name


def test_metadata_of_a_vocabulary_without_tensors_is_read(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "v.gguf", CONFIG, {})
    tokens = read_metadata(path)["tokenizer.ggml.tokens"]
    assert isinstance(tokens, list)
    assert tokens[0] == b"<|endoftext|>"
    with pytest.raises(ImageError, match="holds a vocabulary and no tensors"):
        open_source(path)


def test_hash_of_a_gguf_is_the_hash_of_the_file(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", CONFIG, make_weights(1, CONFIG))
    assert open_source(path).sha256() == hashlib.sha256(path.read_bytes()).hexdigest()


def test_hash_of_a_folder_follows_content_not_place(tmp_path: Path) -> None:
    weights = make_weights(1, CONFIG)
    first = open_source(write_hf(tmp_path / "a", CONFIG, weights, shards=2)).sha256()
    second = open_source(write_hf(tmp_path / "b", CONFIG, weights, shards=2))
    assert second.sha256() == first
    (tmp_path / "b" / "generation_config.json").write_text("{}")
    assert open_source(tmp_path / "b").sha256() != first


def test_hash_of_a_checkpoint_covers_its_tokenizer(tmp_path: Path) -> None:
    tokenizer = write_llama2c(tmp_path / "m.bin", CONFIG, make_weights(1, CONFIG))
    model = open_source(tmp_path / "m.bin", tokenizer)
    before = model.sha256()
    tokenizer.write_bytes(tokenizer.read_bytes()[:-1] + b"X")
    assert open_source(tmp_path / "m.bin", tokenizer).sha256() != before


def test_checkpoint_without_a_tokenizer_asks_for_one(tmp_path: Path) -> None:
    write_llama2c(tmp_path / "m.bin", CONFIG, make_weights(1, CONFIG))
    with pytest.raises(UsageError, match="--tokenizer FILE"):
        open_source(tmp_path / "m.bin")


def test_tokenizer_beside_a_gguf_is_refused(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", CONFIG, make_weights(1, CONFIG))
    with pytest.raises(UsageError, match="carries its own tokenizer"):
        open_source(path, tmp_path / "tokenizer.bin")
