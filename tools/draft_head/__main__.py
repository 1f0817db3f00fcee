"""Trains a draft head for a model: the model writes, the head is distilled from what it wrote.
Every stage goes on where it was interrupted."""

import argparse
import sys
from pathlib import Path

import torch

from draft_head import data
from draft_head.errors import HeadError
from draft_head.generate import generate
from draft_head.head import DraftHead, load, save
from draft_head.prompts import Prompts
from draft_head.teacher import HEAD_FILE, Teacher
from draft_head.train import Plan, Trainer, begun_vocabulary, measure


def main() -> None:
    args = parse_args()
    try:
        run(args)
    except HeadError as error:
        sys.exit(f"train-head: {error}")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="train-head", description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="Hugging Face directory")
    parser.add_argument(
        "--work", type=Path, required=True, help="folder for shards, checkpoint and train.jsonl"
    )
    parser.add_argument("--start", type=Path, help="head to go on from; the mean of both is written")
    parser.add_argument("--out", type=Path, help=f"file to write (default: MODEL/{HEAD_FILE})")
    for name, default, what in (
        ("--tokens", 400_000, "that the model writes, prompts included"),
        ("--shards", 20, "files for them"),
        ("--steps", 4000, "of training"),
        ("--vocabulary", 4096, "tokens that can be drafted"),
        ("--inner", 1024, "width of its MLPs"),
        ("--seed", 0, "of prompts and what is sampled"),
    ):
        parser.add_argument(name, type=int, default=default, help=f"{what} (default: {default})")
    parser.add_argument("--threads", type=int, help="of PyTorch")
    parser.add_argument("--only-generate", action="store_true", help="do not train")
    args = parser.parse_args()
    kept = ("vocabulary", "inner")
    if args.start and any(getattr(args, name) != parser.get_default(name) for name in kept):
        parser.error("--vocabulary and --inner are those of the head that --start names")
    return args


def run(args: argparse.Namespace) -> None:
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    teacher = Teacher(args.model)
    shards = args.work / "shards"
    seed = args.seed + len(data.shard_files(shards))  # going on is with other prompts
    generate(teacher, Prompts(args.model, seed), shards, args.tokens, args.shards)
    if args.only_generate:
        return
    stream, held_out = data.load(shards)
    begun = begun_vocabulary(args.work)
    if args.start is not None:
        head = load(args.start, teacher, args.model)
    elif begun is not None:
        head = DraftHead(teacher, begun, args.inner)
    else:
        vocabulary = data.choose_vocabulary(stream, args.vocabulary, teacher.stops)
        head = DraftHead(teacher, vocabulary, args.inner)
        at = (stream.place > 0).nonzero().squeeze(1)
        head.start(stream.tokens[at], stream.rows[at - 1], stream.rows[at])
    Trainer(teacher, head, stream, held_out, args.work).run(Plan(args.steps))
    if args.start is not None:
        head.average_with(load(args.start, teacher, args.model))
    save(head, args.model, args.out or args.model / HEAD_FILE)
    print(measure(head, held_out))


if __name__ == "__main__":
    main()
