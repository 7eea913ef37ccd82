"""The tokenizer of the engine on tiny vocabularies; expected ids are llama.cpp's."""

from __future__ import annotations

import pytest

from qedge.runtime._engine import EngineError, Vocab
from qedge.toolkit.make.vocabulary_table import pack
from qedge.toolkit.source.vocabulary.gguf import from_gguf
from qedge.toolkit.source.vocabulary.value import BYTE_OF_LETTER

ERR_TEXT, ERR_USAGE = -6, -9
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
LETTER_OF_BYTE = {byte: letter for letter, byte in BYTE_OF_LETTER.items()}
MERGE_LINES = (
    "h e|l l|he ll|hell o|Ġ t|h e|Ġt he|' s|' S|1 2|12 3|Ġ 1|Ġ Ġ|ĠĠ ĠĠ|Ċ Ċ|! !|Ġ !|!! !|a b|b c"
    "|ab c|a bc|Ã ©|Ġ l|Ġl l"
)
MERGES = MERGE_LINES.split("|")
END, UNUSED_TOKEN, SPACE_TOKEN, TAG = 279, 280, 281, 282


def bpe_metadata(name: str) -> dict[str, object]:
    """All bytes, what MERGES make, a control, an unused and two user-defined tokens."""
    texts = [LETTER_OF_BYTE[byte] for byte in range(256)]
    texts += dict.fromkeys(merge.replace(" ", "") for merge in MERGES)
    types = [NORMAL] * len(texts) + [CONTROL, UNUSED, USER_DEFINED, USER_DEFINED]
    texts += ["<|im_end|>", "<pad>", "<sp>", "<s"]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": name,
        "tokenizer.ggml.tokens": [text.encode() for text in texts],
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": [merge.encode() for merge in MERGES],
        "tokenizer.ggml.bos_token_id": END,
        "tokenizer.ggml.eos_token_id": END,
    }


def spm_metadata() -> dict[str, object]:
    scored = {
        "▁": -30.0, "a": -31.0, "b": -32.0, "c": -33.0, "ab": -3.0, "bc": -2.0, "abc": -8.0,
        "▁a": -4.0, "▁▁": -1.0, "▁▁▁▁": -0.5, "é": -40.0, "aa": -3.0, "<": -41.0, "s": -42.0,
        ">": -43.0, "<s": -44.0, "<|user|>": 0.0, "\n\n": 0.0,
    }  # fmt: skip
    texts = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *scored]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [text.encode() for text in texts],
        "tokenizer.ggml.token_type": [UNKNOWN, CONTROL, CONTROL]
        + [BYTE] * 256
        + [NORMAL] * 16
        + [CONTROL, USER_DEFINED],
        "tokenizer.ggml.scores": [0.0] * 259 + list(scored.values()),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }


def vocab(metadata: dict[str, object]) -> Vocab:
    return Vocab(pack(from_gguf(metadata)))


BPE_CASES = [
    ("gpt-2", "hello the hell", [259, 261, 32, 258]),
    (
        "gpt-2",
        "it's IT'S  123 1234",
        [105, 116, 262, 32, 73, 84, 39, 83, 32, 32, 265, 32, 265, 52],
    ),
    ("gpt-2", "  \n\n  hello!!!\r\n !", [267, 269, 32, 32, 259, 272, 13, 10, 271]),
    ("gpt-2", "abcabé é", [275, 273, 276, 32, 276]),
    ("gpt-2", "12٣4", [264, 217, 163, 52]),
    ("gpt-2", "\u3000\u3000the", [227, 128, 128, 227, 128, 128, 116, 256]),
    ("smollm", "it's IT'S  123", [105, 116, 262, 32, 73, 84, 39, 83, 267, 49, 50, 51]),
    ("smollm", "12٣4", [49, 50, 217, 163, 52]),
    ("llama-bpe", "it's IT'S  123", [105, 116, 262, 32, 73, 84, 263, 32, 32, 265]),
    ("qwen2", "it's IT'S  123", [105, 116, 262, 32, 73, 84, 263, 32, 32, 49, 50, 51]),
    ("deepseek-coder", "it's 12\n\n  x", [105, 116, 39, 115, 32, 49, 50, 10, 10, 32, 32, 120]),
    ("gpt-2", "", []),
]
SPM_CASES = [
    ("abc", [266, 264]),
    ("aaaa abc", [259, 270, 270, 266, 264]),
    ("    a", [268, 266]),
    ("é€", [259, 269, 229, 133, 175]),
    ("a\n\nb", [266, 276, 259, 261]),
    ("  ", [267, 259]),
    ("\u2581a", [267, 260]),
    ("", []),
]


@pytest.mark.parametrize(("name", "text", "ids"), BPE_CASES)
def test_each_pretokenizer_gives_the_reference_ids(name, text, ids):
    assert vocab(bpe_metadata(name)).encode(text.encode()) == ids


