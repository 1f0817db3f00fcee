"""Has the model write, and keeps every token with its last hidden row: what a head is trained on.
A shard is a safetensors file; those that are there are not made again."""

from collections import deque
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from draft_head.prompts import Prompts, Turn
from draft_head.teacher import Teacher, rms_norm

SLOTS, LENGTH = 96, 384
TOP_P = 0.95  # of what is sampled


class Slot:
    """One chain on its way through the model."""

    def __init__(self, kind: int, turns: list[Turn]) -> None:
        self.kind = kind
        self._turns = deque(turns)
        self._given: deque[int] = deque()
        self._left = 0
        self.temperature = 0.0
        self.done = False
        self.tokens: list[int] = []
        self.rows: list[Tensor] = []
        self.best: list[int] = []
        self.own: list[bool] = []  # the token behind is the model's own
        self._next_turn()
        self.token = self._given.popleft()

    def advance(self, row: Tensor, best: int, drawn: int, stops: frozenset[int]) -> None:
        """The model has taken `token`, and would have `drawn` follow it."""
        self.tokens.append(self.token)
        self.rows.append(row)
        self.best.append(best)
        self.own.append(not self._given)
        if self._given:
            self.token = self._given.popleft()
            return
        self.token = drawn
        self._left -= 1
        ended = drawn in stops or self._left == 0
        if ended and self._turns:
            self._next_turn()
            # What stands before the next turn begins with the end of this one.
            if drawn == self._given[0]:
                self._given.popleft()
        elif ended or len(self.tokens) == LENGTH:
            self.done = True

    def _next_turn(self) -> None:
        turn = self._turns.popleft()
        self._given.extend(turn.given)
        self._left, self.temperature = turn.most, turn.temperature


def generate(teacher: Teacher, prompts: Prompts, folder: Path, tokens: int, shards: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    per_shard = tokens // shards
    for number in range(len(shard_files(folder)), shards):
        # disable=None: a bar on a terminal only.
        with tqdm(total=per_shard, desc=f"shard {number + 1}/{shards}", disable=None) as bar:
            chains = _run(teacher, prompts.chains(), per_shard, bar)
        _save(chains, folder / f"shard-{number:04d}.safetensors")


@torch.no_grad()
def _run(
    teacher: Teacher, chains: Iterator[tuple[int, list[Turn]]], tokens: int, bar: tqdm
) -> list[Slot]:
    """Starts chains until they have come to so many tokens, and ends those under way."""
    teacher.open(SLOTS, LENGTH)
    slots = [Slot(*next(chains)) for _ in range(SLOTS)]
    done: list[Slot] = []
    kept = 0
    while kept < tokens:
        positions = torch.tensor([len(slot.tokens) for slot in slots])
        rows = teacher.step(torch.tensor([slot.token for slot in slots]), positions)
        logits = teacher.logits(rows)
        best = logits.argmax(-1).tolist()
        drawn = _draw(logits, torch.tensor([slot.temperature for slot in slots])).tolist()
        unit = rms_norm(rows, teacher.eps).to(torch.bfloat16)
        for i, slot in enumerate(slots):
            following = drawn[i] if slot.temperature > 0 else best[i]
            slot.advance(unit[i], best[i], following, teacher.stops)
            if slot.done:
                done.append(slot)
                kept += len(slot.tokens)
                slots[i] = Slot(*next(chains))
        bar.update(SLOTS)
    return done + [slot for slot in slots if len(slot.tokens) > 32]


def _draw(logits: Tensor, temperature: Tensor) -> Tensor:
    """From the most likely tokens that come to TOP_P together, of the best 256."""
    top, ids = (logits / temperature.clamp(min=0.1)[:, None]).topk(256)
    shares = top.softmax(-1)
    shares[shares.cumsum(-1) - shares > TOP_P] = 0
    return ids.gather(1, shares.multinomial(1)).squeeze(1)


def _save(chains: list[Slot], path: Path) -> None:
    from safetensors.torch import save_file

    def joined(name: str, dtype: torch.dtype) -> Tensor:
        values = [value for chain in chains for value in getattr(chain, name)]
        return torch.tensor(values, dtype=dtype)

    part = path.with_suffix(".part")
    save_file(
        {
            "lengths": torch.tensor([len(chain.tokens) for chain in chains], dtype=torch.int32),
            "kinds": torch.tensor([chain.kind for chain in chains], dtype=torch.int32),
            "tokens": joined("tokens", torch.int32),
            "best": joined("best", torch.int32),
            "own": joined("own", torch.uint8),
            "rows": torch.stack([row for chain in chains for row in chain.rows]),
        },
        part,
    )
    part.rename(path)


def shard_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("shard-*.safetensors"))
