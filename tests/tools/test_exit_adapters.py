import tempfile
import unittest
from pathlib import Path
from unittest import mock

import numpy as np

import tool_path  # noqa: F401
import random_weights
import test_calibrate
from calibrate import exit_adapter_file, exit_adapters, exit_command, forward, own_text
from calibrate.exit_adapters import Adapter
from calibrate.own_text import Passage
from calibrate.predictors import RIDGE
from eval.calls import Reply
from eval.store import Store

CONFIG = test_calibrate.Forward.CONFIG
SHAPE = forward.Shape.of(CONFIG)
HIDDEN = SHAPE.hidden


def normed(rows: np.ndarray) -> np.ndarray:
    return rows / np.sqrt((rows**2).mean(axis=1, keepdims=True) + SHAPE.norm_eps)


class Solving(unittest.TestCase):
    def setUp(self) -> None:
        rng = np.random.default_rng(1)
        self.left = rng.normal(size=(300, HIDDEN)) * rng.uniform(1, 30, size=(300, 1))
        self.weight = rng.normal(size=(HIDDEN, HIDDEN))
        self.bias = rng.normal(size=HIDDEN)
        self.noise = rng.normal(size=(300, HIDDEN))

    def right(self) -> np.ndarray:
        return self.left + normed(self.left) @ self.weight.T + self.bias

    def test_what_is_a_map_of_the_normed_row_is_found(self) -> None:
        last = self.right()
        pairs = [(self.left[:100], last[:100]), (self.left[100:], last[100:])]
        weight, bias = exit_adapters.solve(pairs, SHAPE)
        np.testing.assert_allclose(weight, self.weight, atol=0.03)
        np.testing.assert_allclose(bias, self.bias, atol=0.03)
        got = exit_adapters.adapted(self.left, weight, bias, SHAPE.norm_eps)
        np.testing.assert_allclose(got, last, atol=0.2)

    def test_it_is_least_squares_of_shares_of_the_last_row_with_a_little_ridge(self) -> None:
        last = (self.right() + self.noise) * np.linspace(0.1, 5, 300)[:, None]
        weight, bias = exit_adapters.solve([(self.left, last)], SHAPE)
        share = 1 / np.sqrt((last**2).mean(axis=1, keepdims=True) + SHAPE.norm_eps)
        inputs = np.concatenate([normed(self.left), np.ones((300, 1))], axis=1) * share
        ridge = np.sqrt(RIDGE * (inputs**2).sum() / (HIDDEN + 1)) * np.eye(HIDDEN + 1)
        expected, *_ = np.linalg.lstsq(
            np.concatenate([inputs, ridge]),
            np.concatenate([(last - self.left) * share, np.zeros((HIDDEN + 1, HIDDEN))]),
        )
        np.testing.assert_allclose(weight, expected[:-1].T, atol=1e-8)
        np.testing.assert_allclose(bias, expected[-1], atol=1e-8)

    def test_one_of_zeros_changes_nothing(self) -> None:
        none = np.zeros((HIDDEN, HIDDEN))
        got = exit_adapters.adapted(self.left, none, none[0], SHAPE.norm_eps)
        np.testing.assert_array_equal(got, self.left)


class Fitting(unittest.TestCase):
    def setUp(self) -> None:
        shapes = random_weights.tensor_shapes(CONFIG)
        self.weights = {n: random_weights.draw(n, s, CONFIG, 1) for n, s in shapes.items()}
        rng = np.random.default_rng(1)
        self.passages = [
            Passage(tuple(rng.integers(0, 30, 60 + i).tolist()), first=5 + i) for i in range(9)
        ]

    def rows(self, passage: Passage) -> tuple[np.ndarray, np.ndarray]:
        """Behind the first layer and behind the last, where a token of the model's own follows."""
        entering, leaving = [], []
        forward.run(
            SHAPE,
            self.weights.get,
            [passage.tokens[:-1]],
            lambda _, inside: entering.append(inside.hidden),
            leave=lambda _, hidden: leaving.append(hidden),
        )
        return entering[1][passage.first :], leaving[0][passage.first :]

    def best(self, row: np.ndarray) -> int:
        scaled = row / np.sqrt((row**2).mean() + SHAPE.norm_eps) * self.weights["model.norm.weight"]
        return int(np.argmax([e @ scaled for e in self.weights["model.embed_tokens.weight"]]))

    def test_it_is_fitted_to_some_passages_and_judged_on_the_others(self) -> None:
        step = mock.Mock()
        fitted, held_out = self.passages[:7], self.passages[7:]
        of = exit_adapters.fit(SHAPE, self.weights.get, fitted, held_out, [1], step)
        self.assertEqual(list(of), [1])
        self.assertEqual(step.call_count, SHAPE.layers * len(self.passages))
        weight, bias = exit_adapters.solve([self.rows(p) for p in fitted], SHAPE)
        np.testing.assert_allclose(of[1].weight, weight, atol=1e-4)
        np.testing.assert_allclose(of[1].bias, bias, atol=1e-4)
        without, with_it = [], []
        for left, last in map(self.rows, held_out):
            for h, z in zip(left, last, strict=True):
                scaled = h / np.sqrt((h**2).mean() + SHAPE.norm_eps)
                without.append(self.best(h) == self.best(z))
                with_it.append(self.best(h + weight @ scaled + bias) == self.best(z))
        self.assertAlmostEqual(of[1].agrees_without, np.mean(without))
        self.assertAlmostEqual(of[1].agrees, np.mean(with_it))
        self.assertGreater(of[1].agrees, 0)

    def test_what_leaves_a_layer_enters_the_next(self) -> None:
        tokens = [3, 7, 1, 22]
        entering, leaving = [], []
        forward.run(
            SHAPE, self.weights.get, [tokens], lambda _, inside: entering.append(inside.hidden)
        )
        forward.run(
            SHAPE,
            self.weights.get,
            [tokens],
            lambda _, inside: None,
            end=1,
            leave=lambda _, hidden: leaving.append(hidden),
        )
        np.testing.assert_array_equal(leaving[0], entering[1])


