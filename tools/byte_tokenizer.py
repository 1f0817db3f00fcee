"""A tokenizer of single bytes with a ChatML template, for random-weight checkpoints: any text
in, any bytes out, vocabulary of 259."""

from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

from hf_directory import ToolError, write_json

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MIN_VOCAB = 256 + len(SPECIALS)

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def write_byte_tokenizer(directory: Path, vocab_size: int) -> None:
    """Ids 0-255 are the bytes in the order of their byte-level letters, 256-258 the specials."""
    if vocab_size < MIN_VOCAB:
        raise ToolError(f"the byte tokenizer needs a vocabulary of {MIN_VOCAB}, not {vocab_size}")
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(letters + SPECIALS)}
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=[]))
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
