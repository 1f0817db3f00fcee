import json
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import tool_path
import numpy as np
from safetensors.numpy import load_file
from tokenizers import Tokenizer

import tiny_gguf
from hf_directory import BF16
from random_weights import tensor_shapes


def run_get_model(*args: object) -> subprocess.CompletedProcess:
    command = [sys.executable, tool_path.TOOLS / "get_model.py", "--quiet", *args]
    return subprocess.run([str(part) for part in command], capture_output=True, text=True)


class ConvertedModel(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        scratch = tempfile.TemporaryDirectory()
        cls.addClassCleanup(scratch.cleanup)
        cls.source = tiny_gguf.write_tiny_gguf(Path(scratch.name) / "tiny.gguf")
        cls.out = Path(scratch.name) / "out" / "model"
        done = run_get_model("--gguf", cls.source.path, "--out", cls.out)
        if done.returncode:
            raise AssertionError(done.stderr)
        cls.config = json.loads((cls.out / "config.json").read_text())
        cls.tensors = load_file(cls.out / "model.safetensors")
        cls.tokenizer = Tokenizer.from_file(str(cls.out / "tokenizer.json"))

    def test_the_config_says_what_the_metadata_said(self) -> None:
        expected = {
            "model_type": "llama",
            "hidden_size": tiny_gguf.HIDDEN,
            "intermediate_size": tiny_gguf.INTERMEDIATE,
            "num_attention_heads": tiny_gguf.HEADS,
            "num_key_value_heads": tiny_gguf.KV_HEADS,
            "num_hidden_layers": tiny_gguf.LAYERS,
            "head_dim": 8,
            "max_position_embeddings": 128,
            "rms_norm_eps": 1e-5,
            "rope_theta": 100000.0,
            "tie_word_embeddings": True,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "vocab_size": len(self.source.tokens),
        }
        self.assertEqual(self.config, self.config | expected)

    def test_exactly_the_tensors_of_the_config_are_there_in_bf16(self) -> None:
        shapes = {name: tensor.shape for name, tensor in self.tensors.items()}
        self.assertEqual(shapes, tensor_shapes(self.config))
        self.assertEqual({tensor.dtype for tensor in self.tensors.values()}, {np.dtype(BF16)})

    def test_query_rows_are_reordered_and_value_rows_are_not(self) -> None:
        stored = self.source.tensors
        layer = "model.layers.1.self_attn"
        q = self.tensors[f"{layer}.q_proj.weight"]
        # Head 1 of 8 rows: its pair 3, member 1 moves from row 7 of the head to row 4 + 3,
        # pair 1, member 0 from row 2 to row 1.
        q_stored = stored["blk.1.attn_q.weight"].astype(BF16)
        self.assertEqual(q[8 + 7].tolist(), q_stored[8 + 7].tolist())
        self.assertEqual(q[8 + 1].tolist(), q_stored[8 + 2].tolist())
        v_stored = stored["blk.1.attn_v.weight"].astype(BF16)
        self.assertEqual(self.tensors[f"{layer}.v_proj.weight"].tolist(), v_stored.tolist())

    def test_digits_stand_alone_though_a_merge_would_join_them(self) -> None:
        self.assertEqual(self.tokenizer.encode("12").tokens, ["1", "2"])
        self.assertEqual(self.tokenizer.encode(" hello").tokens, ["Ġhello"])

    def test_no_token_is_prepended_and_control_tokens_are_whole_and_special(self) -> None:
        encoding = self.tokenizer.encode("<|im_start|>hello<|im_end|>")
        self.assertEqual(encoding.tokens, ["<|im_start|>", "hello", "<|im_end|>"])
        self.assertEqual(self.tokenizer.decode(encoding.ids), "hello")

    def test_any_text_survives_a_round_trip(self) -> None:
        for text in ["", "  héllo\n\t12 345", "日本語 😀", "don't  we'll", "\x00\x7f"]:
            self.assertEqual(self.tokenizer.decode(self.tokenizer.encode(text).ids), text)

    def test_the_tokenizer_config_has_the_template_and_the_special_tokens(self) -> None:
        config = json.loads((self.out / "tokenizer_config.json").read_text())
        self.assertEqual(config["chat_template"], tiny_gguf.CHAT_TEMPLATE)
        self.assertEqual(config["bos_token"], "<|im_start|>")
        self.assertEqual(config["eos_token"], "<|im_end|>")
        self.assertIs(config["add_bos_token"], False)

    def test_origin_and_licence_are_named(self) -> None:
        self.assertIn("Apache License 2.0", (self.out / "NOTICE").read_text())


class Repeating(unittest.TestCase):
    def setUp(self) -> None:
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.root = Path(scratch.name)
        self.out = self.root / "model"
        self.gguf = tiny_gguf.write_tiny_gguf(self.root / "tiny.gguf").path
        self.assertEqual(self.convert().returncode, 0)

    def convert(self, *args: object) -> subprocess.CompletedProcess:
        return run_get_model("--gguf", self.gguf, "--out", self.out, *args)

    def inode(self) -> int:
        return (self.out / "model.safetensors").stat().st_ino

    def test_a_complete_model_is_left_alone_unless_forced(self) -> None:
        before = self.inode()
        self.assertIn("complete already", self.convert().stdout)
        self.assertEqual(self.inode(), before)
        self.assertEqual(self.convert("--force").returncode, 0)
        self.assertNotEqual(self.inode(), before)

    def test_a_truncated_or_missing_file_is_made_again(self) -> None:
        whole = (self.out / "model.safetensors").read_bytes()
        (self.out / "model.safetensors").write_bytes(whole[:-1])
        self.assertEqual(self.convert().returncode, 0)
        self.assertEqual((self.out / "model.safetensors").read_bytes(), whole)
        (self.out / "tokenizer.json").unlink()
        self.assertEqual(self.convert().returncode, 0)
        self.assertTrue((self.out / "tokenizer.json").is_file())

    def test_another_source_replaces_the_model(self) -> None:
        before = self.inode()
        tiny_gguf.write_tiny_gguf(self.gguf)
        with self.gguf.open("ab") as file:
            file.write(b"\0")
        self.assertEqual(self.convert().returncode, 0)
        self.assertNotEqual(self.inode(), before)

    def test_a_draft_head_is_put_beside_a_model_old_or_new(self) -> None:
        head, put = self.root / "head.safetensors", self.out / "skim_draft_head.safetensors"
        before = self.inode()
        for content in (b"trained", b"trained again"):
            head.write_bytes(content)
            self.assertEqual(self.convert("--draft-head", head).returncode, 0)
            self.assertEqual(put.read_bytes(), content)
        self.assertEqual(self.inode(), before)
        self.assertEqual(self.convert("--force", "--draft-head", head).returncode, 0)
        self.assertEqual(put.read_bytes(), b"trained again")
        head.unlink()
        done = self.convert("--draft-head", head)
        self.assertEqual(done.returncode, 1)
        self.assertIn("head.safetensors", done.stderr)

    def test_a_failure_keeps_the_old_model_and_leaves_nothing_behind(self) -> None:
        before = self.inode()
        listing = sorted(self.root.iterdir())
        tiny_gguf.write_tiny_gguf(self.gguf, pre="llama-bpe")
        done = self.convert()
        self.assertEqual(done.returncode, 1)
        self.assertIn("llama-bpe", done.stderr)
        self.assertEqual(self.inode(), before)
        self.assertEqual(sorted(self.root.iterdir()), listing)


class Refusals(unittest.TestCase):
    def setUp(self) -> None:
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.root = Path(scratch.name)

    def assert_refused(self, gguf: Path, words: str) -> None:
        done = run_get_model("--gguf", gguf, "--out", self.root / "model")
        self.assertEqual(done.returncode, 1, done.stdout)
        self.assertRegex(done.stderr, rf"^get_model\.py: .*{words}.*\n$")
        self.assertFalse((self.root / "model").exists())

    def test_a_missing_file_is_named_in_one_line(self) -> None:
        self.assert_refused(self.root / "none.gguf", "none.gguf")

    def test_garbage_and_truncated_files_are_named_in_one_line(self) -> None:
        garbage = self.root / "garbage.gguf"
        garbage.write_bytes(b"not a model" * 100)
        self.assert_refused(garbage, "garbage.gguf")
        whole = tiny_gguf.write_tiny_gguf(self.root / "whole.gguf").path.read_bytes()
        # Within the magic, the metadata, the tensor list and the data.
        for length in [0, 2, 30, len(whole) // 4, len(whole) // 2, len(whole) - 100]:
            garbage.write_bytes(whole[:length])
            with self.subTest(length=length):
                self.assert_refused(garbage, "garbage.gguf")

    def test_a_model_without_one_of_its_tensors_is_refused_by_its_name(self) -> None:
        gguf = tiny_gguf.write_tiny_gguf(
            self.root / "part.gguf", drop_tensor="blk.1.ffn_up.weight"
        ).path
        self.assert_refused(gguf, "model.layers.1.mlp.up_proj.weight")


if __name__ == "__main__":
    unittest.main()
