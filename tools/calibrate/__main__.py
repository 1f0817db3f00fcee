"""./run calibrate: finds the two layers after which a model's prompts can be cut, and the heads
whose attention picks the tokens that answers need; writes skim_lazy.json beside the model.

It makes retrieval items of public texts, runs the model over them in NumPy, chooses on half of the
items and judges on the other half. Printed: the share of a prompt that has to be kept for nothing
needed to be lost, for 50, 75 and 90 % of the held-out items."""

import argparse
import sys
from pathlib import Path

from calibrate import lazy_file, predictor_command, scout_command
from calibrate.choose import (
    Cuts,
    Scores,
    best_cuts,
    cut_at,
    first_boundaries,
    segment_below,
)
from calibrate.forward import Shape
from calibrate.model_files import read_config
from calibrate.samples import halves, look, make_items
from eval.errors import EvalError
from eval.progress import Progress, say
from eval.texts import Texts

ROOT = Path(__file__).resolve().parents[2]
FEWEST_ITEMS = 8


def main() -> int:
    args = parse_args()
    try:
        if args.predictors is not None:
            predictor_command.run(args)
        elif args.scouts is not None:
            scout_command.run(args)
        else:
            calibrate(args)
    except EvalError as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        say("interrupted; nothing was written")
        return 130
    return 0


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="run calibrate", description=__doc__.split(": ", 1)[1])
    add = parser.add_argument
    add("--model", type=Path, default=ROOT / "models" / "SmolLM2-135M-Instruct")
    add("--out", type=Path, help="default: in the model's directory")
    add("--items", type=int, default=64, help="half to choose on, half to judge on (default 64)")
    add("--tokens", type=int, default=1024, help="of a prompt (default 1024)")
    add("--boundaries", type=boundaries, metavar="A,B", help="cut there; choose only the heads")
    add(
        "--also",
        type=layer_list,
        default=[],
        metavar="A,...",
        help="boundaries for other profiles: 0.3, 0.6 and 0.9 of the layers keep `paper`",
    )
    add(
        "--predictors",
        type=layer_list,
        nargs="?",
        const=[],
        metavar="A,...",
        help="instead: fit maps that predict keys and values above these boundaries, by default "
        f"those of {lazy_file.NAME} or the daemon's own, for prompts pruned with decode mode "
        "`phantom`; written to skim_predictors.safetensors",
    )
    add(
        "--scouts",
        type=int,
        nargs="?",
        const=0,
        metavar="LAYER",
        help="instead: choose the heads by which scouts, rows that run ahead, choose for an early cut "
        "after so many layers, by default a fifth; needs predictors from there, and is added to "
        f"{lazy_file.NAME}",
    )
    add("--folder", type=Path, default=ROOT / "build" / "eval", help="for texts")
    add("--seed", type=int, default=1, help="of the items (default 1)")
    args = parser.parse_args()
    if args.items < FEWEST_ITEMS:
        parser.error(f"--items must be at least {FEWEST_ITEMS}")
    if args.scouts is not None and (args.scouts < 0 or args.predictors is not None):
        parser.error("--scouts is a layer, and not combined with --predictors")
    return args


def calibrate(args: argparse.Namespace) -> None:
    shape = Shape.of(read_config(args.model))
    if max([*(args.boundaries or ()), *args.also, 0]) >= shape.layers:
        raise EvalError(f"--boundaries, --also: the model has {shape.layers} layers")
    items = make_items(args.model, Texts(args.folder / "texts"), args.tokens, args.items, args.seed)
    samples = look(args.model, items)
    chosen_on, judged_on = map(Scores, halves(samples))
    cuts = find_cuts(chosen_on, shape, args.boundaries, args.also)
    table = lazy_file.held_out(cuts, judged_on)
    value = lazy_file.contents(shape.layers, cuts, args.also)
    out = args.out or args.model / lazy_file.NAME
    lazy_file.write(out, value)
    report(cuts, table, value, shape.layers)
    say(f"wrote {out}")


def find_cuts(
    scores: Scores, shape: Shape, fixed: tuple[int, int] | None, also: list[int]
) -> Cuts:
    if fixed:
        first, second = (
            cut_at(scores, segment_below(boundary, [*fixed, *also]), boundary, shape.heads)
            for boundary in fixed
        )
        return Cuts(first, second)
    progress = Progress("first boundaries", len(first_boundaries(shape.layers)))
    return best_cuts(scores, shape.layers, shape.heads, progress.step, also=also)


def report(cuts: Cuts, table: dict, value: dict, layers: int) -> None:
    print("keep ratio that loses nothing needed, held-out items")
    for name, row in table.items():
        print(f"  {name:36}" + "".join(f"{ratio:8.3f}" for ratio in row))
    print(" " * 38 + "    50 %    75 %    90 %")
    for cut in (cuts.first, cuts.second):
        heads = ", ".join(f"{layer}.{head}" for layer, head in cut.heads)
        print(f"cut after {cut.boundary} of {layers} layers, scored by layer.head {heads}")
    for name, profile in value["profiles"].items():
        print(f"profile {name}: keep {', '.join(map(str, profile['keep']))}")


def boundaries(text: str) -> tuple[int, int]:
    first, _, second = text.partition(",")
    if not first.isdigit() or not second.isdigit() or not 1 <= int(first) < int(second):
        raise argparse.ArgumentTypeError(f"'{text}' is not two layers, as in 18,23")
    return int(first), int(second)


def layer_list(text: str) -> list[int]:
    layers = text.split(",")
    if not all(layer.isdigit() and int(layer) > 0 for layer in layers):
        raise argparse.ArgumentTypeError(f"'{text}' is not a list of layers, as in 9,18,27")
    return sorted({int(layer) for layer in layers})


if __name__ == "__main__":
    sys.exit(main())
