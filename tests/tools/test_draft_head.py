"""Needs PyTorch, which no other test has: .venv-train/bin/python -m unittest, as tools/README.md
says."""

import importlib.util
import json
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import tool_path  # noqa: F401
import numpy as np

from calibrate import forward
from model_shapes import llama_config

HAS_TORCH = importlib.util.find_spec("torch") is not None
if HAS_TORCH:
    import torch
    from safetensors.torch import load_file, save_file

    from draft_head import data, train
    from draft_head.data import Stream
    from draft_head.errors import HeadError
    from draft_head.head import DraftHead, load, save
    from draft_head.teacher import Teacher, rms_norm
    from draft_head.train import Plan, Trainer, measure

HIDDEN, VOCABULARY, STOP = 16, 40, 39
CONFIG = llama_config(
    layers=2,
    hidden=HIDDEN,
    intermediate=24,
    heads=4,
    kv_heads=2,
    vocab=VOCABULARY,
    positions=256,
    theta=1e4,
    tied=True,
)


def write_model(folder: Path) -> dict:
    """With random weights; returns them."""
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> "torch.Tensor":
        return torch.randn(*shape, generator=generator) * shape[-1] ** -0.5

    tensors = {"model.embed_tokens.weight": noise(VOCABULARY, HIDDEN) * 4}
    tensors["model.norm.weight"] = torch.rand(HIDDEN, generator=generator) + 0.5
    for layer in range(CONFIG["num_hidden_layers"]):
        shapes = {
            "self_attn.q_proj": (16, HIDDEN),
            "self_attn.k_proj": (8, HIDDEN),
            "self_attn.v_proj": (8, HIDDEN),
            "self_attn.o_proj": (HIDDEN, 16),
            "mlp.gate_proj": (24, HIDDEN),
            "mlp.up_proj": (24, HIDDEN),
            "mlp.down_proj": (HIDDEN, 24),
        }
        for name, shape in shapes.items():
            tensors[f"model.layers.{layer}.{name}.weight"] = noise(*shape)
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"model.layers.{layer}.{name}.weight"] = torch.ones(HIDDEN)
    (folder / "config.json").write_text(json.dumps(CONFIG | {"eos_token_id": STOP}))
    save_file(tensors, folder / "model.safetensors")
    return tensors


