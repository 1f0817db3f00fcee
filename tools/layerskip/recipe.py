"""The schedules of LayerSkip (Elhoushi et al., arXiv 2404.16710, sections 4.1 and 4.2).

Layers are counted from 0: leaving behind layer l is what the daemon calls exit layer l + 1. Of T
training steps the first is 0.
"""

import math
from dataclasses import dataclass


def depth_scale(layer: int, layers: int) -> float:
    """D(l) = e^(l ln 2 / (L - 1)) - 1: 0 at the first layer, 1 at the last (equation 2)."""
    return math.expm1(layer * math.log(2) / (layers - 1)) if layers > 1 else 0.0


def time_scale(step: int, steps: int) -> float:
    """S(t) = e^(t ln 2 / (T - 1)) - 1 of training from scratch; fine-tuning has 1 throughout."""
    return math.expm1(step * math.log(2) / (steps - 1)) if steps > 1 else 1.0


def exit_scale(layer: int, layers: int, e_scale: float) -> float:
    """e(l), how much of the loss an exit gets before it is normalised (equation 6)."""
    if layer < layers - 1:
        return e_scale * layer * (layer + 1) / 2
    return (layers - 1) + e_scale * (layers - 2) * (layers - 1) / 2


def rotational(step: int, layers: int, every: int) -> set[int]:
    """Every R-th layer, another set of them in each step."""
    return {layer for layer in range(layers) if layer % every == step % every}


def gradual(step: int, steps: int, layers: int) -> set[int]:
    """From the last layer down, one more in every T / 2L steps: all of them after half."""
    first = layers - 1 - 2 * layers * step // steps
    return set(range(max(0, first), layers))


def learning_rate(step: int, steps: int, peak: float, warmup: int) -> float:
    """Linear up to the peak, then a cosine down to a twentieth of it."""
    if step < warmup:
        return peak * (step + 1) / warmup
    along = (step - warmup) / max(1, steps - warmup)
    return peak * (0.05 + 0.95 * (1 + math.cos(math.pi * along)) / 2)


@dataclass(frozen=True)
class Recipe:
    """What a step does beside predicting with the last layer. The default does nothing."""

    p_max: float = 0.0  # of skipping the last layer, at the end
    from_scratch: bool = True
    e_scale: float = 0.0  # 0: no exit but the last layer has a loss
    curriculum: str = "rotational"  # or "gradual"
    every: int = 1  # R of the rotational one
    # The exit that is going to draft, as the daemon counts, and its share of the loss in every
    # step. e(l) alone gives an exit in the first quarter about a hundredth of it: in the
    # paper's many tokens enough, in few not. 0: by e(l), like the others.
    deployed: int = 0
    deployed_share: float = 0.0

    def drop_probability(self, layer: int, layers: int, step: int, steps: int) -> float:
        """p(l, t) = S(t) D(l) p_max: of a sample's not running a layer (equation 1)."""
        time = time_scale(step, steps) if self.from_scratch else 1.0
        return time * depth_scale(layer, layers) * self.p_max

    def exit_weights(self, layers: int, step: int, steps: int) -> dict[int, float]:
        """Layer -> share of the loss, above 0; they add up to 1 (equation 5). The last layer is
        always among them."""
        last = layers - 1
        if self.curriculum == "rotational":
            on = rotational(step, layers, self.every)
        else:
            on = gradual(step, steps, layers)
        scales = {
            layer: scale
            for layer in sorted(on | {last})
            if (scale := exit_scale(layer, layers, self.e_scale)) > 0
        }
        share = self.deployed_share if 0 < self.deployed < layers else 0.0
        if share:
            scales.pop(self.deployed - 1, None)
        total = sum(scales.values())
        weights = {layer: (1 - share) * scale / total for layer, scale in scales.items()}
        if share:
            weights[self.deployed - 1] = share
        return dict(sorted(weights.items()))


CONTROL = Recipe()
