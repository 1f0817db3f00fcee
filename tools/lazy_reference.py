"""LazyLLM from its formulas (Fu et al. 2024, arXiv 2407.14057), on a tiny Llama in NumPy: the
oracle of the tests of prompt pruning, phantoms and scouts included. One token at a time has a set
of layers whose keys and values exist; nothing here is paged, tiled or batched.

Sums are float64; values are rounded to bfloat16 where the engine stores bfloat16, so that both
choose the same tokens unless two scores are almost equal. `margin` says how near to that a run
came.
"""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors.numpy import load_file


PREDICTORS = "skim_predictors.safetensors"


def bf16(x: np.ndarray) -> np.ndarray:
    return np.asarray(x, np.float32).astype(ml_dtypes.bfloat16).astype(np.float64)


@dataclass
class Policy:
    boundaries: list[int]
    keep: list[float]  # share of the prompt above each boundary
    min_keep: int = 8
    sinks: int = 4
    window: int = 1
    pool_radius: int = 3
    decode: str = "lazy"  # static, lazy, strict, phantom, late
    budget: int = 8
    look_back: int = 0
    heads: list[list[tuple[int, int]]] | None = None  # per boundary (layer, head); None: the mean
    # Per boundary the last tokens that run ahead, and where they score; None: nobody does.
    scouts: list[tuple[int, list[tuple[int, int]]] | None] | None = None

    def scouted(self, cut: int) -> bool:
        return self.scouts is not None and self.scouts[cut] is not None

    def decoding_chooses(self, cut: int) -> bool:
        """Above all scouts; late, everywhere."""
        if self.decode == "late":
            return True
        above = any(self.scouted(c) for c in range(cut, len(self.boundaries)))
        return self.decode in ("lazy", "strict") and not above


@dataclass
class Step:
    """What one prefill or decode step chose at each cut."""

    chosen: list[list[int]] = field(default_factory=list)
    revived: list[list[int]] = field(default_factory=list)
    stages_run: int = 0  # by the revived
    looks: list["Step"] = field(default_factory=list)  # of the prompt's last token, once more
    logits: np.ndarray | None = None


