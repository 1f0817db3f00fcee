"""Retrieval items, seen in every layer by the rows that look for their answers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from calibrate.forward import Inside, Shape, run
from calibrate.model_files import LocalTokenizer, Tensors, read_config
from calibrate.needed import Sample, places_of
from eval import tasks
from eval.progress import Progress
from eval.prompts import Composer, Filler, Item
from eval.sources import Sources
from eval.texts import Texts, library_code

# Those whose answer stands in the context, word for word.
TASKS = ("passkey", "needles", "glossary", "code")
SHORTEST_MODULE = 20_000


def make_items(model: Path, texts: Texts, tokens: int, count: int, seed: int) -> list[Item]:
    """`count` of all tasks together, the tasks taking turns."""
    tokenizer = LocalTokenizer(model)
    speeches = Filler(tokenizer, texts.speeches())
    sources = Sources(Composer(tokenizer), speeches, list(library_code(SHORTEST_MODULE)))
    each = -(-count // len(TASKS))
    by_task = [tasks.make_items(task, sources, [(tokens, each)], seed) for task in TASKS]
    turns = [item for turn in zip(*by_task, strict=True) for item in turn]
    return [item for item in turns if places_of(item)][:count]


def halves(samples: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """To choose on and to judge on. Tasks and layouts take turns, so both hold all of them."""
    of = [[s for i, s in enumerate(samples) if i // len(TASKS) % 2 == half] for half in (0, 1)]
    return of[0], of[1]


def look(model: Path, items: Sequence[Item]) -> list[Sample]:
    shape = Shape.of(read_config(model))
    texts = [item.prompt + item.answer[:-1] for item in items]
    seen = [
        np.zeros((len(item.answer), shape.layers, shape.heads, len(text)), np.float32)
        for item, text in zip(items, texts, strict=True)
    ]
    progress = Progress("layers x items", shape.layers * len(items))

    def visit(i: int, inside: Inside) -> None:
        first = len(items[i].prompt) - 1
        for row in range(len(items[i].answer)):
            of = inside.attention(first + row)
            seen[i][row, inside.layer, :, : of.shape[1]] = of
        progress.step()

    run(shape, Tensors(model), texts, visit)
    return [Sample(a, places_of(item)) for a, item in zip(seen, items, strict=True)]
