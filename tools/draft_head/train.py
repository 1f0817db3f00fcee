"""Distils the model into a head, on rows that were kept while it wrote. A head goes on from its own
rows when it drafts more than one token, so it is trained to."""

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from draft_head.data import Stream
from draft_head.head import DraftHead
from draft_head.prompts import KINDS
from draft_head.teacher import Teacher

CHAIN_WEIGHTS = (1.0, 0.6, 0.4)  # of the first, second, third token of a round
GIVEN_WEIGHT = 0.3  # of positions behind which stands what the model was given
BEST_WEIGHT, ROW_WEIGHT = 0.5, 0.2  # beside the divergence, which weighs 1
SAVE_EVERY, LOG_EVERY = 200, 20


CHECKPOINT = "checkpoint.pt"


def begun_vocabulary(folder: Path) -> Tensor | None:
    """Of the training that was interrupted here: more shards would choose another one."""
    path = folder / CHECKPOINT
    return torch.load(path, weights_only=True)["vocabulary"] if path.exists() else None


@dataclass(frozen=True)
class Plan:
    steps: int
    chained_from: float = 0.7  # of the steps: before, rounds of one token are trained
    windows: int = 16  # of a step
    rate: float = 6e-4
    warm_up: int = 60

    def rate_at(self, step: int) -> float:
        if step < self.warm_up:
            return self.rate * (step + 1) / self.warm_up
        done = (step - self.warm_up) / max(1, self.steps - self.warm_up)
        return self.rate * (0.04 + 0.96 * 0.5 * (1 + math.cos(math.pi * done)))