class Model:
    def __init__(self, directory: Path) -> None:
        self.config = json.loads((directory / "config.json").read_text())
        tensors = load_file(directory / "model.safetensors")
        self.w = {name: np.asarray(t, np.float64) for name, t in tensors.items()}
        predictors = directory / PREDICTORS
        if predictors.exists():
            self.w |= {n: np.asarray(t, np.float64) for n, t in load_file(predictors).items()}
        self.layers = self.config["num_hidden_layers"]
        self.heads = self.config["num_attention_heads"]
        self.kv_heads = self.config["num_key_value_heads"]
        self.head_dim = self.config.get("head_dim") or self.config["hidden_size"] // self.heads
        self.frequencies = self._frequencies()

    def _frequencies(self) -> np.ndarray:
        half = np.arange(self.head_dim // 2)
        f = self.config["rope_theta"] ** (-2.0 * half / self.head_dim)
        scaling = self.config.get("rope_scaling")
        if not scaling:
            return f
        turns = scaling["original_max_position_embeddings"] * f / (2 * math.pi)
        low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
        keep = np.clip((turns - low) / (high - low), 0, 1)
        return (1 - keep) * f / scaling["factor"] + keep * f

    def norm(self, x: np.ndarray, name: str) -> np.ndarray:
        return bf16(self.scaled(x) * self.w[name])

    def scaled(self, x: np.ndarray) -> np.ndarray:
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + self.config["rms_norm_eps"])

    def predicted(
        self, boundary: int, l: int, x: np.ndarray, positions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Keys and values of layer l, [n, kv heads, head dim], from what leaves `boundary`."""
        y = bf16(self.scaled(x)) @ self.w[f"{boundary}.{l}.weight"].T + self.w[f"{boundary}.{l}.bias"]
        keys, values = np.split(y.reshape(len(x), -1, self.head_dim), 2, axis=1)
        return self.rotate(keys, positions), bf16(values)

    def rotate(self, x: np.ndarray, positions: np.ndarray) -> np.ndarray:
        angle = positions[:, None, None] * self.frequencies
        a, b = np.split(x, 2, axis=-1)
        cos, sin = np.cos(angle), np.sin(angle)
        return bf16(np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1))

    def embed(self, tokens: list[int]) -> np.ndarray:
        return self.w["model.embed_tokens.weight"][tokens]

    def logits(self, x: np.ndarray) -> np.ndarray:
        head = self.w.get("lm_head.weight", self.w["model.embed_tokens.weight"])
        return self.norm(x, "model.norm.weight") @ head.T


class Sequence:
    """A sequence under a policy. depth[t] = stages whose keys and values token t has."""

    def __init__(self, model: Model, policy: Policy, prompt: list[int]) -> None:
        self.model, self.policy = model, policy
        self.tokens = list(prompt)
        self.prompt = len(prompt)
        cuts = [0, *policy.boundaries, model.layers]
        self.stages = list(zip(cuts[:-1], cuts[1:]))
        self.keys = [{} for _ in range(model.layers)]  # position -> [kv heads, head dim]
        self.values = [{} for _ in range(model.layers)]
        self.depth = [0] * self.prompt
        self.hidden: dict[int, np.ndarray] = {}
        self.coming: list[int] = []  # revived late: they run beside the next token
        self.seen_by_last: dict[int, tuple[np.ndarray, list[int]]] = {}  # of a step, by layer
        self.margin = math.inf

    def layer(
        self, l: int, x: np.ndarray, rows: list[int], seen: set[int] | None
    ) -> tuple[np.ndarray, np.ndarray, list[int]]:
        """One layer for the tokens `rows`, which see the cached tokens at or before their
        position (of `seen`, if given). Returns x, probabilities [rows, heads, cached]."""
        m, p = self.model, f"model.layers.{l}"
        positions = np.array(rows)
        n = m.norm(x, f"{p}.input_layernorm.weight")
        shape = (len(rows), -1, m.head_dim)
        q = m.rotate((n @ m.w[f"{p}.self_attn.q_proj.weight"].T).reshape(shape), positions)
        k = m.rotate((n @ m.w[f"{p}.self_attn.k_proj.weight"].T).reshape(shape), positions)
        v = bf16((n @ m.w[f"{p}.self_attn.v_proj.weight"].T).reshape(shape))
        for i, row in enumerate(rows):
            self.keys[l][row], self.values[l][row] = k[i], v[i]
        cached = sorted(t for t in self.keys[l] if seen is None or t in seen)
        keys = np.stack([self.keys[l][t] for t in cached]).repeat(m.heads // m.kv_heads, axis=1)
        values = np.stack([self.values[l][t] for t in cached]).repeat(m.heads // m.kv_heads, axis=1)
        scores = np.einsum("rhd,chd->rhc", q, keys) / math.sqrt(m.head_dim)
        scores = np.where(np.array(cached) > positions[:, None, None], -np.inf, scores)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        rounded = bf16(weights)
        total = rounded.sum(-1, keepdims=True)
        out = bf16(np.einsum("rhc,chd->rhd", rounded, values) / total[..., :1])
        x = x + out.reshape(len(rows), -1) @ m.w[f"{p}.self_attn.o_proj.weight"].T
        n = m.norm(x, f"{p}.post_attention_layernorm.weight")
        gate = n @ m.w[f"{p}.mlp.gate_proj.weight"].T
        up = n @ m.w[f"{p}.mlp.up_proj.weight"].T
        x = x + bf16(gate / (1 + np.exp(-gate)) * up) @ m.w[f"{p}.mlp.down_proj.weight"].T
        return x, weights / total, cached

    def run_stage(
        self, s: int, x: np.ndarray, rows: list[int], seen: set[int] | None, window: int
    ) -> tuple[np.ndarray, dict[int, float]]:
        """The layers of stage s. The last `window` rows score the tokens they see (equation 1)."""
        first, end = self.stages[s]
        heads = self.policy.heads[s] if self.policy.heads and s + 1 < len(self.stages) else None
        arrays = []
        for l in range(first, end):
            x, probabilities, cached = self.layer(l, x, rows, seen)
            self.seen_by_last[l] = probabilities[-1], cached
            rows_mean = probabilities[-window:].mean(0)
            if heads is None and l == end - 1:
                arrays.append(rows_mean.mean(0))
            for _, head in [h for h in heads or [] if h[0] == l]:
                arrays.append(rows_mean[head] / rows_mean[head].max())
        return x, dict(zip(cached, sum(arrays))) if arrays else {}

    def pooled(self, scores: dict[int, float]) -> dict[int, float]:
        r = self.policy.pool_radius
        return {t: max(scores[u] for u in range(t - r, t + r + 1) if u in scores) for t in scores}

    def best(self, scores: dict[int, float], count: int, forced: set[int]) -> list[int]:
        order = sorted(scores, key=lambda t: (t not in forced, -scores[t], t))
        if 0 < count < len(order):
            threshold = scores[order[count - 1]]
            for t in order:
                if t not in forced and scores[t] != threshold:
                    self.margin = min(self.margin, abs(scores[t] / threshold - 1))
        return sorted(order[:count])

    def forced(self, length: int) -> set[int]:
        tail = range(max(0, length - self.policy.window), length)
        return set(range(min(self.policy.sinks, length))) | set(tail)

    def count(self, cut: int, length: int) -> int:
        share = math.ceil(self.policy.keep[cut] * length - 1e-3)
        return max(self.policy.min_keep, share, len(self.forced(length)))

    def prefill(self) -> Step:
        """What is cut has no keys and values above; as a phantom it has predicted ones."""
        step = Step()
        rows = list(range(self.prompt))
        x = self.model.embed(self.tokens)
        for s in range(len(self.stages)):
            x, scores = self.run_stage(s, x, rows, None, self.policy.window)
            for i, t in enumerate(rows):
                self.depth[t] = s + 1
                self.hidden[t] = x[i]
            if s + 1 == len(self.stages):
                step.logits = self.model.logits(x[-1])
                break
            count = min(len(rows), self.count(s, self.prompt))
            pooled = self.pooled(self.scout(s, rows) if self.policy.scouted(s) else scores)
            # Phantoms are scored as well, and may lift their neighbours, but do not come back.
            kept = self.best({t: pooled[t] for t in rows}, count, self.forced(self.prompt))
            if self.policy.decode in ("phantom", "late"):
                cut = [t for t in rows if t not in set(kept)]
                self.predict(cut, self.stages[s][1], self.model.layers)
            rows = kept
            step.chosen.append(rows)
            x = np.stack([self.hidden[t] for t in rows])
        if self.policy.look_back > 0:
            # It looks, then it sees what it has found; by then what it finds is decoding's.
            for budget in (self.policy.look_back, self.policy.budget):
                step.looks.append(self.run_late(self.prompt - 1, budget))
            step.logits = step.looks[-1].logits
            step.stages_run = sum(look.stages_run for look in step.looks)
        return step

    def predict(self, tokens: list[int], first: int, end: int) -> None:
        """Keys and values of layers [first, end) from where each token has stopped."""
        for t in tokens:
            boundary = self.stages[self.depth[t] - 1][1]
            for l in range(first, end):
                keys, values = self.model.predicted(
                    boundary, l, self.hidden[t][None], np.array([t])
                )
                self.keys[l][t], self.values[l][t] = keys[0], values[0]

    def scout(self, s: int, rows: list[int]) -> dict[int, float]:
        """Scores of those who run ahead of cut s, over predictions of everybody else."""
        window, heads = self.policy.scouts[s]
        window = min(window, len(rows))
        ahead = [*rows[: min(self.policy.sinks, len(rows) - window)], *rows[-window:]]
        saved = self.keys, self.values
        self.keys = [{} for _ in range(self.model.layers)]
        self.values = [{} for _ in range(self.model.layers)]
        first, end = self.stages[s][1], 1 + max(layer for layer, _ in heads)
        self.predict([t for t in range(self.prompt) if t not in set(ahead)], first, end)
        x = np.stack([self.hidden[t] for t in ahead])
        total: dict[int, float] = dict.fromkeys(range(self.prompt), 0.0)
        for l in range(first, end):
            x, probabilities, cached = self.layer(l, x, ahead, None)
            for _, head in [h for h in heads if h[0] == l]:
                seen = probabilities[-window:, head]
                for scores in (seen[-1], seen.mean(0)):
                    for t, score in zip(cached, scores / scores.max()):
                        total[t] += score
        self.keys, self.values = saved
        return total

    def decode(self, token: int) -> Step:
        self.tokens.append(token)
        position = len(self.tokens) - 1
        if self.policy.decode == "late":
            return self.run_late(position, self.policy.budget)
        return self.decode_now(position)

    def run_late(self, position: int, budget: int) -> Step:
        """Whom this token finds runs all layers that it lacks beside the next one."""
        step = Step()
        running, self.coming = self.coming, []
        waiting = {s: [t for t, d in enumerate(self.depth) if d == s and t not in running]
                   for s in range(1, len(self.stages))}  # fmt: skip
        rows, x = [position], self.model.embed([self.tokens[position]])
        scores = []
        for s in range(len(self.stages)):
            here = dict(zip(rows, x)) | {t: self.hidden[t] for t in running if self.depth[t] == s}
            rows = sorted(here)
            step.stages_run += len(rows) - 1
            x, below = self.run_stage(s, np.stack([here[t] for t in rows]), rows, None, 1)
            scores.append(below)
        for t in running:
            self.depth[t] = len(self.stages)
        step.logits = self.model.logits(x[-1])
        for s in range(1, len(self.stages)):
            if not waiting[s]:
                continue
            pooled = self.pooled(self.found(s - 1) if self.policy.scouted(s - 1) else scores[s - 1])
            real = {t: p for t, p in pooled.items() if t >= self.prompt or self.depth[t] >= s}
            count = min(len(real), self.count(s - 1, position + 1))
            chosen = self.best(real, count, self.forced(position + 1))
            missing = {t: pooled[t] for t in chosen if t < self.prompt and self.depth[t] == s}
            step.chosen.append(chosen)
            step.revived.append(self.best(missing, min(len(missing), budget), set()))
        self.coming = sorted(t for revived in step.revived for t in revived)
        return step

    def found(self, cut: int) -> dict[int, float]:
        """What the newest token's row saw at the heads of a cut's scouts."""
        total: dict[int, float] = {}
        for l, head in self.policy.scouts[cut][1]:
            probabilities, cached = self.seen_by_last[l]
            for t, score in zip(cached, probabilities[head] / probabilities[head].max()):
                total[t] = total.get(t, 0) + score
        return total

    def decode_now(self, position: int) -> Step:
        step = Step()
        rows, x = [position], self.model.embed([self.tokens[position]])
        seen = None
        revived: list[int] = []
        for s in range(len(self.stages)):
            step.stages_run += len(rows) - 1
            x, scores = self.run_stage(s, x, rows, seen, 1)
            for i, t in enumerate(rows[:-1]):
                self.depth[t] = s + 1
                self.hidden[t] = x[i]
            if s + 1 == len(self.stages):
                step.logits = self.model.logits(x[-1])
                break
            revived = []
            if self.policy.decoding_chooses(s):
                pooled = self.pooled(scores)
                count = min(len(pooled), self.count(s, position + 1))
                chosen = self.best(pooled, count, self.forced(position + 1))
                missing = {t: pooled[t] for t in chosen if t < self.prompt and self.depth[t] == s + 1}
                revived = self.best(missing, min(len(missing), self.policy.budget), set())
                step.chosen.append(chosen)
                step.revived.append(revived)
                if self.policy.decode == "strict":
                    above = {t for t in range(self.prompt) if self.depth[t] > s + 1}
                    above |= set(range(self.prompt, position + 1)) | set(revived)
                    seen = set(chosen) & above
            rows = [*revived, position]
            x = np.stack([*[self.hidden[t] for t in revived], x[-1]])
        return step
