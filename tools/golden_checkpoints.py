"""The tiny checkpoints of tests/golden: which, how stored. Apart from make_golden.py, so that a
test without torch can tell whether the committed ones are still what would be written."""

from pathlib import Path

from byte_tokenizer import write_byte_tokenizer
from make_checkpoint import write_checkpoint
from model_shapes import TINY

GOLDEN = Path(__file__).resolve().parent.parent / "tests" / "golden"
SEED = 20240607

_USUAL = {"tokens": 72, "shards": 1, "dtype": "bfloat16"}
# tiny-llama3 runs far past its original 48 positions, so that every stretched wavelength turns
# enough to be seen. Two others also cover the other dtypes and a sharded checkpoint.
_UNUSUAL = {
    "tiny-llama3": {"tokens": 160},
    "tiny-llama-bias": {"dtype": "float16"},
    "tiny-linear-rope": {"dtype": "float32", "shards": 3, "tokens": 96},
}


def layout(name: str) -> dict:
    """How many tokens its golden has, in how many shards and as what it is stored."""
    return _USUAL | _UNUSUAL.get(name, {})


def write_golden_checkpoint(name: str, directory: Path) -> None:
    how = layout(name)
    write_checkpoint(directory, TINY[name], SEED, how["shards"], how["dtype"])
    write_byte_tokenizer(directory, TINY[name]["vocab_size"])
