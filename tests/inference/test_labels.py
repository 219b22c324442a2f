"""P(label) against the sum over all token sequences, on every tokenizer family."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from aifeedback.errors import ModelError
from aifeedback.inference.encoding import encode_prompt
from aifeedback.inference.labels import LabelReader, label_logprobs, label_tree
from aifeedback.models.local import LocalModel

from .families import FAMILIES, byte_level, tiny_model, word_level

LABEL_SETS = [["1", "2"], ["1", "10"], [" 1", " 2", " 10"], ["A", "B"], ["Yes", "No"], ["1", "2", "10", "A", "Yes"]]
PROMPTS = ["Rate it:", "A or B? A ="]


def brute_force(model: Any, tokenizer: Any, prompt: str, labels: list[str], length: int) -> np.ndarray:
    """Every sequence of ``length`` tokens, each credited to the longest label that its text spells at a token's end."""
    ids = encode_prompt(tokenizer, prompt)
    size = model.config.vocab_size

    after = encode_prompt(tokenizer, ":")[-1]  # decoding hides a mark at the very end of a text

    def text(tokens: list[int]) -> str:
        return tokenizer.decode([*ids, *tokens, after], clean_up_tokenization_spaces=False)

    targets = []
    for label in labels:
        whole = encode_prompt(tokenizer, prompt + label)
        assert whole[: len(ids)] == ids, "choose prompts whose last token does not merge with the label"
        targets.append(text(whole[len(ids) :]))
    known = {i for i in range(size) if i not in (0, 1, 2)}
    credit: dict[tuple[int, ...], str | None] = {(): None}
    total = dict.fromkeys(targets, 0.0)
    probability = {(): 1.0}
    for _ in range(length):
        rows = list(probability)
        with torch.no_grad():
            logits = model(torch.tensor([[*ids, *r] for r in rows])).logits[:, -1].double()
        p = torch.softmax(logits, dim=-1).numpy()
        probability = {(*r, t): probability[r] * p[n, t] for n, r in enumerate(rows) for t in range(size)}
        spelled = {}
        for row in probability:
            before = credit[row[:-1]]
            here = text(list(row)) if known.issuperset(row) else None
            spelled[row] = here if here in total else before
        credit = spelled
    for row, label in credit.items():
        if label is not None:
            total[label] += probability[row]
    return np.array([total[t] for t in targets])


@pytest.mark.parametrize("family", FAMILIES)
def test_equals_brute_force(family: str) -> None:
    tokenizer = FAMILIES[family]()
    model = tiny_model(len(tokenizer))
    judge = LocalModel(model, tokenizer, uri="hf:tiny")
    compared = 0
    for prompt, labels in product(PROMPTS, LABEL_SETS):
        reader = judge._reader
        tree = reader.tree(encode_prompt(tokenizer, prompt), labels)
        longest = max(len(node.path) for node in tree.nodes)
        if len(tokenizer) ** longest > 40_000:
            continue
        result = judge.read_labels([prompt], labels)[0]
        expected = brute_force(model, tokenizer, prompt, labels, longest)
        assert np.exp(np.array(result.logprobs, dtype=float)) == pytest.approx(expected, abs=1e-6, rel=1e-4)
        assert result.coverage == pytest.approx(sum(set(expected)), abs=1e-6)
        compared += 1
    assert compared >= 6


def test_worked_example() -> None:
    """Labels 1 and 10, tokens "1", "0", "10": P("1") = P(1)·(1 − P(0|1)), P("10") = P(10) + P(1)·P(0|1)."""
    one, zero, ten = 7, 8, 9
    tree = label_tree([[(one,)], [(ten,), (one, zero)]])
    paths = [node.path for node in tree.nodes]
    assert paths == [(), (one,), (one, zero), (ten,)]
    root, after_one = 0, 1
    children = {root: np.log([[0.5, 0.125]]), after_one: np.log([[0.25]])}
    rest = {root: np.log([0.375]), after_one: np.log([0.75])}
    result = np.exp(label_logprobs(tree, children, rest))
    assert result == pytest.approx(np.array([[0.5 * 0.75, 0.125 + 0.5 * 0.25]]))


