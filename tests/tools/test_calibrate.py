import json
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import numpy as np

import tool_path  # noqa: F401
import random_weights
from calibrate import choose, forward, lazy_file, samples
from calibrate.choose import Scores, choose_heads, heads_below
from calibrate.needed import Sample, keep_ratio, places_of, pooled
from eval.errors import EvalError
from eval.prompts import Item


class KeepRatio(unittest.TestCase):
    def scores(self, *rows: dict[int, float]) -> np.ndarray:
        scores = np.zeros((len(rows), 100))
        for row, at in zip(scores, rows, strict=True):
            for position, value in at.items():
                row[position] = value
        return scores

    def test_what_the_first_row_looks_for_it_has_to_keep(self) -> None:
        # The 4 first tokens and the last are kept anyhow.
        scores = self.scores({50: 5, 60: 4, 70: 3})
        self.assertAlmostEqual(keep_ratio(scores, [(50,)]), 0.06)
        self.assertAlmostEqual(keep_ratio(scores, [(70,)]), 0.08)

    def test_the_worst_needed_token_decides(self) -> None:
        scores = self.scores({50: 5, 60: 4}, {at: 9 for at in range(20, 40)})
        self.assertAlmostEqual(keep_ratio(scores, [(50, 60)]), 0.07)

    def test_one_place_is_enough(self) -> None:
        self.assertAlmostEqual(keep_ratio(self.scores({50: 5, 60: 4}), [(90,), (60,)]), 0.07)

    def test_of_equal_scores_the_lower_position_goes_first(self) -> None:
        self.assertAlmostEqual(keep_ratio(self.scores({}), [(10,)]), 0.12)

    def test_what_is_always_kept_needs_no_score(self) -> None:
        self.assertLessEqual(keep_ratio(self.scores({50: 1}, {}), [(0, 99)]), 0.05)

    def test_a_later_row_revives_what_it_finds_best(self) -> None:
        # Position 70 would have been the 98th to be kept.
        first = {at: 100.0 - at for at in range(4, 99) if at != 70}
        scores = self.scores(first, {70: 9})
        self.assertAlmostEqual(keep_ratio(scores, [(4, 70)]), 0.06)

    def test_but_not_where_more_than_it_may_revive_are_better_and_lacking(self) -> None:
        first = {at: 100.0 - at for at in range(4, 99) if at != 70}
        crowd = {at: 10.0 for at in range(80, 88)} | {70: 9.0}
        scores = self.scores(first, crowd)
        # Of eight that are better one has to be kept: the 81st, position 80.
        self.assertAlmostEqual(keep_ratio(scores, [(4, 70)], revived=8), 0.8 + 0.01)
        self.assertAlmostEqual(keep_ratio(scores, [(4, 70)], revived=9), 0.13)


class Pooling(unittest.TestCase):
    def test_neighbours_share_the_best_score(self) -> None:
        scores = np.zeros(100)
        scores[[50, 52]] = 2, 3
        self.assertEqual(pooled(scores)[46:57].tolist(), [0, 2, 2, 3, 3, 3, 3, 3, 3, 3, 0])


class Places(unittest.TestCase):
    def item(self, prompt: tuple[int, ...], answer: tuple[int, ...]) -> Item:
        context = (0, len(prompt) - 2)
        return Item("t", "last", 9, prompt, context, answer, reply_tokens=1)

    def test_a_long_answer_is_found_wherever_it_stands(self) -> None:
        item = self.item((9, 5, 6, 7, 9, 5, 6, 7, 1, 2), (5, 6, 7))
        self.assertEqual(places_of(item), ((1, 2, 3), (5, 6, 7)))

    def test_a_short_one_only_after_the_words_of_the_lead(self) -> None:
        item = self.item((5, 9, 1, 2, 5, 9, 5, 1, 2), (5,))
        self.assertEqual(places_of(item), ((4,),))


