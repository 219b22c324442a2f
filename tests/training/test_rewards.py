"""Reward combinators: TRL's signature, and None that stays None."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tiny import save_llama

from aifeedback.errors import InputError, RecipeError, TrainingError
from aifeedback.judging.ranking import RankScorer
from aifeedback.steps.rewards import RewardSpec
from aifeedback.steps.rl import Rl
from aifeedback.steps.step import Context
from aifeedback.training import rewards
from aifeedback.training.rewards import Reward, clip, length_penalty, mix, panel
from aifeedback.types import Comparison, Completion, Labeler, Preference, Problem, Prompt, RewardFn, Score, Scorer

PROMPTS = ["a", "b", "c"]
TEXTS = ["one", "two words", "three words here"]


def fixed(*values: float | None, name: str = "fixed") -> Reward:
    return Reward(name, lambda prompts, completions, **columns: list(values))


def test_mix_is_a_weighted_sum_and_none_spreads() -> None:
    mixed = mix([(fixed(1.0, None, 3.0), 0.5), (fixed(2.0, 2.0, None), 2.0), (fixed(None, None, None), 0.0)])
    assert mixed(PROMPTS, TEXTS) == [4.5, None, None]


def test_panel_is_the_mean_of_all_members_or_unknown() -> None:
    assert panel([fixed(1.0, 1.0, None), fixed(3.0, None, 5.0)])(PROMPTS, TEXTS) == [2.0, None, None]


def test_length_penalty_counts_words_above_the_free_ones() -> None:
    assert length_penalty(fixed(1.0, 1.0, None), per_word=0.25, free_words=1)(PROMPTS, TEXTS) == [1.0, 0.75, None]


def test_clip_holds_values_in_range() -> None:
    assert clip(fixed(-3.0, 0.2, None), low=-1, high=1)(PROMPTS, TEXTS) == [-1.0, 0.2, None]
    assert clip(fixed(-3.0, 0.2, math.nan), low=-1, high=1)(PROMPTS, TEXTS) == [-1.0, 0.2, None]
    with pytest.raises(RecipeError, match="not below"):
        clip(fixed(), low=1, high=1)


def test_names_say_what_is_in_them() -> None:
    name = clip(length_penalty(mix([(fixed(name="rm"), 2.0)]), per_word=0.1, free_words=30), low=-1, high=1).name
    assert name == "2·(rm) − 0.1 per word above 30 in [-1, 1]"
    assert rewards.name_of(fixed) == "fixed"


class OneScorer:
    name = "one"

    def score(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> list[Score]:
        assert [p.text for p in prompts] == PROMPTS
        return [
            Score(completion_id=c.id, judge="one", value=0.5, expected=7.75)
            if c.text != "two words"
            else Score(completion_id=c.id, judge="one", problem=Problem.UNREADABLE)
            for c in completions
        ]


def test_judge_score_gives_the_mapped_expected_rating() -> None:
    scorer: Scorer = OneScorer()
    reward: RewardFn = rewards.judge_score(scorer)
    assert reward(prompts=PROMPTS, completions=TEXTS, reference=[None] * 3) == [0.5, None, 0.5]


class FirstIsBetter:
    name = "first"

    def label(self, comparisons: Sequence[Comparison]) -> list[Preference]:
        assert all(c.second.text == "gold" for c in comparisons)
        return [
            Preference(comparison_id=c.id, source="x", p_first=0.75)
            if c.first.text != "two words"
            else Preference(comparison_id=c.id, source="x", p_first=None, problem=Problem.ABSTAINED)
            for c in comparisons
        ]


def test_against_reference_compares_with_the_reference_text() -> None:
    labeler: Labeler = FirstIsBetter()
    reward = rewards.against_reference(labeler)
    assert reward(PROMPTS, TEXTS, reference=["gold", "gold", None]) == [0.5, None, None]
    assert reward([Prompt.of("a", reference="gold")], ["x"]) == [0.5]


def test_messages_and_texts_and_records_are_all_prompts() -> None:
    asked, _ = rewards.records(["hi", [{"role": "user", "content": "hi"}], Prompt.of("hi")], ["x", "y", "z"])
    assert len({p.id for p in asked}) == 1


def write(folder: Path, text: str) -> Path:
    file = folder / "mine.py"
    file.write_text(text)
    return file


def test_python_function_gets_the_columns_it_names(tmp_path: Path) -> None:
    file = write(
        tmp_path, "def short(completions, topic):\n    return [len(c) + len(t) for c, t in zip(completions, topic)]\n"
    )
    reward = rewards.python_function(f"python:{file}:short")
    assert reward(PROMPTS, TEXTS, topic=["x", "yy", ""], other=[1, 2, 3]) == [4, 11, 16]


def test_python_function_with_keywords_gets_everything(tmp_path: Path) -> None:
    file = write(
        tmp_path, "def all_of_it(prompts, completions, **columns):\n    return [len(columns)] * len(prompts)\n"
    )
    assert rewards.python_function(f"python:{file}:all_of_it")(PROMPTS, TEXTS, a=[1], b=[2]) == [2, 2, 2]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("python:mine.py", "has no name after the file"),
        ("python:absent.py:f", "no such file"),
        ("python:{file}:absent", "has no 'absent'"),
    ],
)
def test_python_function_says_what_is_missing(tmp_path: Path, spec: str, message: str) -> None:
    file = write(tmp_path, "x = 1\n")
    with pytest.raises(InputError, match=message):
        rewards.python_function(spec.format(file=file))


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    file = write(tmp_path, "raise ValueError('broken')\n")
    with pytest.raises(InputError, match="ValueError: broken"):
        rewards.python_function(f"python:{file}:f")


def test_reward_model_folder_scores(llama: Path, tmp_path: Path) -> None:
    from aifeedback.training import folders

    model, tokenizer = folders.load_scorer(llama, seed=0), folders.load_tokenizer(llama)
    folders.set_pad_token(tokenizer, model)
    folders.save_folder(model, tokenizer, tmp_path / "rm", card="")
    reward = rewards.reward_model(tmp_path / "rm")
    values = reward(["w1 w2", "w1 w2", "w1 " * 300], ["w3", "w4", "w5"])
    assert values[0] != values[1]
    assert values[2] is None


def test_what_a_function_returns_is_checked_before_it_is_clipped(tmp_path: Path) -> None:
    """min(high, max(low, NaN)) is low in Python: a score that nobody gave."""
    file = tmp_path / "mine.py"
    file.write_text("def some(completions):\n    return [float('nan'), None, 5]\n\ndef none(completions):\n    pass\n")
    some = clip(rewards.python_function(f"python:{file}:some"), low=-1, high=1)
    assert some(PROMPTS, TEXTS) == [None, None, 1]
    with pytest.raises(TrainingError, match="returned None"):
        rewards.python_function(f"python:{file}:none")(PROMPTS, TEXTS)
    with pytest.raises(TrainingError, match="3 values for 2 completions"):
        rewards.python_function(f"python:{file}:some")(PROMPTS[:2], TEXTS[:2])


class PairJudge:
    """P(first better) from a table of texts; a pair that is not in it is unknown."""

    name = "pairs"

    def __init__(self, table: dict[tuple[str, str], float]) -> None:
        self.table = table
        self.asked: list[tuple[str, str]] = []

    def label(self, comparisons: Sequence[Comparison]) -> list[Preference]:
        self.asked += [(c.first.text, c.second.text) for c in comparisons]
        known = [self.table.get((c.first.text, c.second.text)) for c in comparisons]
        return [
            Preference(
                comparison_id=c.id, source=self.name, p_first=p, problem=None if p is not None else Problem.TIMEOUT
            )
            for c, p in zip(comparisons, known, strict=True)
        ]


def test_a_rank_by_hand() -> None:
    """Of two answers the fitted chance is the judge's 0.8: values 0.6 and −0.6. With A twice, A ties with itself:
    (0.5 + 0.8)/2 = 0.65 → 0.3 for each, and B has 0.2 → −0.6; the values of a prompt add up to 0."""
    judge = PairJudge({("A", "B"): 0.8})
    reward = rewards.judge_rank(RankScorer(judge))
    assert reward(["p", "p"], ["A", "B"]) == pytest.approx([0.6, -0.6], abs=0.01)
    assert reward(["p"] * 3, ["A", "B", "A"]) == pytest.approx([0.3, -0.6, 0.3], abs=0.01)
    assert judge.asked == [("A", "B")] * 2


def test_a_rank_without_doubt_is_the_normalised_rank() -> None:
    order = "DBAC"  # best first
    judge = PairJudge({(a, b): float(order.index(a) < order.index(b)) for a in order for b in order if a != b})
    values = rewards.judge_rank(RankScorer(judge))(["p"] * 4, list("ABCD"))
    # 2·(4 − rank)/3 − 1 for the ranks 3, 2, 4, 1
    assert values == pytest.approx([-1 / 3, 1 / 3, -1.0, 1.0], abs=0.02)


def test_ranks_that_are_not_known() -> None:
    """One answer alone, and a prompt whose judgements do not connect its answers; the others keep theirs."""
    reward = rewards.judge_rank(RankScorer(PairJudge({("A", "B"): 0.8, ("C", "D"): 0.7})))
    values = reward(["p", "p", "q", "q", "q", "r"], ["A", "B", "C", "D", "E", "F"])
    assert values[:2] == pytest.approx([0.6, -0.6], abs=0.01)
    assert values[2:] == [None] * 4
    assert reward(["p", "p"], ["A", "A"]) == [0.0, 0.0]  # equal answers tie; no question is needed
    mixed = mix([(reward, 1.0), (fixed(0.5, 0.5, 0.5), 1.0)])
    values = mixed(["p", "p", "r"], ["A", "B", "F"])
    assert values[:2] == pytest.approx([1.1, -0.1], abs=0.01)
    assert values[2] is None


def test_settings_of_a_rank() -> None:
    ranked = RewardSpec.model_validate({"judge": "fake:longer", "rank": "all"})
    assert ranked.judge is not None
    assert ranked.judge.by == "pairs"
    assert ranked.calls(4) == 6 * 2  # all pairs in both orders
    assert ranked.model_copy(update={"rank": "tournament", "rounds": 1}).calls(4) == 4 * 2
    for wrong in (
        {"source": "rm:DIR", "rank": "all"},
        {"judge": "fake:longer", "rank": "all", "against_reference": True},
    ):
        with pytest.raises(ValueError, match="rank: only a judge ranks"):
            RewardSpec.model_validate(wrong)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"train": {"samples_per_prompt": 1}}, "samples_per_prompt to 2"),
        ({"train": {"samples_per_prompt": 4, "zscore_samples": 8}}, "not z-scored"),
        (
            {"train": {"samples_per_prompt": 4, "evaluate_every": 1},
             "monitor": {"prompts": "p.jsonl", "judge": "fake:noisy", "stop_when_gamed": True}},
            "nothing can stop or choose",
        ),
    ],
)  # fmt: skip
def test_a_rank_refuses_what_needs_single_responses(settings: dict[str, Any], problem: str) -> None:
    reward = {"mix": [{"judge": "fake:longer", "rank": "all"}]}
    step = Rl.model_validate({"model": "hf:x", "prompts": "p.jsonl", "reward": reward, **settings})
    assert [found for found in step.problems() if problem in found]


def test_a_rank_trains_and_its_log_has_mean_zero(tmp_path: Path) -> None:
    save_llama(tmp_path / "start")
    prompts = [Prompt.of(f"w{i} w1 w2") for i in range(4)]
    step = Rl.model_validate(
        {
            "model": f"hf:{tmp_path / 'start'}",
            "prompts": "p.jsonl",
            "reward": {"judge": "fake:longer", "rank": "tournament"},
            "train": {"steps": 2, "prompts_per_step": 2, "samples_per_prompt": 3, "max_new_tokens": 4},
        }
    )
    learned = step.learn(prompts, Context(tmp_path, tmp_path), tmp_path / "policy")
    lines = [json.loads(x) for x in (tmp_path / "policy" / "training" / "metrics.jsonl").read_text().splitlines()]
    assert [line["reward"] for line in lines] == pytest.approx([0.0, 0.0], abs=1e-6)
    assert learned.reward == "judge fake:longer helpful-detailed rank, tournament of 2 rounds"
