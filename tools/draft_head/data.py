"""Shards as one stream of tokens, and the windows of it that a step trains on."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from draft_head.generate import shard_files

WINDOW = 64
HELD_OUT = 16  # every 16th chain


@dataclass
class Stream:
    tokens: Tensor  # [n]
    rows: Tensor  # [n, hidden] bf16: the last hidden rows, of unit length per element
    best: Tensor  # [n] what the model holds most likely to follow
    own: Tensor  # [n] bool: what follows is the model's own
    place: Tensor  # [n] in its chain, from 0 on
    kind: Tensor  # [n]

    def window(self, begins: Tensor) -> "Stream":
        """[len(begins), WINDOW] of each."""
        at = begins[:, None] + torch.arange(WINDOW)
        return Stream(*(part[at] for part in vars(self).values()))

    def begins(self) -> Tensor:
        """Of windows in which the model writes at least half."""
        written = F.pad(self.own.float().cumsum(0), (1, 0))
        share = (written[WINDOW:] - written[:-WINDOW]) / WINDOW
        return (share >= 0.5).nonzero().squeeze(1)


def load(folder: Path) -> tuple[Stream, Stream]:
    """To train with, and held out."""
    from safetensors.torch import load_file

    shards = [load_file(path) for path in shard_files(folder)]

    def all_of(name: str) -> Tensor:
        return torch.cat([shard[name] for shard in shards])

    lengths = all_of("lengths").long()
    chain = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    first = lengths.cumsum(0) - lengths
    parts = {
        "tokens": all_of("tokens").long(),
        "rows": all_of("rows"),
        "best": all_of("best").long(),
        "own": all_of("own").bool(),
        "place": torch.arange(len(chain)) - first[chain],
        "kind": all_of("kinds")[chain],
    }
    held_out = chain % HELD_OUT == 0
    return (
        Stream(**{name: part[~held_out] for name, part in parts.items()}),
        Stream(**{name: part[held_out] for name, part in parts.items()}),
    )


def choose_vocabulary(stream: Stream, size: int, stops: frozenset[int]) -> Tensor:
    """The tokens that the model itself writes most often, ascending."""
    written = torch.cat([stream.best[stream.own], stream.tokens[1:][stream.own[:-1]]])
    ids, counts = written.unique(return_counts=True)
    often = set(ids[counts.argsort(descending=True, stable=True)][:size].tolist()) | stops
    return torch.tensor(sorted(often))
