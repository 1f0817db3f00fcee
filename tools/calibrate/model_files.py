"""A Hugging Face directory: its tensors and its tokenizer."""

import json
from pathlib import Path

import numpy as np

from eval.errors import EvalError


def read_config(model: Path) -> dict:
    try:
        return json.loads((model / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EvalError(f"{model} is no model directory: {error}") from error


def weight_files(model: Path) -> list[Path]:
    """As the daemon finds them: what else lies there is not the model's."""
    try:
        index = json.loads((model / "model.safetensors.index.json").read_text(encoding="utf-8"))
        names = sorted(set(index["weight_map"].values()))
    except FileNotFoundError:
        names = ["model.safetensors"]
    files = [model / name for name in names]
    for path in files:
        if not path.exists():
            raise EvalError(f"{model} holds no {path.name}")
    return files


class Tensors:
    """Reads tensors when they are asked for, as float32."""

    def __init__(self, model: Path) -> None:
        # Here and not above: the tests of the arithmetic do without it. numpy learns of bf16.
        import ml_dtypes  # noqa: F401
        from safetensors import safe_open

        self._where = {}
        for path in weight_files(model):
            file = safe_open(path, framework="numpy")
            self._where |= {name: file for name in file.keys()}

    def __call__(self, name: str) -> np.ndarray | None:
        if name not in self._where:
            return None
        return self._where[name].get_tensor(name).astype(np.float32)


class LocalTokenizer:
    """What items are made with; see eval.prompts.Tokenizer."""

    def __init__(self, model: Path) -> None:
        import tokenizers

        self._tokenizer = tokenizers.Tokenizer.from_file(str(model / "tokenizer.json"))
        settings = json.loads((model / "tokenizer_config.json").read_text(encoding="utf-8"))
        self._template = settings.get("chat_template")
        self._tokens = {
            name: value["content"] if isinstance(value, dict) else value
            for name, value in settings.items()
            if name in ("bos_token", "eos_token") and value
        }

    def tokenize(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def tokenize_texts(self, text: str) -> tuple[list[int], list[str]]:
        encoded = self._tokenizer.encode(text, add_special_tokens=False)
        return encoded.ids, [text[begin:end] for begin, end in encoded.offsets]

    def tokenize_chat(self, content: str) -> list[int]:
        if not isinstance(self._template, str):
            # Then the items of that layout are plain ones.
            return self.tokenize(content)
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        text = environment.from_string(self._template).render(
            messages=[{"role": "user", "content": content}],
            add_generation_prompt=True,
            **self._tokens,
        )
        return self.tokenize(text)
