"""RL keeps a sample of what it rewarded, down to the calls; a repeated step replaces its own lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from aifeedback.models.journal import Entry, Journal
from aifeedback.pipeline.provenance import trace
from aifeedback.training import rewards
from aifeedback.training.rollout import Kept
from aifeedback.types import Completion, Judgement, Preference, Prompt, Score

CALL = "ab" * 8


class Scorer:
    name = "judge"

    def score(self, prompts: Any, completions: Any) -> list[Score]:
        return [Score(completion_id=c.id, judge="judge", value=0.5, expected=7.75, call_id=CALL) for c in completions]


class Labeler:
    name = "judge"

    def label(self, comparisons: Any) -> list[Preference]:
        orders = [
            [Judgement(comparison_id=c.id, judge="judge", shown_swapped=swapped, readout="logprobs", p_first=0.7,
                       call_id=f"{n:015x}{int(swapped)}") for swapped in (False, True)]
            for n, c in enumerate(comparisons)
        ]  # fmt: skip
        return [Preference(comparison_id=c.id, source="judge", p_first=0.7, judgements=tuple(j))
                for c, j in zip(comparisons, orders, strict=True)]  # fmt: skip


def test_rewards_name_the_calls_behind_their_values() -> None:
    single = rewards.judge_score(Scorer())
    assert single(["p", "q"], ["a", "b"]) == [0.5, 0.5]
    assert single.calls == [(CALL,), (CALL,)]
    pair = rewards.against_reference(Labeler())
    pair(["p", "q"], ["a", "b"], reference=["r", None])
    assert pair.calls == [("0" * 15 + "0", "0" * 15 + "1"), ()], "both orders; none without a reference"


def test_combined_rewards_name_the_calls_of_all_their_parts() -> None:
    single, plain = rewards.judge_score(Scorer()), rewards.Reward("length", lambda p, c, **_: [1.0] * len(c))
    for combined in (
        rewards.clip(single, low=-1, high=1),
        rewards.length_penalty(single, per_word=0.1, free_words=1),
        rewards.mix([(single, 1.0), (plain, 0.5)]),
        rewards.panel([single, plain]),
    ):
        combined(["p"], ["a"])
        assert combined.calls == [(CALL,)], combined.name
    plain(["p"], ["a"])
    assert plain.calls == []


def steps(file: Path) -> list[int]:
    return [json.loads(line)["step"] for line in file.read_text().splitlines()]


def test_the_first_samples_of_each_step_are_kept(tmp_path: Path) -> None:
    file, prompts = tmp_path / "training/rollouts.jsonl", [Prompt.of(f"p{n}") for n in range(3)]
    reward = rewards.judge_score(Scorer())
    kept = Kept(file, 2)
    for step in (1, 2, 3):
        values = reward([p.text for p in prompts], ["a", "b", "c"])
        kept.write(step, prompts, ["a", "b", "c"], values, reward)
    assert steps(file) == [1, 1, 2, 2, 3, 3]
    with file.open("a") as torn:
        torn.write('{"step": 4, "pro')
    resumed = Kept(file, 2)
    resumed.write(3, prompts, ["x", "y", "z"], [0.1, None, 0.3], reward)
    assert steps(file) == [1, 1, 2, 2, 3, 3]
    assert json.loads(file.read_text().splitlines()[-1])["reward"] is None
    Kept(None, 2).write(1, prompts, ["a", "b", "c"], [1.0, 1.0, 1.0], reward)
    Kept(tmp_path / "none.jsonl", 0).write(1, prompts, ["a", "b", "c"], [1.0, 1.0, 1.0], reward)
    assert not (tmp_path / "none.jsonl").exists()


def test_show_ends_at_the_reading_behind_the_reward(tmp_path: Path) -> None:
    prompt, reward = Prompt.of("p"), rewards.judge_score(Scorer())
    reward(["p"], ["a text"])
    Kept(tmp_path / "training/rollouts.jsonl", 1).write(1, [prompt], ["a text"], [0.5], reward)
    setting = json.dumps({"card": {"uri": "openai:judge"}, "labels": ["1", "2"]})
    answer = json.dumps({"logprobs": [-0.5, -1.5]})
    with Journal(tmp_path / "journal.sqlite") as journal:
        journal.append([Entry("labels", bytes.fromhex(CALL) + b"\0" * 24, setting, b"h" * 32, "ok", answer)])
    shown = trace(tmp_path, Completion.of(prompt, "a text", source="policy").id)
    assert "reward: 0.5" in shown
    assert "asked: openai:judge" in shown
    assert "'1' -0.5000 (P 0.6065)" in shown
    assert "whose feedback trained" in shown
