"""Text of the model's own: what it answers, greedily, to questions, to documents that it is to copy
with a change, and to code that it is to go on with. Nobody drafts for rows but those."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from calibrate.model_files import read_config
from draft_head.errors import HeadError
from draft_head.prompts import Prompts, Turn
from eval.calls import Call, Generator
from eval.errors import EvalError
from eval.store import Store, key_of, run_all

IN_FLIGHT = 16


@dataclass(frozen=True)
class Passage:
    tokens: tuple[int, ...]
    first: int  # row; from it on, each is followed by a token that the model wrote

    @property
    def inputs(self) -> tuple[int, ...]:
        """All but the last token, which nothing follows."""
        return self.tokens[:-1]


def passages(
    client: Generator, model: Path, store: Store, identity: object, count: int, seed: int
) -> list[Passage]:
    """`count` answers to different prompts. Those in `store` under `identity` are not asked for."""
    ends = end_tokens(model)
    turns = itertools.islice(_turns(model, seed), count)
    asked = [Call(turn.given, turn.most, shares="exits") for turn in turns]

    def job(call: Call):
        return key_of("exits", identity, call.facts()), lambda: {
            "tokens": client.generate(call).tokens
        }

    values = run_all([job(call) for call in asked], store, IN_FLIGHT, "answers")
    return [
        Passage((*call.prompt, *up_to_end(value["tokens"], ends)), len(call.prompt) - 1)
        for call, value in zip(asked, values, strict=True)
    ]


def up_to_end(tokens: Sequence[int], ends: frozenset[int]) -> Sequence[int]:
    """With the token that ends it."""
    end = next((i for i, token in enumerate(tokens) if token in ends), len(tokens))
    return tokens[: end + 1]


def end_tokens(model: Path) -> frozenset[int]:
    ends = read_config(model).get("eos_token_id", ())
    return frozenset((ends,) if isinstance(ends, int) else ends)


def _turns(model: Path, seed: int) -> Iterator[Turn]:
    """Each prompt once."""
    seen = set()
    try:
        for _, turns in Prompts(model, seed).chains():
            # The others begin with what is sampled.
            if len(turns) == 1 and turns[0].given not in seen:
                seen.add(turns[0].given)
                yield turns[0]
    except HeadError as error:
        raise EvalError(str(error)) from error