class Trainer:
    def __init__(
        self, teacher: Teacher, head: DraftHead, stream: Stream, held_out: Stream, folder: Path
    ) -> None:
        self._teacher, self._head = teacher, head
        self._stream, self._held_out = stream, held_out
        self._folder = folder
        self._norm = teacher.final_norm.float()
        self._index = torch.full((teacher.vocabulary,), -1)
        self._index[head.vocabulary] = torch.arange(len(head.vocabulary))
        matrices = [p for p in head.parameters() if p.dim() > 1 and p is not head.mix]
        self._optimizer = torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": 0.01, "scale": 1.0},
                # Begins where it should nearly be, and all its inputs matter.
                {"params": [head.mix], "weight_decay": 0.0, "scale": 0.3},
                {"params": [head.output_norm], "weight_decay": 0.0, "scale": 1.0},
            ],
            betas=(0.9, 0.98),
        )

    def run(self, plan: Plan) -> None:
        begins = self._stream.begins()
        step = self._resume()
        if step == 0:
            self._log({"step": 0, **measure(self._head, self._held_out)})
        began = time.monotonic()
        sums: dict[str, float] = {}
        with tqdm(total=plan.steps, initial=step, desc="training", disable=None) as bar:
            while step < plan.steps:
                generator = torch.Generator().manual_seed(step)
                picked = torch.randint(len(begins), (plan.windows,), generator=generator)
                chain = 1 if step < plan.chained_from * plan.steps else len(CHAIN_WEIGHTS)
                for group in self._optimizer.param_groups:
                    group["lr"] = plan.rate_at(step) * group["scale"]
                loss = self._step(self._stream.window(begins[picked]), chain)
                sums["loss"] = sums.get("loss", 0.0) + loss / LOG_EVERY
                step += 1
                bar.update()
                if step % LOG_EVERY == 0:
                    seconds = round(time.monotonic() - began, 1)
                    self._log({"step": step, "loss": round(sums.pop("loss"), 4), "s": seconds})
                if step % SAVE_EVERY == 0 or step == plan.steps:
                    self._save(step)
                    self._log({"step": step, **measure(self._head, self._held_out)})

    def _step(self, w: Stream, chain: int) -> float:
        head = self._head
        target = F.linear((w.rows.float() * self._norm).to(head.rows.dtype), head.rows).float()
        target = target.log_softmax(-1)
        label = self._index[w.best]
        weight = torch.where(w.own, 1.0, GIVEN_WEIGHT)
        before = w.rows[:, :-1]
        total = torch.zeros(())
        for depth in range(chain):
            # Rows of positions depth + 1 .. : each goes on from the one before it.
            with torch.autocast("cpu", enabled=head.rows.dtype == torch.bfloat16):
                rows = head(w.tokens[:, depth + 1 :], before)
            valid = (w.place[:, depth + 1 :] > depth) * weight[:, depth + 1 :]
            loss = self._loss(rows, w.rows[:, depth + 1 :], target[:, depth + 1 :],
                              label[:, depth + 1 :], valid)
            total = total + CHAIN_WEIGHTS[depth] * loss
            before = rows[:, :-1]
        self._optimizer.zero_grad(set_to_none=True)
        total.backward()
        torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        self._optimizer.step()
        return float(total.detach())

    def _loss(self, rows: Tensor, wanted: Tensor, target: Tensor, label: Tensor, valid: Tensor):
        guess = self._head.logits(rows).log_softmax(-1)
        divergence = (target.exp() * (target - guess)).sum(-1)
        hit = guess.gather(-1, label.clamp(min=0)[..., None]).squeeze(-1)
        best = torch.where(label >= 0, -hit, 0.0)
        row = F.smooth_l1_loss(rows.float(), wanted.float(), reduction="none").mean(-1)
        each = divergence + BEST_WEIGHT * best + ROW_WEIGHT * row
        return (each * valid).sum() / valid.sum().clamp(min=1)

    def _log(self, facts: dict) -> None:
        with (self._folder / "train.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(facts) + "\n")

    def _save(self, step: int) -> None:
        part = self._folder / "checkpoint.part"
        state = {
            "step": step,
            "vocabulary": self._head.vocabulary,
            "head": self._head.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }
        torch.save(state, part)
        part.rename(self._folder / CHECKPOINT)

    def _resume(self) -> int:
        path = self._folder / CHECKPOINT
        if not path.exists():
            return 0
        state = torch.load(path, weights_only=True)
        self._head.load_state_dict(state["head"])
        self._optimizer.load_state_dict(state["optimizer"])
        return state["step"]


@torch.no_grad()
def measure(head: DraftHead, stream: Stream, chain: int = 4) -> dict:
    """How often the head's best token is the model's, for the first to fourth token of a round,
    where the model writes; and the tokens that a round of four would yield."""
    begins = torch.arange(0, len(stream.tokens) - 64, 60)
    right = torch.zeros(chain, len(KINDS))
    tried = torch.zeros(chain, len(KINDS))
    covered = torch.isin(stream.best[stream.own], head.vocabulary).float().mean()
    for part in begins.split(64):
        w = stream.window(part)
        before = w.rows[:, :-1]
        for depth in range(chain):
            rows = head(w.tokens[:, depth + 1 :], before)
            best = head.vocabulary[head.logits(rows).argmax(-1)]
            hit = best == w.best[:, depth + 1 :]
            counts = w.own[:, depth + 1 :] & (w.place[:, depth + 1 :] > depth)
            kind = w.kind[:, depth + 1 :].long()
            tried[depth].index_add_(0, kind[counts], torch.ones(int(counts.sum())))
            right[depth].index_add_(0, kind[counts], hit[counts].float())
            before = rows[:, :-1]
    by_place = right.sum(1) / tried.sum(1)
    first = right[0] / tried[0].clamp(min=1)
    return {
        "agreement": [round(float(a), 4) for a in by_place],
        "first_by_kind": {k: round(float(a), 4) for k, a in zip(KINDS, first, strict=True)},
        "tokens_per_round": round(1 + float(by_place.cumprod(0).sum()), 3),
        "covered": round(float(covered), 4),
    }
