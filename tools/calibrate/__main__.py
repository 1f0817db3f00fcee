"""./run calibrate: finds after which layers a model's prompts can be cut, how much of them has to
go on there, and the heads whose attention picks what answers need; writes skim_lazy.json beside the
model. Or it fits maps that the daemon takes from other files there.

It makes retrieval items of public texts, has a daemon answer them with one cut or two in many
places, and takes for each profile the cheapest that lose no more of the replies than it may. Heads
are chosen by what they look at, in NumPy, and taken if replies are no worse with them. Half of the
items choose, the other half judge what is written."""

import argparse
import sys
from pathlib import Path

from calibrate import cut_command, exit_command, lazy_file, predictor_command, scout_command, search
from eval.errors import EvalError
from eval.progress import say

ROOT = Path(__file__).resolve().parents[2]
FEWEST_ITEMS = 8


def main() -> int:
    args = parse_args()
    try:
        if args.predictors is not None:
            predictor_command.run(args)
        elif args.exit_adapters is not None:
            exit_command.run(args)
        elif args.scouts is not None:
            scout_command.run(args)
        else:
            cut_command.run(args)
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
    add(
        "--items",
        type=int,
        help="half to choose on, half to judge on (default 192; for scouts 64); for exit adapters "
        "answers, an eighth of them to judge on (default 224)",
    )
    add("--tokens", type=int, default=1024, help="of a prompt (default 1024)")
    add("--boundaries", type=layer_list, metavar="A,...", help="cut nowhere else")
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
    add(
        "--exit-adapters",
        type=layer_list,
        metavar="A,...",
        help="instead: fit maps that bring the rows with which drafts leave behind so many layers "
        "closer to the last layer's, on answers of the model; written to "
        "skim_exit_adapters.safetensors",
    )
    add("--skimd", type=Path, default=ROOT / "build" / "release" / "bin" / "skimd")
    add("--folder", type=Path, default=ROOT / "build" / "eval", help="for texts and replies")
    add("--seed", type=int, default=1, help="of the items (default 1)")
    args = parser.parse_args()
    if args.items is not None and args.items < FEWEST_ITEMS:
        parser.error(f"--items must be at least {FEWEST_ITEMS}")
    if args.scouts is not None and args.scouts < 0:
        parser.error("--scouts is a layer")
    if sum(of is not None for of in (args.predictors, args.exit_adapters, args.scouts)) > 1:
        parser.error("--predictors, --exit-adapters and --scouts are not combined")
    if args.boundaries and len(args.boundaries) > search.MOST_CANDIDATES:
        parser.error(f"--boundaries: at most {search.MOST_CANDIDATES}")
    return args


def layer_list(text: str) -> list[int]:
    layers = text.split(",")
    if not all(layer.isdigit() and int(layer) > 0 for layer in layers):
        raise argparse.ArgumentTypeError(f"'{text}' is not a list of layers, as in 9,18,27")
    return sorted({int(layer) for layer in layers})


if __name__ == "__main__":
    sys.exit(main())
