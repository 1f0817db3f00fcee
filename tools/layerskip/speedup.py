"""What drafts by the first layers gain if a pass costs the bytes of weights it reads, and rows that
are verified cost nothing: the rule of Leviathan et al. (arXiv 2211.17192, theorem 3.8)."""

from collections.abc import Sequence
from dataclasses import dataclass

LONGEST_DRAFT = 16


def head_share(config: dict) -> float:
    """The head, in layers."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    dim = config.get("head_dim") or hidden // config["num_attention_heads"]
    queries = 2 * config["num_attention_heads"] * dim * hidden
    keys = 2 * config["num_key_value_heads"] * dim * hidden
    return config["vocab_size"] * hidden / (queries + keys + 3 * hidden * inner)


def draft_cost(exit_layer: int, layers: int, head: float) -> float:
    """c: of drafting a token, in passes of the whole model."""
    return (exit_layer + head) / (layers + head)


def expected_speedup(agreement: float, drafts: int, cost: float) -> float:
    """(1 - a^(d + 1)) / ((1 - a) (1 + d c)), each draft being right with the same probability."""
    tokens = sum(agreement**i for i in range(drafts + 1))
    return tokens / (1 + drafts * cost)


@dataclass(frozen=True)
class Choice:
    drafts: int  # a round; 0: none pay
    speedup: float


def best(agreement: float, cost: float) -> Choice:
    """Of 1 to LONGEST_DRAFT drafts, the number that gains most, or loses least."""
    gains = {d: expected_speedup(agreement, d, cost) for d in range(1, LONGEST_DRAFT + 1)}
    drafts = max(gains, key=gains.get)
    return Choice(drafts, gains[drafts])


def replayed_speedup(agreed: Sequence[Sequence[bool]], drafts: int, cost: float) -> float:
    """The same of texts: for each token of each, whether the exit would have drafted it. Right
    drafts come in runs, which one probability does not say."""
    tokens, passes = 0, 0.0
    for text in agreed:
        at = 0
        while at < len(text):
            # The last token of a text needs no draft: the verifying step yields it.
            drafted = min(drafts, len(text) - at - 1)
            run = 0
            while run < drafted and text[at + run]:
                run += 1
            passes += 1 + drafted * cost
            tokens += run + 1
            at += run + 1
    return tokens / passes if passes else 0.0


def best_replayed(agreed: Sequence[Sequence[bool]], cost: float) -> Choice:
    gains = {d: replayed_speedup(agreed, d, cost) for d in range(1, LONGEST_DRAFT + 1)}
    drafts = max(gains, key=gains.get)
    return Choice(drafts, gains[drafts])


@dataclass(frozen=True)
class Exit:
    """What is known of an exit, from held-out answers."""

    layer: int  # as the daemon counts
    agreement: float  # share of answer tokens
    accuracy: float  # share of them that are the wanted ones
    loss: float  # nats a token
    cost: float  # of a draft, in passes of the whole model
    by_formula: Choice
    by_replay: Choice

    @staticmethod
    def from_json(value: dict) -> "Exit":
        choices = {name: Choice(**value[name]) for name in ("by_formula", "by_replay")}
        return Exit(**(value | choices))


def table(exits: list[Exit]) -> str:
    lines = ["exit  agrees    right     loss   cost  speed-up (drafts): formula      replay"]
    for e in exits:
        lines.append(
            f"{e.layer:4}  {e.agreement:6.1%}   {e.accuracy:6.1%}  {e.loss:7.3f}  {e.cost:5.2f}"
            f"           {e.by_formula.speedup:5.2f} ({e.by_formula.drafts:2})"
            f"      {e.by_replay.speedup:5.2f} ({e.by_replay.drafts:2})"
        )
    return "\n".join(lines)
