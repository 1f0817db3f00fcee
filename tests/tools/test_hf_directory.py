import json
import struct
import tempfile
import unittest
from pathlib import Path

import tool_path  # noqa: F401
import numpy as np
from safetensors.numpy import load_file

import hf_directory
from hf_directory import BF16, ToolError, replacing, save_model, save_tensors, split_evenly


def read_header(path: Path) -> tuple[dict, int]:
    """The JSON header of a safetensors file and the bytes of data after it."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), len(content) - 8 - length


class InTemporaryDirectory(unittest.TestCase):
    def setUp(self) -> None:
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.root = Path(scratch.name)


class Tensors(InTemporaryDirectory):
    def test_the_header_names_dtype_shape_and_contiguous_offsets(self) -> None:
        path = self.root / "t.safetensors"
        save_tensors(path, {"b": np.ones((2, 3), np.float32), "a": np.zeros(5, np.float32)})
        header, data_bytes = read_header(path)
        self.assertEqual(header.pop("__metadata__"), {"format": "pt"})
        described = {name: (entry["dtype"], entry["shape"]) for name, entry in header.items()}
        self.assertEqual(described, {"a": ("BF16", [5]), "b": ("BF16", [2, 3])})
        ranges = sorted(tuple(entry["data_offsets"]) for entry in header.values())
        self.assertEqual((ranges[0][0], ranges[-1][1], data_bytes), (0, 22, 22))
        self.assertEqual(ranges[0][1], ranges[1][0])

    def test_others_may_read_the_file(self) -> None:
        path = self.root / "t.safetensors"
        save_tensors(path, {"a": np.ones(1, np.float32)})
        self.assertEqual(path.stat().st_mode & 0o777, 0o644)

    def test_rounds_to_nearest_and_halves_to_even(self) -> None:
        # One unit in the last place of bf16 at 1 is 2^-7.
        unit = 2.0**-7
        given = [1 + 0.49 * unit, 1 + 0.5 * unit, 1 + 1.5 * unit, -(1 + 0.51 * unit)]
        wanted = [1, 1, 1 + 2 * unit, -(1 + unit)]
        path = self.root / "t.safetensors"
        save_tensors(path, {"a": np.array(given, np.float32)})
        self.assertEqual(load_file(path)["a"].astype(np.float32).tolist(), wanted)

    def test_every_dtype_stores_the_same_bf16_values(self) -> None:
        values = np.random.default_rng(3).standard_normal((40, 9), dtype=np.float32)
        for dtype, name in [("float16", "F16"), ("float32", "F32")]:
            path = self.root / dtype
            save_tensors(path, {"a": values}, dtype)
            self.assertEqual(read_header(path)[0]["a"]["dtype"], name)
            stored = load_file(path)["a"].astype(np.float32)
            np.testing.assert_array_equal(stored, values.astype(BF16).astype(np.float32))


class Shards(InTemporaryDirectory):
    def test_runs_keep_the_order_and_none_is_empty_whatever_the_sizes(self) -> None:
        seed = 20240608
        rng = np.random.default_rng(seed)
        for case in range(300):
            count = int(rng.integers(1, 30))
            sizes = {f"t{i}": int(s) for i, s in enumerate(rng.integers(1, 10**6, count) ** 2)}
            parts = int(rng.integers(1, count + 1))
            with self.subTest(seed=seed, case=case):
                runs = split_evenly(sizes, parts)
                self.assertEqual(len(runs), parts)
                self.assertTrue(all(runs))
                self.assertEqual([name for run in runs for name in run], list(sizes))

    def test_equal_tensors_are_split_equally(self) -> None:
        runs = split_evenly({f"t{i}": 10 for i in range(12)}, 4)
        self.assertEqual([len(run) for run in runs], [3, 3, 3, 3])

    def test_impossible_counts_are_refused(self) -> None:
        for parts in (-1, 0, 3):
            with self.assertRaises(ToolError):
                split_evenly({"a": 1, "b": 1}, parts)

    def test_the_index_finds_every_tensor_in_its_file(self) -> None:
        shapes = {"a": (3, 4), "b": (5,), "c": (2, 2)}
        save_model(self.root, shapes, lambda name, shape: np.full(shape, ord(name), np.float32), 2)
        index = json.loads((self.root / "model.safetensors.index.json").read_text())
        self.assertEqual(index["metadata"]["total_size"], 2 * (12 + 5 + 4))
        self.assertEqual(set(index["weight_map"]), set(shapes))
        for name, file_name in index["weight_map"].items():
            tensor = load_file(self.root / file_name)[name]
            self.assertEqual(tensor.tolist(), np.full(shapes[name], ord(name)).tolist())
        files = {path.name for path in self.root.glob("*.safetensors")}
        self.assertEqual(files, set(index["weight_map"].values()))


class Replacing(InTemporaryDirectory):
    def test_the_new_directory_takes_the_place_of_the_old(self) -> None:
        target = self.root / "model"
        for content in ("first", "second"):
            with replacing(target) as fresh:
                (fresh / content).touch()
            self.assertEqual([path.name for path in target.iterdir()], [content])
        self.assertEqual(list(self.root.iterdir()), [target])

    def test_a_failed_body_changes_nothing(self) -> None:
        target = self.root / "model"
        with replacing(target) as fresh:
            (fresh / "old").touch()
        with self.assertRaises(ZeroDivisionError), replacing(target) as fresh:
            (fresh / "new").touch()
            raise ZeroDivisionError
        self.assertEqual([path.name for path in target.iterdir()], ["old"])
        self.assertEqual(list(self.root.iterdir()), [target])

    def test_a_file_in_the_way_is_refused(self) -> None:
        target = self.root / "model"
        target.touch()
        with self.assertRaisesRegex(ToolError, "no directory"), replacing(target):
            self.fail("the body must not run")


class Stamp(InTemporaryDirectory):
    def test_matches_only_what_it_was_made_from(self) -> None:
        (self.root / "weights").write_bytes(b"abc")
        hf_directory.write_stamp(self.root, {"version": 1})
        self.assertTrue(hf_directory.matches_stamp(self.root, {"version": 1}))
        self.assertFalse(hf_directory.matches_stamp(self.root, {"version": 2}))

    def test_a_broken_stamp_is_no_match(self) -> None:
        stamp = self.root / hf_directory.STAMP_NAME
        for content in ("", "[]", "{}", '{"made_from": {}, "files": 3}', '{"made_from": {}}'):
            stamp.write_text(content)
            self.assertFalse(hf_directory.matches_stamp(self.root, {}), content)


if __name__ == "__main__":
    unittest.main()
