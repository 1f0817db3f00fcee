"""./run calibrate --exit-adapters"""

import argparse
from pathlib import Path

from calibrate import exit_adapter_file
from calibrate.exit_adapters import Adapter, fit
from calibrate.fingerprint import made_for
from calibrate.forward import Shape
from calibrate.model_files import Tensors, read_config
from calibrate.own_text import Passage, passages
from calibrate.replies import model_with
from eval.errors import EvalError
from eval.progress import Progress, say
from eval.settings import connected_to_own, stubs
from eval.store import Store
from layerskip.speedup import best, draft_cost, head_share

ANSWERS = 224
HELD_OUT = 8  # every eighth
# Other prompts than a draft head of the same seed is trained on.
SEED_OFFSET = 2_000_000


def run(args: argparse.Namespace) -> None:
    config = read_config(args.model)
    shape = Shape.of(config)
    if max(args.exit_adapters) >= shape.layers:
        raise EvalError(f"--exit-adapters: the model has {shape.layers} layers")
    fitted, held_out = split(answers(args))
    progress = Progress("layers x answers", shape.layers * (len(fitted) + len(held_out)))
    adapters = fit(
        shape, Tensors(args.model), fitted, held_out, args.exit_adapters, progress.step
    )
    out = args.out or args.model / exit_adapter_file.NAME
    exit_adapter_file.write(out, adapters, made_for(args.model))
    print(table(adapters, config))
    say(f"wrote {out}")


def answers(args: argparse.Namespace) -> list[Passage]:
    weights = made_for(args.model)
    store = Store(args.folder / "calibrate.jsonl")
    # A file that was made for other weights would keep the daemon from starting.
    with model_with(args.model, None) as model:
        with connected_to_own(args.skimd, model, stubs(args), ()) as (client, _):
            count, seed = args.items or ANSWERS, args.seed + SEED_OFFSET
            return passages(client, args.model, store, weights, count, seed)


def split(every: list[Passage]) -> tuple[list[Passage], list[Passage]]:
    """Those to fit to, and those to judge on."""
    held_out = every[::HELD_OUT]
    return [p for i, p in enumerate(every) if i % HELD_OUT], held_out


def table(adapters: dict[int, Adapter], config: dict) -> str:
    lines = [
        "the last layer's best token, answers that were not fitted; cost of a draft and speed-up",
        "(drafts) by bytes, rows that are verified being free",
        "exit   without   with adapter   cost   without      with adapter",
    ]
    layers, head = config["num_hidden_layers"], head_share(config)
    for number, of in sorted(adapters.items()):
        cost = draft_cost(number, layers, head)
        without, with_it = best(of.agrees_without, cost), best(of.agrees, cost)
        lines.append(
            f"{number:4}   {of.agrees_without:7.1%}   {of.agrees:12.1%}   {cost:4.2f}"
            f"   {without.speedup:4.2f} ({without.drafts:2})"
            f"    {with_it.speedup:4.2f} ({with_it.drafts:2})"
        )
    return "\n".join(lines)
