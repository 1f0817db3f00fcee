"""The training loop: resumable, deterministic for one machine and library."""

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional
from tqdm import tqdm

from hf_directory import ToolError
from layerskip import corpus, domain
from layerskip.decoder import Decoder, Runs
from layerskip.recipe import Recipe, learning_rate

SAVE_EVERY = 50  # steps
LOG_EVERY = 10
BETAS = (0.9, 0.95)
WEIGHT_DECAY = 0.1  # of matrices
MAX_GRADIENT = 1.0


@dataclass(frozen=True)
class Settings:
    """All that a trained model depends on, beside what it begins from."""

    recipe: Recipe
    seed: int
    steps: int
    samples: int  # a step
    tokens: int  # a sample
    peak_rate: float
    warmup: int
    bf16: bool  # products in bf16; weights and their sums stay float32

    def as_json(self) -> dict:
        return dataclasses.asdict(self)


class Trainer:
    """Trains in place. What an interrupted run has done is in `folder` and is gone on from."""

    def __init__(
        self, model: Decoder, chat: corpus.Chat, settings: Settings, folder: Path, name: str
    ) -> None:
        self._model = model
        self._chat = chat
        self._settings = settings
        self._name = name
        self._state_file = folder / f"{name}.state.pt"
        self._log_file = folder / f"{name}.log.jsonl"
        matrices = [p for p in model.parameters() if p.dim() > 1]
        vectors = [p for p in model.parameters() if p.dim() == 1]
        groups = [
            {"params": matrices, "weight_decay": WEIGHT_DECAY},
            {"params": vectors, "weight_decay": 0.0},
        ]
        self._optimizer = torch.optim.AdamW(groups, lr=settings.peak_rate, betas=BETAS)

    def run(self, quiet: bool = False) -> None:
        settings, first = self._settings, self._resume()
        # disable=None: a bar on a terminal only.
        bar = tqdm(
            range(first, settings.steps),
            initial=first,
            total=settings.steps,
            desc=self._name,
            disable=quiet or None,
        )
        for step in bar:
            losses = self._step(step)
            bar.set_postfix(loss=f"{losses[self._model.layers - 1]:.3f}", refresh=False)
            if step % LOG_EVERY == 0 or step + 1 == settings.steps:
                self._log(step, losses)
            if (step + 1) % SAVE_EVERY == 0:
                self._save(step + 1)
        self._state_file.unlink(missing_ok=True)

    def _step(self, step: int) -> dict[int, float]:
        """Returns the loss of each exit that is on."""
        settings, layers = self._settings, self._model.layers
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(step, settings.steps, settings.peak_rate, settings.warmup)
        weights = settings.recipe.exit_weights(layers, step, settings.steps)
        rows = torch.from_numpy(
            corpus.batch(
                self._chat, settings.seed, domain.TRAIN, step, settings.samples, settings.tokens
            )
        )
        with torch.autocast("cpu", torch.bfloat16, enabled=settings.bf16):
            left = self._model.leave(rows[:, :-1], weights, self._runs(step))
            losses = {layer: loss(self._model, x, rows[:, 1:]) for layer, x in left.items()}
        total = sum(weights[layer] * value for layer, value in losses.items())
        self._optimizer.zero_grad(set_to_none=True)
        total.backward()
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), MAX_GRADIENT)
        self._optimizer.step()
        if not torch.isfinite(total):
            raise ToolError(f"the loss of step {step} is not finite: lower --rate")
        return {layer: value.item() for layer, value in losses.items()}

    def _runs(self, step: int) -> Runs:
        """Layer dropout, drawn from seed and step: what an interrupted run would have drawn."""
        settings, layers = self._settings, self._model.layers
        generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
        drawn = torch.rand(layers, settings.samples, generator=generator)

        def runs(layer: int) -> torch.Tensor | None:
            skipped = settings.recipe.drop_probability(layer, layers, step, settings.steps)
            kept = (drawn[layer] >= skipped).nonzero().flatten()
            return None if len(kept) == settings.samples else kept

        return runs

    def _log(self, step: int, losses: dict[int, float]) -> None:
        line = {
            "step": step,
            "rate": self._optimizer.param_groups[0]["lr"],
            "loss_at_exit": {str(layer + 1): round(value, 4) for layer, value in losses.items()},
        }
        with self._log_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def _save(self, done: int) -> None:
        state = {
            "settings": self._settings.as_json(),
            "done": done,
            "model": self._model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }
        partial = self._state_file.with_suffix(".partial")
        torch.save(state, partial)
        os.replace(partial, self._state_file)

    def _resume(self) -> int:
        """Steps that are done already."""
        if not self._state_file.exists():
            self._log_file.unlink(missing_ok=True)
            return 0
        state = torch.load(self._state_file, weights_only=True)
        if state["settings"] != self._settings.as_json():
            raise ToolError(
                f"{self._state_file} is of a run with other settings: go on with those, or --fresh"
            )
        self._model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        return state["done"]


def loss(model: Decoder, x: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Mean cross entropy, in nats a token, of predicting from the stream at an exit."""
    logits = model.logits(x).float()
    return functional.cross_entropy(logits.flatten(0, 1), wanted.flatten())
