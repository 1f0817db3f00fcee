"""Examples of the domain as token ids, under a model's own chat template."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from byte_tokenizer import merges_of, write_byte_tokenizer
from hf_directory import ToolError
from layerskip import domain

TOKENIZER_EXAMPLES = 2000


def write_tokenizer(directory: Path, seed: int, vocab_size: int) -> None:
    texts = []
    for number in range(TOKENIZER_EXAMPLES):
        drawn = domain.example(seed, domain.TRAIN, number)
        texts += [drawn.prompt, drawn.answer]
    write_byte_tokenizer(directory, vocab_size, merges_of(texts, vocab_size))


@dataclass(frozen=True)
class Chat:
    """What a directory says about text."""

    tokenizer: Tokenizer
    template: object  # of jinja2
    specials: dict[str, str]

    @staticmethod
    def of(directory: Path) -> "Chat":
        try:
            settings = json.loads((directory / "tokenizer_config.json").read_text("utf-8"))
            tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        except (ValueError, OSError) as error:
            raise ToolError(f"{directory} has no tokenizer: {error}") from error
        template = settings.get("chat_template")
        if not isinstance(template, str):
            raise ToolError(f"{directory}/tokenizer_config.json has no chat_template")
        specials = {
            name: token["content"] if isinstance(token, dict) else token
            for name, token in settings.items()
            if name in ("bos_token", "eos_token") and token
        }
        # Here and not above: the tests of the other parts do without it.
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        return Chat(tokenizer, environment.from_string(template), specials)

    def prompt_ids(self, prompt: str) -> list[int]:
        return self._ids([_message("user", prompt)], add_generation_prompt=True)

    def example_ids(self, example: domain.Example) -> list[int]:
        messages = [_message("user", example.prompt), _message("assistant", example.answer)]
        return self._ids(messages, add_generation_prompt=False)

    def _ids(self, messages: list[dict], add_generation_prompt: bool) -> list[int]:
        text = self.template.render(
            messages=messages, add_generation_prompt=add_generation_prompt, **self.specials
        )
        return self.tokenizer.encode(text, add_special_tokens=False).ids


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def batch(chat: Chat, seed: int, part: str, step: int, samples: int, tokens: int) -> np.ndarray:
    """[samples, tokens + 1]: every row begins with a new example, as a request does, and is filled
    up with more. A function of its arguments alone; no example comes twice."""
    rows = np.empty((samples, tokens + 1), dtype=np.int64)
    for sample in range(samples):
        ids: list[int] = []
        # No example has fewer tokens than its two turns.
        number = (step * samples + sample) * (tokens + 1)
        while len(ids) <= tokens:
            ids += chat.example_ids(domain.example(seed, part, number))
            number += 1
        rows[sample] = ids[: tokens + 1]
    return rows
