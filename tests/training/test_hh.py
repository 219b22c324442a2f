"""Real dialogues (HH harmless-base): an honest accuracy of a reward model, and adapters on a Qwen-style checkpoint.

Everything is made here from nothing, so nothing is claimed about quality: a model of less than a million weights that
has read two thousand dialogues knows little of harm. What is tested is that the figure is what it says it is. Skipped
where the data set is not beside the checkout.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from aifeedback import data
from aifeedback.data import LabelledRow
from aifeedback.inference.encoding import encode_completion, encode_prompt
from aifeedback.steps.pairs import human_rows
from aifeedback.steps.split import held_out
from aifeedback.training.dpo import train_dpo
from aifeedback.training.examples import SftRow
from aifeedback.training.reward_model import fit_reward_model, wilson
from aifeedback.training.settings import DpoConfig, LoraSettings, RewardModelConfig, SftConfig
from aifeedback.training.sft import train_sft
from aifeedback.types import Completion, Prompt
from small_models import bpe_llama

TRAIN = {"batch": 16, "optimizer": "adamw", "schedule": "linear", "warmup_steps": 5, "max_completion_tokens": 512}
CHAT = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def pairs(real_data: Path) -> list[LabelledRow]:
    return human_rows(data.read_comparisons(real_data / "hh_rlhf_harmless_base" / "test.jsonl.gz"))


def transcript(row: LabelledRow) -> str:
    return "\n\n".join(m.content for m in row.comparison.prompt.messages)


def reading_rows(rows: list[LabelledRow]) -> list[SftRow]:
    """Both dialogues of each pair as plain text to read: all of it but the first three words."""
    read = []
    for row in rows:
        for side in (row.comparison.first, row.comparison.second):
            words = f"{transcript(row)}\n\n{side.text}".split(" ")
            prompt = Prompt.of(" ".join(words[:3]))
            read.append(SftRow(prompt, Completion.of(prompt, " ".join(words[3:]), source="hh")))
    return read


@pytest.mark.slow
def test_accuracy_on_held_out_people_is_honest(pairs: list[LabelledRow], tmp_path: Path) -> None:
    held, rest = held_out(pairs, 600, seed=0)
    asked = {row.comparison.prompt.id for row in held}
    rest = [row for row in rest if row.comparison.prompt.id not in asked]
    texts = [text for row in rest for text in (transcript(row), row.comparison.first.text, row.comparison.second.text)]
    model = bpe_llama(tmp_path / "model", texts, vocabulary=2000, width=96, layers=3)
    sft = SftConfig(**TRAIN, steps=200, learning_rate=2e-3)
    train_sft(model, reading_rows(rest), sft, tmp_path / "read")
    config = RewardModelConfig(**TRAIN, epochs=1.0, learning_rate=3e-4)
    figures = fit_reward_model(tmp_path / "read", rest, config, tmp_path / "reward", heldout=held).figures

    margins = plain_margins(tmp_path / "reward", held)
    right = sum(float(margin > 0) == row.p_first for margin, row in margins)
    told = [figures[f"heldout_accuracy{end}"] for end in ("", "_low", "_high")]
    print(f"accuracy on {len(margins)} pairs: {told[0]:.3f} ({told[1]:.3f} to {told[2]:.3f})")
    assert figures["heldout_n"] == len(margins)
    assert told == pytest.approx(wilson(right, len(margins)))
    coin = random.Random(0)
    flipped = sum(float(margin > 0) == float(coin.random() < 0.5) for margin, _ in margins)
    _, low, high = wilson(flipped, len(margins))
    assert low < 0.5 < high, "against the toss of a coin there is nothing to be right about"


def plain_margins(folder: Path, rows: list[LabelledRow]) -> list[tuple[float, LabelledRow]]:
    """Score differences of the pairs that fit the limits, one sequence at a time in plain transformers."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    found = []
    for row in rows:
        prompt = encode_prompt(tokenizer, row.comparison.prompt.messages)
        sides = [
            [*encode_completion(tokenizer, side.text), tokenizer.eos_token_id]
            for side in (row.comparison.first, row.comparison.second)
        ]
        if len(prompt) > 1024 or max(map(len, sides)) > TRAIN["max_completion_tokens"] or row.p_first == 0.5:
            continue
        with torch.no_grad():
            first, second = (model(torch.tensor([prompt + side])).logits.item() for side in sides)
        found.append((first - second, row))
    return found


def test_adapters_on_a_qwen_style_checkpoint(pairs: list[LabelledRow], tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = qwen(tmp_path / "qwen", pairs[:200])
    config = DpoConfig(batch=4, steps=3, learning_rate=1e-2, optimizer="adamw", lora=LoraSettings(rank=4, alpha=8))
    short = [row for row in pairs if len(transcript(row)) < 600][:12]
    result = train_dpo(base, short, config, tmp_path / "policy")
    assert result.steps == 3

    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "policy")
    asked = tokenizer.apply_chat_template([{"role": "user", "content": "How are you?"}], return_tensors="pt")
    policy = AutoModelForCausalLM.from_pretrained(tmp_path / "policy").eval()
    start = AutoModelForCausalLM.from_pretrained(base).eval()
    assert policy.config.model_type == "qwen2"
    assert policy.generate(**asked, max_new_tokens=5, do_sample=False).shape[1] > asked["input_ids"].shape[1]
    with torch.no_grad():
        merged, untrained = policy(**asked).logits, start(**asked).logits
        adapted = PeftModel.from_pretrained(start, str(tmp_path / "policy" / "adapter")).eval()(**asked).logits
    assert torch.allclose(merged, adapted, atol=1e-5), "the adapter saved alone gives the same model"
    assert not torch.allclose(merged, untrained, atol=1e-3)
    saved = json.loads((tmp_path / "policy" / "adapter" / "adapter_config.json").read_text())
    adapted_layers = {name.rpartition(".")[2] for name in saved["target_modules"]}
    assert {"q_proj", "v_proj", "down_proj"} <= adapted_layers


def qwen(folder: Path, rows: list[LabelledRow]) -> Path:
    """Qwen2 in small: grouped heads, biases on queries, keys and values, tied embeddings, its chat format."""
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    special = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
    bpe_llama(folder, [transcript(row) for row in rows], vocabulary=600, width=16, template=CHAT, special=special)
    ids: dict[str, Any] = {
        name: getattr(AutoTokenizer.from_pretrained(folder), name) for name in ("eos_token_id", "pad_token_id")
    }
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(AutoTokenizer.from_pretrained(folder)),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        **ids,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    return folder
