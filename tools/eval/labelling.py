"""Few-shot labelling."""

import random
from collections.abc import Iterator

from eval.prompts import Ids, Item
from eval.sources import Sources

LABELS = ("red", "blue", "green", "north", "south", "alpha", "delta", "cat", "dog", "bird")


def labels(sources: Sources, rng: random.Random, layout: str, length: int) -> Item:
    composer = sources.composer
    names = rng.sample(LABELS, 2)
    kinds = [sources.speeches.sentences(rng), sources.documentation(rng)]
    question = composer.ids(f"Give each text its label: {' or '.join(names)}.")

    def example(kind: int, answer: Ids) -> Ids:
        sentence = next(s for s in kinds[kind] if 6 <= len(s) <= 40)
        return (*composer.ids("Text:"), *sentence, *composer.ids("\nLabel:"), *answer)

    def examples() -> Iterator[Ids]:
        while True:
            kind = rng.randrange(len(kinds))
            yield example(kind, composer.ids(f" {names[kind]}\n\n"))

    asked = rng.randrange(len(kinds))
    lead = example(asked, ())
    room = composer.room(length, layout, question, lead)
    prompt, span = composer.join(layout, joined(up_to(room, examples())), question, lead)
    answer = composer.ids(f" {names[asked]}")
    return Item("labels", layout, length, prompt, span, answer, reply_tokens=len(answer))


def up_to(room: int, parts: Iterator[Ids]) -> list[Ids]:
    chosen: list[Ids] = []
    for part in parts:
        if len(part) > room:
            break
        chosen.append(part)
        room -= len(part)
    return chosen


def joined(parts: list[Ids]) -> Ids:
    """Without the empty line at the end, which the composer puts."""
    return tuple(token for part in parts for token in part)[:-1]