class OwnText(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.model = Path(folder.name)
        (self.model / "config.json").write_text('{"eos_token_id": 2}')
        self.store = Store(self.model / "store.jsonl")
        self.addCleanup(self.store.close)

    def ask(self, client: mock.Mock, prompts: list, count: int) -> list[Passage]:
        with mock.patch.object(own_text, "Prompts") as made:
            made.return_value.chains.return_value = iter(prompts)
            return own_text.passages(client, self.model, self.store, "daemon", count, seed=1)

    def test_an_answer_stands_behind_its_prompt_up_to_its_end(self) -> None:
        turn = own_text.Turn
        chains = [
            (0, [turn((1, 5), 9, 1.0), turn((6,), 9, 0.0)]),  # begins with what is sampled
            (1, [turn((1, 7, 8), 9, 0.0)]),
            (1, [turn((1, 7, 8), 9, 0.8)]),  # the same again
            (2, [turn((1, 9), 9, 0.0)]),
        ]
        client = mock.Mock()
        client.generate.side_effect = lambda call: Reply(tokens=[call.prompt[-1] + 1, 2, 30, 31])
        got = self.ask(client, chains, 2)
        self.assertEqual(got, [Passage((1, 7, 8, 9, 2), 2), Passage((1, 9, 10, 2), 1)])
        self.assertEqual(got[0].inputs, (1, 7, 8, 9))
        self.assertEqual({call.args[0].max_tokens for call in client.generate.call_args_list}, {9})

    def test_what_was_answered_is_not_asked_again(self) -> None:
        client = mock.Mock()
        client.generate.return_value = Reply(tokens=[4])
        chains = [(1, [own_text.Turn((1, at), 9, 0.0)]) for at in range(5)]
        first = self.ask(client, chains, 3)
        self.assertEqual(self.ask(client, chains, 3), first)
        self.assertEqual(client.generate.call_count, 3)


class Command(unittest.TestCase):
    def test_no_answer_is_fitted_and_judged_on(self) -> None:
        every = [Passage((1, number), 0) for number in range(32)]
        fitted, held_out = exit_command.split(every)
        self.assertEqual(sorted(fitted + held_out, key=lambda p: p.tokens), every)
        self.assertEqual(len(held_out), 4)

    def test_the_table_tells_agreement_and_what_it_gains_by_bytes(self) -> None:
        none = np.zeros(1)
        config = CONFIG | {"num_hidden_layers": 4, "vocab_size": 0}
        lines = exit_command.table({2: Adapter(none, none, 0.25, 0.75)}, config).splitlines()
        # 1 + a tokens for 1 + c passes; with three drafts 1 + .75 + .5625 for 2.5 and less.
        self.assertRegex(lines[-1], r"^ *2 +25\.0% +75\.0% +0\.50 +0\.83 \( 1\) +1\.17 \( 1\)$")

    def test_the_file_holds_what_the_daemon_reads(self) -> None:
        from safetensors import safe_open

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / exit_adapter_file.NAME
            adapters = {3: Adapter(np.ones((4, 4)), np.full(4, 0.5), 0, 0)}
            exit_adapter_file.write(path, adapters, {"version": "1", "fingerprint": "abc"})
            with safe_open(path, framework="numpy") as file:
                self.assertEqual(file.metadata(), {"version": "1", "fingerprint": "abc"})
                self.assertEqual(sorted(file.keys()), ["3.bias", "3.weight"])
                self.assertEqual(file.get_slice("3.weight").get_dtype(), "BF16")
                self.assertEqual(file.get_slice("3.bias").get_dtype(), "F32")
            self.assertEqual([p.name for p in Path(folder).iterdir()], [exit_adapter_file.NAME])


if __name__ == "__main__":
    unittest.main()
