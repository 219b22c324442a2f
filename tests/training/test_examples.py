"""Rows to ids: what is dropped is counted, what is kept is whole; the order is a function of the seed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from tiny import made_answers, made_pairs

from aifeedback.errors import RecipeError, TrainingError
from aifeedback.training import folders
from aifeedback.training.examples import Order, PairRow, draw_epoch, encode_pairs, encode_sft, split_by_tokens
from aifeedback.types import Comparison, Completion, Prompt

LIMITS = {"max_prompt_tokens": 8, "max_completion_tokens": 6}


def pair(prompt: str, first: str, second: str, p_first: float | None) -> PairRow:
    asked = Prompt.of(prompt)
    return PairRow(Comparison.of(asked, *(Completion.of(asked, t, source="x") for t in (first, second))), p_first)


def test_unusable_rows_are_counted_and_nothing_is_cut(llama: Path) -> None:
    rows = [
        pair("w1 w2", "w3", "w4 w5", 0.25),
        pair("w1", "w3", "w4", None),
        pair(" ".join(["w1"] * 9), "w3", "w4", 0.5),
        pair("w1", " ".join(["w3"] * 6), "w4", 0.5),  # six words and EOS
        pair("w1", " ".join(["w3"] * 5), "", 1.0),
    ]
    kept, skipped = encode_pairs(folders.load_tokenizer(llama), rows, **LIMITS)
    assert skipped == Counter(p_first_unknown=1, prompt_too_long=1, completion_too_long=1)
    assert [r.row for r in kept] == [0, 4]
    assert kept[0].p_first == 0.25
    assert kept[0].first[-1] == kept[0].second[-1] == 2
    assert len(kept[1].first) == 6
    assert kept[1].second == [2]
    assert kept[0].tokens == 2 + 2 + 3


def test_a_label_outside_zero_and_one_is_refused(llama: Path) -> None:
    with pytest.raises(TrainingError, match=r"row 1.*not a probability"):
        encode_pairs(folders.load_tokenizer(llama), [pair("w1", "w2", "w3", 1.5)], **LIMITS)


def test_answers_carry_their_weight(llama: Path) -> None:
    tokenizer = folders.load_tokenizer(llama)
    rows = [row._replace(weight=0.5) for row in made_answers(3)] + [tuple(made_answers(1)[0])[:2]]
    kept, skipped = encode_sft(tokenizer, rows, max_prompt_tokens=99, max_completion_tokens=99)
    assert [r.weight for r in kept] == [0.5, 0.5, 0.5, 1.0]
    assert not skipped


def test_every_epoch_is_another_permutation_of_all_rows() -> None:
    order = Order(10, batch=4, seed=1)
    seen = [i for step in range(1, 6) for i in order.step(step)]
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert seen[:10] != seen[10:]
    assert order.step(2) == Order(10, batch=4, seed=1).step(2)  # no state
    assert order.step(1) != Order(10, batch=4, seed=2).step(1)


def test_the_last_step_of_an_epoch_is_short() -> None:
    order = Order(10, batch=4, seed=1, total=10)
    assert [len(order.step(step)) for step in (1, 2, 3)] == [4, 4, 2]


def test_balanced_epochs_draw_every_group_equally_often() -> None:
    groups = ["rare"] * 3 + ["common"] * 17
    drawn = draw_epoch(20, seed=0, epoch=0, groups=groups)
    counts = Counter(groups[i] for i in drawn)
    assert counts == {"rare": 10, "common": 10}
    # without replacement within a round: no rare row more than once more often than another
    assert np.ptp(np.bincount(drawn, minlength=20)[:3]) <= 1


def test_groups_by_tokens() -> None:
    assert split_by_tokens([0, 1, 2, 3], [5, 5, 20, 1], limit=10) == [[0, 1], [2], [3]]


def test_balanced_sampling_reaches_training(llama: Path, tmp_path: Path) -> None:
    from aifeedback.training.objective import row_order
    from aifeedback.training.settings import RowConfig

    rows = made_pairs(40)
    kept, _ = encode_pairs(folders.load_tokenizer(llama), rows, max_prompt_tokens=99, max_completion_tokens=99)
    prompts = [r.comparison.prompt for r in rows]
    order = row_order(kept, RowConfig(batch=40, balance_by="topic"), prompts=prompts)
    assert Counter(prompts[kept[i].row].tags["topic"] for i in order.step(1)) == {"rare": 20, "common": 20}


def test_a_tag_that_no_prompt_has_cannot_balance(llama: Path) -> None:
    from aifeedback.training.objective import row_order
    from aifeedback.training.settings import RowConfig

    rows = made_pairs(4)
    kept, _ = encode_pairs(folders.load_tokenizer(llama), rows, max_prompt_tokens=99, max_completion_tokens=99)
    with pytest.raises(RecipeError, match="no prompt has the tag 'langage'"):
        row_order(kept, RowConfig(balance_by="langage"), prompts=[r.comparison.prompt for r in rows])
