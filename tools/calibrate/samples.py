"""Retrieval items, seen by the last row of their prompts in every layer."""

from collections.abc import Sequence
from pathlib import Path

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


def look(model: Path, items: Sequence[Item]) -> list[Sample]:
    shape = Shape.of(read_config(model))
    seen = [np.empty((shape.layers, shape.heads, len(item.prompt)), np.float32) for item in items]
    progress = Progress("layers x items", shape.layers * len(items))

    def visit(i: int, inside: Inside) -> None:
        seen[i][inside.layer] = inside.attention(len(items[i].prompt) - 1)
        progress.step()

    run(shape, Tensors(model), [item.prompt for item in items], visit)
    return [Sample(a, places_of(item)) for a, item in zip(seen, items, strict=True)]