def test_a_label_that_nearly_always_continues_keeps_its_precision() -> None:
    """P("1") = P(1)·P(not 0|1) is a product of what is given, not 1 minus something close to 1."""
    tree = label_tree([[(1,)], [(1, 2)]])
    result = label_logprobs(
        tree, {0: np.array([[-0.1]]), 1: np.array([[-1e-30]])}, {0: np.zeros(1), 1: np.array([-70.0])}
    )
    assert result[0, 0] == pytest.approx(-70.1, rel=1e-12)


def judge_of(tokenizer: Any, **options: Any) -> LocalModel:
    return LocalModel(tiny_model(len(tokenizer)), tokenizer, uri="hf:tiny", **options)


def test_either_space_adds_the_spaced_form() -> None:
    tokenizer = byte_level(extra=12)
    spaced = ["1", " 1", "2", " 2"]
    one, one_spaced, two, two_spaced = np.exp(judge_of(tokenizer).label_logprobs(["Rate it:"], spaced))[0]
    either = np.exp(judge_of(tokenizer, either_space=True).label_logprobs(["Rate it:"], ["1", "2"]))[0]
    assert either == pytest.approx([one + one_spaced, two + two_spaced], rel=1e-5)


def test_labels_that_a_tokenizer_cannot_distinguish_are_one_event() -> None:
    reading = judge_of(word_level()).read_labels(["Rate it :"], ["1", " 1", "2"])[0]
    first, same, other = (p for p in reading.logprobs if p is not None)
    assert first == same
    assert reading.coverage == pytest.approx(np.exp(first) + np.exp(other), rel=1e-6)


def test_label_that_would_merge_with_the_prompt() -> None:
    """After "… 1" the label "0" is the token 0, though the tokenizer would write "10" as one token."""
    tokenizer = FAMILIES["byte_level_merged"]()
    reader = LabelReader(tokenizer)
    tree = reader.tree(encode_prompt(tokenizer, "=1"), ["0"])
    assert [node.path for node in tree.nodes] == [(), (tokenizer.convert_tokens_to_ids("0"),)]


def test_label_without_its_own_spelling_is_taken_with_a_space() -> None:
    """A vocabulary that knows "▁7" and no "7"."""
    core = Tokenizer(models.Unigram([("<unk>", 0.0), ("▁7", -1.0), ("▁", -2.0), ("=", -2.0)], unk_id=0))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    core.decoder = decoders.Metaspace(prepend_scheme="never")
    reader = LabelReader(PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>"))
    assert [n.path for n in reader.tree([3], ["7"]).nodes] == [(), (1,)]


def test_label_the_tokenizer_cannot_spell_is_refused() -> None:
    with pytest.raises(ModelError, match="no tokens for the label 'Maybe'"):
        judge_of(word_level()).label_logprobs(["Rate it :"], ["1", "Maybe"])
    with pytest.raises(ModelError, match="no tokens for the label ''"):
        judge_of(word_level()).label_logprobs(["Rate it :"], ["1", ""])


def test_control_token_as_label() -> None:
    tokenizer = byte_level()
    tree = LabelReader(tokenizer).tree(encode_prompt(tokenizer, "it ="), ["</s>"])
    assert tree.nodes[1].path == (tokenizer.eos_token_id,)


def test_many_spellings_fall_back_to_the_tokenizers_own() -> None:
    tokenizer = FAMILIES["byte_level_merged"]()
    label = "10" * 12
    (sequence,) = LabelReader(tokenizer).event(encode_prompt(tokenizer, "it="), label)
    assert list(sequence) == encode_prompt(tokenizer, label)


@pytest.mark.parametrize("family", FAMILIES)
def test_order_and_company_of_prompts_do_not_matter(family: str) -> None:
    judge = judge_of(FAMILIES[family]())
    prompts = ["Rate it:", "A or B? A =", "Rate it: 1 2 A =", "No:", "Rate it: 1 2 B ="]
    labels = ["1", "10", "A", "Yes"]
    together = judge.label_logprobs(prompts, labels)
    assert together.dtype == np.float64
    alone = np.concatenate([judge.label_logprobs([p], labels) for p in prompts])
    turned = judge.label_logprobs(prompts[::-1], labels[::-1])[::-1, ::-1]
    assert np.abs(np.exp(together) - np.exp(alone)).max() < 1e-5
    assert np.abs(np.exp(together) - np.exp(turned)).max() < 1e-5
