"""What a hostile or unusual vocabulary may cost: time in the text's length whatever its tokens
are, an end on Ctrl-C, tokens of any length.
"""

from __future__ import annotations

import random
import signal
import threading
import time

import pytest
from unit.test_tokenizer import bpe_metadata, spm_metadata

from qedge.runtime._engine import Vocab
from qedge.runtime.errors import ImageError
from qedge.toolkit.make.vocabulary_table import FEW_SPECIALS, pack
from qedge.toolkit.source.vocabulary.gguf import from_gguf

CONTROL, USER_DEFINED = 3, 4


def with_tokens(texts: list[bytes], types: list[int]) -> Vocab:
    metadata = bpe_metadata("gpt-2")
    metadata["tokenizer.ggml.tokens"] += texts
    metadata["tokenizer.ggml.token_type"] += types
    return Vocab(pack(from_gguf(metadata)))


def claimed(text: bytes, tokens: dict[bytes, int]) -> list[int | bytes]:
    """The longest tokens first, from the left: ids, and what is left between them."""
    taken: list[int] = [-1] * len(text)
    starts: dict[int, bytes] = {}
    for length in sorted({len(token) for token in tokens}, reverse=True):
        for at in range(len(text) - length + 1):
            part = text[at : at + length]
            if part in tokens and set(taken[at : at + length]) == {-1}:
                taken[at : at + length] = [at] * length
                starts[at] = part
    found: list[int | bytes] = []
    at = 0
    while at < len(text):
        if at in starts:
            found.append(tokens[starts[at]])
            at += len(starts[at])
            continue
        end = at + 1
        while end < len(text) and taken[end] == -1:
            end += 1
        found.append(text[at:end])
        at = end
    return found


def test_many_special_tokens_claim_text_as_few_do():
    chance = random.Random(2)
    texts = sorted({b"<" + bytes(chance.choices(b"ab<", k=1 + n % 6)) for n in range(400)})
    assert len(texts) > FEW_SPECIALS
    types = [chance.choice([CONTROL, USER_DEFINED]) for _ in texts]
    mine = with_tokens(texts, types)
    first = mine.size - len(texts)
    plain = with_tokens([], [])
    for special in (True, False):
        tokens = {
            text: first + number
            for number, (text, kind) in enumerate(zip(texts, types, strict=True))
            if special or kind == USER_DEFINED
        }
        tokens |= {b"<sp>": 281, b"<s": 282} | ({b"<|im_end|>": 279} if special else {})
        for _ in range(300):
            text = bytes(chance.choices(b"ab<<<s ", k=40))
            expected: list[int] = []
            for part in claimed(text, tokens):
                expected += [part] if isinstance(part, int) else plain.encode(part)
            assert mine.encode(text, special=special) == expected, text


def test_twenty_thousand_tokens_with_one_first_letter_cost_what_a_few_do():
    chance = random.Random(1)
    texts = sorted(
        {b"<" + bytes(chance.choices(b"abcdefgh<", k=3 + n % 11)) for n in range(20000)}
    )
    text = bytes(chance.choices(b"<abcdefgh ", k=200_000))
    few, many = with_tokens(texts[:20], [4] * 20), with_tokens(texts, [4] * len(texts))

    def cost(vocab: Vocab) -> float:
        best = 1e9
        for _ in range(3):
            start = time.process_time()
            vocab.encode(text)
            best = min(best, time.process_time() - start)
        return best

    assert cost(many) < 40 * cost(few)  # it was 1000 times as much


@pytest.mark.parametrize(
    "metadata", [bpe_metadata("gpt-2"), spm_metadata()], ids=["bpe", "spm"]
)
def test_a_long_text_can_be_interrupted(metadata):
    vocab = Vocab(pack(from_gguf(metadata)))
    text = b"abcab" * 8_000_000
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(0.2, signal.raise_signal, [signal.SIGINT])
    try:
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            vocab.encode(text)
    finally:
        timer.cancel()
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("bos_token_id", float("inf")),
        ("eos_token_id", float("nan")),
        ("eot_token_id", [1]),
        ("bos_token_id", "1"),
        ("add_bos_token", [True]),
        ("add_eos_token", "no"),
        ("add_bos_token", b"x"),
    ],
)
def test_metadata_of_the_wrong_sort_is_refused_by_its_key(key, value):
    with pytest.raises(ImageError, match=key):
        from_gguf(bpe_metadata("gpt-2") | {f"tokenizer.ggml.{key}": value})


@pytest.mark.parametrize("none", [-1, 4294967295])
def test_an_id_of_the_metadata_that_means_none_is_none(none):
    read = from_gguf(
        bpe_metadata("gpt-2")
        | {"tokenizer.ggml.bos_token_id": none, "tokenizer.ggml.eos_token_id": none}
    )
    assert (read.bos, read.eos) == (None, None)


def test_a_name_that_is_no_text_is_not_looked_at():
    assert (
        from_gguf(bpe_metadata("gpt-2") | {"general.name": [1, 2]}).strips_right == frozenset()
    )


# Where llama.cpp cuts: case is that of ASCII, other letters go with both.
GPT4O = ["HELLo", " World'S", " aé", "Béx", " ", " ", "123", "4", " //\n", "x"]
TEKKEN = ["HELLo", " World", "'S", " aé", "Béx", " ", " ", "1", "2", "3", "4", " //\n", "x"]


@pytest.mark.parametrize(("name", "words"), [("gpt-4o", GPT4O), ("tekken", TEKKEN)])
def test_cased_pretokenizers_cut_as_llama_cpp_does(name, words):
    metadata = bpe_metadata(name)
    text = "".join(words)
    letters = [metadata["tokenizer.ggml.tokens"][byte].decode() for byte in text.encode()]
    pairs = dict.fromkeys(zip(letters, letters[1:], strict=False))
    known = set(metadata["tokenizer.ggml.tokens"])
    made = [left + right for left, right in pairs if (left + right).encode() not in known]
    metadata["tokenizer.ggml.tokens"] += [word.encode() for word in made]
    metadata["tokenizer.ggml.token_type"] += [1] * len(made)
    metadata["tokenizer.ggml.merges"] = [f"{left} {right}".encode() for left, right in pairs]
    read = from_gguf(metadata)
    mine = Vocab(pack(read))
    # whatever stands side by side would merge: a cut at another place gives other tokens
    ids = [token for word in words for token in mine.encode(word.encode())]
    assert mine.encode(text.encode()) == ids
    assert read.add_bos == read.ignore_merges == (name == "tekken")
