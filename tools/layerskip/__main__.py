"""./run train-layerskip: trains a small model of which a few first layers can draft for all of
them, by the recipe of LayerSkip, and a control from the same seed and data without it; says for
each exit how often it agrees with the last layer on held-out text and what drafting there would gain.

Directories are normal Hugging Face ones, with prompts.jsonl (held-out prompts) and exits.json
beside the weights. With --model an existing one is fine-tuned instead. An interrupted run goes on
where it was, and what is complete is not trained again."""

import argparse
import sys
from pathlib import Path

import torch

from hf_directory import ToolError, matches_stamp, replacing, write_stamp
from layerskip import checkpoint, corpus, model_directory
from layerskip.decoder import Decoder
from layerskip.measuring import measure
from layerskip.recipe import CONTROL, Recipe
from layerskip.speedup import table
from layerskip.training import Settings, Trainer
from model_shapes import llama_config

ROOT = Path(__file__).resolve().parents[2]
# Raise it whenever the same settings give other files.
VERSION = 1
RUNS = ("recipe", "control")


def main() -> int:
    args = parse_args()
    torch.set_num_threads(args.threads)
    try:
        for name in RUNS if args.only is None else (args.only,):
            run(args, name)
    except (ToolError, OSError) as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        say("interrupted; the same command goes on from there")
        return 130
    return 0


def say(text: str) -> None:
    print(f"train-layerskip: {text}", file=sys.stderr, flush=True)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="run train-layerskip",
        description=__doc__.split(": ", 1)[1],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--out", type=Path, default=ROOT / "build" / "layerskip", help="recipe/ and control/ in it")
    add("--only", choices=RUNS, help="train one of the two")
    add("--fresh", action="store_true", help="forget what an interrupted run has done")
    add("--seed", type=int, default=0, help="of weights, data and dropout")
    add("--threads", type=int, default=2, help="of PyTorch")
    add("--float32", action="store_true", help="products in float32 instead of bf16")
    add("--quiet", action="store_true", help="no progress bar")

    shape = parser.add_argument_group("the model, if it is trained from scratch")
    shape.add_argument("--layers", type=int, default=12)
    shape.add_argument("--hidden", type=int, default=384, help="a multiple of 64")
    shape.add_argument("--intermediate", type=int, default=1024)
    shape.add_argument("--kv-heads", type=int, default=2, help="of hidden / 64 heads")
    shape.add_argument("--vocabulary", type=int, default=512, help="bytes, controls and merges")
    shape.add_argument("--model", type=Path, metavar="DIR", help="fine-tune this one instead")

    loop = parser.add_argument_group("training")
    loop.add_argument("--steps", type=int, default=700)
    loop.add_argument("--samples", type=int, default=3, help="of a step")
    loop.add_argument("--tokens", type=int, default=256, help="of a sample")
    loop.add_argument("--rate", type=float, default=1.5e-3, help="highest learning rate")
    loop.add_argument("--warmup", type=int, default=50, help="steps")

    recipe = parser.add_argument_group("the recipe (tools/layerskip/recipe.py)")
    recipe.add_argument("--p-max", type=float, default=0.1, help="layer dropout of the last layer")
    recipe.add_argument("--e-scale", type=float, default=1.0, help="of the exits' losses")
    recipe.add_argument("--curriculum", choices=("rotational", "gradual"), default="rotational")
    recipe.add_argument("--every", type=int, default=6, help="exits on in a step: every so many")
    recipe.add_argument("--deploy", type=int, default=3, help="the exit that will draft; 0: none")
    recipe.add_argument("--deploy-share", type=float, default=0.3, help="its share of the loss")

    measuring = parser.add_argument_group("measuring")
    measuring.add_argument("--examples", type=int, default=200, help="held-out ones")
    args = parser.parse_args()
    if args.hidden % 64 or args.hidden // 64 % args.kv_heads:
        parser.error("--hidden, --kv-heads: heads of 64 must fill them")
    if not 0 <= args.p_max < 1 or not 0 <= args.deploy_share < 1:
        parser.error("--p-max and --deploy-share are shares below 1")
    return args


def run(args: argparse.Namespace, name: str) -> None:
    settings = Settings(
        recipe=recipe_of(args) if name == "recipe" else CONTROL,
        seed=args.seed,
        steps=args.steps,
        samples=args.samples,
        tokens=args.tokens,
        peak_rate=args.rate,
        warmup=args.warmup,
        bf16=not args.float32,
    )
    target = args.out / name
    config = None if args.model else config_of(args)
    made_from = {
        "version": VERSION,
        "settings": settings.as_json(),
        "from": str(args.model.resolve()) if args.model else config,
        "examples": args.examples,
    }
    if matches_stamp(target, made_from):
        say(f"{target} is complete already")
    else:
        make(args, name, settings, config, made_from)
    print(f"{name}, {target}")
    print(table(model_directory.read_exits(target)))


def make(
    args: argparse.Namespace,
    name: str,
    settings: Settings,
    config: dict | None,
    made_from: dict,
) -> None:
    args.out.mkdir(parents=True, exist_ok=True)
    if args.fresh:
        (args.out / f"{name}.state.pt").unlink(missing_ok=True)
    with replacing(args.out / name) as directory:
        torch.manual_seed(args.seed)
        if args.model:
            model = checkpoint.read(args.model)
        else:
            model = Decoder(config)
            corpus.write_tokenizer(directory, args.seed, config["vocab_size"])
        chat = corpus.Chat.of(args.model or directory)
        Trainer(model, chat, settings, args.out, name).run(args.quiet)
        checkpoint.write(directory, model)
        if args.model:
            model_directory.copy_rest(args.model, directory)
        model_directory.write_prompts(directory, args.seed, args.examples)
        # Rounded, as the daemon will serve it.
        stored = checkpoint.read(directory)
        model_directory.write_exits(directory, measure(stored, chat, args.seed, args.examples))
        write_stamp(directory, made_from)
    say(f"wrote {args.out / name}")


def recipe_of(args: argparse.Namespace) -> Recipe:
    return Recipe(
        p_max=args.p_max,
        from_scratch=args.model is None,
        e_scale=args.e_scale,
        curriculum=args.curriculum,
        every=args.every,
        deployed=args.deploy,
        deployed_share=args.deploy_share if args.deploy else 0.0,
    )


def config_of(args: argparse.Namespace) -> dict:
    return llama_config(
        layers=args.layers,
        hidden=args.hidden,
        intermediate=args.intermediate,
        heads=args.hidden // 64,
        kv_heads=args.kv_heads,
        vocab=args.vocabulary,
        positions=1024,
        theta=1e4,
        tied=True,
    )


if __name__ == "__main__":
    sys.exit(main())
