"""Any form of reward function trains; one that fails costs nothing that was done."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aifeedback.errors import InputError
from aifeedback.training.policy_gradient import train_rl
from aifeedback.training.rewards import Function, adapted, clip, mix
from aifeedback.training.settings import RLConfig
from aifeedback.types import Prompt

PROMPTS = [Prompt.of(f"w{i} w1 w2", tags={"topic": "t"}) for i in range(4)]
CONFIG: dict[str, Any] = {
    "steps": 3, "prompts_per_step": 2, "samples_per_prompt": 2, "max_new_tokens": 4, "optimizer": "adamw",
    "learning_rate": 1e-3,
}  # fmt: skip


def two_arguments(prompts: list[Any], completions: list[str]) -> list[float]:
    return [float(len(c)) for c in completions]


async def awaited(prompts: list[Any], completions: list[str], **columns: Any) -> list[float]:
    return two_arguments(prompts, completions)


def only_completions(completions: list[str]) -> list[float]:
    return two_arguments([], completions)


def a_tag(completions: list[str], topic: list[str]) -> list[float]:
    return [float(len(c) + len(t) - 1) for c, t in zip(completions, topic, strict=True)]


def conversational(completions: list[Any], **columns: Any) -> list[float]:
    return [float(len(c[0]["content"])) for c in completions]


async def conversational_with_prompts(prompts: list[Any], completions: list[Any]) -> list[float]:
    assert all(p[-1]["role"] == "user" for p in prompts)
    return [float(len(c[-1].get("content"))) for c in completions]


def other_names(questions: list[str], answers: list[str]) -> list[float]:
    return two_arguments(questions, answers)


def an_array(prompts: list[Any], completions: list[str]) -> Any:
    return np.array(two_arguments(prompts, completions))


class Callable:
    async def __call__(self, prompts: list[Any], completions: list[str]) -> list[float]:
        return two_arguments(prompts, completions)


FORMS = [
    two_arguments, awaited, only_completions, a_tag, conversational, conversational_with_prompts, other_names, an_array,
    Callable(), functools.partial(two_arguments), lambda prompts, completions, /: two_arguments(prompts, completions),
]  # fmt: skip


@pytest.fixture(scope="module")
def weights(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    out = tmp_path_factory.mktemp("expected")
    train_rl(llama, PROMPTS, FORMS[0], RLConfig(**CONFIG), out)
    return (out / "model.safetensors").read_bytes()


@pytest.mark.parametrize("reward", FORMS, ids=lambda f: getattr(f, "__name__", type(f).__name__))
def test_every_form_trains_alike(reward: Any, llama: Path, weights: bytes, tmp_path: Path) -> None:
    train_rl(llama, PROMPTS, reward, RLConfig(**CONFIG), tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == weights


def test_forms_hold_inside_combinators() -> None:
    reward = clip(mix([(two_arguments, 1.0), (conversational, 2.0)]), low=0, high=100)  # type: ignore[list-item]
    assert reward(["p"], ["four"], topic=["t"]) == [12.0]


def test_a_declared_form_is_not_tried_out() -> None:
    def strict(completions: list[Any]) -> list[float]:
        assert not isinstance(completions[0], str)
        return [1.0]

    strict.conversational = True  # type: ignore[attr-defined]
    assert adapted(strict)(["p"], ["x"]) == [1.0]  # type: ignore[arg-type]


def test_a_mistake_in_a_function_of_texts_is_shown_as_it_is() -> None:
    def wrong(completions: list[str]) -> list[float]:
        return [len(c) + "1" for c in completions]  # type: ignore[operator]

    with pytest.raises(TypeError, match="unsupported operand"):
        adapted(wrong)(["p"], ["x"])  # type: ignore[arg-type]


@pytest.mark.parametrize("where", ["new", "with something in it"])
def test_what_a_function_lacks_is_named_before_anything_is_made(where: str, llama: Path, tmp_path: Path) -> None:
    def needs(completions: list[str], answer: list[str]) -> list[float]:
        return [1.0] * len(completions)

    out = tmp_path / "out"
    if where != "new":
        out.mkdir()
        (out / "mine.txt").write_text("x")
    with pytest.raises(InputError, match="needs answer, which"):
        train_rl(llama, PROMPTS, needs, RLConfig(**CONFIG), out)  # type: ignore[arg-type]
    assert Function(needs, "r").required == {"answer"}
    assert out.exists() == (where != "new")


def test_a_reward_that_fails_at_once_leaves_no_folder(llama: Path, tmp_path: Path) -> None:
    def broken(prompts: Any, completions: Any) -> list[float]:
        raise RuntimeError("no judge")

    with pytest.raises(RuntimeError, match="no judge"):
        train_rl(llama, PROMPTS, broken, RLConfig(**CONFIG), tmp_path / "new")  # type: ignore[arg-type]
    assert not (tmp_path / "new").exists()
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "mine.txt").write_text("x")
    with pytest.raises(RuntimeError):
        train_rl(llama, PROMPTS, broken, RLConfig(**CONFIG), tmp_path / "kept")  # type: ignore[arg-type]
    assert [f.name for f in (tmp_path / "kept").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("baseline", ["value", "leave_one_out", "running_mean"])
@pytest.mark.parametrize("failing_call", [2, 3, 5])
def test_a_reward_that_fails_keeps_the_steps_made(
    baseline: Any, failing_call: int, llama: Path, tmp_path: Path
) -> None:
    """The same call resumes after them, to the same bytes; checkpoints are every 100 steps here."""
    config = RLConfig(**{**CONFIG, "steps": 6, "baseline": baseline, "zscore_samples": 4})
    calls = 0

    def failing(prompts: Any, completions: Sequence[str]) -> list[float]:
        nonlocal calls
        calls += 1
        if calls == failing_call:
            raise ConnectionError("gone")
        return two_arguments(prompts, list(completions))

    train_rl(llama, PROMPTS, two_arguments, config, tmp_path / "whole", reward_name="r")  # type: ignore[arg-type]
    with pytest.raises(ConnectionError):
        train_rl(llama, PROMPTS, failing, config, tmp_path / "pieces", reward_name="r")  # type: ignore[arg-type]
    result = train_rl(llama, PROMPTS, failing, config, tmp_path / "pieces", reward_name="r")  # type: ignore[arg-type]
    assert result.steps == 6
    assert calls == 7 + 1 + (failing_call == 2)  # the z-score is measured again only if no step was made with it
    for name in ("model.safetensors", "training/metrics.jsonl"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "pieces" / name).read_bytes()


def test_an_evaluation_that_fails_is_made_again(llama: Path, tmp_path: Path) -> None:
    """Weights have moved by then: the resumed run evaluates them before it goes on."""
    config, calls = RLConfig(**{**CONFIG, "steps": 4, "evaluate_every": 2}), [0]

    def hook(step: int, policy: Any) -> dict[str, float]:
        calls[0] += 1
        if calls[0] == 1:
            raise ConnectionError("gone")
        return {"heldout": float(step)}

    train_rl(llama, PROMPTS, two_arguments, config, tmp_path / "whole", hook=lambda step, _: {"heldout": float(step)})  # type: ignore[arg-type]
    with pytest.raises(ConnectionError):
        train_rl(llama, PROMPTS, two_arguments, config, tmp_path / "pieces", hook=hook)  # type: ignore[arg-type]
    train_rl(llama, PROMPTS, two_arguments, config, tmp_path / "pieces", hook=hook)  # type: ignore[arg-type]
    for name in ("model.safetensors", "training/metrics.jsonl"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "pieces" / name).read_bytes()
