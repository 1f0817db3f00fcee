import hashlib
import json
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import numpy as np

import tool_path  # noqa: F401
import random_weights
import test_calibrate
from calibrate import fingerprint, forward, predictor_file, predictors
from calibrate.model_files import weight_files
from calibrate.needed import SINKS
from eval.errors import EvalError

SHAPE = forward.Shape.of(test_calibrate.Forward.CONFIG)
WIDTH = 2 * SHAPE.kv_heads * SHAPE.head_dim


class Fitting(unittest.TestCase):
    def setUp(self) -> None:
        config = test_calibrate.Forward.CONFIG
        shapes = random_weights.tensor_shapes(config)
        self.weights = {n: random_weights.draw(n, s, config, 1) for n, s in shapes.items()}
        rng = np.random.default_rng(1)
        self.prompts = [rng.integers(0, 30, 80).tolist() for _ in range(8)]

    def fit(self, boundaries: list[int]) -> predictors.Maps:
        self.step = mock.Mock()
        fitted, held_out = self.prompts[:6], self.prompts[6:]
        return predictors.fit(SHAPE, self.weights.get, fitted, held_out, boundaries, self.step)

    def inside(self, prompt: list[int]) -> list[forward.Inside]:
        seen = []
        forward.run(SHAPE, self.weights.get, [prompt], lambda _, inside: seen.append(inside))
        return seen

    def test_there_is_a_map_from_each_boundary_to_each_layer_above(self) -> None:
        maps = self.fit([0, 1])
        self.assertEqual(sorted(maps), [(0, 0), (0, 1), (1, 1)])
        self.assertEqual(maps[0, 1].weight.shape, (WIDTH, SHAPE.hidden))
        self.assertEqual(self.step.call_count, SHAPE.layers * len(self.prompts))

    def test_keys_and_values_of_the_boundarys_own_layer_are_a_product_already(self) -> None:
        layer = self.inside(self.prompts[7])[1]
        fitted = self.fit([1])[1, 1]
        hidden = layer.hidden
        scaled = hidden / np.sqrt((hidden**2).mean(axis=1, keepdims=True) + SHAPE.norm_eps)
        predicted = scaled @ fitted.weight.T + fitted.bias
        keys, values = np.split(predicted, 2, axis=1)
        for got, right in ((keys, layer.bare_keys), (values, layer.values)):
            right = right.transpose(1, 0, 2).reshape(len(got), -1)
            np.testing.assert_allclose(got[SINKS:], right[SINKS:], atol=0.02)
        self.assertLess(max(fitted.key_error.max(), fitted.value_error.max()), 0.01)

    def test_errors_are_those_of_prompts_that_were_not_fitted(self) -> None:
        fitted = self.fit([0])[0, 1]
        errors = right = 0
        for prompt in self.prompts[6:]:
            first, second = self.inside(prompt)
            inputs = predictors.inputs_of(first.hidden[SINKS:], SHAPE.norm_eps)
            got = inputs @ np.concatenate([fitted.weight, fitted.bias[:, None]], axis=1).T
            keys = second.bare_keys[1, SINKS:]  # of the second KV head
            errors += ((got[:, SHAPE.head_dim : 2 * SHAPE.head_dim] - keys) ** 2).sum()
            right += (keys**2).sum()
        self.assertAlmostEqual(float(fitted.key_error[1]), float(np.sqrt(errors / right)), places=4)

    def test_least_squares_with_a_little_ridge(self) -> None:
        rng = np.random.default_rng(2)
        inputs, truth = rng.normal(size=(200, 5)), rng.normal(size=(3, 5))
        products = predictors.Products(5)
        products.add(inputs[:80])
        products.add(inputs[80:])
        solved = products.solve(inputs.T @ (inputs @ truth.T))
        np.testing.assert_allclose(solved, truth, atol=0.01)
        self.assertGreater(np.abs(solved - truth).max(), 1e-5)


class File(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.model = Path(folder.name)

    def save(self, name: str, tensors: dict[str, bytes]) -> None:
        """One byte a number."""
        header, at = {}, 0
        for tensor, content in tensors.items():
            end = at + len(content)
            header[tensor] = {"dtype": "U8", "shape": [len(content)], "data_offsets": [at, end]}
            at = end
        text = json.dumps(header).encode()
        content = len(text).to_bytes(8, "little") + text + b"".join(tensors.values())
        (self.model / name).write_bytes(content)

    def test_the_fingerprint_is_of_names_shapes_and_both_ends_of_each_tensor(self) -> None:
        long = bytes(range(256)) * 64
        self.save("model.safetensors", {"b": long, "a": b"xyz"})
        expected = b"a [3]\nxyzxyz" + b"b [16384]\n" + long[:4096] + long[-4096:]
        self.assertEqual(
            fingerprint.fingerprint(self.model), hashlib.sha256(expected).hexdigest()
        )

    def test_what_else_lies_in_the_folder_is_not_the_models(self) -> None:
        self.save("model.safetensors", {"a": b"xyz"})
        before = fingerprint.fingerprint(self.model)
        self.save(predictor_file.NAME, {"b": b"xyz"})
        self.assertEqual(fingerprint.fingerprint(self.model), before)
        self.assertEqual(weight_files(self.model), [self.model / "model.safetensors"])

    def test_shards_are_those_of_the_index(self) -> None:
        self.save("one.safetensors", {"a": b"xyz"})
        with self.assertRaisesRegex(EvalError, "model.safetensors"):
            weight_files(self.model)
        index = {"weight_map": {"a": "one.safetensors"}}
        (self.model / "model.safetensors.index.json").write_text(json.dumps(index))
        self.assertEqual(weight_files(self.model), [self.model / "one.safetensors"])

    def test_the_file_holds_what_the_daemon_reads(self) -> None:
        from safetensors import safe_open

        none = np.zeros(1)
        maps = {(1, 2): predictors.Map(np.ones((4, 3)), np.full(4, 0.5), none, none)}
        predictor_file.write(self.model / predictor_file.NAME, maps, {"version": "1", "fingerprint": "abc"})
        with safe_open(self.model / predictor_file.NAME, framework="numpy") as file:
            self.assertEqual(file.metadata(), {"version": "1", "fingerprint": "abc"})
            self.assertEqual(sorted(file.keys()), ["1.2.bias", "1.2.weight"])
            self.assertEqual(file.get_slice("1.2.weight").get_dtype(), "BF16")
            self.assertEqual(file.get_tensor("1.2.bias").tolist(), [0.5] * 4)
        self.assertEqual(list(self.model.glob("*.partial")), [])


if __name__ == "__main__":
    unittest.main()
