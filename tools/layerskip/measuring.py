"""How often each exit of a model says what its last layer says, on held-out answers."""

from dataclasses import dataclass

import torch
from torch.nn import functional

from layerskip import corpus, domain
from layerskip.decoder import Decoder
from layerskip.speedup import Choice, best, best_replayed, draft_cost, head_share


@dataclass(frozen=True)
class Exit:
    layer: int  # as the daemon counts
    agreement: float  # share of answer tokens
    accuracy: float  # share of them that are the wanted ones
    loss: float  # nats a token
    cost: float  # of a draft, in passes of the whole model
    by_formula: Choice
    by_replay: Choice


@torch.no_grad()
def measure(model: Decoder, chat: corpus.Chat, seed: int, examples: int) -> list[Exit]:
    """Teacher-forced: the tokens before are the wanted ones. ToolError if there is no room."""
    model.eval()
    layers, head = model.layers, head_share(model.config)
    agreed: list[list[list[bool]]] = [[] for _ in range(layers)]
    right, losses, tokens = [0] * layers, [0.0] * layers, 0
    for number in range(examples):
        example = domain.example(seed, domain.HELD_OUT, number)
        ids = torch.tensor(chat.example_ids(example))
        first = len(chat.prompt_ids(example.prompt))
        left = model.leave(ids[None, :-1], range(layers))
        wanted = ids[first:]
        logits = [model.logits(left[layer][0, first - 1 :]) for layer in range(layers)]
        said = [row.argmax(-1) for row in logits]
        tokens += len(wanted)
        for layer in range(layers):
            agreed[layer].append((said[layer] == said[-1]).tolist())
            right[layer] += int((said[layer] == wanted).sum())
            losses[layer] += functional.cross_entropy(
                logits[layer], wanted, reduction="sum"
            ).item()
    exits = []
    for layer in range(layers):
        cost = draft_cost(layer + 1, layers, head)
        agreement = sum(map(sum, agreed[layer])) / tokens
        exits.append(
            Exit(
                layer + 1,
                agreement,
                right[layer] / tokens,
                losses[layer] / tokens,
                cost,
                best(agreement, cost),
                best_replayed(agreed[layer], cost),
            )
        )
    return exits


def table(exits: list[Exit]) -> str:
    lines = ["exit  agrees    right     loss   cost  speed-up (drafts): formula      replay"]
    for e in exits:
        lines.append(
            f"{e.layer:4}  {e.agreement:6.1%}   {e.accuracy:6.1%}  {e.loss:7.3f}  {e.cost:5.2f}"
            f"           {e.by_formula.speedup:5.2f} ({e.by_formula.drafts:2})"
            f"      {e.by_replay.speedup:5.2f} ({e.by_replay.drafts:2})"
        )
    return "\n".join(lines)
