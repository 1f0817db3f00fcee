import filecmp
import json
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import tool_path
import ml_dtypes
import numpy as np
from safetensors.numpy import load_file
from tokenizers import Tokenizer

import golden_checkpoints
from calibrate import predictor_file
from make_checkpoint import write_checkpoint
from model_shapes import PUBLISHED, SHAPES, TINY
from random_weights import draw, tensor_shapes

# Parameters in millions as published, tied embeddings counted once.
PUBLISHED_MILLIONS = {
    "smollm2-135m": 134.5,
    "smollm2-360m": 361.8,
    "tinyllama-1.1b": 1100.0,
    "llama2-7b": 6738.4,
    "llama3-8b": 8030.3,
    "llama3.2-1b": 1235.8,
    "mistral-7b": 7248.0,
    "qwen2.5-0.5b": 494.0,
    "qwen3-0.6b": 596.0,
}


def all_tensors(directory: Path) -> dict[str, np.ndarray]:
    tensors = {}
    for path in directory.glob("*.safetensors"):
        tensors |= load_file(path)
    return tensors


class InTemporaryDirectory(unittest.TestCase):
    def setUp(self) -> None:
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.root = Path(scratch.name)

    def write(self, name: str, shape: str, seed: int, **options: object) -> Path:
        directory = self.root / name
        directory.mkdir()
        write_checkpoint(directory, TINY[shape], seed, **options)
        return directory


class Shapes(unittest.TestCase):
    def test_published_shapes_have_the_published_number_of_parameters(self) -> None:
        self.assertEqual(set(PUBLISHED_MILLIONS), set(PUBLISHED))
        for name, millions in PUBLISHED_MILLIONS.items():
            count = sum(int(np.prod(s)) for s in tensor_shapes(PUBLISHED[name]).values())
            self.assertAlmostEqual(count / 1e6 / millions, 1, delta=1e-3, msg=name)

    def test_biases_and_norms_are_where_the_family_has_them(self) -> None:
        def suffixes(name: str) -> set[str]:
            prefix = "model.layers.0."
            return {n.removeprefix(prefix) for n in tensor_shapes(TINY[name]) if prefix in n}

        qkv = {f"self_attn.{part}_proj.bias" for part in "qkv"}
        rest = {"self_attn.o_proj.bias"} | {
            f"mlp.{part}_proj.bias" for part in ("gate", "up", "down")
        }
        head_norms = {"self_attn.q_norm.weight", "self_attn.k_norm.weight"}
        plain = suffixes("tiny-llama2")
        self.assertEqual(suffixes("tiny-qwen2") - plain, qkv)
        self.assertEqual(suffixes("tiny-llama-bias") - plain, qkv | rest)
        self.assertEqual(suffixes("tiny-qwen3") - plain, head_norms)

    def test_every_shape_has_whole_query_groups_and_even_heads(self) -> None:
        for name, config in SHAPES.items():
            heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
            self.assertEqual(heads % kv_heads, 0, name)
            if "head_dim" not in config:
                self.assertEqual(config["hidden_size"] % (2 * heads), 0, name)

    def test_tiny_shapes_cover_what_published_ones_do_not(self) -> None:
        qwen3 = TINY["tiny-qwen3"]
        quotient = qwen3["hidden_size"] // qwen3["num_attention_heads"]
        self.assertNotEqual(qwen3["head_dim"], quotient)
        for name, config in TINY.items():
            self.assertNotEqual(config["intermediate_size"] % 16, 0, name)


