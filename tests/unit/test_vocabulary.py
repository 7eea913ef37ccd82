"""Reading tokenizers from GGUF metadata and from llama2.c's tokenizer.bin."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from qedge.runtime._engine import Vocab
from qedge.runtime.errors import ImageError
from qedge.toolkit.make.vocabulary_table import pack
from qedge.toolkit.source.vocabulary.gguf import from_gguf
from qedge.toolkit.source.vocabulary.llama2c import from_llama2c
from qedge.toolkit.source.vocabulary.value import BYTE, BYTE_NAMES, CONTROL, USER_DEFINED

KEY = "tokenizer.ggml."


def bpe(**changes: object) -> dict[str, object]:
    metadata: dict[str, object] = {
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": [b"a", b"b", b"ab", "Ġ".encode(), b"<|im_end|>", b"  "],
        "token_type": [1, 1, 1, 1, 1, 4],
        "merges": [b"a b"],
        "bos_token_id": 4,
        "eos_token_id": 4,
    } | changes
    return {KEY + name: value for name, value in metadata.items() if value is not None}


def spm(**changes: object) -> dict[str, object]:
    metadata: dict[str, object] = {
        "model": "llama",
        "tokens": ["<unk>", "<s>", "</s>", "▁a", "<0x41>"],
        "token_type": [2, 3, 3, 1, 6],
        "scores": [0.0, 0.0, 0.0, -1.0, 0.0],
    } | changes
    return {KEY + name: value for name, value in metadata.items() if value is not None}


def message(metadata: dict[str, object]) -> str:
    with pytest.raises(ImageError) as failure:
        from_gguf(metadata)
    return str(failure.value)


def test_byte_level_tokens_become_raw_bytes_and_special_ones_stay_as_written():
    read = from_gguf(bpe())
    assert read.tokens == (b"a", b"b", b"ab", b" ", b"<|im_end|>", b"  ")
    assert read.merges == ((b"a", b"b"),)


def test_a_token_that_ends_a_turn_by_its_text_is_control_and_stops():
    read = from_gguf(bpe(eos_token_id=2))
    assert read.types[4] == CONTROL
    assert read.stops == (2, 4)


def test_end_of_turn_ids_of_the_metadata_stop():
    assert from_gguf(bpe(eot_token_id=1)).stops == (1, 4)


def test_fill_in_the_middle_padding_stops_and_its_prefix_does_not():
    read = from_gguf(
        bpe(tokens=[b"a", b"<|fim_pad|>", b"<|fim_prefix|>"], token_type=None, merges=[],
            bos_token_id=None, eos_token_id=None)
    )  # fmt: skip
    assert read.stops == (1,)
    assert read.types == (1, CONTROL, CONTROL)


@pytest.mark.parametrize(
    ("name", "pretokenizer", "ignores_merges", "adds_bos"),
    [
        ("llama-bpe", "llama3", True, True),
        ("dbrx", "llama3", False, False),
        ("glm4", "llama3", True, False),
        ("starcoder", "smollm", False, False),
        ("megrez", "qwen2", False, False),
    ],
)
def test_names_of_pretokenizers_map_to_expressions(
    name, pretokenizer, ignores_merges, adds_bos
):
    read = from_gguf(bpe(pre=name))
    found = read.pretokenizer, read.ignore_merges, read.add_bos
    assert found == (pretokenizer, ignores_merges, adds_bos)


def test_an_unknown_pretokenizer_is_refused_with_the_known_ones():
    text = message(bpe(pre="viking"))
    assert "'viking'" in text and "qwen2" in text and "onvert" not in text
    assert "missing" in message(bpe(pre=None)) and "onvert" in message(bpe(pre=None))


def test_an_unknown_tokenizer_model_is_refused():
    assert "'bert'" in message(bpe(model="bert"))
    assert "missing" in message(bpe(model=None))


@pytest.mark.parametrize(
    ("metadata", "part"),
    [
        (bpe(tokens=None), "tokens is missing"),
        (bpe(tokens=[]), "no tokens"),
        (bpe(tokens="a"), "tokens is not an array"),
        (bpe(tokens=[b"a", 7]), "tokens[1]"),
        (bpe(tokens=[b"a", b"a"]), "tokens 0 and 1"),
        (bpe(token_type=[1]), "token_type has 1 entries"),
        (bpe(token_type=["x"] * 6), "token_type has an entry"),
        (bpe(merges=None), "merges is missing"),
        (bpe(merges=[b"ab"]), "merges[0]"),
        (bpe(merges=[b"a "]), "merges[0]"),
        (bpe(merges=["a 你".encode()]), "merges[0]"),
        (bpe(eos_token_id=6), "EOS id is 6"),
        (bpe(eos_token_id="x"), "eos_token_id is 'x'"),
        (bpe(pre=7), "pre is 7"),
        (spm(scores=None), "scores is missing"),
        (spm(scores=[0.0]), "scores has 1 entries"),
        (spm(scores=[0.0, 0.0, 0.0, float("nan"), 0.0]), "not a number"),
        (spm(bos_token_id=9), "BOS id is 9"),
    ],
)
def test_bad_metadata_is_an_image_error_that_names_the_place(metadata, part):
    assert part in message(metadata)


def test_spm_defaults_are_those_of_llama():
    read = from_gguf(spm())
    assert (read.bos, read.eos, read.unknown, read.stops) == (1, 2, 0, (2,))
    assert (read.add_bos, read.add_eos, read.add_space_prefix) == (True, False, True)


def test_arrays_of_numpy_are_read_like_lists():
    arrays = {"token_type": np.array([2, 3, 3, 1, 6], np.int32),
              "scores": np.array([0, 0, 0, -1, 0], np.float32)}  # fmt: skip
    assert from_gguf(spm(**arrays)) == from_gguf(spm())


def test_phi3_is_known_by_its_name():
    metadata = spm(token_type=[2, 3, 3, 4, 6]) | {"general.name": "Phi-3 Mini"}
    assert from_gguf(metadata).types[3] == USER_DEFINED
    assert from_gguf(metadata).strips_right == {2, 3}


def llama2c(tokens: list[tuple[float, bytes]]) -> bytes:
    packed = struct.pack("<I", max(len(text) for _, text in tokens))
    return packed + b"".join(struct.pack("<fi", score, len(t)) + t for score, t in tokens)


def llama2c_tokens() -> list[tuple[float, bytes]]:
    first = [(0.0, b"<unk>"), (0.0, b"\n<s>\n"), (0.0, b"\n</s>\n")]
    rest = [
        (-1.0, b" t"),
        (-2.0, b"he"),
        (-5.0, b" "),
        (-6.0, b"t"),
        (-7.0, b"h"),
        (-8.0, b"e"),
    ]
    return first + [(0.0, name) for name in BYTE_NAMES] + rest


def test_llama2c_spaces_are_marks_and_its_first_tokens_have_their_usual_texts(tmp_path):
    path = tmp_path / "tokenizer.bin"
    path.write_bytes(llama2c(llama2c_tokens()))
    read = from_llama2c(path, 265)
    assert read.tokens[:4] == (b"<unk>", b"<s>", b"</s>", b"<0x00>")
    assert read.tokens[259] == "▁t".encode()
    assert (read.types[3], read.types[258], read.types[259]) == (BYTE, BYTE, 1)
    assert Vocab(pack(read)).encode(b"the the!", bos=True) == [1, 259, 260, 259, 260, 36]


@pytest.mark.parametrize(
    ("damage", "size", "part"),
    [
        (lambda data: data[:-1], 265, "token 264"),
        (lambda data: data[:30], 265, "ends after 2 of 265"),
        (lambda data: data, 266, "ends after 265 of 266"),
        (lambda data: data, 264, "are left after 264"),
        (lambda data: data[:8] + b"\xff" * 4 + data[12:], 265, "token 0"),
        (lambda data: b"", 265, "ends after 0"),
    ],
)
def test_a_damaged_llama2c_file_is_an_image_error(tmp_path, damage, size, part):
    path = tmp_path / "tokenizer.bin"
    path.write_bytes(damage(llama2c(llama2c_tokens())))
    with pytest.raises(ImageError, match=part):
        from_llama2c(path, size)


def test_a_missing_llama2c_file_is_an_image_error(tmp_path):
    with pytest.raises(ImageError, match="none.bin"):
        from_llama2c(tmp_path / "none.bin", 3)