def made_up_stream(teacher: "Teacher", head: "DraftHead", length: int) -> "Stream":
    """Rows that are a head's own, so that there is a head which is always right."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(VOCABULARY - 1, (length,), generator=generator)
    rows = [torch.randn(HIDDEN, generator=generator)]
    with torch.no_grad():
        for token in tokens[1:]:
            rows.append(head(token, rows[-1]))
        stacked = torch.stack(rows)
        best = head.vocabulary[head.logits(stacked).argmax(-1)]
    own = torch.ones(length, dtype=torch.bool)
    return Stream(tokens, stacked, best, own, torch.arange(length), torch.zeros(length).long())


@unittest.skipUnless(HAS_TORCH, "PyTorch is not installed")
class WithATeacher(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.tensors = write_model(self.folder)
        self.teacher = Teacher(self.folder)

    def head(self, seed: int = 0, noisy: bool = False) -> "DraftHead":
        torch.manual_seed(seed)
        head = DraftHead(self.teacher, torch.arange(0, VOCABULARY, 2), inner=8)
        if noisy:
            for parameter in head.parameters():
                parameter.data += 0.3 * torch.randn_like(parameter)
        return head


class TheTeacher(WithATeacher):
    def test_its_rows_are_those_of_the_numpy_reference(self) -> None:
        ids = [3, 25, 7, 7, 12]
        self.teacher.open(slots=1, length=len(ids))
        rows = [
            self.teacher.step(torch.tensor([token]), torch.tensor([i]))[0]
            for i, token in enumerate(ids)
        ]
        last: dict[int, np.ndarray] = {}
        arrays = {name: value.numpy() for name, value in self.tensors.items()}
        # One more layer, of zeros, shows what leaves the last one.
        config = CONFIG | {"num_hidden_layers": CONFIG["num_hidden_layers"] + 1}
        for name in [n for n in arrays if n.startswith("model.layers.1.")]:
            arrays[name.replace("layers.1", "layers.2")] = np.zeros_like(arrays[name])
        forward.run(
            forward.Shape.of(config),
            arrays.get,
            [ids],
            lambda _, inside: last.update({inside.layer: inside.hidden}),
        )
        np.testing.assert_allclose(torch.stack(rows).numpy(), last[2], rtol=1e-4, atol=1e-5)

    def test_it_computes_in_the_files_type_where_that_is_fast(self) -> None:
        tensors = {name: value.bfloat16() for name, value in self.tensors.items()}
        for stored in (self.tensors, tensors):
            save_file(stored, self.folder / "model.safetensors")
            for fast in (False, True):
                with mock.patch("torch.cpu._is_avx512_bf16_supported", return_value=fast):
                    dtype = Teacher(self.folder).embedding.dtype
                own = stored["model.embed_tokens.weight"].dtype
                self.assertEqual(dtype, own if fast else torch.float32)

    def test_what_the_head_file_holds_is_no_part_of_the_model(self) -> None:
        save(self.head(), self.folder, self.folder / "skim_draft_head.safetensors")
        self.assertEqual(set(Teacher(self.folder).tensors), set(self.tensors))


class TheHead(WithATeacher):
    def test_it_computes_the_formulas_of_its_documentation(self) -> None:
        head = self.head(noisy=True)
        h = torch.randn(HIDDEN)

        def n(x: "torch.Tensor") -> "torch.Tensor":
            return x / torch.sqrt((x * x).mean() + self.teacher.eps)

        def mlp(x, gate_up, down):  # noqa: ANN001, ANN202
            gate, up = (gate_up @ x).chunk(2)
            return down @ (gate * torch.sigmoid(gate) * up)

        z = torch.cat([n(self.teacher.embedding[5]), n(h)])
        x = head.mix @ z + mlp(z, head.gate_up, head.down)
        r = x + mlp(n(x), head.deep_gate_up, head.deep_down)
        with torch.no_grad():
            torch.testing.assert_close(head(torch.tensor(5), h), r)
            rows = self.teacher.lm_head[head.vocabulary]
            torch.testing.assert_close(head.logits(r), rows @ (n(r) * head.output_norm))

    def test_it_starts_from_the_least_squares_map(self) -> None:
        head, map_ = self.head(), torch.randn(HIDDEN, 2 * HIDDEN)
        tokens, before = torch.randint(VOCABULARY, (500,)), torch.randn(500, HIDDEN)
        head.start(tokens, before, head.inputs(tokens, before) @ map_.T)
        torch.testing.assert_close(head.mix.data, map_, rtol=0.01, atol=0.01)

    def test_its_file_has_all_matrices_and_the_models_fingerprint(self) -> None:
        head, path = self.head(noisy=True), self.folder / "skim_draft_head.safetensors"
        save(head, self.folder, path)
        stored = load_file(path)
        self.assertEqual(set(stored), {n for n, _ in head.named_parameters()} | {"vocabulary"})
        torch.testing.assert_close(stored["mix"], head.mix.data.bfloat16())
        self.assertEqual(stored["vocabulary"].tolist(), head.vocabulary.tolist())

    def test_it_is_read_again_up_to_the_rounding_of_its_file(self) -> None:
        head, path = self.head(noisy=True), self.folder / "head.safetensors"
        save(head, self.folder, path)
        read = load(path, self.teacher, self.folder)
        for name, value in head.named_parameters():
            torch.testing.assert_close(dict(read.named_parameters())[name], value, rtol=8e-3, atol=1e-3)
        self.assertEqual(read.vocabulary.tolist(), head.vocabulary.tolist())

    def test_the_mean_with_its_start_lies_in_the_middle(self) -> None:
        head, start = self.head(seed=1, noisy=True), self.head(seed=2, noisy=True)
        trained = head.mix.detach().clone()
        head.average_with(start)
        torch.testing.assert_close(head.mix.data, (trained + start.mix.data) / 2)

    def test_one_of_another_model_or_no_file_is_refused_by_its_name(self) -> None:
        path = self.folder / "other.safetensors"
        save_file({"down": torch.zeros(1, 1)}, path, {"version": "1", "fingerprint": "other"})
        (self.folder / "broken.safetensors").write_text("no tensors")
        for name in ("other", "broken", "missing"):
            with self.assertRaisesRegex(HeadError, name):
                load(self.folder / f"{name}.safetensors", self.teacher, self.folder)


class TheData(WithATeacher):
    def stream(self, **parts: object) -> "Stream":
        stream = made_up_stream(self.teacher, self.head(noisy=True), 200)
        return Stream(**{**vars(stream), **parts})

    def test_the_vocabulary_is_what_the_model_writes_most_often_and_its_stops(self) -> None:
        best = torch.tensor([3, 3, 3, 9, 9, 5] + [7] * 194)
        tokens = torch.tensor([1] * 200)
        own = torch.tensor([True] * 6 + [False] * 194)
        chosen = data.choose_vocabulary(
            self.stream(best=best, tokens=tokens, own=own), 2, frozenset({STOP})
        )
        self.assertEqual(chosen.tolist(), [1, 3, STOP])

    def test_windows_are_those_of_which_the_model_wrote_half(self) -> None:
        own = torch.tensor([False] * 100 + [True] * 100)
        begins = self.stream(own=own).begins()
        self.assertEqual(begins[0], 100 - data.WINDOW // 2)
        self.assertEqual(begins[-1], 200 - data.WINDOW)


class TheTraining(WithATeacher):
    def trained(self, name: str, steps: int, stop: int | None = None) -> "DraftHead":
        """`stop`: interrupted behind that step, and gone on with."""
        folder = self.folder / name
        folder.mkdir()
        stream = made_up_stream(self.teacher, self.head(seed=5, noisy=True), 400)

        def trainer() -> "Trainer":
            self.now = self.head()
            return Trainer(self.teacher, self.now, stream, stream, folder)

        plan = Plan(steps, windows=4, warm_up=2, rate=5e-3)
        with mock.patch.object(train, "SAVE_EVERY", 2):
            if stop is not None:
                interrupted = trainer()
                with mock.patch.object(interrupted, "_log", side_effect=self.interrupt_at(stop)):
                    self.assertRaises(KeyboardInterrupt, interrupted.run, plan)
            trainer().run(plan)
        return self.now

    @staticmethod
    def interrupt_at(step: int):  # noqa: ANN205
        def log(facts: dict) -> None:
            if facts["step"] >= step:
                raise KeyboardInterrupt

        return log

    def test_an_interrupted_run_ends_where_one_in_one_piece_does(self) -> None:
        whole, pieces = self.trained("whole", 6), self.trained("pieces", 6, stop=4)
        for (name, a), b in zip(whole.named_parameters(), pieces.parameters(), strict=True):
            self.assertTrue(torch.equal(a, b), name)

    def test_it_comes_nearer_to_a_head_that_is_always_right(self) -> None:
        stream = made_up_stream(self.teacher, self.head(seed=5, noisy=True), 400)
        before = measure(self.head(), stream)
        after = measure(self.trained("long", 60), stream)
        self.assertGreater(after["agreement"][0], before["agreement"][0] + 0.2)
        self.assertGreater(after["tokens_per_round"], before["tokens_per_round"])

    def test_the_rate_warms_up_and_falls_to_a_twenty_fifth(self) -> None:
        plan = Plan(steps=100, rate=1.0, warm_up=10)
        rates = [plan.rate_at(step) for step in range(101)]
        self.assertEqual(rates[9], 1.0)
        self.assertEqual(rates[:10], sorted(rates[:10]))
        self.assertEqual(rates[10:], sorted(rates[10:], reverse=True))
        self.assertAlmostEqual(rates[100], 0.04)

    def test_a_head_that_is_always_right_measures_so(self) -> None:
        right = self.head(seed=5, noisy=True)
        figures = measure(right, made_up_stream(self.teacher, right, 400))
        self.assertEqual(figures["agreement"], [1.0] * 4)
        self.assertEqual(figures["tokens_per_round"], 5.0)
        self.assertEqual(figures["covered"], 1.0)


if __name__ == "__main__":
    unittest.main()
