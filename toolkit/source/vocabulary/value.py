"""A vocabulary as a plain value, its checks, and the token texts that mean something by name.

It knows no file format (gguf.py, hf.py, spm.py, llama2c.py) and no packed bytes
(vocabulary_table.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from qedge.runtime.errors import ImageError
from qedge.toolkit.source.vocabulary.rules import Rules

# Token types, numbered as in GGUF.
UNDEFINED, NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(7)

BYTE_NAMES = tuple(b"<0x%02X>" % byte for byte in range(256))

# The names by which GGUF files ask for a pre-tokenizer, and what else a name brings along.
PRETOKENIZERS = ("gpt-2", "smollm", "llama3", "qwen2", "deepseek-coder", "tekken", "gpt-4o")
# of characters: a word begins at every U+2581
MARK_WORDS = "marks"
_ALIASES = {
    "gpt-2": "gpt-2 phi-2 gigachat a.x-4.0 mellum mpt olmo jais trillion granite-docling"
    " exaone4",
    "smollm": "smollm starcoder refact command-r codeshell exaone minerva-7b mellum2",
    # the first eight skip merges and add BOS, see below
    "llama3": "llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 dbrx smaug-bpe"
    " chatglm-bpe glm4 glm5",
    "qwen2": "qwen2 deepseek-r1-qwen kormo f2llmv2 megrez stablelm2 hunyuan solar-open grok-2",
    "deepseek-coder": "deepseek-coder",
    "tekken": "tekken",
    "gpt-4o": "gpt-4o llama4 minimax-m2",
}
PRETOKENIZER_OF_NAME = {
    name: expression for expression, names in _ALIASES.items() for name in names.split()
}
ADD_BOS_NAMES = frozenset(_ALIASES["llama3"].split()[:8]) | {"tekken"}
IGNORE_MERGES_NAMES = ADD_BOS_NAMES | {"glm4", "glm5"}

# Texts that end generation, and so are control tokens whatever their type says.
_STOP_TEXTS = (
    "<|eot_id|> <|im_end|> <|end|> <|return|> <|call|> <|flush|> <|calls|> <end_of_turn>"
    " <|endoftext|> </s> <|eom_id|> <EOT> _<EOT> [EOT] [EOS] <|end_of_text|>"
    " <end_of_utterance> <eos> <turn|> <|tool_response> <｜end▁of▁sentence｜> [e~["
)
STOP_TEXTS = frozenset(text.encode() for text in _STOP_TEXTS.split())
# Texts of fill-in-the-middle tokens: in each group the first one found is a control token.
FILL_TEXTS = tuple(
    frozenset(text.encode() for text in group.split())
    for group in (
        "<|fim_prefix|> <fim-prefix> <fim_prefix> <｜fim▁begin｜> <PRE> ▁<PRE> <|code_prefix|>"
        " <|prefix|>",
        "<|fim_suffix|> <fim-suffix> <fim_suffix> <｜fim▁hole｜> <SUF> ▁<SUF> <|code_suffix|>"
        " <|suffix|>",
        "<|fim_middle|> <fim-middle> <fim_middle> <｜fim▁end｜> <MID> ▁<MID> <|code_middle|>"
        " <|middle|>",
    )
)
# The same, and these also end generation.
FILL_STOP_TEXTS = tuple(
    frozenset(text.encode() for text in group.split())
    for group in (
        "<|fim_pad|> <fim-pad> <fim_pad> <PAD> [PAD]",
        "<|fim_repo|> <|repo_name|> <fim-repo> <REPO> <reponame>",
        "<|file_sep|>",
    )
)


def _alphabet() -> dict[str, int]:
    """GPT-2's alphabet: the letters that byte-level BPE files write bytes with."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in set(plain)]
    letters = {chr(byte): byte for byte in plain}
    letters.update({chr(256 + at): byte for at, byte in enumerate(rest)})
    return letters


BYTE_OF_LETTER = _alphabet()


def raw_bytes(text: bytes) -> bytes | None:
    """The bytes that a byte-level token's text stands for; None when it uses other letters."""
    try:
        return bytes([BYTE_OF_LETTER[letter] for letter in text.decode()])
    except (KeyError, UnicodeDecodeError):
        return None


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What a tokenizer file says, checked.

    `tokens` are the bytes a token stands for in the text: raw bytes for byte-level BPE, with
    U+2581 for spaces (and `<0x0A>` for byte tokens) for the others. With `rules` the ids are
    those of the folder's own library, without them llama.cpp's.
    """

    kind: str  # "bpe" (byte-level, merges), "spm" (characters, scores), "characters" (merges)
    pretokenizer: str  # one of PRETOKENIZERS, MARK_WORDS for characters, "" for none
    tokens: tuple[bytes, ...]
    types: tuple[int, ...]
    merges: tuple[tuple[bytes, bytes], ...] = ()  # bpe: raw bytes, best first
    scores: tuple[float, ...] = ()  # spm: a token's; -inf: never made by merging
    bos: int | None = None
    eos: int | None = None
    unknown: int | None = None
    stops: tuple[int, ...] = ()  # ascending
    add_bos: bool = False
    add_eos: bool = False
    add_space_prefix: bool = False
    ignore_merges: bool = False  # bpe: a word that is a token is not merged
    strips_left: frozenset[int] = frozenset()
    strips_right: frozenset[int] = frozenset()
    rules: Rules | None = None
    # with rules, but for spm: the text by which merging finds a token; None: it does not
    made_of: tuple[bytes | None, ...] = ()
    byte_fallback: bool = False  # characters: one without a token goes as its bytes

    def __post_init__(self) -> None:
        count = len(self.tokens)
        if count == 0:
            raise ImageError("the tokenizer has no tokens; take a complete model file")
        if len(self.types) != count:
            raise ImageError(f"the tokenizer has {count} tokens but {len(self.types)} types")
        if self.kind == "spm" and len(self.scores) != count:
            raise ImageError(f"the tokenizer has {count} tokens but {len(self.scores)} scores")
        if any(math.isnan(score) for score in self.scores):
            raise ImageError("a score of the tokenizer is not a number; the file is damaged")
        named = {"BOS": self.bos, "EOS": self.eos, "unknown token's": self.unknown}
        named |= {f"stop {stop}": stop for stop in self.stops}
        for name, number in named.items():
            if number is not None and not 0 <= number < count:
                raise ImageError(
                    f"the tokenizer's {name} id is {number}, but it has {count} tokens;"
                    " the file's ids and tokens belong to different models"
                )


def refuse_duplicates(texts: list[bytes], source: str) -> None:
    """ImageError when two tokens have one text, as written in the file."""
    seen: dict[bytes, int] = {}
    for number, text in enumerate(texts):
        if text and seen.setdefault(text, number) != number:
            raise ImageError(
                f"{source}: tokens {seen[text]} and {number} are both {text[:40]!r};"
                " every token needs a text of its own, convert the model again"
            )


def mark_by_text(texts: list[bytes], types: list[int]) -> set[int]:
    """Makes control tokens of those that are such by name, in `types`; returns what stops."""
    stops: set[int] = set()
    number_of = {text: number for number, text in enumerate(texts) if text}
    for groups, stop in ((FILL_TEXTS, False), (FILL_STOP_TEXTS, True)):
        for group in groups:
            found = sorted(number_of[text] for text in group if text in number_of)
            if found:
                types[found[0]] = CONTROL
                stops |= {found[0]} if stop else set()
    for text in STOP_TEXTS & number_of.keys():
        types[number_of[text]] = CONTROL
        stops.add(number_of[text])
    return stops
