#!/usr/bin/env python3
"""Computes tests/golden: what Hugging Face transformers says in float32, for the parity tests.

Needs tools/requirements-golden.txt. Weights are used as stored (bf16 values), arithmetic is
float32 throughout, with the plain ("eager") attention.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.numpy import save_file

from get_model import DEFAULT_OUTPUT
from golden_checkpoints import GOLDEN, SEED, layout, write_golden_checkpoint
from hf_directory import ToolError, replacing, run_main, sha256_of, write_json
from model_shapes import TINY

PROSE_TOKENS = 2000
TOP = 64

CHAT_PROMPTS = [
    "What is the capital of France?",
    "Write one sentence about the sea.",
    "List three uses of a paper clip.",
    "Why is the sky blue? Explain it to a child.",
]
CHAT_TOKENS = 64


def main() -> None:
    args = parse_args()
    torch.set_grad_enabled(False)
    torch.manual_seed(SEED)
    if "tiny" in args.what:
        for name in TINY:
            make_tiny(name)
    if "smollm2" in args.what:
        make_smollm2(args.model)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "what", nargs="*", default=["tiny", "smollm2"], help="tiny, smollm2 (default: both)"
    )
    parser.add_argument(
        "--model", type=Path, default=DEFAULT_OUTPUT, help="directory that get_model.py wrote"
    )
    args = parser.parse_args()
    if unknown := set(args.what) - {"tiny", "smollm2"}:
        parser.error(f"unknown golden: {', '.join(sorted(unknown))}")
    return args


def load(directory: Path) -> torch.nn.Module:
    model, report = transformers.AutoModelForCausalLM.from_pretrained(
        directory,
        dtype=torch.float32,
        attn_implementation="eager",
        output_loading_info=True,
    )
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report[problem]:
            raise ToolError(f"{directory}: {problem}: {sorted(report[problem])}")
    return model.eval()


def all_logits(model: torch.nn.Module, ids: list[int]) -> np.ndarray:
    return model(torch.tensor([ids])).logits[0].numpy()


def make_tiny(name: str) -> None:
    """tests/golden/NAME is the checkpoint; NAME.logits.safetensors beside it holds `ids`
    I64 [tokens] and `logits` F32 [tokens, vocab], one row after each token."""
    with replacing(GOLDEN / name) as directory:
        write_golden_checkpoint(name, directory)
    rng = np.random.default_rng(SEED)
    ids = rng.integers(TINY[name]["vocab_size"], size=layout(name)["tokens"], dtype=np.int64)
    logits = all_logits(load(GOLDEN / name), ids.tolist())
    path = GOLDEN / f"{name}.logits.safetensors"
    save_file({"ids": ids, "logits": logits}, path)
    path.chmod(0o644)
    gaps = top_gaps(logits)
    print(
        f"{name}: {len(ids)} tokens, logit std {logits.std():.2f}, "
        f"top-1 gap median {np.median(gaps):.3f} smallest {gaps.min():.4f}, "
        f"copies {np.mean(logits.argmax(-1) == ids):.2f}"
    )


def top_gaps(logits: np.ndarray) -> np.ndarray:
    best = np.partition(logits, -2, axis=-1)
    return best[..., -1] - best[..., -2]


def make_smollm2(model_directory: Path) -> None:
    if not (model_directory / "model.safetensors").is_file():
        raise ToolError(f"{model_directory} holds no model; run tools/get_model.py first")
    model = load(model_directory)
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_directory)
    with replacing(GOLDEN / "smollm2") as directory:
        facts = write_prose(model, tokenizer, directory / "prose.safetensors")
        write_json(directory / "chat.json", greedy_chats(model, tokenizer))
        write_json(
            directory / "facts.json",
            {
                "model_sha256": sha256_of(model_directory / "model.safetensors"),
                "torch": torch.__version__,
                "transformers": transformers.__version__,
                **facts,
            },
        )


def write_prose(model: torch.nn.Module, tokenizer, path: Path) -> dict[str, float]:
    """The distribution after each prose token, coarsened to its TOP likeliest tokens and one
    bin for the rest: enough for top-1 agreement and KL on that partition.

    ids I64 [n]; top_ids I32 [n, TOP], likeliest first; top_logprobs F32 [n, TOP];
    tail_logprob F32 [n], the log of the rest's mass.
    """
    text = (GOLDEN / "prose" / "opticks.txt").read_text(encoding="utf-8")
    ids = tokenizer(text)["input_ids"][:PROSE_TOKENS]
    if len(ids) < PROSE_TOKENS:
        raise ToolError(f"the prose has {len(ids)} tokens, {PROSE_TOKENS} are needed")
    logprobs = torch.log_softmax(torch.from_numpy(all_logits(model, ids)).double(), dim=-1)
    top = logprobs.topk(TOP, dim=-1)
    tail = torch.logsumexp(logprobs.scatter(1, top.indices, -torch.inf), dim=-1)
    save_file(
        {
            "ids": np.array(ids, dtype=np.int64),
            "top_ids": top.indices.numpy().astype(np.int32),
            "top_logprobs": top.values.numpy().astype(np.float32),
            "tail_logprob": tail.numpy().astype(np.float32),
        },
        path,
    )
    path.chmod(0o644)
    following = torch.tensor(ids[1:])
    losses = -logprobs[:-1].gather(1, following[:, None])
    gaps = (top.values[:, 0] - top.values[:, 1]).numpy()
    return {
        "prose_tokens": len(ids),
        "prose_perplexity": round(losses.mean().exp().item(), 4),
        "prose_next_token_accuracy": round(
            (top.indices[:-1, 0] == following).double().mean().item(), 4
        ),
        "prose_mean_tail_mass": round(tail.exp().mean().item(), 4),
        "prose_top_gap_below_0.01": int((gaps < 0.01).sum()),
        "prose_top_gap_below_0.05": int((gaps < 0.05).sum()),
    }


def greedy_chats(model: torch.nn.Module, tokenizer) -> list[dict[str, object]]:
    """Greedy answers, with the gap between the best and second logit at every step: where it
    is small, another order of summation may rightly choose the other token."""
    chats = []
    for prompt in CHAT_PROMPTS:
        messages = [{"role": "user", "content": prompt}]
        rendered = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        prompt_ids = tokenizer(rendered)["input_ids"]
        answer = model.generate(
            torch.tensor([prompt_ids]),
            attention_mask=torch.ones(1, len(prompt_ids), dtype=torch.int64),
            max_new_tokens=CHAT_TOKENS,
            do_sample=False,
        )[0, len(prompt_ids) :].tolist()
        logits = all_logits(model, prompt_ids + answer)[len(prompt_ids) - 1 : -1]
        chats.append(
            {
                "messages": messages,
                "rendered": rendered,
                "prompt_ids": prompt_ids,
                "answer_ids": answer,
                "answer": tokenizer.decode(answer, skip_special_tokens=True),
                "top_gaps": [round(float(gap), 4) for gap in top_gaps(logits)],
            }
        )
    return chats


if __name__ == "__main__":
    run_main(main)
