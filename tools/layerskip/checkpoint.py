"""A Decoder from a model directory and into one."""

from pathlib import Path

import torch

from hf_directory import ToolError
from layerskip import model_directory
from layerskip.decoder import Decoder


def read(directory: Path) -> Decoder:
    """ToolError if it is another kind of model, or not all of one."""
    config = model_directory.read_config(directory)
    model = Decoder(config)
    tensors = {
        name: torch.from_numpy(values)
        for name, values in model_directory.read_tensors(directory).items()
    }
    if config["tie_word_embeddings"]:
        tensors.pop("lm_head.weight", None)
    wanted = {name: value.shape for name, value in model.state_dict().items()}
    for name in sorted(wanted.keys() | tensors.keys()):
        found = tensors[name].shape if name in tensors else None
        if found != wanted.get(name):
            raise ToolError(f"{directory}: tensor {name} is {found}, not {wanted.get(name)}")
    model.load_state_dict(tensors)
    return model


def write(directory: Path, model: Decoder) -> None:
    tensors = {name: value.numpy() for name, value in model.state_dict().items()}
    model_directory.write_model(directory, model.config, tensors)
