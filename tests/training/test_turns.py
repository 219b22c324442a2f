"""SFT on the last or on all assistant turns of a dialogue, against transformers with labels on exactly those tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from aifeedback.training import folders
from aifeedback.training.examples import Order, SftRow, encode_sft
from aifeedback.training.objective import Share
from aifeedback.training.settings import SftConfig
from aifeedback.training.sft import SftObjective, heldout_loss, train_sft
from aifeedback.types import Completion, Message, Prompt
from chat_templates import save_model

DIALOGUE = [
    Message(role="system", content="Be brief."),
    Message(role="user", content="what is the capital of France?"),
    Message(role="assistant", content="Paris."),
    Message(role="user", content="And of Spain?"),
    Message(role="assistant", content="Madrid."),
    Message(role="user", content="3 good?"),
]


def rows() -> list[SftRow]:
    made = []
    for messages, answer in ((DIALOGUE, "yes"), (DIALOGUE[1:4], "Madrid."), (DIALOGUE[1:2], "Paris. Paris.")):
        prompt = Prompt.of(messages)
        made.append(SftRow(prompt, Completion.of(prompt, answer, source="made")))
    return made


def masked_loss(model: Any, tokenizer: Any, turns: str) -> float:
    """The rendered dialogue once, labels on assistant turns by the marks of the template; mean over all labels."""
    start, end = tokenizer.convert_tokens_to_ids("<|im_start|>"), tokenizer.convert_tokens_to_ids("<|im_end|>")
    head = tokenizer.encode("assistant\n", add_special_tokens=False)
    total, count = 0.0, 0
    for row in rows():
        messages = [m.model_dump() for m in row.prompt.messages]
        messages.append({"role": "assistant", "content": row.completion.text})
        ids = tokenizer.encode(tokenizer.apply_chat_template(messages, tokenize=False), add_special_tokens=False)
        begins = [i + 1 + len(head) for i, t in enumerate(ids) if t == start and ids[i + 1 : i + 1 + len(head)] == head]
        labels = [-100] * len(ids)
        for begin in begins if turns == "all" else begins[-1:]:
            stop = ids.index(end, begin) + 1
            labels[begin:stop] = ids[begin:stop]
        with torch.no_grad():
            loss = model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss
        number = sum(label != -100 for label in labels)
        total, count = total + float(loss) * number, count + number
    return total / count


@pytest.mark.parametrize("turns", ["last", "all"])
def test_the_loss_is_on_these_turns_and_no_others(turns: str, tmp_path: Path) -> None:
    folder = save_model("chatml", tmp_path / "model")
    model, tokenizer = folders.load_policy(folder).eval(), folders.load_tokenizer(folder)
    encoded, skipped = encode_sft(tokenizer, rows(), turns=turns)
    assert not skipped
    assert [len(row.turns) for row in encoded] == ([3, 2, 1] if turns == "all" else [1, 1, 1])
    order = Order(3, batch=3, seed=0)
    objective = SftObjective(model, encoded, order=order, forward_tokens=9999, share=Share(0, 1))
    (micro,) = objective.plan(1).micro
    expected = masked_loss(model, tokenizer, turns)
    assert float(objective(micro).total) == pytest.approx(expected, rel=1e-5)
    assert heldout_loss(model, encoded, forward_tokens=9999) == pytest.approx(expected, rel=1e-5)


def test_a_dialogue_is_computed_once(tmp_path: Path) -> None:
    """The turns of one dialogue are branches of a tree: all of them cost as many tokens as the rendered dialogue."""
    from aifeedback.inference.prefix_tree import build_tree, walk

    folder = save_model("chatml", tmp_path / "model")
    tokenizer = folders.load_tokenizer(folder)
    (row, *_), _ = encode_sft(tokenizer, rows(), turns="all")
    tree = build_tree([[*prompt, *completion] for prompt, completion in row.turns])
    assert sum(len(segment.tokens) for root in tree.roots for segment in walk(root)) == len(row.turns[-1][0]) + len(
        row.completion
    )


def test_a_templates_own_writing_of_earlier_turns_is_kept(tmp_path: Path) -> None:
    """A template that treats the last turn in another way: each turn is what it was when it was the last one."""
    tokenizer = folders.load_tokenizer(save_model("closes thinking", tmp_path / "model"))
    (row, *_), _ = encode_sft(tokenizer, rows(), turns="all")
    for prompt, completion in row.turns:
        assert tokenizer.decode(prompt).endswith("<|im_start|>assistant\n<think>\n")
        assert "<|im_start|>" not in tokenizer.decode(completion)


def test_the_setting_reaches_the_trainer(tmp_path: Path) -> None:
    folder = save_model("chatml", tmp_path / "model")
    given: dict[str, Any] = {"steps": 1, "batch": 3}
    last = train_sft(folder, rows(), SftConfig(**given), tmp_path / "last")
    every = train_sft(folder, rows(), SftConfig(**given, loss_on="all"), tmp_path / "all", heldout=rows())
    assert last.figures["loss"] != every.figures["loss"]
    assert "heldout_loss" in every.figures
