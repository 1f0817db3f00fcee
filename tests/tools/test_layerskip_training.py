"""Needs PyTorch, which no other test has: .venv-train/bin/python -m unittest, as tools/README.md
says."""

import importlib.util
import tempfile
import unittest
from pathlib import Path

import tool_path  # noqa: F401
import numpy as np

from calibrate import forward
from layerskip import corpus
from layerskip.recipe import Recipe
from model_shapes import llama_config

HAS_TORCH = importlib.util.find_spec("torch") is not None
if HAS_TORCH:
    import torch

    from layerskip import checkpoint
    from layerskip.decoder import Decoder
    from layerskip.measuring import measure
    from layerskip.training import Settings, Trainer

CONFIG = llama_config(
    layers=4,
    hidden=32,
    intermediate=40,
    heads=4,
    kv_heads=2,
    vocab=300,
    positions=256,
    theta=1e4,
    tied=True,
)
RECIPE = Recipe(p_max=0.5, from_scratch=False, e_scale=1.0, every=2, deployed=1, deployed_share=0.2)


@unittest.skipUnless(HAS_TORCH, "PyTorch is not installed")
class Training(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        corpus.write_tokenizer(self.folder, 0, 300)
        self.chat = corpus.Chat.of(self.folder)

    def trained(self, name: str, stop: int | None = None) -> "Decoder":
        """By six steps of the recipe; `stop`: interrupted before that one, and gone on with."""
        settings = Settings(RECIPE, 0, 6, 4, 32, 1e-2, 1, False)

        def trainer() -> "Trainer":
            torch.manual_seed(0)
            return Trainer(Decoder(CONFIG), self.chat, settings, self.folder, name)

        run = trainer()
        if stop is not None:
            for step in range(stop):
                run._step(step)
            run._save(stop)
            run = trainer()
        run.run(quiet=True)
        return run._model

    def test_the_decoder_computes_what_the_numpy_reference_does(self) -> None:
        torch.manual_seed(1)
        model = Decoder(CONFIG)
        ids = [3, 250, 7, 7, 120, 299]
        tensors = {name: value.numpy() for name, value in model.state_dict().items()}
        with torch.no_grad():
            left = model.leave(torch.tensor([ids]), range(4))

        def check(_: int, inside: forward.Inside) -> None:
            if inside.layer > 0:
                np.testing.assert_allclose(
                    inside.hidden, left[inside.layer - 1][0].numpy(), rtol=1e-4, atol=1e-5
                )

        forward.run(forward.Shape.of(CONFIG), tensors.get, [ids], check)

    def test_a_sample_that_skips_a_layer_passes_it_unchanged(self) -> None:
        model = Decoder(CONFIG)
        ids = torch.tensor([[1, 2, 3], [4, 5, 6], [7, 8, 9]])
        left = model.leave(ids, range(4), lambda n: torch.tensor([0, 2]) if n == 2 else None)
        self.assertTrue(torch.equal(left[2][1], left[1][1]))
        plain = model.leave(ids, range(4))
        torch.testing.assert_close(left[2][[0, 2]], plain[2][[0, 2]])
        self.assertFalse(torch.equal(left[3][1], plain[3][1]))

    def test_an_interrupted_run_ends_where_one_in_one_piece_does(self) -> None:
        whole, pieces = self.trained("whole"), self.trained("pieces", stop=3)
        for (name, a), b in zip(whole.state_dict().items(), pieces.state_dict().values()):
            self.assertTrue(torch.equal(a, b), name)
        self.assertEqual(list(self.folder.glob("*.state.pt")), [])

    def test_training_lowers_the_loss_of_the_last_layer_and_of_the_deployed_exit(self) -> None:
        torch.manual_seed(0)
        before = measure(Decoder(CONFIG), self.chat, 0, 4)
        after = measure(self.trained("whole"), self.chat, 0, 4)
        self.assertLess(after[-1].loss, before[-1].loss)
        self.assertLess(after[0].loss, before[0].loss)
        self.assertEqual(after[-1].agreement, 1)

    def test_a_stored_model_is_read_back_rounded_to_bf16(self) -> None:
        model = self.trained("whole")
        checkpoint.write(self.folder, model)
        read = checkpoint.read(self.folder)
        for (name, a), b in zip(model.state_dict().items(), read.state_dict().values()):
            self.assertTrue(torch.equal(a.bfloat16().float(), b), name)


if __name__ == "__main__":
    unittest.main()
