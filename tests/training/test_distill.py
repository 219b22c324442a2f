"""On-policy distillation: its expected gradient against enumeration, runs that learn and resume, and what is refused."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from test_policy_gradient import (
    EOS,
    LENGTH,
    PROMPTS,
    TEMPERATURE,
    VOCAB,
    Letters,
    Stopped,
    all_completions,
    logp_of,
    metrics,
    some_prompts,
    tiny_policy,
)
from tiny import save_llama
from torch import Tensor
from typer.testing import CliRunner

from aifeedback.cli import app
from aifeedback.errors import RecipeError
from aifeedback.steps.distill import Distill
from aifeedback.steps.sft import Sft
from aifeedback.training import compute, distill
from aifeedback.training.distill import DistillObjective, Micro, still_to_come, train_distill
from aifeedback.training.folders import load_policy
from aifeedback.training.objective import Share
from aifeedback.training.rollout import EncodedPrompts
from aifeedback.training.settings import DistillConfig
from aifeedback.types import Prompt

PROMPT, TEXT = PROMPTS[0]


def objective_of(policy: Any, teacher: Any, **changes: Any) -> DistillObjective:
    config = DistillConfig(**{"temperature": TEMPERATURE, "prompts_per_step": 1, "max_new_tokens": LENGTH, **changes})
    prompts = EncodedPrompts([Prompt.of(TEXT)], [PROMPT], {})
    return DistillObjective(policy, teacher.requires_grad_(False), Letters(), prompts, config, share=Share(0, 1))


def gradient(objective: DistillObjective, micro: Micro) -> list[Tensor]:
    return list(torch.autograd.grad(objective(micro).total, list(objective.policy.parameters())))


def expected_gradient(objective: DistillObjective) -> list[Tensor]:
    """Σ_y π(y)·(the gradient on the single sample y)."""
    completions = all_completions()
    with torch.no_grad():
        p_B = logp_of(objective.policy, PROMPT, completions).exp()
    parts = [gradient(objective, Micro([PROMPT], [ids], float(p))) for p, ids in zip(p_B, completions, strict=True)]
    return [torch.stack(column).sum(0) for column in zip(*parts, strict=True)]


def next_kl(policy: Any, teacher: Any, ids: list[int]) -> Tensor:
    own, other = (model(torch.tensor([ids])).logits[0, -1] / TEMPERATURE for model in (policy, teacher))
    logp, other = own.log_softmax(-1), other.log_softmax(-1)
    return torch.stack([logp[v].exp() * (logp[v] - other[v]) for v in range(VOCAB)]).sum()


def of_responses(policy: Any, teacher: Any) -> Tensor:
    """KL(π‖π_T) over every response, with the derivative of every π in it."""
    own, other = (logp_of(model, PROMPT, all_completions()) for model in (policy, teacher))
    return (own.exp() * (own - other)).sum()


def of_prefixes(policy: Any, teacher: Any) -> Tensor:
    """Σ over prefixes of P(prefix)·KL of the next token; the probability of a prefix is held fixed."""
    total = torch.zeros((), dtype=torch.float64)
    for length in range(LENGTH):
        for prefix in itertools.product([v for v in range(VOCAB) if v != EOS], repeat=length):
            with torch.no_grad():
                p = logp_of(policy, PROMPT, [list(prefix)])[0].exp() if prefix else 1.0
            total = total + p * next_kl(policy, teacher, [*PROMPT, *prefix])
    return total


@pytest.mark.parametrize(("credit", "exact"), [("response", of_responses), ("token", of_prefixes)])
def test_the_expected_gradient_is_the_exact_one(credit: str, exact: Any) -> None:
    policy, teacher = tiny_policy(1), tiny_policy(2)
    found = expected_gradient(objective_of(policy, teacher, credit=credit))
    value = exact(policy, teacher)
    assert float(value.detach()) == pytest.approx(float(of_responses(policy, teacher).detach()), rel=1e-6)
    for one, two in zip(found, torch.autograd.grad(value, list(policy.parameters())), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)


def test_the_two_kinds_of_credit_differ() -> None:
    policy, teacher = tiny_policy(1), tiny_policy(2)
    one, two = (expected_gradient(objective_of(policy, teacher, credit=credit)) for credit in ("token", "response"))
    assert max(float((a - b).abs().max()) for a, b in zip(one, two, strict=True)) > 1e-2


def test_credit_is_for_what_comes_later_in_the_same_response() -> None:
    assert still_to_come(torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0]), [3, 2]).tolist() == [6.0, 4.0, 0.0, 16.0, 0.0]


@pytest.mark.parametrize("plain", [True, False])
def test_rows_at_a_time_and_whole_logits_give_the_same_gradient(monkeypatch: pytest.MonkeyPatch, plain: bool) -> None:
    """A few rows of logits at a time, and for a model whose logits are no plain product its own logits."""
    policy, teacher = tiny_policy(1), tiny_policy(2)
    objective = objective_of(policy, teacher, credit="response")
    micro = Micro([PROMPT] * 40, all_completions(), 0.5)
    expected = gradient(objective, micro)
    monkeypatch.setattr(distill, "ROWS", 7)
    if not plain:
        monkeypatch.setattr(compute, "plain_head", lambda model: None)
    for one, two in zip(gradient(objective, micro), expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("teacher"), seed=5, layers=1)


QUICK: dict[str, Any] = {
    "prompts_per_step": 4, "samples_per_prompt": 2, "max_new_tokens": 6, "optimizer": "adamw", "learning_rate": 3e-3,
    "checkpoint_every": 1,
}  # fmt: skip


def test_it_learns_and_a_stopped_run_resumes_to_the_same_bytes(llama: Path, teacher: Path, tmp_path: Path) -> None:
    config = DistillConfig(steps=12, forward_tokens=60, **QUICK)

    def interrupt(done: int, total: int, figures: Any) -> None:
        if done in (3, 4):
            raise Stopped

    whole = train_distill(llama, teacher, some_prompts(), config, tmp_path / "whole")
    lines = metrics(tmp_path / "whole")
    assert lines[-1]["kl"] / lines[-1]["length"] < 0.7 * lines[0]["kl"] / lines[0]["length"]
    assert whole.rows == 20
    for _ in range(2):
        with pytest.raises(Stopped):
            train_distill(llama, teacher, some_prompts(), config, tmp_path / "parts", progress=interrupt)
    train_distill(llama, teacher, some_prompts(), config, tmp_path / "parts")
    for name in ("training/metrics.jsonl", "model.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()
    with pytest.raises(RecipeError, match="finished run with other data, model or settings"):
        train_distill(llama, llama, some_prompts(), config, tmp_path / "whole")


def test_the_policy_itself_as_teacher_teaches_nothing(llama: Path, tmp_path: Path) -> None:
    train_distill(llama, llama, some_prompts(), DistillConfig(steps=1, **QUICK), tmp_path)
    assert abs(metrics(tmp_path)[0]["kl"]) < 1e-5


def test_a_teacher_with_other_tokens_is_refused(llama: Path, teacher: Path, tmp_path: Path) -> None:
    other = shutil.copytree(teacher, tmp_path / "other")
    words = json.loads((other / "tokenizer.json").read_text())
    vocabulary = words["model"]["vocab"]
    vocabulary["w1"], vocabulary["w2"] = vocabulary["w2"], vocabulary["w1"]
    (other / "tokenizer.json").write_text(json.dumps(words))
    with pytest.raises(RecipeError, match="another vocabulary"):
        train_distill(llama, other, some_prompts(), DistillConfig(steps=1, **QUICK), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_forecast_of_memory_has_the_teacher_in_it(llama: Path, teacher: Path) -> None:
    own, other = (
        Sft(model=f"hf:{llama}", data="d.jsonl"),
        Distill(model=f"hf:{llama}", teacher=f"hf:{teacher}", prompts="p"),
    )
    count = sum(p.numel() for p in load_policy(teacher).parameters())
    assert other.memory() == (own.memory() or 0) + 4 * count
    assert Distill(model=f"hf:{llama}", teacher="hf:some/hub-id", prompts="p").memory() is None


def test_the_command_writes_a_policy_and_whose_feedback_trained_it(llama: Path, teacher: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": prompt.text}) + "\n" for prompt in some_prompts(6)))
    command = f"train distill --policy hf:{llama} --teacher hf:{teacher} --prompts {prompts} --steps 2 --limit 5"
    command += f" --prompts-per-step 2 --max-new-tokens 4 --credit response -o {tmp_path / 'policy'}"
    done = CliRunner().invoke(app, command.split(), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "policy/figures.json").read_text())["rows"] == 5
    feedback = json.loads((tmp_path / "policy/training/feedback.json").read_text())
    assert [(one["uri"], one["role"], one["rows"]) for one in feedback["trained_by"]] == [
        (f"hf:{teacher}", "reward", 5)
    ]
