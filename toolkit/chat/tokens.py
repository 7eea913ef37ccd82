"""Token ids of a rendered conversation: the template's control tokens count, those that came
with the messages are text like any other."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from unicodedata import normalize

from qedge.runtime.errors import ImageError, UsageError
from qedge.runtime.image import CHAT
from qedge.runtime.model import Model
from qedge.toolkit.chat.facts import Conversation, read_facts
from qedge.toolkit.chat.render import Rendered, render

Span = tuple[int, int]


def conversation_of(model: Model) -> Conversation:
    """What a model's image says of conversations; of an older image, what its tokens say."""
    found = read_facts(model.image.section(CHAT))
    if found is not None:
        return found
    vocab, image = model.image.vocab, model.image
    named = {
        f"{key}_token": image.decode(vocab[key], True).decode("utf-8", "replace")
        for key in ("bos", "eos")
        if vocab[key] is not None
    }
    control = [
        image.decode(token, True).decode("utf-8", "replace")
        for token in range(model.config["vocab_size"])
        if not image.decode(token)
    ]
    adds = bool(vocab["add_bos"])
    return Conversation(named, tuple(text for text in control if text), adds)


def chat_tokens(
    model: Model,
    messages: Sequence[Mapping[str, Any]],
    *,
    template: str | None = None,
    special: bool = False,
    **options: Any,
) -> list[int]:
    """Token ids of a conversation through the model's template, ready for generation.

    template: another than the image's.
    special: control tokens that are written in the messages count, too.
    options: as of `render`.

    ImageError when the model has no template or it fails, UsageError for wrong messages.
    """
    template = model.chat_template if template is None else template
    if template is None:
        raise ImageError(f"{model.path} has no chat template; run it without --chat")
    facts = conversation_of(model)
    made = render(template, messages, facts.special_tokens, **options)
    tokens = model.tokenize(made.text, special=True) if special else _ids(model, made, facts)
    bos = model.image.vocab["bos"]
    if facts.chat_bos and bos is not None and tokens[:1] != [bos]:
        tokens.insert(0, bos)
    return tokens


def chat_prompt(
    template: str,
    facts: Conversation | None,
    messages: Sequence[Mapping[str, Any]],
    *,
    special: bool = False,
    **options: Any,
) -> str:
    """The prompt of a conversation for whom takes text alone, with its control tokens to count
    and no BOS but its own (a board: `Run(…, special=True, bos=False)`).

    facts: the image's chat section; None when it has none, and then whatever in the template
    looks like a control token is taken for one.

    UsageError when a message holds such a token: it would count there.
    """
    named = facts.special_tokens if facts else {}
    made = render(template, messages, named, **options)
    matcher = _Matcher(facts.control_tokens if facts else _alike(template))
    if not special and (text := matcher.told(made)) is not None:
        raise UsageError(
            f"a message holds {text!r}, which is a control token of the model and would count "
            "on the board; take it out, or allow it with --special"
        )
    bos = named.get("bos_token")
    lacks = facts is not None and facts.chat_bos and bos and not made.text.startswith(bos)
    return f"{bos}{made.text}" if lacks else made.text


def _alike(template: str) -> list[str]:
    """What a template writes that may be a control token: anything in brackets."""
    return re.findall(r"<[^<>\s]{1,64}>|\[/?[A-Z_]{2,32}\]|<<[^<>\s]{1,32}>>", template)


class _Matcher:
    """Finds control tokens in a text."""

    def __init__(self, control_tokens: Iterable[str]) -> None:
        self.texts = sorted({text for text in control_tokens if text}, key=len, reverse=True)
        either = "|".join(map(re.escape, self.texts)) or r"(?!)"
        self._any = re.compile(either)
        self._each = re.compile(f"(?=({either}))")  # overlapping ones, too

    def foreign(self, made: Rendered) -> Span | None:
        """Where the first control token stands that the template did not write, or not all."""
        for found in self._each.finditer(made.text):
            # of several that begin at one place, a shorter one may be the template's alone
            for text in self.texts:
                if made.text.startswith(text, found.start()):
                    span = (found.start(), found.start() + len(text))
                    if not _inside(span, made.written):
                        return span
        return None

    def told(self, made: Rendered) -> str | None:
        """A control token that the template did not write, also one that a normalizer would
        make of other letters: who takes text alone may have one."""
        if (found := self.foreign(made)) is not None:
            return made.text[slice(*found)]
        folded = normalize("NFKC", made.text)
        if folded == made.text:
            return None
        before, after = self._each.findall(made.text), self._each.findall(folded)
        return next((text for text in after if after.count(text) > before.count(text)), None)

    def written(self, made: Rendered) -> list[Span]:
        """Where the template's own control tokens stand, the longest of several first."""
        return [
            found.span()
            for start, stop in made.written
            for found in self._any.finditer(made.text, start, stop)
        ]


def _inside(span: Span, runs: Iterable[Span]) -> bool:
    return any(start <= span[0] and span[1] <= stop for start, stop in runs)


def _ids(model: Model, made: Rendered, facts: Conversation) -> list[int]:
    matcher = _Matcher(facts.control_tokens)
    if matcher.foreign(made) is None:
        ids = model.tokenize(made.text, special=True)
        places = len(matcher.written(made))
        image = model.image
        control = {token for token in set(ids) if not image.decode(token)}
        if sum(token in control for token in ids) <= places:
            return ids
        # a normalizer made a control token of another text: none but written ones count
    return list(_apart(model, made, matcher))


def _apart(model: Model, made: Rendered, matcher: _Matcher) -> Iterator[int]:
    """Ids of a text in which some control tokens are text: the template's own one by one, what
    lies between as plain text."""
    at, before = 0, ""
    for start, stop in [*matcher.written(made), (len(made.text), len(made.text))]:
        token = made.text[start:stop]
        between = made.text[at:start]
        if before and _strips(model, before + " a", before + "a"):
            between = between.lstrip(" \t\n\v\f\r")
        if token and _strips(model, "a " + token, "a" + token):
            between = between.rstrip(" \t\n\v\f\r")
        yield from _plain(model, between, before, matcher)
        if token:
            yield from model.tokenize(token, special=True)
        at, before = stop, token


def _strips(model: Model, spaced: str, close: str) -> bool:
    """Whether a control token takes the white space beside it."""
    return model.tokenize(spaced, special=True) == model.tokenize(close, special=True)


def _plain(model: Model, text: str, before: str, matcher: _Matcher) -> Iterator[int]:
    """Ids of a text in which nothing counts. User-defined tokens count in every text, so those
    that mark turns are cut behind their first letter."""
    start = 0
    for found in matcher._any.finditer(text):
        inner = model.tokenize(found.group(), special=False)
        if len(inner) == 1 and model.tokenize(found.group(), special=True) == inner:
            yield from _piece(model, text[start : found.start() + 1], before)
            start, before = found.start() + 1, before or "\n"
    yield from _piece(model, text[start:], before)


def _piece(model: Model, text: str, before: str) -> list[int]:
    """Ids of plain text behind a token or another piece: a vocabulary may put a space before
    the text's beginning, and this is none."""
    ids = model.tokenize(text) if text else []
    if not text or not before:
        return ids
    follows = model.tokenize(before + "a", special=True)
    if before != "\n" and follows[1:] == model.tokenize("a"):
        return ids  # to this vocabulary, what stands behind a token is a beginning
    newline, whole = model.tokenize("\n"), model.tokenize("\n" + text)
    return whole[len(newline) :] if whole[: len(newline)] == newline else ids
