"""The default model in the GGUF flavours that the peers load: the same bf16 values that Skim
serves, stored as they are or quantised from them."""

import json
from pathlib import Path

from bench_peers.errors import BenchError
from bench_peers.processes import say

# Values are those of bf16 in all of them: f16 holds them but for the tiniest.
FLAVOURS = ("f16", "bf16", "q8_0", "q4_0")
# Raise it whenever the files written from the same source change.
CONVERSION_VERSION = 1


def gguf_file(flavour: str, source: Path, folder: Path) -> Path:
    out = folder / "models" / f"{source.stem.split('.')[0]}.{flavour}.gguf"
    stamp = out.with_suffix(".json")
    size = out.stat().st_size if out.exists() else 0
    made_from = {"version": CONVERSION_VERSION, "source": str(source), "bytes": size}
    if size and stamp.exists() and json.loads(stamp.read_text()) == made_from:
        return out
    say(f"writing {out.name}")
    out.parent.mkdir(parents=True, exist_ok=True)
    stamp.unlink(missing_ok=True)
    _convert(flavour, source, out)
    stamp.write_text(json.dumps({**made_from, "bytes": out.stat().st_size}))
    return out


def check_same_model(source: Path, source_sha256: str, skim_model: Path) -> None:
    """Skim's directory and the peers' file must be the same weights."""
    try:
        stamp = json.loads((skim_model / "skim_stamp.json").read_text())
        made_from = stamp["made_from"]["source_sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BenchError(f"{skim_model} was not made by tools/get_model.py: {error}") from error
    if made_from != source_sha256:
        raise BenchError(f"{skim_model} was not made from {source}")


def _convert(flavour: str, source: Path, out: Path) -> None:
    # Here and not above: the tests of the pure parts and the workers do without it.
    import numpy as np
    from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, LlamaFileType
    from gguf.quants import dequantize, quantize

    reader = GGUFReader(source)
    writer = GGUFWriter(out, reader.get_field("general.architecture").contents())
    rewritten = ("general.architecture", "general.file_type", "general.quantization_version")
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name in rewritten:
            continue
        kind = field.types[0]
        of_items = field.types[-1] if kind == GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), kind, sub_type=of_items)
    writer.add_file_type(LlamaFileType[f"MOSTLY_{flavour.upper()}"])
    bf16 = GGMLQuantizationType.BF16
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type)
        if values.ndim == 1:
            writer.add_tensor(tensor.name, values.astype(np.float32))
            continue
        # Below 8 bits llama.cpp, too, keeps the embedding, which is also the head, at 8.
        is_embedding = tensor.name == "token_embd.weight"
        stored = "q8_0" if flavour == "q4_0" and is_embedding else flavour
        kind = GGMLQuantizationType[stored.upper()]
        rounded = dequantize(quantize(values, bf16), bf16)
        writer.add_tensor(tensor.name, quantize(rounded, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
