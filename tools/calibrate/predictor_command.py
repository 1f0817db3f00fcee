"""./run calibrate --predictors"""

import argparse
import json

import numpy as np

from calibrate import predictor_file
from calibrate.fingerprint import made_for
from calibrate.forward import Shape
from calibrate.lazy_file import NAME as LAZY_FILE
from calibrate.model_files import Tensors, read_config
from calibrate.predictors import Maps, fit
from calibrate.samples import make_items
from eval.errors import EvalError
from eval.progress import Progress, say
from eval.texts import Texts

PROMPTS = 12
HELD_OUT = 4
# The daemon's own, as shares of the depth, where no file says which (engine/lazy_config.cc).
DEPTHS = (0.30, 0.60, 0.70, 0.77, 0.90)
# Other items than those of the same seed that heads are chosen by, or an evaluation judges by.
SEED_OFFSET = 1_000_000


def run(args: argparse.Namespace) -> None:
    shape = Shape.of(read_config(args.model))
    boundaries = args.predictors or boundaries_of(args, shape.layers)
    if max(boundaries) >= shape.layers:
        raise EvalError(f"--predictors: the model has {shape.layers} layers")
    texts = Texts(args.folder / "texts")
    count = PROMPTS + HELD_OUT
    items = make_items(args.model, texts, args.tokens, count, args.seed + SEED_OFFSET)
    prompts = [item.prompt for item in items]
    progress = Progress("layers x prompts", shape.layers * len(prompts))
    fitted, held_out = prompts[:PROMPTS], prompts[PROMPTS:]
    maps = fit(shape, Tensors(args.model), fitted, held_out, boundaries, progress.step)
    out = args.out or args.model / predictor_file.NAME
    predictor_file.write(out, maps, made_for(args.model))
    report(maps)
    say(f"wrote {out}")


def boundaries_of(args: argparse.Namespace, layers: int) -> list[int]:
    path = args.model / LAZY_FILE
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))["boundaries"]
    # Halves up, as the daemon rounds.
    return sorted({int(depth * layers + 0.5) for depth in DEPTHS} - {0, layers})


def report(maps: Maps) -> None:
    print("error of what is predicted over its size, prompts that were not fitted, by KV head")
    for (boundary, layer), of in sorted(maps.items()):
        keys, values = (" ".join(f"{e:.3f}" for e in error) for error in (of.key_error, of.value_error))
        print(f"from {boundary} layer {layer}: keys {keys}, values {values}")
    for boundary in sorted({b for b, _ in maps}):
        of = [m for (b, _), m in maps.items() if b == boundary]
        keys, values = np.mean([m.key_error for m in of]), np.mean([m.value_error for m in of])
        print(f"from {boundary}, mean: keys {keys:.3f}, values {values:.3f}")