def sample(good: dict[tuple[int, int], int], tokens: int = 60, seed: int = 0) -> Sample:
    """Noise of 4 layers and 2 heads in the prompt's last row, but for heads that look at a
    position."""
    rng = np.random.default_rng(seed)
    attention = rng.uniform(0, 0.2, size=(1, 4, 2, tokens)).astype(np.float32)
    for (layer, head), position in good.items():
        attention[0, layer, head, position] = 1
    return Sample(attention, ((30 + seed,),))


class Choosing(unittest.TestCase):
    def setUp(self) -> None:
        # Head 1 of layer 2 always knows; head 0 of layer 0 knows half of the time.
        self.scores = Scores(
            [sample({(2, 1): 30 + i, (0, 0): 30 + i * (i % 2)}, seed=i) for i in range(8)]
        )

    def test_the_head_that_knows_is_chosen(self) -> None:
        heads = [(layer, head) for layer in range(4) for head in range(2)]
        self.assertIn((2, 1), choose_heads(self.scores, heads))

    def test_chosen_heads_are_no_worse_than_any_single_one(self) -> None:
        heads = [(layer, head) for layer in range(2) for head in range(2)]
        chosen = choose.badness(self.scores.ratios(choose_heads(self.scores, heads)))
        for head in heads:
            self.assertLessEqual(chosen, choose.badness(self.scores.ratios([head])))

    def test_heads_lie_below_their_cut_and_above_the_one_before(self) -> None:
        heads = heads_below(self.scores, choose.segment_below(3, [1, 3]), 3, heads=2)
        self.assertEqual(heads, [(2, 1)])
        heads = heads_below(self.scores, choose.segment_below(2, [1, 3]), 2, heads=2)
        self.assertTrue(heads and all(layer == 1 for layer, _ in heads))

    def test_the_table_of_a_cut_tells_what_the_heads_save(self) -> None:
        table = choose.held_out({3: [(2, 1)]}, self.scores)
        by_mean, by_heads = table["cut at 3, mean of layer 2"], table["cut at 3, 1 chosen heads"]
        self.assertEqual(len(by_mean), len(choose.QUANTILES))
        self.assertLessEqual(by_heads[-1], 0.15)  # the heads before it, and its neighbours
        self.assertEqual(by_heads, choose.quantiles(self.scores.ratios([(2, 1)])))

    def test_the_mean_over_heads_is_that_of_the_attention(self) -> None:
        one = Scores([sample({(1, 0): 30, (1, 1): 30})])
        self.assertLess(one.mean_ratios(1)[0], 0.2)


