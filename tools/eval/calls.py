"""What is asked of a daemon, and what it answers."""

from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class Scored:
    """One token under the distribution that its prefix gives; natural logarithms."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]  # best first


@dataclass
class Reply:
    tokens: list[int] = field(default_factory=list)
    scored: list[Scored] = field(default_factory=list)  # of `tokens`, if logprobs were asked for
    prompt: list[Scored] = field(default_factory=list)  # from the prompt's second token on
    final: dict = field(default_factory=dict)  # the final message, as JSON names its fields


@dataclass(frozen=True)
class Call:
    """What of GenerateRequest the evaluation uses: greedy, past end tokens."""

    prompt: tuple[int, ...]
    max_tokens: int = 1
    logprobs: int | None = None  # best so many; None: no log-probabilities
    prompt_logprobs: bool = False
    weights: str | None = None  # "bf16", ...; None: the server's default
    prefill: dict | None = None  # PrefillPolicy as JSON; None: exact
    forced: tuple[int, ...] = ()  # the reply begins with these
    # Calls of the same name use what they left each other in the prefix cache: the same replies in
    # less time. None: shares with none, so that its time is that of a whole prefill.
    shares: str | None = None

    def facts(self) -> dict:
        """Everything the answer depends on, for the key of a result."""
        return dict(vars(self))


class Generator(Protocol):
    def generate(self, call: Call) -> Reply:
        """Raises EvalError if the daemon refuses or breaks off."""