class Determinism(InTemporaryDirectory):
    def test_the_same_seed_gives_the_same_bytes_and_another_does_not(self) -> None:
        first = self.write("first", "tiny-qwen3", 5)
        second = self.write("second", "tiny-qwen3", 5)
        other = self.write("other", "tiny-qwen3", 6)
        names = sorted(path.name for path in first.iterdir())
        self.assertEqual(filecmp.cmpfiles(first, second, names, shallow=False)[0], names)
        self.assertFalse(
            filecmp.cmp(first / "model.safetensors", other / "model.safetensors", shallow=False)
        )

    def test_shards_and_dtype_do_not_change_the_model(self) -> None:
        plain = all_tensors(self.write("plain", "tiny-llama-bias", 5))
        wide = all_tensors(self.write("wide", "tiny-llama-bias", 5, shards=5, dtype="float32"))
        self.assertEqual(plain.keys(), wide.keys())
        for name, tensor in plain.items():
            np.testing.assert_array_equal(tensor.astype(np.float32), wide[name])

    def test_committed_goldens_are_what_would_be_written_today(self) -> None:
        for name in TINY:
            fresh = self.root / name
            fresh.mkdir()
            golden_checkpoints.write_golden_checkpoint(name, fresh)
            committed = golden_checkpoints.GOLDEN / name
            names = sorted(path.name for path in fresh.iterdir())
            # Written by make_lazy_golden.py, for one of them.
            there = {path.name for path in committed.iterdir()} - {predictor_file.NAME}
            self.assertEqual(sorted(there), names)
            same, _, _ = filecmp.cmpfiles(fresh, committed, names, shallow=False)
            self.assertEqual(same, names, f"{name} is stale: run tools/make_golden.py")

    def test_golden_logits_fit_their_checkpoint(self) -> None:
        for name, config in TINY.items():
            golden = load_file(golden_checkpoints.GOLDEN / f"{name}.logits.safetensors")
            tokens = golden_checkpoints.layout(name)["tokens"]
            self.assertEqual(golden["ids"].shape, (tokens,))
            self.assertEqual(golden["logits"].shape, (tokens, config["vocab_size"]))
            self.assertTrue(np.isfinite(golden["logits"]).all())
            self.assertTrue((golden["ids"] < config["vocab_size"]).all())


class Weights(unittest.TestCase):
    def test_scales_follow_the_width_of_the_input(self) -> None:
        config = SHAPES["smollm2-135m"]
        q = draw("model.layers.3.self_attn.q_proj.weight", (576, 576), config, 1)
        self.assertAlmostEqual(float(q.std()) * 576**0.5, 1.2, delta=0.02)
        self.assertAlmostEqual(float(q.mean()), 0, delta=1e-3)

    def test_like_named_tensors_of_two_layers_differ(self) -> None:
        config = SHAPES["tiny-llama2"]
        first, second = (
            draw(f"model.layers.{layer}.mlp.up_proj.weight", (70, 48), config, 1)
            for layer in (0, 1)
        )
        self.assertFalse(np.array_equal(first, second))


def raw_tensors(path: Path) -> dict[str, tuple[str, np.ndarray]]:
    """Name -> dtype as written, values. The library cannot hand float8 to numpy."""
    types = {"F32": np.float32, "BF16": ml_dtypes.bfloat16, "I8": np.int8}
    types["F8_E4M3"] = ml_dtypes.float8_e4m3fn
    data = path.read_bytes()
    header_bytes = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + header_bytes])
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = (8 + header_bytes + offset for offset in entry["data_offsets"])
        values = np.frombuffer(data[begin:end], types[entry["dtype"]]).reshape(entry["shape"])
        tensors[name] = (entry["dtype"], values.astype(np.float32))
    return tensors


