"""The tokenizer inside a GGUF file as Hugging Face tokenizer files."""

from pathlib import Path

from gguf import GGUFReader, TokenType
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

from gguf_llama import metadata
from hf_directory import ToolError, write_json


def write_tokenizer(reader: GGUFReader, directory: Path) -> None:
    """Writes tokenizer.json, tokenizer_config.json and special_tokens_map.json."""
    tokens = metadata(reader, "tokenizer.ggml.tokens")
    types = metadata(reader, "tokenizer.ggml.token_type")
    # tokenizers takes only AddedTokens that the vocabulary has under the same id, which holds
    # because the control tokens are part of `tokens` too.
    specials = [
        AddedToken(token, special=True, normalized=False)
        for token, kind in zip(tokens, types, strict=True)
        if kind == TokenType.CONTROL
    ]
    tokenizer = _byte_level_bpe(reader, tokens)
    tokenizer.add_special_tokens(specials)
    tokenizer.save(str(directory / "tokenizer.json"))

    roles = {
        role: tokens[metadata(reader, f"tokenizer.ggml.{key}_token_id")]
        for role, key in [
            ("bos_token", "bos"),
            ("eos_token", "eos"),
            ("pad_token", "padding"),
            ("unk_token", "unknown"),
        ]
    }
    chat_tokens = list(dict.fromkeys([roles["bos_token"], roles["eos_token"]]))
    write_json(
        directory / "tokenizer_config.json",
        {
            "add_bos_token": False,
            "add_prefix_space": False,
            "added_tokens_decoder": {
                str(tokenizer.token_to_id(token.content)): _describe(token) for token in specials
            },
            "additional_special_tokens": chat_tokens,
            **roles,
            "chat_template": metadata(reader, "tokenizer.chat_template"),
            "clean_up_tokenization_spaces": False,
            "model_max_length": metadata(reader, "llama.context_length"),
            # Not GPT2Tokenizer: that class rebuilds the pre-tokenizer and loses the digits.
            "tokenizer_class": "PreTrainedTokenizerFast",
        },
    )
    write_json(
        directory / "special_tokens_map.json",
        {"additional_special_tokens": chat_tokens, **roles},
    )


def _byte_level_bpe(reader: GGUFReader, tokens: list[str]) -> Tokenizer:
    kind = metadata(reader, "tokenizer.ggml.model"), metadata(reader, "tokenizer.ggml.pre")
    if kind != ("gpt2", "smollm"):
        raise ToolError(f"tokenizer {'/'.join(kind)} is not known; only gpt2/smollm is converted")
    if metadata(reader, "tokenizer.ggml.add_bos_token"):
        raise ToolError("tokenizer.ggml.add_bos_token is set, which smollm models do not do")
    merges = [tuple(merge.split(" ")) for merge in metadata(reader, "tokenizer.ggml.merges")]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=merges))
    # Each digit alone first, then GPT-2's split of words, spaces and punctuation.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _describe(token: AddedToken) -> dict[str, object]:
    return {
        "content": token.content,
        "lstrip": token.lstrip,
        "normalized": token.normalized,
        "rstrip": token.rstrip,
        "single_word": token.single_word,
        "special": token.special,
    }
