#!/usr/bin/env python3
"""Writes a random-weight checkpoint of a given shape as a Hugging Face directory."""

import argparse
import functools
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

import compressed_tensors
from byte_tokenizer import write_byte_tokenizer
from hf_directory import DTYPES, ToolError, replacing, run_main, save_model, write_json
from model_shapes import PUBLISHED, SHAPES, TINY
from random_weights import draw, tensor_shapes

TOKENIZER_FILES = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
]
MAX_SHARD_ELEMENTS = 1 << 30


def main() -> None:
    args = parse_args()
    config = SHAPES[args.shape]
    with replacing(args.out) as directory:
        write_checkpoint(directory, config, args.seed, args.shards, args.dtype, args.quantize)
        if args.tokenizer == "bytes":
            write_byte_tokenizer(directory, config["vocab_size"])
        elif args.tokenizer:
            copy_tokenizer(Path(args.tokenizer), directory)
    print(f"wrote {args.out}")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=f"published shapes: {', '.join(PUBLISHED)}. tiny shapes for tests: "
        f"{', '.join(TINY)}. The same shape and seed give the same bytes.",
    )
    parser.add_argument("--shape", required=True, choices=SHAPES, metavar="NAME", help="see below")
    parser.add_argument("--out", required=True, type=Path, help="directory to write or replace")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument(
        "--shards",
        type=int,
        help="number of safetensors files; more than one gets an index (default: as few as hold "
        "2^30 weights each)",
    )
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        default="bfloat16",
        help="how the weights are stored; they are bf16 values in each (default: %(default)s)",
    )
    parser.add_argument(
        "--quantize",
        choices=compressed_tensors.SCHEMES,
        help="store the layers' matrices in 8 bits with a scale per row, in the layout called "
        "compressed-tensors; embedding and head stay as --dtype says (default: not)",
    )
    parser.add_argument(
        "--tokenizer",
        metavar="bytes|DIR",
        help="write a tokenizer of single bytes, or copy the one in DIR (default: none)",
    )
    args = parser.parse_args()
    if args.seed < 0:
        parser.error("--seed is negative")
    return args


def write_checkpoint(
    directory: Path,
    config: dict,
    seed: int,
    shards: int | None = None,
    dtype: str = "bfloat16",
    quantize: str | None = None,
) -> None:
    shapes = tensor_shapes(config)
    make = functools.partial(draw, config=config, seed=seed)
    if quantize:
        shapes, make = quantized(shapes, make, quantize)
    if shards is None:
        elements = sum(math.prod(shape) for shape in shapes.values())
        shards = math.ceil(elements / MAX_SHARD_ELEMENTS)
    fields = config | {"torch_dtype": dtype}
    if quantize:
        fields["quantization_config"] = compressed_tensors.quantization_config(quantize)
    write_json(directory / "config.json", dict(sorted(fields.items())))
    ids = {key: config[key] for key in ("bos_token_id", "eos_token_id")}
    write_json(directory / "generation_config.json", ids)
    save_model(directory, shapes, make, shards, dtype)


def quantized(shapes: dict, make: Callable, scheme: str) -> tuple[dict, Callable]:
    """The tensors of the same model with codes and scales for the layers' matrices. Codes and
    scales of a matrix are made apart, so that either may be the last of a shard."""
    matrices = [name for name in shapes if compressed_tensors.is_quantized(name)]
    scales = {name + compressed_tensors.SUFFIX: name for name in matrices}
    with_scales = {}
    for name, shape in shapes.items():
        with_scales[name] = shape
        if name in matrices:
            with_scales[name + compressed_tensors.SUFFIX] = (shape[0], 1)

    def make_part(name: str, shape: tuple[int, ...]) -> np.ndarray:
        if name in scales:
            matrix = scales[name]
            return compressed_tensors.quantize(make(matrix, shapes[matrix]), scheme)[1]
        values = make(name, shape)
        return compressed_tensors.quantize(values, scheme)[0] if name in matrices else values

    return with_scales, make_part


def copy_tokenizer(source: Path, directory: Path) -> None:
    found = [source / name for name in TOKENIZER_FILES if (source / name).is_file()]
    if not found:
        raise ToolError(f"{source} holds none of {', '.join(TOKENIZER_FILES)}")
    for path in found:
        shutil.copy(path, directory)


if __name__ == "__main__":
    run_main(main)
