"""A tokenizer of single bytes with a ChatML template, for checkpoints made here: any text in, any
bytes out, vocabulary of 259 and of the merged bytes that are asked for."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from hf_directory import ToolError, write_json

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MIN_VOCAB = 256 + len(SPECIALS)

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def write_byte_tokenizer(
    directory: Path, vocab_size: int, merges: Sequence[tuple[str, str]] = ()
) -> None:
    """Ids 0-255 are the bytes in the order of their byte-level letters, 256-258 the specials; what
    merges make comes behind them, in their order."""
    least = MIN_VOCAB + len(merges)
    if vocab_size < least:
        raise ToolError(f"the byte tokenizer needs a vocabulary of {least}, not {vocab_size}")
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*letters, *SPECIALS, *("".join(merge) for merge in merges)]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIALS])
    tokenizer.save(str(directory / "tokenizer.json"))
    write_json(
        directory / "tokenizer_config.json",
        {
            "add_bos_token": False,
            "bos_token": SPECIALS[1],
            "chat_template": CHAT_TEMPLATE,
            "clean_up_tokenization_spaces": False,
            "eos_token": SPECIALS[2],
            "pad_token": SPECIALS[0],
            "tokenizer_class": "PreTrainedTokenizerFast",
        },
    )


def merges_of(texts: Iterable[str], vocab_size: int) -> list[tuple[str, str]]:
    """The merges that shorten these texts most, for a vocabulary of at most that size."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    trainer = BpeTrainer(
        vocab_size=vocab_size - len(SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    # Written as pairs, or by an older library as both parts with a blank between them.
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return [tuple(m.split(" ") if isinstance(m, str) else m) for m in merges]
