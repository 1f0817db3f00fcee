"""skim_exit_adapters.safetensors: what the daemon reads beside a model (engine/exit_adapters.h)."""

from pathlib import Path

from calibrate import tensor_file
from calibrate.exit_adapters import Adapter

NAME = "skim_exit_adapters.safetensors"


def write(path: Path, adapters: dict[int, Adapter], made_for: dict[str, str]) -> None:
    """As a whole or not at all."""
    weights = {f"{number}.weight": of.weight for number, of in adapters.items()}
    biases = {f"{number}.bias": of.bias for number, of in adapters.items()}
    tensor_file.write(path, weights, biases, made_for)