class Quantized(InTemporaryDirectory):
    def test_codes_times_scales_are_the_same_model_within_half_a_step(self) -> None:
        plain = raw_tensors(self.write("plain", "tiny-llama2", 5) / "model.safetensors")
        # Half a step of the codes: absolute for int8, relative to the weight for fp8.
        for scheme, dtype, absolute, relative in [
            ("int8", "I8", 0.51, 0),
            ("fp8", "F8_E4M3", 2**-9, 2**-4),
        ]:
            directory = self.write(scheme, "tiny-llama2", 5, quantize=scheme)
            tensors = raw_tensors(directory / "model.safetensors")
            matrices = [name for name in plain if "_proj.weight" in name]
            self.assertEqual(set(tensors) - set(plain), {name + "_scale" for name in matrices})
            for name, (stored, values) in plain.items():
                if name not in matrices:
                    self.assertEqual(tensors[name][0], stored, name)
                    np.testing.assert_array_equal(tensors[name][1], values)
                    continue
                self.assertEqual(tensors[name][0], dtype, name)
                scales = tensors[name + "_scale"][1]
                self.assertEqual(scales.shape, (values.shape[0], 1))
                error = np.abs(tensors[name][1] * scales - values)
                # bf16 rounding: of the plain values, and of the scale under the largest code.
                slack = np.abs(values) * 2**-8
                most = absolute * scales + relative * np.abs(values) + slack
                self.assertTrue((error <= most).all(), name)

    def test_the_config_says_how(self) -> None:
        directory = self.write("int8", "tiny-qwen3", 5, quantize="int8", shards=3)
        config = json.loads((directory / "config.json").read_text())["quantization_config"]
        self.assertEqual(config["quant_method"], "compressed-tensors")
        self.assertEqual(config["format"], "int-quantized")
        self.assertEqual(config["ignore"], ["lm_head"])
        index = json.loads((directory / "model.safetensors.index.json").read_text())
        shards = [directory / name for name in sorted(set(index["weight_map"].values()))]
        sizes = {"F32": 4, "BF16": 2, "I8": 1}
        total = sum(
            sizes[dtype] * values.size
            for shard in shards
            for dtype, values in raw_tensors(shard).values()
        )
        self.assertEqual(index["metadata"]["total_size"], total)


class CommandLine(InTemporaryDirectory):
    def run_tool(self, *args: object) -> subprocess.CompletedProcess:
        command = [sys.executable, tool_path.TOOLS / "make_checkpoint.py", *args]
        return subprocess.run([str(part) for part in command], capture_output=True, text=True)

    def test_writes_a_checkpoint_with_the_byte_tokenizer_and_copies_it_on(self) -> None:
        first, second = self.root / "first", self.root / "second"
        done = self.run_tool("--shape", "tiny-llama2", "--out", first, "--tokenizer", "bytes")
        self.assertEqual(done.returncode, 0, done.stderr)
        done = self.run_tool("--shape", "tiny-qwen2", "--out", second, "--tokenizer", first)
        self.assertEqual(done.returncode, 0, done.stderr)
        config = json.loads((second / "config.json").read_text())
        self.assertEqual(config["model_type"], "qwen2")
        for name in ("tokenizer.json", "tokenizer_config.json"):
            self.assertTrue(filecmp.cmp(first / name, second / name, shallow=False))
        tokenizer = Tokenizer.from_file(str(second / "tokenizer.json"))
        text = "<|im_start|>héllo 😀"
        ids = tokenizer.encode(text).ids
        self.assertEqual(len(ids), 1 + len("héllo 😀".encode()))
        self.assertEqual(ids[0], config["bos_token_id"])
        self.assertEqual(tokenizer.decode(ids, skip_special_tokens=False), text)

    def test_impossible_wishes_are_one_line_and_leave_nothing(self) -> None:
        out = ("--out", self.root / "out")
        for args, words in [
            (("--shape", "tiny-llama2", "--shards", 1000), "1000 shards"),
            (("--shape", "tiny-llama2", "--shards", 0), "0 shards"),
            (("--shape", "tiny-llama2", "--tokenizer", self.root / "none"), "none"),
        ]:
            done = self.run_tool(*args, *out)
            self.assertEqual(done.returncode, 1)
            self.assertRegex(done.stderr, rf"^make_checkpoint\.py: .*{words}.*\n$")
            self.assertEqual(list(self.root.iterdir()), [])

    def test_unknown_shapes_are_refused_by_argparse(self) -> None:
        done = self.run_tool("--shape", "gpt5", "--out", self.root / "out")
        self.assertEqual(done.returncode, 2)
        self.assertIn("gpt5", done.stderr)


if __name__ == "__main__":
    unittest.main()
