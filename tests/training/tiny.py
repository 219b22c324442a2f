"""Tiny random models and made-up rows for the training tests."""

from __future__ import annotations

import random
from pathlib import Path

import torch

from small_models import llama_config

WORDS = [f"w{i}" for i in range(60)]


def save_tokenizer(folder: Path, *, pad_is_eos: bool = False) -> int:
    """A word-level tokenizer of 64 tokens with BOS, EOS, UNK; returns its size."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<unk>", "<s>", "</s>", "<pad>"]
    vocabulary = {word: i for i, word in enumerate([*special, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>" if pad_is_eos else "<pad>",
    )
    fast.save_pretrained(str(folder))
    return len(vocabulary)


def save_llama(folder: Path, *, hidden: int = 32, layers: int = 2, seed: int = 0, **settings: object) -> Path:
    from transformers import LlamaForCausalLM

    config = llama_config(save_tokenizer(folder), width=hidden, layers=layers, max_position_embeddings=256, **settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        LlamaForCausalLM(config).save_pretrained(str(folder))
    return folder


def words(draw: random.Random, low: int, high: int) -> str:
    return " ".join(draw.choice(WORDS) for _ in range(draw.randint(low, high)))


def made_pairs(count: int, *, seed: int = 0, soft: bool = True) -> list:
    """Pairs whose better completion is the one with more even-numbered words."""
    from aifeedback.training.examples import PairRow
    from aifeedback.types import Comparison, Completion, Prompt

    draw = random.Random(seed)
    rows = []
    for i in range(count):
        prompt = Prompt.of(words(draw, 3, 8), tags={"topic": "rare" if i % 4 == 0 else "common"})
        sides = [Completion.of(prompt, words(draw, 2, 9), source=s) for s in ("a", "b")]
        gap = goodness(sides[0].text) - goodness(sides[1].text)
        p_first = 1 / (1 + 2.718281828 ** (-gap)) if soft else float(gap > 0)
        rows.append(PairRow(Comparison.of(prompt, *sides), p_first))
    return rows


def goodness(text: str) -> float:
    return sum(1.0 if int(word[1:]) % 2 == 0 else -1.0 for word in text.split())


def made_answers(count: int, *, seed: int = 0) -> list:
    from aifeedback.training.examples import SftRow
    from aifeedback.types import Completion, Prompt

    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        prompt = Prompt.of(words(draw, 3, 8))
        rows.append(SftRow(prompt, Completion.of(prompt, words(draw, 2, 9), source="made")))
    return rows
