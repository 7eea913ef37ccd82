"""The commands that commander learns: spoken-style sentences and the one line of JSON that each
stands for, made from a grammar.

    for sentence, answer in examples("train", 1000, seed=1): ...

The held-out split shares neither sentence templates nor device-room-action triples with the
training split: what it asks for was never seen, in words that were never put so.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator

# device -> the words for it, and the kinds of action that it takes
DEVICES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "lamp": (("lamp", "light", "lights", "lamps"), ("switch", "light")),
    "heating": (("heating", "radiator", "heater"), ("switch", "heat")),
    "fan": (("fan", "ventilator"), ("switch", "pace")),
    "blinds": (("blinds", "shutters", "curtains"), ("open",)),
    "window": (("window", "windows"), ("open",)),
    "door": (("door",), ("open", "lock")),
    "tv": (("tv", "television", "telly"), ("switch", "sound")),
    "music": (("music", "radio", "stereo", "speaker"), ("switch", "sound")),
    "vacuum": (("vacuum", "robot", "vacuum cleaner"), ("run",)),
    "socket": (("socket", "plug", "outlet"), ("switch",)),
}

ROOMS: dict[str, tuple[str, ...]] = {
    "kitchen": ("kitchen",),
    "bedroom": ("bedroom",),
    "bathroom": ("bathroom", "bath"),
    "living room": ("living room", "lounge", "sitting room"),
    "office": ("office", "study"),
    "hall": ("hall", "hallway", "corridor"),
    "garage": ("garage",),
    "garden": ("garden", "yard"),
    "attic": ("attic", "loft"),
    "nursery": ("nursery", "kids room"),
}

# kind -> action -> (verbs "V the lamp", particles "turn the lamp P", states "the lamp S")
ACTIONS: dict[str, dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]]] = {
    "switch": {
        "on": (("turn on", "switch on", "put on"), ("on",), ("on", "switched on", "turned on")),
        "off": (
            ("turn off", "switch off", "shut off"),
            ("off",),
            ("off", "switched off", "turned off"),
        ),
    },
    "light": {
        "brighter": (("brighten", "turn up"), ("up",), ("brighter", "a bit brighter")),
        "dimmer": (("dim", "turn down"), ("down",), ("dimmer", "a bit dimmer", "darker")),
    },
    "heat": {
        "warmer": (("turn up", "raise"), ("up",), ("warmer", "a bit warmer", "hotter")),
        "cooler": (("turn down", "lower"), ("down",), ("cooler", "a bit cooler", "colder")),
    },
    "pace": {
        "faster": (("speed up", "turn up"), ("up",), ("faster", "a bit faster")),
        "slower": (("slow down", "turn down"), ("down",), ("slower", "a bit slower")),
    },
    "sound": {
        "louder": (("turn up",), ("up",), ("louder", "a bit louder")),
        "quieter": (("turn down",), ("down",), ("quieter", "a bit quieter", "softer")),
    },
    "open": {
        "open": (("open", "open up"), (), ("open", "opened")),
        "close": (("close", "shut"), (), ("closed", "shut")),
    },
    "lock": {
        "lock": (("lock",), (), ("locked",)),
        "unlock": (("unlock",), (), ("unlocked",)),
    },
    "run": {
        "start": (("start", "run"), (), ("running", "started")),
        "stop": (("stop", "halt"), (), ("stopped",)),
    },
}

# V verb, D device, R room, P particle, S state
TEMPLATES = (
    "V the D in the R",
    "V the R D",
    "V D in the R",
    "please V the D in the R",
    "V the D in the R please",
    "please V the R D",
    "can you V the D in the R",
    "can you V the R D please",
    "could you V the D in the R please",
    "would you V the R D",
    "i want you to V the D in the R",
    "i would like you to V the R D",
    "in the R V the D",
    "in the R please V the D",
    "go to the R and V the D",
    "hey V the D in the R",
    "hey can you V the R D",
    "V the D over in the R",
    "V my R D",
    "just V the D in the R",
    "now V the R D",
    "V the R D now",
    "V the D in the R right now",
    "would you please V the D in the R",
    "it is time to V the D in the R",
    "do V the D in the R",
    "R D V it",
    "turn the D in the R P",
    "turn the R D P",
    "turn the R D P please",
    "please turn the D in the R P",
    "can you turn the D in the R P",
    "could you turn the R D P please",
    "hey turn the R D P",
    "in the R turn the D P",
    "i want the D in the R S",
    "i want the R D S",
    "make the D in the R S",
    "make the R D S please",
    "i would like the R D S",
    "i would like the D in the R to be S",
    "the D in the R should be S",
    "the R D should be S",
    "the R D needs to be S",
    "can i have the D in the R S",
    "can you make the R D S",
    "could you get the D in the R S",
    "please have the R D S",
    "let the D in the R be S",
    "get the R D S now",
    "in the R the D should be S",
    "set the D in the R to S",
    "set the R D to S",
    "R D S",
    "D in the R S please",
    "i need the D in the R S",
    "i need the R D S please",
)
HELD_TEMPLATES = frozenset(
    {
        "could you V the D in the R please",
        "in the R please V the D",
        "now V the R D",
        "please V the R D",
        "can you turn the D in the R P",
        "turn the R D P please",
        "i would like the R D S",
        "the R D should be S",
        "can you make the R D S",
        "set the D in the R to S",
    }
)
OPENERS = ("ok", "so", "well", "um", "alright", "listen", "hello", "yes", "computer", "look")
OPENED = 0.3  # of the training sentences begin with one of them, as speech does;
UNHEARD = 0.25  # of these with a made-up word in its place, so that any opener means nothing
_ONSETS, _CODAS = "b br c d f g h j k l m n p pl qu r s sh st t tr v w z", "n r l s t m ck ng"
ONSETS, CODAS = (*_ONSETS.split(), ""), ("", "", *_CODAS.split())
HELD_SHARE = 8  # one triple in so many is held out
SPLITS = ("train", "held-out")

Triple = tuple[str, str, str]


def triples() -> list[Triple]:
    """Every (device, room, action)."""
    return [
        (device, room, action)
        for device, (_, kinds) in DEVICES.items()
        for room in ROOMS
        for kind in kinds
        for action in ACTIONS[kind]
    ]


def held_triples() -> frozenset[Triple]:
    """Those that only the held-out split has; each device, room and action is in training."""
    chosen = sorted(triples())
    random.Random(2024).shuffle(chosen)
    return frozenset(chosen[: len(chosen) // HELD_SHARE])


def answer(triple: Triple) -> str:
    """The line of JSON."""
    device, room, action = triple
    return json.dumps({"device": device, "room": room, "action": action})


def sentences(triple: Triple, template: str) -> Iterator[str]:
    """All that a template says for a triple."""
    device, room, action = triple
    words, kinds = DEVICES[device]
    verbs, particles, states = next(ACTIONS[k][action] for k in kinds if action in ACTIONS[k])
    slots = {"V": verbs, "P": particles, "S": states, "D": words, "R": ROOMS[room]}
    pieces = [slots.get(word, (word,)) for word in template.split()]
    for chosen in itertools.product(*pieces):
        yield " ".join(chosen)


def made_up(chance: random.Random) -> str:
    """A word of one to four syllables, or a number."""
    if chance.random() < 0.1:
        return str(chance.randrange(10 ** chance.randint(1, 4)))
    return "".join(
        chance.choice(ONSETS) + chance.choice("aeiouy") + chance.choice(CODAS)
        for _ in range(chance.randint(1, 4))
    )


def opened(sentence: str, chance: random.Random) -> str:
    """A training sentence as it is said: some begin with a word that means nothing."""
    if chance.random() >= OPENED:
        return sentence
    opener = made_up(chance) if chance.random() < UNHEARD else chance.choice(OPENERS)
    return f"{opener} {sentence}"


def examples(split: str, count: int, seed: int) -> Iterator[tuple[str, str]]:
    """Sentences and answers of a split, drawn at random; of "held-out", no sentence twice."""
    held = held_triples()
    mine = [t for t in triples() if (t in held) == (split == "held-out")]
    templates = [t for t in TEMPLATES if (t in HELD_TEMPLATES) == (split == "held-out")]
    chance = random.Random(f"{split} {seed}")
    seen: set[str] = set()
    while count:
        triple = chance.choice(mine)
        options = list(sentences(triple, chance.choice(templates)))
        if not options:
            continue
        sentence = chance.choice(options)
        if split == "train":
            sentence = opened(sentence, chance)
        if split == "held-out" and sentence in seen:
            continue
        seen.add(sentence)
        count -= 1
        yield sentence, answer(triple)
