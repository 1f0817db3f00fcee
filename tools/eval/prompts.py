"""Prompts out of token ids: filler of whole sentences, and where the question stands."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from eval.errors import EvalError

LAYOUTS = ("last", "first", "chat")
MARKER = "@@@@"
# Rarely is a sentence of prose longer; what is, is a table.
LONGEST_SENTENCE = 120

Ids = tuple[int, ...]


class Tokenizer(Protocol):
    """Of the daemon; see client.py."""

    def tokenize(self, text: str) -> list[int]: ...

    def tokenize_texts(self, text: str) -> tuple[list[int], list[str]]: ...

    def tokenize_chat(self, content: str) -> list[int]: ...


@dataclass(frozen=True)
class Item:
    task: str
    layout: str  # one of LAYOUTS, or "plain" where there is no question
    length: int  # tokens asked for; the prompt has at most so many, and nearly so many
    prompt: Ids
    context: tuple[int, int]  # the prompt's tokens [begin, end) that are neither question nor lead
    answer: Ids
    reply_tokens: int
    # False: the reply has to begin with the answer, which is the same as every token of the
    # answer being the most probable one after those before it. True: it has to hold it.
    anywhere: bool = False

    def is_right(self, reply: Sequence[int]) -> bool:
        length = len(self.answer)
        last = len(reply) - length if self.anywhere else 0
        return any(tuple(reply[i : i + length]) == self.answer for i in range(last + 1))


class Filler:
    """Sentences of long texts, in their order, from a place that the caller's generator picks."""

    def __init__(self, tokenizer: Tokenizer, documents: Sequence[tuple[str, str]]) -> None:
        self._tokenizer = tokenizer
        self._documents = documents
        self._sentences: dict[int, list[Ids]] = {}

    def sentences(self, rng: random.Random) -> Iterator[Ids]:
        """Without end: document after document."""
        number = rng.randrange(len(self._documents))
        begin = rng.random()
        while True:
            of_document = self._of(number)
            yield from of_document[int(begin * len(of_document)) :]
            number, begin = (number + 1) % len(self._documents), 0.0

    def _of(self, number: int) -> list[Ids]:
        if number not in self._sentences:
            ids, texts = self._tokenizer.tokenize_texts(self._documents[number][1])
            sentences = split_sentences(ids, texts)
            self._sentences[number] = [s for s in sentences if len(s) <= LONGEST_SENTENCE]
        return self._sentences[number]


def split_sentences(ids: Sequence[int], texts: Sequence[str]) -> list[Ids]:
    """Each begins with the token that holds the blank before it, but for the text's first."""
    ends = [
        i + 1
        for i in range(len(ids) - 1)
        if texts[i].rstrip().endswith((".", "?", "!")) and texts[i + 1][:1].isspace()
    ]
    return [tuple(ids[a:b]) for a, b in zip([0, *ends], [*ends, len(ids)], strict=True) if b > a]


class Composer:
    """Joins context, question and lead under a layout. The lead is where the reply goes on."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._head, self._tail = chat_frame(tokenizer)
        self._gap = tuple(tokenizer.tokenize("\n\n"))
        self._newline = tuple(tokenizer.tokenize("\n"))

    def room(self, length: int, layout: str, question: Ids, lead: Ids) -> int:
        """Tokens left for the context."""
        empty, _ = self.join(layout, (), question, lead)
        room = length - len(empty)
        if room < length // 2:
            raise EvalError(f"prompts of {length} tokens are too short for this task")
        return room

    def join(
        self, layout: str, context: Ids, question: Ids, lead: Ids
    ) -> tuple[Ids, tuple[int, int]]:
        """The prompt, and where the context lies in it."""
        if layout == "first":
            before, after = question + self._gap, self._gap + lead
        elif layout == "last":
            before, after = (), self._gap + question + self._newline + lead
        else:
            before, after = self._head, self._gap + question + self._tail + lead
        return before + context + after, (len(before), len(before) + len(context))

    def ids(self, text: str) -> Ids:
        return tuple(self.tokenizer.tokenize(text))


def chat_frame(tokenizer: Tokenizer) -> tuple[Ids, Ids]:
    """What the model's template puts before and behind a user's turn."""
    ids, marker = tokenizer.tokenize_chat(MARKER), tokenizer.tokenize(MARKER)
    for begin in range(len(ids) - len(marker) + 1):
        if ids[begin : begin + len(marker)] == marker:
            return tuple(ids[:begin]), tuple(ids[begin + len(marker) :])
    raise EvalError("the model's chat template changes what the user says")


def fill(sentences: Iterator[Ids], room: int, needles: Sequence[Ids], rng: random.Random) -> Ids:
    """`room` tokens at most: filler, with the needles in order between its sentences at places
    drawn evenly, so that all depths occur."""
    left = room - sum(map(len, needles))
    parts: list[Ids] = []
    for sentence in sentences:
        if len(sentence) > left:
            break
        parts.append(sentence)
        left -= len(sentence)
    places = sorted(rng.randrange(len(parts) + 1) for _ in needles)
    for place, needle in zip(reversed(places), reversed(needles), strict=True):
        parts.insert(place, needle)
    return tuple(token for part in parts for token in part)
