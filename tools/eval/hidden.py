"""Items whose answer is hidden in speeches: a number, or what a word means."""

import random
from dataclasses import dataclass

from eval.prompts import Ids, Item, fill
from eval.sources import Sources

DIGITS = 5
NEEDLES = 4
REPLY_TOKENS = 32
NAMES = (
    *("apple", "bridge", "castle", "desert", "engine", "forest", "garden", "hammer", "island"),
    *("jacket", "kitchen", "ladder", "market", "needle", "orange", "pepper", "river", "silver"),
)


@dataclass(frozen=True)
class Hidden:
    needles: list[str]
    question: str
    lead: str
    key: str


def number(rng: random.Random) -> str:
    return str(rng.randrange(10 ** (DIGITS - 1), 10**DIGITS))


def hide_passkey(rng: random.Random) -> Hidden:
    key = number(rng)
    return Hidden(
        needles=[f" The pass key is {key}. Remember it. {key} is the pass key."],
        question="What is the pass key mentioned in the text?",
        lead="The pass key is",
        key=key,
    )


def hide_needles(rng: random.Random) -> Hidden:
    names = rng.sample(NAMES, NEEDLES)
    keys = [number(rng) for _ in names]
    asked = rng.randrange(NEEDLES)
    return Hidden(
        needles=[
            f" The magic number of the {name} is {key}."
            for name, key in zip(names, keys, strict=True)
        ],
        question=f"What is the magic number of the {names[asked]} mentioned in the text?",
        lead=f"The magic number of the {names[asked]} is",
        key=keys[asked],
    )


def hide_glossary(rng: random.Random) -> Hidden:
    words = rng.sample(NAMES, 2 * NEEDLES)
    meanings = dict(zip(words[:NEEDLES], words[NEEDLES:], strict=True))
    asked = rng.choice(words[:NEEDLES])
    return Hidden(
        needles=[
            f" In the secret language the word {word} means {meaning}."
            for word, meaning in meanings.items()
        ],
        question=f"What does the word {asked} mean in the secret language?",
        lead=f"In the secret language the word {asked} means",
        key=meanings[asked],
    )


def passkey(sources: Sources, rng: random.Random, layout: str, length: int) -> Item:
    return led_item(sources, rng, "passkey", layout, length, hide_passkey(rng))


def needles(sources: Sources, rng: random.Random, layout: str, length: int) -> Item:
    return led_item(sources, rng, "needles", layout, length, hide_needles(rng))


def led_item(
    sources: Sources, rng: random.Random, task: str, layout: str, length: int, hidden: Hidden
) -> Item:
    ids = sources.composer.ids
    # A number is a lone blank and its digits; the blank is no part of what is to be known.
    blank, *digits = ids(f" {hidden.key}")
    prompt, context = place(sources, rng, layout, length, hidden, (*ids(hidden.lead), blank))
    answer = tuple(digits)
    return Item(task, layout, length, prompt, context, answer, reply_tokens=len(answer))


def glossary(sources: Sources, rng: random.Random, layout: str, length: int) -> Item:
    hidden = hide_glossary(rng)
    ids = sources.composer.ids
    prompt, context = place(sources, rng, layout, length, hidden, ids(hidden.lead))
    answer = ids(f" {hidden.key}")
    return Item("glossary", layout, length, prompt, context, answer, reply_tokens=len(answer))


def replies(sources: Sources, rng: random.Random, layout: str, length: int) -> Item:
    """The lead makes the reply begin with other words than the answer."""
    hidden = hide_passkey(rng)
    ids = sources.composer.ids
    lead = ids("This is the sentence of the text that names the pass key:")
    prompt, context = place(sources, rng, layout, length, hidden, lead)
    _, *digits = ids(f" {hidden.key}")
    return Item(
        "replies", layout, length, prompt, context, tuple(digits), REPLY_TOKENS, anywhere=True
    )


def place(
    sources: Sources, rng: random.Random, layout: str, length: int, hidden: Hidden, lead: Ids
) -> tuple[Ids, tuple[int, int]]:
    composer = sources.composer
    question = composer.ids(hidden.question)
    room = composer.room(length, layout, question, lead)
    hay = sources.speeches.sentences(rng)
    context = fill(hay, room, [composer.ids(needle) for needle in hidden.needles], rng)
    return composer.join(layout, context, question, lead)
