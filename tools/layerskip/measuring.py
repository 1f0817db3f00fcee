"""How often each exit of a model says what its last layer says, on held-out answers."""

import torch
from torch.nn import functional

from layerskip import corpus, domain
from layerskip.decoder import Decoder
from layerskip.speedup import Exit, best, best_replayed, draft_cost, head_share


@torch.no_grad()
def measure(model: Decoder, chat: corpus.Chat, seed: int, examples: int) -> list[Exit]:
    """Teacher-forced: the tokens before are the wanted ones."""
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
