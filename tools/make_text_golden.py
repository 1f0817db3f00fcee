"""Small tokenizers for tests/text and what Hugging Face's libraries answer for them.

Writes tests/text/data/<name>/ (tokenizer files) and tests/text/data/<name>.json (goldens), and
goldens for the default model where its directory exists. Run it by hand after a change here:
    python tools/make_text_golden.py [--model models/SmolLM2-135M-Instruct]
The output is committed; it needs requirements-golden.txt.
"""

import argparse
import json
import random
from pathlib import Path

from tokenizers import AddedToken, Tokenizer
from tokenizers import decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from text_golden_cases import (
    CHATS,
    CORPUS,
    LARGE,
    SNIPPET_CHAT,
    SNIPPETS,
    TEMPLATES,
    TRAINING_TEXT,
)

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "tests" / "text" / "data"
BYTE_TOKENS = [f"<0x{byte:02X}>" for byte in range(256)]


def byte_level() -> Tokenizer:
    """As SmolLM2, with added tokens of every kind."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=420,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TRAINING_TEXT, trainer)
    tokenizer.add_special_tokens(
        [
            AddedToken("<|left|>", special=True, lstrip=True),
            AddedToken("<|right|>", special=True, rstrip=True),
            AddedToken("<|word|>", special=True, single_word=True),
        ]
    )
    tokenizer.add_tokens([AddedToken("<think>", normalized=False), AddedToken("two words")])
    return tokenizer


def llama2() -> Tokenizer:
    """SentencePiece converted: no pre-tokenizer, a space before every piece of text."""
    tokenizer = _sentence_piece()
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.pre_tokenizer = None
    return tokenizer


def metaspace() -> Tokenizer:
    """The newer conversion: a space before the first piece of text only."""
    tokenizer = _sentence_piece()
    tokenizer.normalizer = None
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.add_special_tokens(
        [f"<|{role}|>" for role in ["system", "user", "assistant", "end"]]
        + [AddedToken("[END]", special=True, normalized=True)]
    )
    return tokenizer


def _sentence_piece() -> Tokenizer:
    tokenizer = Tokenizer(BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    # Words only while training, so that the few merges are useful ones.
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = BpeTrainer(
        vocab_size=560,
        special_tokens=["<unk>", "<s>", "</s>", *BYTE_TOKENS],
        limit_alphabet=90,
        show_progress=False,
    )
    tokenizer.train_from_iterator(TRAINING_TEXT, trainer)
    trained = json.loads(tokenizer.to_str())
    trained["added_tokens"] = [t for t in trained["added_tokens"] if t["id"] < 3]
    tokenizer = Tokenizer.from_str(json.dumps(trained))
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
    )
    return tokenizer


SMALL = {
    "byte_level": (byte_level, {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}),
    "llama2": (llama2, {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}),
    "metaspace": (metaspace, {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}),
}


def write_small(name: str) -> Path:
    make, roles = SMALL[name]
    directory = DATA / name
    directory.mkdir(parents=True, exist_ok=True)
    make().save(str(directory / "tokenizer.json"), pretty=False)
    config = {**roles, "tokenizer_class": "PreTrainedTokenizerFast"}
    # One as an AddedToken, as many published files have it.
    config["eos_token"] = {"__type": "AddedToken", "content": roles["eos_token"], "special": True}
    config["chat_template"] = [
        {"name": "other", "template": "never used"},
        {"name": "default", "template": TEMPLATES[name]},
    ]
    _write_json(directory / "tokenizer_config.json", config)
    return directory


def goldens(
    directory: Path, roles: dict[str, str], template: str, large: list[tuple[str, int]]
) -> dict[str, object]:
    path = str(directory / "tokenizer.json")
    tokenizer = Tokenizer.from_file(path)
    plain = Tokenizer.from_file(path)
    plain.encode_special_tokens = True
    fast = PreTrainedTokenizerFast(tokenizer_file=path, chat_template=template, **roles)
    corpus = CORPUS + [token.content for token in tokenizer.get_added_tokens_decoder().values()]
    corpus += ["a " + "  ".join(corpus[-8:]) + " b", "x".join(corpus[-8:]), "".join(corpus[:40])]
    chats = []
    for messages, prompt in CHATS:
        options = {"add_generation_prompt": prompt}
        text = fast.apply_chat_template(messages, tokenize=False, **options)
        ids = fast.apply_chat_template(messages, tokenize=True, return_dict=False, **options)
        chats.append({"messages": messages, "prompt": prompt, "text": text, "ids": ids})
    return {
        "encode": [
            {
                "text": text,
                "plain": plain.encode(text, add_special_tokens=False).ids,
                "parsed": tokenizer.encode(text, add_special_tokens=False).ids,
                "full": tokenizer.encode(text, add_special_tokens=True).ids,
            }
            for text in corpus
        ],
        "large": [_large(plain, text, count) for text, count in large],
        "decode": [_decoded(tokenizer, ids) for ids in _random_ids(tokenizer)],
        "chat": chats,
    }


def snippets() -> dict[str, object]:
    """What small templates print, with the byte-level tokenizer."""
    path = DATA / "byte_level" / "tokenizer.json"
    fast = PreTrainedTokenizerFast(tokenizer_file=str(path), **SMALL["byte_level"][1])
    texts = [
        fast.apply_chat_template(SNIPPET_CHAT, chat_template=snippet, tokenize=False)
        for snippet in SNIPPETS
    ]
    cases = [{"template": s, "text": t} for s, t in zip(SNIPPETS, texts, strict=True)]
    return {"messages": SNIPPET_CHAT, "cases": cases}


def _large(tokenizer: Tokenizer, text: str, count: int) -> dict[str, object]:
    ids = tokenizer.encode(text * count, add_special_tokens=False).ids
    return {"text": text, "count": count, "ids": len(ids), "fnv1a": _fnv1a(ids)}


def _fnv1a(ids: list[int]) -> str:
    """64-bit FNV-1a over the ids as little-endian 32-bit integers."""
    value = 0xCBF29CE484222325
    for byte in b"".join(i.to_bytes(4, "little") for i in ids):
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return f"{value:016x}"


def _random_ids(tokenizer: Tokenizer) -> list[list[int]]:
    rng = random.Random(20240229)
    size = tokenizer.get_vocab_size()
    anything = [[rng.randrange(size) for _ in range(rng.randrange(1, 40))] for _ in range(60)]
    low = [[rng.randrange(min(size, 300)) for _ in range(rng.randrange(1, 20))] for _ in range(60)]
    texts = [tokenizer.encode(text).ids for text in CORPUS if text]
    return anything + low + texts


def _decoded(tokenizer: Tokenizer, ids: list[int]) -> dict[str, object]:
    decoded = {"ids": ids}
    for key, skip in [("text", False), ("skipped", True)]:
        decoded[key] = tokenizer.decode(ids, skip_special_tokens=skip)
        if not isinstance(tokenizer.decoder, decoders.ByteLevel):
            ours = _byte_fallback_text(tokenizer, ids, skip)
            # The two differ only in runs of bytes that are not UTF-8 as a whole.
            assert ours == decoded[key] or "\ufffd" in decoded[key]
            decoded[key] = ours
    return decoded


def _byte_fallback_text(tokenizer: Tokenizer, ids: list[int], skip: bool) -> str:
    special = {i for i, t in tokenizer.get_added_tokens_decoder().items() if t.special}
    joined = b""
    for token_id in ids:
        token = tokenizer.id_to_token(token_id)
        if token_id in special and skip:
            continue
        is_byte = token in BYTE_TOKENS
        joined += bytes([int(token[3:5], 16)]) if is_byte else token.replace("▁", " ").encode()
    return joined.decode(errors="replace").removeprefix(" ")


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, separators=(",", ":")) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "SmolLM2-135M-Instruct")
    model = parser.parse_args().model
    for name, (_, roles) in SMALL.items():
        directory = write_small(name)
        # Mostly shorter: these run with the unit tests.
        large = LARGE[:2] + [(text, count // 8) for text, count in LARGE[2:]]
        _write_json(DATA / f"{name}.json", goldens(directory, roles, TEMPLATES[name], large))
    _write_json(DATA / "templates.json", snippets())
    if model.is_dir():
        config = json.loads((model / "tokenizer_config.json").read_text())
        roles = {role: config[role] for role in ("bos_token", "eos_token", "unk_token")}
        result = goldens(model, roles, config["chat_template"], LARGE)
        _write_json(DATA / "smollm2.json", result)
    else:
        print(f"{model} does not exist: its goldens stay as they are")


if __name__ == "__main__":
    main()
