"""./run calibrate --scouts"""

import argparse
import json
from pathlib import Path

from calibrate import lazy_file, predictor_file
from calibrate.choose import Scores, choose_heads, quantiles
from calibrate.fingerprint import made_for
from calibrate.forward import Shape
from calibrate.model_files import Tensors, read_config
from calibrate.predictor_command import boundaries_of
from calibrate.samples import halves, make_items
from calibrate.scouts import look
from eval.errors import EvalError
from eval.progress import Progress, say
from eval.texts import Texts

ITEMS = 64
WINDOW = 16
MOST_HEADS = 8
# Of the depth. Heads further up know no better, and scouts would have to run so far.
FURTHEST = 0.8


def run(args: argparse.Namespace) -> None:
    shape = Shape.of(read_config(args.model))
    boundary = args.scouts or round(0.2 * shape.layers)
    end = int(FURTHEST * shape.layers)
    if boundary >= end:
        raise EvalError(f"--scouts: heads are chosen below layer {end}, boundary {boundary} is not")
    path = args.model / lazy_file.NAME
    before = read_settings(path, boundaries_of(args, shape.layers), shape.layers)
    predictors = args.model / predictor_file.NAME
    maps = predictor_file.read(predictors, [boundary], made_for(args.model))

    texts = Texts(args.folder / "texts")
    items = make_items(args.model, texts, args.tokens, args.items or ITEMS, args.seed)
    progress = Progress("layers x items", (shape.layers + 1) * len(items))
    of_scouts, below = look(
        shape, Tensors(args.model), maps, items, boundary, WINDOW, progress.step
    )
    chosen_on, judged_on = halves(of_scouts)
    candidates = [(layer, head) for layer in range(boundary, end) for head in range(shape.heads)]
    heads = choose_heads(Scores(chosen_on, as_they_are), candidates, MOST_HEADS)
    judged = Scores(judged_on, as_they_are).ratios(heads)
    plain = Scores(halves(below)[1]).mean_ratios(0)

    value = lazy_file.with_scouts(before, boundary, WINDOW, heads)
    lazy_file.write(args.out or path, value)
    print(f"keep ratio that loses nothing needed at a cut after {boundary} layers, held-out items")
    for name, ratios in (
        (f"mean of layer {boundary - 1}", plain),
        (f"{WINDOW} scouts, {len(heads)} chosen heads", judged),
    ):
        print(f"  {name:36}" + "".join(f"{ratio:8.3f}" for ratio in quantiles(ratios)))
    print(" " * 38 + "    50 %    75 %    90 %")
    print("scored by layer.head " + ", ".join(f"{layer}.{head}" for layer, head in heads))
    say(f"wrote {args.out or path}")


def as_they_are(scores):
    return scores


def read_settings(path: Path, boundaries: list[int], layers: int) -> dict:
    """The file as it is, or what the daemon would do without one."""
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    return {"version": lazy_file.VERSION, "layers": layers, "boundaries": boundaries}
