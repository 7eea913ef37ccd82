"""What people say that is no command for commander: questions, talk, wishes for things that it
has no device for; and commands without a room, or of a whole room (sentences.toml).

    for sentence, answer in others("train", 1000, seed=1): ...

What is no command has null three times; a command that names no room has null for the room. As
in grammar.py the held-out split shares no form of a sentence with training, and none of the
words in the lists (a half of each is held out).
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

from grammar import (
    ACTIONS,
    DEVICES,
    HELD_TEMPLATES,
    ROOMS,
    TEMPLATES,
    Triple,
    held_triples,
    made_up,
    opened,
)

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

NOTHING: tuple[None, None, None] = (None, None, None)

_FOUND = tomllib.loads(Path(__file__).with_name("sentences.toml").read_text("utf-8"))
WORDS = {slot: words.split() for slot, words in _FOUND["words"].items()}
FORMS = [form for forms in _FOUND["forms"].values() for form in forms.splitlines()]
HELD_FORMS = frozenset(FORMS[3::10])
ROOMLESS = {split: forms.splitlines() for split, forms in _FOUND["roomless"].items()}
WHOLE_ROOM = {split: forms.splitlines() for split, forms in _FOUND["whole_room"].items()}
OF_A_ROOM = {"light": "lamp", "heat": "heating"}  # what "warmer" is said of, by kind of action

ROOMLESS_HELD_OUT, WHOLE_ROOM_HELD_OUT = 300, 200  # there are not many more
PSEUDO = 0.25  # of the words in training are made up, so that any unknown word counts as such

FILLERS = "the a in is what you i to on"


def half(words: list[str] | tuple[str, ...], split: str) -> list[str]:
    """The words of a split: every second one is held out."""
    return list(words[1::2] if split == "held-out" else words[0::2])


def null_answer(triple: tuple[str | None, str | None, str | None]) -> str:
    device, room, action = triple
    return json.dumps({"device": device, "room": room, "action": action})


def no_command(split: str, chance: random.Random) -> str:
    """A sentence that is no command."""
    forms = [f for f in FORMS if (f in HELD_FORMS) == (split == "held-out")]
    lists = {slot: half(words, split) for slot, words in WORDS.items()}

    def word(slot: str) -> str:
        if slot == "D":
            return chance.choice(chance.choice(list(DEVICES.values()))[0])
        if slot == "R":
            return chance.choice(chance.choice(list(ROOMS.values())))
        if slot not in lists:
            return slot
        if split == "train" and chance.random() < PSEUDO:
            return made_up(chance)
        return chance.choice(lists[slot])

    if split == "train" and chance.random() < 0.1:  # any words in any order
        every = [*sum(lists.values(), []), *FILLERS.split()]
        return " ".join(
            made_up(chance) if chance.random() < PSEUDO else chance.choice(every)
            for _ in range(chance.randint(1, 8))
        )
    return " ".join(word(slot) for slot in chance.choice(forms).split())


def _without_room() -> list[str]:
    """The forms of training, without their rooms; none of those that are held out here."""
    found = set(ROOMLESS["seen"])
    for form in TEMPLATES:
        for place in (" over in the R", " in the R", "in the R ", "R "):
            form = form.replace(place, "") if form not in HELD_TEMPLATES else form
        if "R" not in form.split() and not form.startswith("go to"):
            found.add(form)
    return sorted(found.difference(ROOMLESS["held_out"]))


def roomless(split: str, chance: random.Random) -> tuple[str, Triple]:
    """A command that names no room."""
    forms = ROOMLESS["held_out"] if split == "held-out" else WITHOUT_ROOM
    while True:
        device = chance.choice(list(DEVICES))
        words, kinds = DEVICES[device]
        action, (verbs, particles, states) = chance.choice(
            [item for kind in kinds for item in ACTIONS[kind].items()]
        )
        slots = {"V": verbs, "P": particles, "S": states, "D": words}
        form = chance.choice(forms).split()
        if all(slots.get(slot, (slot,)) for slot in form):
            sentence = " ".join(chance.choice(slots.get(slot, (slot,))) for slot in form)
            return sentence, (device, None, action)


def whole_room(split: str, chance: random.Random) -> tuple[str, Triple]:
    """A command that names no device: "make the bedroom warmer"."""
    held = held_triples()
    while True:
        kind, room = chance.choice(list(OF_A_ROOM)), chance.choice(list(ROOMS))
        action, (_, _, states) = chance.choice(list(ACTIONS[kind].items()))
        triple = (OF_A_ROOM[kind], room, action)
        if split != "train" or triple not in held:
            break
    slots = {"S": states, "R": ROOMS[room]}
    form = chance.choice(WHOLE_ROOM["held_out" if split == "held-out" else "seen"])
    return " ".join(chance.choice(slots.get(word, (word,))) for word in form.split()), triple


def near_command(chance: random.Random) -> str:
    """A command's form of training with one word that makes it none: another thing, place or
    deed, or an action that the device does not have."""
    device = chance.choice(list(DEVICES))
    words, kinds = DEVICES[device]
    known_verbs = {v for kind in kinds for verbs, _, _ in ACTIONS[kind].values() for v in verbs}
    fits = chance.random() < 0.7
    while True:
        name = chance.choice([k for k in ACTIONS if (k in kinds) == fits])
        form = chance.choice([t for t in TEMPLATES if t not in HELD_TEMPLATES]).split()
        verbs, particles, states = chance.choice(list(ACTIONS[name].values()))
        slots = {"V": verbs, "P": particles, "S": states, "D": words}
        slots["R"] = chance.choice(list(ROOMS.values()))
        if all(slots.get(slot, (slot,)) for slot in form) and (
            fits or not ("P" in form or known_verbs.intersection(verbs))
        ):
            break
    if chance.random() < 0.3:
        form = chance.choice(WITHOUT_ROOM).split()
        if not all(slots.get(slot, (slot,)) for slot in form) or (not fits and "P" in form):
            return near_command(chance)
    said = {slot: chance.choice(found) for slot, found in slots.items() if found}
    if fits:
        wrong = chance.choice([slot for slot in form if slot in "DRVPS"])
        lists = {"D": "AT", "R": "PN", "V": "W", "P": "Q", "S": "Q"}[wrong]
        known = half(WORDS[chance.choice(lists)], "train")
        said[wrong] = made_up(chance) if chance.random() < 0.4 else chance.choice(known)
    return " ".join(said.get(word, word) for word in form)


WITHOUT_ROOM = _without_room()


def others(split: str, count: int, seed: int, kind: str = "all") -> Iterator[tuple[str, str]]:
    """Sentences and answers of a split: of kind "none" what is no command, of "roomless"
    commands without a room, of "whole room" those without a device, of "all" all; of
    "held-out", no sentence twice."""
    chance = random.Random(f"others {split} {seed}")
    seen: set[str] = set()
    while count:
        share = (
            chance.random()
            if kind == "all"
            else {"roomless": 0.0, "whole room": 0.3}.get(kind, 1.0)
        )
        if share < 0.25:
            sentence, triple = roomless(split, chance)
        elif share < 0.35:
            sentence, triple = whole_room(split, chance)
        elif share < 0.6:
            sentence, triple = near_command(chance), NOTHING
        else:
            sentence, triple = no_command(split, chance), NOTHING
        if split == "train":
            sentence = opened(sentence, chance)
        if split == "train" and triple == NOTHING and chance.random() < 0.3:
            sentence += chance.choice("?.!")
        if split == "held-out" and sentence in seen:
            continue
        seen.add(sentence)
        count -= 1
        yield sentence, null_answer(triple)
