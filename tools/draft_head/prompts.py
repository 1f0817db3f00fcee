"""What the model is asked to write: chats whose questions it thinks up itself, questions from
templates, documents to be copied with a change, and modules of Python's standard library to go on
with. None of it is text that `skim-bench speculate` measures with."""

import itertools
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from draft_head.errors import HeadError, read_json

FORMS = (
    "What is {}?", "Explain {} in simple words.", "Write a short story about {}.",
    "Give me three facts about {}.", "Why does {} matter?", "Write a poem about {}.",
    "How would you teach a class about {}?", "List the pros and cons of {}.",
    "Write a polite email to a friend about {}.", "Summarise what is known about {}.",
    "What should a beginner know about {}?", "Compare {} with its closest alternative.",
    "Give me a step by step plan for {}.", "Write a dialogue between two people about {}.",
)
TOPICS = (
    "volcanoes", "keeping a garden", "the water cycle", "public libraries", "learning the piano",
    "solar panels", "the Roman Empire", "healthy cooking", "remote work", "saving money",
    "photosynthesis", "chess openings", "electric cars", "wild birds", "long train journeys",
    "the human heart", "black holes", "raising a puppy", "writing unit tests", "recycling plastic",
    "the French Revolution", "making coffee", "hash tables", "ocean tides", "running a marathon",
    "fractions", "earthquakes", "old maps", "sorting algorithms", "antibiotics", "desert plants",
    "city traffic", "good teamwork", "job interviews", "the printing press", "snow", "gravity",
    "writing a novel", "mountain hiking", "computer networks", "bread and cheese", "deep sea fish",
)
NAMES = ("Ivan", "Julia", "Karim", "Lena", "Marco", "Nadia", "Oscar", "Paula", "Quentin", "Rosa")
PLACES = ("Lyon", "Krakow", "Dublin", "Seville", "Tampere", "Graz", "Malmo", "Bruges", "Leeds")
THINGS = ("chairs", "lamps", "tables", "shelves", "clocks", "mirrors", "carpets", "desks", "vases")
COPY = (
    "Copy the text below, but change {a} to {b}:\n\n{text}",
    "Write this again with {b} in place of {a}:\n\n{text}",
    "Repeat the following exactly, except that {a} becomes {b}.\n\n{text}",
)
READ = (
    "Here are some orders:\n\n{text}\nWrite them as a list of sentences.",
    "Turn this into a JSON list:\n\n{text}",
    "{text}\nWho ordered the most? List everybody with the number ordered.",
    "Continue this with five more entries of the same form:\n\n{text}",
    "Make a table of this:\n\n{text}",
)
KINDS = ("thought up", "asked", "copied", "code")
SHORTEST_MODULE, EXCERPT = 8_000, 600  # characters


@dataclass(frozen=True)
class Turn:
    given: tuple[int, ...]  # tokens before the model writes
    most: int  # tokens it may write
    temperature: float


class Prompts:
    def __init__(self, model: Path, seed: int) -> None:
        import tokenizers
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        self._rng = random.Random(seed)
        self._tokenizer = tokenizers.Tokenizer.from_file(str(model / "tokenizer.json"))
        settings = read_json(model / "tokenizer_config.json")
        if not isinstance(settings.get("chat_template"), str):
            raise HeadError(f"{model} has no chat template")
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        self._template = environment.from_string(settings["chat_template"])
        marker = "@@@@"
        self._before, self._behind = self._render(marker).split(marker)
        self._code = _modules()

    def chains(self) -> Iterator[tuple[int, list[Turn]]]:
        """Without end: a kind of text, as an index of KINDS, and turns to write one by one."""
        makers = (self._thought_up, self._asked, self._copied, self._code_to_go_on)
        for kind in itertools.cycle((0, 1, 0, 2, 0, 1, 2, 3)):
            yield kind, makers[kind](self._rng.choice((0.0, 0.8)))

    def _thought_up(self, temperature: float) -> list[Turn]:
        question = Turn(self._ids(self._before), 80, 1.0)
        return [question, Turn(self._ids(self._behind), 176, temperature)]

    def _asked(self, temperature: float) -> list[Turn]:
        question = self._rng.choice(FORMS).format(self._rng.choice(TOPICS))
        return [Turn(self._ids(self._render(question)), 176, temperature)]

    def _copied(self, temperature: float) -> list[Turn]:
        text, number = self._document()
        form = self._rng.choice(COPY + READ)
        question = form.format(a=number, b=self._rng.randrange(100, 999), text=text)
        return [Turn(self._ids(self._render(question)), 144, temperature)]

    def _code_to_go_on(self, temperature: float) -> list[Turn]:
        code = self._rng.choice(self._code)
        begin = code.find("\n", self._rng.randrange(len(code) - EXCERPT)) + 1
        return [Turn(self._ids(code[begin : begin + EXCERPT])[:96], 112, temperature)]

    def _document(self) -> tuple[str, int]:
        """Records, and a number that stands in one of them."""
        rng = self._rng
        rows = [
            (name, rng.choice(PLACES), rng.choice(THINGS), rng.randrange(2, 90))
            for name in rng.sample(NAMES, rng.randrange(3, 6))
        ]
        form = rng.choice((_sentence, _json, _code, _table))
        return "".join(form(*row) for row in rows), rng.choice(rows)[3]

    def _render(self, question: str) -> str:
        messages = [{"role": "user", "content": question}]
        return self._template.render(messages=messages, add_generation_prompt=True)

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(text, add_special_tokens=False).ids)


def _sentence(name: str, place: str, thing: str, number: int) -> str:
    return f"* {name} in {place} bought {number} {thing}.\n"


def _json(name: str, place: str, thing: str, number: int) -> str:
    record = {"customer": name, "place": place, "item": thing, "count": number}
    return json.dumps(record) + "\n"


def _code(name: str, place: str, thing: str, number: int) -> str:
    return (
        f"def count_{thing}(rows):\n    count = {number}\n    for row in rows:\n"
        f"        if row.place == '{place}':\n            count += row.{thing}\n"
        "    return count\n\n"
    )


def _table(name: str, place: str, thing: str, number: int) -> str:
    return f"| {name} | {thing} | {number} | {place} |\n"


def _modules() -> Sequence[str]:
    from eval.texts import library_code

    return [code for _, code in library_code(SHORTEST_MODULE)]
