"""What items are made of."""

import ast
import functools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from eval.prompts import Composer, Filler, Ids


@dataclass
class Sources:
    composer: Composer
    speeches: Filler
    modules: Sequence[tuple[str, str]]  # (path, code) of Python's library

    @functools.cached_property
    def definitions(self) -> list[str]:
        return definitions(self.modules)

    def documentation(self, rng: random.Random) -> Iterator[Ids]:
        """Definitions, without end."""
        while True:
            yield self.composer.ids(f" {rng.choice(self.definitions)}")


def definitions(modules: Sequence[tuple[str, str]]) -> list[str]:
    """The first sentences of the docstrings of public functions and classes, each once."""
    found: set[str] = set()
    for _, code in modules:
        for node in ast.walk(ast.parse(code)):
            if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name[0] == "_":
                continue
            first = (ast.get_docstring(node) or "").split("\n\n")[0].replace("\n", " ")
            if 40 <= len(first) <= 160 and first[0].isupper():
                found.add(first)
    return sorted(found)
