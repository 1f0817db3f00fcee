import tempfile
import unittest
from pathlib import Path
from unittest import mock

import numpy as np

import tool_path  # noqa: F401
import random_weights
import test_calibrate
from calibrate import forward, lazy_file, predictor_file, scouts
from calibrate.choose import Scores
from calibrate.needed import SINKS
from eval.errors import EvalError
from eval.prompts import Item

CONFIG = {**test_calibrate.Forward.CONFIG, "num_hidden_layers": 3}
SHAPE = forward.Shape.of(CONFIG)
WIDTH = 2 * SHAPE.kv_heads * SHAPE.head_dim
TOKENS = 24


class Scouts(unittest.TestCase):
    def setUp(self) -> None:
        shapes = random_weights.tensor_shapes(CONFIG)
        self.weights = {n: random_weights.draw(n, s, CONFIG, 1) for n, s in shapes.items()}
        prompt = tuple(int(t) for t in np.random.default_rng(1).integers(0, 30, TOKENS))
        self.item = Item("t", "last", 9, prompt, (0, TOKENS - 2), prompt[3:6], reply_tokens=1)
        self.zero = {(1, l): np.zeros((WIDTH, SHAPE.hidden + 1), np.float32) for l in (1, 2)}

    def look(self, maps: scouts.Weights, window: int) -> np.ndarray:
        """After layer 0."""
        self.step = mock.Mock()
        of_scouts, below = scouts.look(
            SHAPE, self.weights.get, maps, [self.item], 1, window, self.step
        )
        self.below = below
        return of_scouts[0].attention[0]

    def test_who_all_run_ahead_see_what_the_model_sees(self) -> None:
        seen = []
        forward.run(SHAPE, self.weights.get, [self.item.prompt], lambda _, x: seen.append(x))
        scores = self.look(self.zero, window=TOKENS)
        for layer, inside in list(enumerate(seen))[1:]:
            rows = np.zeros((SHAPE.heads, TOKENS, TOKENS))
            for row in range(TOKENS):
                rows[:, row, : row + 1] = inside.attention(row)
            mean = rows.mean(axis=1)
            right = rows[:, -1] / rows[:, -1].max(-1, keepdims=True) + mean / mean.max(
                -1, keepdims=True
            )
            np.testing.assert_allclose(scores[layer], right, rtol=1e-3, atol=1e-5)

    def test_everybody_else_is_seen_through_the_maps(self) -> None:
        # All predicted alike, in every head: whoever is not ahead gets the same of each row.
        scores = self.look(self.zero, window=5)[1:]
        others = scores[:, :, SINKS : TOKENS - 5]
        np.testing.assert_allclose(others, others[:, :, :1].repeat(others.shape[2], axis=2))
        self.assertGreater(np.abs(scores[:, :, :SINKS] - others[:, :, :1]).min(), 0)
        strange = {at: of + 0.5 for at, of in self.zero.items()}
        self.assertGreater(np.abs(self.look(strange, window=5)[1:] - scores).max(), 0.01)

    def test_nothing_is_scored_below_the_boundary(self) -> None:
        scores = self.look(self.zero, window=5)
        self.assertEqual(np.abs(scores[0]).max(), 0)
        self.assertGreater(scores[1:].min(), 0)
        self.assertEqual(self.below[0].attention.shape, (1, 1, SHAPE.heads, TOKENS))
        self.assertEqual(self.step.call_count, 4)  # to the boundary's own layer, and from it

    def test_who_runs_ahead(self) -> None:
        self.assertEqual(scouts.rows_of(10, 3).tolist(), [0, 1, 2, 3, 7, 8, 9])
        self.assertEqual(scouts.rows_of(5, 3).tolist(), [0, 1, 2, 3, 4])
        self.assertEqual(scouts.rows_of(2, 3).tolist(), [0, 1])

    def test_scores_are_summed_as_they_are(self) -> None:
        samples = [test_calibrate.sample({(1, 0): 30 + i}, seed=i) for i in range(4)]
        ones = [lambda a: np.ones_like(a), lambda a: a]
        flat, right = (Scores(samples, prepare).ratios([(1, 0)]) for prepare in ones)
        self.assertGreater(flat.min(), right.max())


class Files(unittest.TestCase):
    BEFORE = {
        "version": 1,
        "layers": 30,
        "boundaries": [3, 16, 20],
        "score_heads": [[], [[5, 1], [15, 3]], [[19, 0]]],
        "profiles": {"fast": {"keep": [0.9, 0.3, 0.1], "revival_budget": 8}},
    }

    def test_a_new_boundary_is_one_of_all_lists(self) -> None:
        value = lazy_file.with_scouts(self.BEFORE, 6, 16, [(20, 3), (21, 8)])
        self.assertEqual(value["boundaries"], [3, 6, 16, 20])
        self.assertEqual(value["score_heads"], [[], [], [[15, 3]], [[19, 0]]])
        of = {"window": 16, "heads": [[20, 3], [21, 8]]}
        self.assertEqual(value["scouts"], [None, of, None, None])
        self.assertEqual(value["profiles"]["fast"]["keep"], [0.9, 0.9, 0.3, 0.1])
        self.assertEqual(value["profiles"]["scout-safe"]["keep"], [1.0, 0.5, 0.3, 0.1])
        self.assertEqual(value["profiles"]["scout-fast"]["decode"], "late")

    def test_choosing_again_replaces_and_keeps_other_scouts(self) -> None:
        first = lazy_file.with_scouts(self.BEFORE, 6, 16, [(20, 3)])
        both = lazy_file.with_scouts(first, 16, 8, [(21, 8)])
        again = lazy_file.with_scouts(both, 6, 4, [(19, 1)])
        self.assertEqual([s and s["window"] for s in again["scouts"]], [None, 4, 8, None])
        self.assertEqual(again["boundaries"], first["boundaries"])

    def test_without_profiles_the_daemons_own_hold(self) -> None:
        before = {"version": 1, "layers": 30, "boundaries": [18, 23]}
        value = lazy_file.with_scouts(before, 6, 16, [(20, 3)])
        self.assertEqual(value["boundaries"], [6, 18, 23])
        self.assertNotIn("profiles", value)
        self.assertNotIn("score_heads", value)

    def test_a_missing_file_of_predictors_is_asked_for_by_the_command(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / predictor_file.NAME
            with self.assertRaisesRegex(EvalError, "--predictors 6"):
                predictor_file.read(path, [6], {})


if __name__ == "__main__":
    unittest.main()