def naive_last_row(tokens: list[int], w: dict, shape: forward.Shape) -> np.ndarray:
    """Attention of the last row in layer 0, token by token, from the formulas."""
    half, group = shape.head_dim // 2, shape.heads // shape.kv_heads
    probabilities = np.zeros((shape.heads, len(tokens)))

    def project(name: str, position: int, head: int, turn: bool) -> np.ndarray:
        x = w["model.embed_tokens.weight"][tokens[position]].astype(np.float64)
        x = x / np.sqrt((x**2).mean() + shape.norm_eps)
        x = x * w["model.layers.0.input_layernorm.weight"]
        rows = slice(head * shape.head_dim, (head + 1) * shape.head_dim)
        y = w[f"model.layers.0.self_attn.{name}.weight"][rows] @ x
        if turn:
            for i in range(half):
                angle = position * shape.rope_theta ** (-i / half)
                low, high = y[i], y[i + half]
                y[i] = low * np.cos(angle) - high * np.sin(angle)
                y[i + half] = high * np.cos(angle) + low * np.sin(angle)
        return y

    for head in range(shape.heads):
        q = project("q_proj", len(tokens) - 1, head, True)
        logits = [
            q @ project("k_proj", j, head // group, True) / np.sqrt(shape.head_dim)
            for j in range(len(tokens))
        ]
        probabilities[head] = np.exp(logits) / np.exp(logits).sum()
    return probabilities


class Halves(unittest.TestCase):
    def test_each_has_every_task_and_no_sample_is_in_both(self) -> None:
        tasks = 4 * len(samples.TASKS)
        chosen, judged = samples.halves(list(range(tasks)))
        self.assertEqual(sorted([*chosen, *judged]), list(range(tasks)))
        for half in (chosen, judged):
            self.assertEqual({i % len(samples.TASKS) for i in half}, set(range(len(samples.TASKS))))


class Forward(unittest.TestCase):
    CONFIG = {
        "model_type": "llama",
        "num_hidden_layers": 2,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 4,
        "rms_norm_eps": 1e-5,
        "rope_theta": 100.0,
        "vocab_size": 30,
        "tie_word_embeddings": True,
    }

    def setUp(self) -> None:
        shapes = random_weights.tensor_shapes(self.CONFIG)
        self.weights = {n: random_weights.draw(n, s, self.CONFIG, 1) for n, s in shapes.items()}
        self.shape = forward.Shape.of(self.CONFIG)

    def run_prompts(self, prompts: list[list[int]]) -> dict[tuple[int, int], forward.Inside]:
        seen = {}

        def visit(i: int, inside: forward.Inside) -> None:
            seen[i, inside.layer] = inside

        forward.run(self.shape, self.weights.get, prompts, visit)
        return seen

    def test_attention_follows_the_formulas(self) -> None:
        tokens = [3, 7, 1, 7, 22]
        inside = self.run_prompts([tokens])[0, 0]
        expected = naive_last_row(tokens, self.weights, self.shape)
        np.testing.assert_allclose(inside.attention(4), expected, rtol=1e-4, atol=1e-6)

    def test_a_token_does_not_see_what_follows(self) -> None:
        tokens = list(range(20))
        seen = self.run_prompts([tokens, tokens[:8]])
        whole, begin = seen[0, 1].hidden, seen[1, 1].hidden
        np.testing.assert_allclose(whole[:8], begin, rtol=1e-4, atol=1e-5)

    def test_tiles_of_queries_do_not_show(self) -> None:
        tokens = [i % 30 for i in range(40)]
        whole = self.run_prompts([tokens])[0, 1].hidden
        with mock.patch.object(forward, "QUERY_TILE", 7):
            tiled = self.run_prompts([tokens])[0, 1].hidden
        np.testing.assert_allclose(whole, tiled, rtol=1e-4, atol=1e-5)

    def test_unknown_families_and_rotations_are_refused(self) -> None:
        with self.assertRaisesRegex(EvalError, "model_type gpt2"):
            forward.Shape.of({**self.CONFIG, "model_type": "gpt2"})
        with self.assertRaisesRegex(EvalError, "rope_scaling"):
            forward.Shape.of({**self.CONFIG, "rope_scaling": {"rope_type": "yarn"}})


class LazyFile(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.model = Path(folder.name)

    def test_it_holds_what_the_daemon_reads(self) -> None:
        profiles = {"safe": ((2, 0.5),), "fast": ((1, 0.5), (3, 0.1))}
        value = lazy_file.contents(4, [1, 2, 3], {3: [(2, 1)]}, profiles)
        lazy_file.write(self.model / lazy_file.NAME, value)
        read = json.loads((self.model / lazy_file.NAME).read_text())
        self.assertEqual((read["version"], read["layers"]), (1, 4))
        self.assertEqual(read["boundaries"], [1, 2, 3])
        self.assertEqual(read["score_heads"], [[], [], [[2, 1]]])
        self.assertEqual(read["profiles"]["safe"], {"keep": [1, 0.5, 0.5]})
        self.assertEqual(read["profiles"]["fast"], {"keep": [0.5, 0.5, 0.1]})
        self.assertEqual(list(self.model.glob("*.partial")), [])


if __name__ == "__main__":
    unittest.main()
