"""Files of a model directory, without PyTorch."""

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import ml_dtypes  # noqa: F401: teaches numpy bf16
import numpy as np
from safetensors.numpy import load_file

from hf_directory import STAMP_NAME, ToolError, save_model, write_json
from layerskip import domain
from layerskip.speedup import Exit

PROMPTS = "prompts.jsonl"
EXITS = "exits.json"
OF_WEIGHTS = (".safetensors", ".safetensors.index.json", ".bin", ".gguf")


def read_config(directory: Path) -> dict:
    try:
        return json.loads((directory / "config.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ToolError(f"{directory} is no model directory: {error}") from error


def read_tensors(directory: Path) -> dict[str, np.ndarray]:
    """In float32."""
    tensors = {}
    for path in sorted(directory.glob("*.safetensors")):
        tensors |= {name: values.astype(np.float32) for name, values in load_file(path).items()}
    return tensors


def write_model(directory: Path, config: dict, tensors: dict[str, np.ndarray]) -> None:
    """config.json, generation_config.json and the weights, rounded to bf16."""
    fields = config | {"torch_dtype": "bfloat16"}
    write_json(directory / "config.json", dict(sorted(fields.items())))
    ids = {key: config[key] for key in ("bos_token_id", "eos_token_id")}
    write_json(directory / "generation_config.json", ids)
    shapes = {name: values.shape for name, values in tensors.items()}
    save_model(directory, shapes, lambda name, _: tensors[name], shards=1)


def copy_rest(source: Path, directory: Path) -> None:
    """Tokenizer, template, licence: what is not there yet and says nothing of the weights."""
    for path in sorted(source.iterdir()):
        wanted = path.name != STAMP_NAME and not path.name.endswith(OF_WEIGHTS)
        if path.is_file() and wanted and not (directory / path.name).exists():
            shutil.copy(path, directory)


def write_prompts(directory: Path, seed: int, count: int) -> None:
    """Held-out prompts and their answers, an object a line."""
    with (directory / PROMPTS).open("w", encoding="utf-8") as file:
        for number in range(count):
            drawn = domain.example(seed, domain.HELD_OUT, number)
            file.write(json.dumps(dataclasses.asdict(drawn)) + "\n")


def write_exits(directory: Path, exits: Sequence[Exit]) -> None:
    write_json(directory / EXITS, {"exits": [dataclasses.asdict(e) for e in exits]})


def read_exits(directory: Path) -> list[Exit]:
    value = json.loads((directory / EXITS).read_text("utf-8"))
    return [Exit.from_json(e) for e in value["exits"]]