@pytest.mark.parametrize(("text", "ids"), SPM_CASES)
def test_spm_merges_by_score_and_falls_back_to_bytes(text, ids):
    assert vocab(spm_metadata()).encode(text.encode()) == ids


def test_spm_without_space_prefix_adds_none():
    metadata = spm_metadata() | {"tokenizer.ggml.add_space_prefix": False}
    assert vocab(metadata).encode(b"abc") == [265]
    assert vocab(metadata).encode(b"<s>ab</s> ab", special=True) == [1, 263, 2, 259, 263]


def test_spm_prefixes_a_space_after_each_special_token():
    tiny = vocab(spm_metadata())
    assert tiny.encode(b"<s>ab</s> ab", special=True) == [1, 259, 263, 2, 267, 263]


def test_control_tokens_are_parsed_on_request_and_user_defined_ones_always():
    tiny = vocab(bpe_metadata("gpt-2"))
    assert tiny.encode(b"<|im_end|>\n<sp>hello<s", special=True) == [
        END,
        10,
        SPACE_TOKEN,
        259,
        TAG,
    ]
    plain = tiny.encode(b"<|im_end|>\n<sp>hello<s")
    assert END not in plain
    assert plain[-3:] == [SPACE_TOKEN, 259, TAG]


def test_phi3_special_tokens_strip_the_white_space_that_follows():
    metadata = spm_metadata() | {"general.name": "Phi-3 mini"}
    assert vocab(metadata).encode(b"<|user|> \n a", special=True) == [275, 266]
    assert vocab(metadata).encode(b"<s> a", special=True) == [1, 267, 260]


def test_bos_is_added_where_the_vocabulary_asks_for_it():
    assert vocab(spm_metadata()).encode(b"a", bos=True) == [1, 266]
    assert vocab(bpe_metadata("gpt-2")).encode(b"the", bos=True) == [116, 256]
    assert vocab(bpe_metadata("llama-bpe")).encode(b"the", bos=True) == [END, 116, 256]


@pytest.mark.parametrize("metadata", [bpe_metadata("gpt-2"), bpe_metadata("qwen2")])
def test_bytes_of_all_tokens_join_to_the_text(metadata):
    tiny = vocab(metadata)
    text = "hello \u3000 you're 1234 été\r\n\n 你好 \U0001f600 \x00 end".encode()
    assert b"".join(tiny.decode(token) for token in tiny.encode(text)) == text


def test_spm_decodes_its_space_mark_as_a_space_and_byte_tokens_as_bytes():
    tiny = vocab(spm_metadata())
    assert (
        b"".join(tiny.decode(token) for token in tiny.encode("a €".encode()))
        == b" a \xe2\x82\xac"
    )


def test_control_tokens_have_text_only_on_request_and_unused_ones_never():
    tiny = vocab(bpe_metadata("gpt-2"))
    assert tiny.decode(END) == b""
    assert tiny.decode(END, special=True) == b"<|im_end|>"
    assert tiny.decode(UNUSED_TOKEN, special=True) == b""
    assert tiny.decode(SPACE_TOKEN) == b"<sp>"


def test_stop_tokens_are_known_by_id_and_by_text():
    tiny = vocab(bpe_metadata("gpt-2"))
    assert [token for token in range(tiny.size) if tiny.is_stop(token)] == [END]
    assert (tiny.bos, tiny.eos, tiny.size) == (END, END, 283)


def test_long_words_are_merged_in_the_order_of_short_ones():
    tiny = vocab(bpe_metadata("gpt-2"))
    assert tiny.encode(b"hello" * 20000) == [259] * 20000
    assert tiny.encode(b"abcab" * 5000) == [275, 273] * 5000
    assert tiny.encode(b"!" * 90001) == [270] * 44999 + [272]


def test_a_merge_that_is_no_token_goes_as_its_bytes():
    metadata = bpe_metadata("gpt-2")
    texts = metadata["tokenizer.ggml.tokens"]
    texts[258] = b"gone"  # "hell", on the way to "hello"
    tiny = vocab(metadata)
    assert tiny.encode(b"hello") == [259]
    assert tiny.encode(b"hell") == list(b"hell")


@pytest.mark.parametrize(
    "text", [b"\xff", b"a\xc3", b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82a"]
)
def test_text_that_is_not_utf8_is_refused(text):
    with pytest.raises(EngineError) as failure:
        vocab(bpe_metadata("gpt-2")).encode(text)
    assert failure.value.code == ERR_TEXT


def test_an_id_outside_the_vocabulary_is_refused():
    tiny = vocab(bpe_metadata("gpt-2"))
    with pytest.raises(EngineError) as failure:
        tiny.decode(tiny.size)
    assert failure.value.code == ERR_USAGE
