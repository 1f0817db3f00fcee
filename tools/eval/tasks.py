"""The tasks of ./run eval lazy: items made of public texts, the same for the same seed.

passkey       a number hidden in speeches, asked for
needles       four numbers, each under its own name; one is asked for
replies       a pass key once more, but the reply begins with other words: whole replies are judged
labels        few-shot labelling: which of two kinds of text a sentence is of; the kinds' names are
              drawn for each item, so that only the examples tell them
glossary      a small dictionary spread over speeches; one word's meaning is asked for
code          the next line of a module of Python's library, which stood there before
continuation  speeches; the probabilities of their next tokens are compared with the exact model's
"""

import random
from collections.abc import Callable, Sequence

from eval.errors import EvalError
from eval.hidden import glossary, needles, passkey, replies
from eval.labelling import labels
from eval.prompts import LAYOUTS, Item, fill
from eval.sources import Sources

LINE_TOKENS = 10
CONTINUATION_TOKENS = 32
# Of a continuation: what its reply has to fit first of all.
LAST_TOKENS = 32
TRIES = 300

Make = Callable[[Sources, random.Random, str, int], Item]


def code(sources: Sources, rng: random.Random, layout: str, length: int) -> Item:
    """The line asked for stood there before, after the same line: so the text tells it."""
    composer = sources.composer
    for _ in range(TRIES):
        _, module = rng.choice(sources.modules)
        lines = module.splitlines(keepends=True)
        seen: dict[tuple[str, str], int] = {}
        places: list[int] = []
        for i in range(1, len(lines)):
            pair = (lines[i - 1], lines[i])
            if len(lines[i].strip()) >= 15 and lines[i - 1].strip() and pair in seen:
                places.append(i)
            seen[pair] = i
        rng.shuffle(places)
        for i in places[:3]:
            near = composer.ids("".join(lines[seen_before(lines, i) : i]))
            # Far enough to be a matter of the context, near enough to lie in it.
            if not length // 8 <= len(near) <= length - length // 8:
                continue
            # Tokens span line ends and indents, so the prompt stops before the line end.
            before = "".join(lines[:i])[-6 * length :].removesuffix("\n")
            prompt = composer.ids(before)
            both = composer.ids(f"{before}\n{lines[i].rstrip()}")
            if len(prompt) >= length and both[: len(prompt)] == prompt:
                answer = both[len(prompt) :][:LINE_TOKENS]
                span = (0, length - len(composer.ids(lines[i - 1])))
                return Item("code", "plain", length, prompt[-length:], span, answer, len(answer))
    raise EvalError(f"the library has too little code for prompts of {length} tokens")


def seen_before(lines: Sequence[str], i: int) -> int:
    """Where the pair of lines that ends at i stood last."""
    return next(j for j in range(i - 1, 0, -1) if lines[j - 1 : j + 1] == lines[i - 1 : i + 1])


def continuation(sources: Sources, rng: random.Random, layout: str, length: int) -> Item:
    both = fill(sources.speeches.sentences(rng), length + CONTINUATION_TOKENS, (), rng)
    prompt, answer = both[:-CONTINUATION_TOKENS], both[-CONTINUATION_TOKENS:]
    span = (0, len(prompt) - LAST_TOKENS)
    return Item("continuation", "plain", length, prompt, span, answer, len(answer))


TASKS: dict[str, Make] = {
    "passkey": passkey,
    "needles": needles,
    "replies": replies,
    "labels": labels,
    "glossary": glossary,
    "code": code,
    "continuation": continuation,
}


def make_items(
    task: str, sources: Sources, lengths: Sequence[tuple[int, int]], seed: int
) -> list[Item]:
    """`lengths`: (tokens, how many items). Layouts take turns; an item depends on nothing but the
    seed, its task, length and number."""
    items = []
    for length, count in lengths:
        for i in range(count):
            rng = random.Random(f"{seed} {task} {length} {i}")
            items.append(TASKS[task](sources, rng, LAYOUTS[i % len(LAYOUTS)], length))
    return items
