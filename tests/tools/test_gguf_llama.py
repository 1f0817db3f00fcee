import unittest

import tool_path  # noqa: F401
import numpy as np

import gguf_llama


def rotate_pairs(rows: np.ndarray, position: int) -> np.ndarray:
    """GGUF's rotation of one head: members 2i and 2i + 1 turn together."""
    angles = position * 10000.0 ** (-np.arange(len(rows) // 2) / (len(rows) / 2))
    even, odd = rows[0::2], rows[1::2]
    turned = np.empty_like(rows)
    turned[0::2] = even * np.cos(angles) - odd * np.sin(angles)
    turned[1::2] = even * np.sin(angles) + odd * np.cos(angles)
    return turned


def rotate_halves(rows: np.ndarray, position: int) -> np.ndarray:
    """Hugging Face's rotation of one head: members i and i + head_dim / 2 turn together."""
    half = len(rows) // 2
    angles = position * 10000.0 ** (-np.arange(half) / half)
    first, second = rows[:half], rows[half:]
    return np.concatenate(
        [
            first * np.cos(angles) - second * np.sin(angles),
            first * np.sin(angles) + second * np.cos(angles),
        ]
    )


class RowOrder(unittest.TestCase):
    def setUp(self) -> None:
        self.rng = np.random.default_rng(1)

    def test_undoing_the_permutation_is_its_inverse(self) -> None:
        for heads, head_dim in [(1, 2), (1, 64), (3, 16), (9, 64), (4, 6)]:
            weight = self.rng.standard_normal((heads * head_dim, 5))
            there = gguf_llama.rows_to_pairs(weight, heads)
            np.testing.assert_array_equal(gguf_llama.rows_to_halves(there, heads), weight)
            back = gguf_llama.rows_to_halves(weight, heads)
            np.testing.assert_array_equal(gguf_llama.rows_to_pairs(back, heads), weight)

    def test_rows_stay_within_their_head(self) -> None:
        weight = np.repeat(np.arange(3), 8)[:, None]
        np.testing.assert_array_equal(gguf_llama.rows_to_halves(weight, 3), weight)

    def test_attention_scores_are_the_same_under_the_other_rotation(self) -> None:
        head_dim, hidden = 16, 12
        q, k = self.rng.standard_normal((2, head_dim, hidden))
        x, y = self.rng.standard_normal((2, hidden))
        q_halves, k_halves = gguf_llama.rows_to_halves(q, 1), gguf_llama.rows_to_halves(k, 1)
        for q_position, k_position in [(0, 0), (5, 2), (100, 37)]:
            expected = rotate_pairs(q @ x, q_position) @ rotate_pairs(k @ y, k_position)
            actual = rotate_halves(q_halves @ x, q_position) @ rotate_halves(
                k_halves @ y, k_position
            )
            self.assertAlmostEqual(actual, expected, places=9)


class Names(unittest.TestCase):
    def test_layer_and_global_tensors_get_their_hugging_face_names(self) -> None:
        for gguf_name, name in {
            "token_embd.weight": "model.embed_tokens.weight",
            "blk.12.attn_q.weight": "model.layers.12.self_attn.q_proj.weight",
            "blk.0.ffn_norm.weight": "model.layers.0.post_attention_layernorm.weight",
        }.items():
            self.assertEqual(gguf_llama.hf_name(gguf_name), name)

    def test_a_tensor_without_a_place_is_refused_by_name(self) -> None:
        for name in ["rope_freqs.weight", "blk.0.ffn_gate_exps.weight", "blk.x.attn_q.weight"]:
            with self.assertRaisesRegex(gguf_llama.ToolError, name):
                gguf_llama.hf_name(name)

    def test_float32_metadata_is_written_in_its_shortest_form(self) -> None:
        self.assertEqual(gguf_llama.shortest(float(np.float32(1e-5))), 1e-5)
        self.assertEqual(gguf_llama.shortest(100000.0), 100000.0)


if __name__ == "__main__":
    unittest.main()
