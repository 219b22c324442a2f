"""What a run holds in memory: recomputed layers, bf16 weights with their missing bits, one copy of the base."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from test_policy_gradient import evens, metrics, settings, some_prompts
from tiny import made_answers, made_pairs
from torch import Tensor

from aifeedback.inference.forward import engine_of
from aifeedback.training import dpo, folders
from aifeedback.training.examples import Order, encode_sft
from aifeedback.training.objective import Share
from aifeedback.training.optim import Adafactor, SplitWeights, joined, split
from aifeedback.training.policy_gradient import train_rl
from aifeedback.training.reward_model import fit_reward_model
from aifeedback.training.settings import DpoConfig, LoraSettings, RewardModelConfig, RLConfig, SftConfig
from aifeedback.training.sft import SftObjective, train_sft
from aifeedback.types import Preference

FAST: dict[str, Any] = {"batch": 6, "steps": 2, "optimizer": "adamw", "learning_rate": 3e-3}
LORA = LoraSettings(rank=2, alpha=4)


def sft(model: Path, out: Path, **more: Any) -> Any:
    return train_sft(model, made_answers(12), SftConfig(**{**FAST, **more}), out)


def direct(model: Path, out: Path, **more: Any) -> Any:
    return dpo.train_dpo(model, made_pairs(12), DpoConfig(**{**FAST, **more}), out)


def reward(model: Path, out: Path, **more: Any) -> Any:
    return fit_reward_model(model, made_pairs(12), RewardModelConfig(**{**FAST, **more}), out)


def rl(model: Path, out: Path, **more: Any) -> Any:
    return train_rl(model, some_prompts(), evens, settings(**{"steps": 2, "prompts_per_step": 2, **more}), out)


@pytest.mark.parametrize("train", [sft, direct, reward, rl])
def test_recomputed_layers_change_no_bit(train: Any, llama: Path, tmp_path: Path) -> None:
    train(llama, tmp_path / "kept")
    train(llama, tmp_path / "again", gradient_checkpointing=True)
    assert metrics(tmp_path / "kept") == metrics(tmp_path / "again")
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("kept", "again"))
    assert one == two


@pytest.mark.parametrize("more", [{"samples_per_prompt": 1}, {"lora": LORA}], ids=["value", "adapters"])
def test_recomputed_layers_of_a_value_network_and_of_adapters(
    more: dict[str, Any], llama: Path, tmp_path: Path
) -> None:
    rl(llama, tmp_path / "kept", **more)
    rl(llama, tmp_path / "again", gradient_checkpointing=True, **more)
    assert metrics(tmp_path / "kept") == metrics(tmp_path / "again")


@pytest.mark.parametrize("path", ["tree", "padded"])
def test_recomputing_keeps_less_for_the_backward_pass(path: Any, llama: Path) -> None:
    model = folders.load_policy(llama).eval()
    rows, _ = encode_sft(folders.load_tokenizer(llama), made_answers(12))
    objective = SftObjective(model, rows, order=Order(12, batch=12, seed=0), forward_tokens=999, share=Share(0, 1))
    engine_of(model).path = path
    held: dict[bool, int] = {}
    gradients: dict[bool, list[Tensor]] = {}
    for recomputes in (False, True):
        engine_of(model).recomputes = recomputes
        kept: dict[int, int] = {}

        def note(tensor: Tensor, kept: dict[int, int] = kept) -> Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            (micro,) = objective.plan(1).micro
            loss = objective(micro).total
        weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        held[recomputes] = sum(size for at, size in kept.items() if at not in weights)
        objective.zero_grad()
        loss.backward()
        gradients[recomputes] = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    assert held[True] < 0.6 * held[False]
    assert all(torch.equal(a, b) for a, b in zip(*gradients.values(), strict=True))


def test_an_fp32_weight_is_a_bf16_weight_and_sixteen_bits() -> None:
    draw = torch.Generator().manual_seed(0)
    values = torch.cat([torch.randn(999, generator=draw), torch.tensor([0.0, -0.0, 1e-39, -3e38, 1.00390625, 1e-8])])
    high, low = split(values)
    assert torch.equal(joined(high, {"low": low}), values)
    assert torch.equal(joined(values.bfloat16(), {}), values.bfloat16().float())
    near = (high.float() - values).abs() <= (values.bfloat16().float() - values).abs()
    assert near.all(), "the upper half is the nearest bf16 value"


@pytest.mark.parametrize("kind", ["adamw", "adafactor"])
def test_split_weights_move_as_fp32_weights_do(kind: str) -> None:
    """Forty steps of 1e-5 from one: each is far below the 2^-8 that bf16 resolves, together they count."""
    draw = torch.Generator().manual_seed(0)
    start = torch.ones(6, 4).bfloat16()
    half, full = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.float())
    mine = SplitWeights([{"params": [half], "weight_decay": 0.1}], lr=1e-5, kind=kind)
    groups = [{"params": [full], "weight_decay": 0.1}]
    theirs = torch.optim.AdamW(groups, lr=1e-5, eps=1e-8) if kind == "adamw" else Adafactor(groups, lr=1e-5)
    for _ in range(40):
        gradient = torch.randn(6, 4, generator=draw).bfloat16() + 2
        half.grad, full.grad = gradient, gradient.float()
        mine.step()
        theirs.step()
    torch.testing.assert_close(joined(half, mine.state[half]), full.detach(), rtol=0, atol=1e-7)
    assert not torch.equal(full.detach(), start.float())
    held = {name: value.dtype for name, value in mine.state[half].items() if isinstance(value, Tensor)}
    assert held.pop("low") == torch.int16
    assert set(held.values()) == {torch.float32}


@pytest.mark.parametrize("train", [sft, direct, reward, rl])
def test_bf16_weights_are_saved_in_full(train: Any, llama: Path, tmp_path: Path) -> None:
    """Close to the run in fp32, saved in the precision of the base, with more bits than bf16 has."""
    train(llama, tmp_path / "half", weights="bf16")
    train(llama, tmp_path / "full")
    assert folders.stored_dtype(tmp_path / "half") == torch.float32
    load = folders.load_policy if train is not reward else lambda folder: folders.load_scorer(folder, seed=None)
    half, full = load(tmp_path / "half").state_dict(), load(tmp_path / "full").state_dict()
    assert any(not torch.equal(value, value.bfloat16().float()) for value in half.values())
    gap = max(float((half[name] - full[name]).abs().max()) for name in full)
    assert 0 < gap < 0.05
    one, two = metrics(tmp_path / "half")[0]["loss"], metrics(tmp_path / "full")[0]["loss"]
    assert one == pytest.approx(two, abs=0.05, rel=0.1)


def test_a_bf16_run_resumes_to_the_same_bytes(llama: Path, tmp_path: Path) -> None:
    class Stopped(Exception):
        pass

    def stop(done: int, total: int, figures: Any) -> None:
        if done == 1:
            raise Stopped

    config = SftConfig(**FAST, weights="bf16")
    train_sft(llama, made_answers(12), config, tmp_path / "whole")
    with pytest.raises(Stopped):
        train_sft(llama, made_answers(12), config, tmp_path / "parts", progress=stop)
    train_sft(llama, made_answers(12), config, tmp_path / "parts")
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "parts"))
    assert one == two


@pytest.mark.parametrize("train", [sft, reward])
def test_adapters_on_a_bf16_base_leave_the_base_its_bits(train: Any, llama: Path, tmp_path: Path) -> None:
    train(llama, tmp_path / "out", weights="bf16", lora=LORA)
    before, after = folders.load_policy(llama).state_dict(), folders.load_scorer(tmp_path / "out", seed=0).state_dict()
    assert torch.equal(before["model.embed_tokens.weight"], after["model.embed_tokens.weight"])
    moved = (before["model.layers.0.self_attn.q_proj.weight"] - after["model.layers.0.self_attn.q_proj.weight"]).abs()
    assert 0 < float(moved.max()) < 0.05


def test_bf16_weights_are_not_sharded() -> None:
    with pytest.raises(ValueError, match="bf16 weights cannot be sharded"):
        RLConfig(weights="bf16", shard=True)


def test_adapters_need_no_second_copy_for_the_reference(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run that it is with a reference of its own, up to rounding, without a copy of anything."""
    rl(llama, tmp_path / "two", lora=LORA, steps=3)
    config = settings(steps=3, prompts_per_step=2, lora=LORA)
    frozen = folders.load_policy(llama)
    train_rl(llama, some_prompts(), evens, config, tmp_path / "given", reference=frozen)
    for one, two in zip(metrics(tmp_path / "two"), metrics(tmp_path / "given"), strict=True):
        assert one == pytest.approx(two, rel=1e-3, abs=1e-5)
    assert metrics(tmp_path / "two")[2]["k1_sum"] > 1e-3
    loads: list[Any] = []
    real = folders.load_policy
    monkeypatch.setattr(folders, "load_policy", lambda *a, **k: loads.append(a) or real(*a, **k))
    copied = copy.deepcopy

    def no_model(value: Any, *rest: Any) -> Any:
        assert not isinstance(value, torch.nn.Module), "a second copy"
        return copied(value, *rest)

    monkeypatch.setattr(copy, "deepcopy", no_model)
    rl(llama, tmp_path / "one", lora=LORA)
    assert len(loads) == 1


def test_a_monitor_samples_the_reference_with_the_adapters_off(llama: Path, tmp_path: Path) -> None:
    from aifeedback.training.monitor import HeldOutMonitor
    from aifeedback.training.settings import HeldOutMonitorConfig

    seen: list[list[str]] = []

    class Keeping:
        name = "keeping"

        def label(self, comparisons: Any) -> Any:
            seen.append([c.second.text for c in comparisons])
            return [Preference(comparison_id=c.id, source=self.name, p_first=0.5) for c in comparisons]

    for name, more in (("own", {}), ("given", {"reference": folders.load_policy(llama)})):
        watch = HeldOutMonitor(some_prompts(4), evens, HeldOutMonitorConfig(candidates=0), judge=Keeping())
        config = settings(steps=2, prompts_per_step=2, lora=LORA, evaluate_every=1)
        train_rl(llama, some_prompts(), evens, config, tmp_path / name, hook=watch, **more)
    assert seen[:2] == seen[2:]


def test_dpo_asks_its_start_and_loads_no_reference(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    direct(llama, tmp_path / "before")
    loads: list[Any] = []
    real = folders.load_policy
    monkeypatch.setattr(folders, "load_policy", lambda *a, **k: loads.append(a) or real(*a, **k))
    direct(llama, tmp_path / "own", lora=LORA)
    assert len(loads) == 1
    dpo.train_dpo(llama, made_pairs(12), DpoConfig(**FAST), tmp_path / "other", reference_dir=tmp_path / "before")
    assert len(loads) == 3


@pytest.mark.parametrize("weights", ["fp32", "bf16"])
@pytest.mark.parametrize("optimizer", ["adafactor", "adamw"])
@pytest.mark.parametrize("lora", [None, LORA], ids=["all", "adapters"])
def test_the_forecast_is_what_the_tensors_of_a_step_take(weights: Any, optimizer: Any, lora: Any, llama: Path) -> None:
    from aifeedback.training.memory import shapes_of, state_bytes
    from aifeedback.training.optim import build_optimizer

    config = SftConfig(weights=weights, optimizer=optimizer, lora=lora)
    model = folders.load_policy(llama, dtype=torch.bfloat16 if weights == "bf16" else torch.float32)
    if lora is not None:
        folders.attach(model, lora, seed=0)
    trained = [p for p in model.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.grad = torch.ones_like(parameter)
    optimizer = build_optimizer(model.parameters(), config)
    optimizer.step()
    held = [*model.parameters(), *(p.grad for p in trained)]
    held += [v for state in optimizer.state.values() for v in state.values() if isinstance(v, Tensor) and v.ndim]
    counted = sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in held}.values())
    assert state_bytes(shapes_of(llama), config) == counted


def test_the_forecast_counts_second_models(llama: Path) -> None:
    from aifeedback.training.memory import shapes_of, state_bytes

    shapes = shapes_of(llama)
    one = state_bytes(shapes, SftConfig())
    base = 4 * sum(p.numel() for p in folders.load_policy(llama).parameters())
    assert state_bytes(shapes, RLConfig(samples_per_prompt=2)) == one + base
    assert state_bytes(shapes, RLConfig(samples_per_prompt=2, lora=LORA)) == state_bytes(shapes, SftConfig(lora=LORA))
    assert state_bytes(shapes, RLConfig()) == 2 * one + base


def test_check_and_dry_run_tell_the_memory_of_training(llama: Path, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from aifeedback.cli import app

    (tmp_path / "recipe.yaml").write_text(
        f"name: r\nstages:\n- {{id: a, stage: sft, model: 'hf:{llama}', data: {tmp_path}/rows.jsonl}}\n"
    )
    (tmp_path / "rows.jsonl").write_text('{"prompt": "w1", "completion": "w2"}\n')
    shown = CliRunner().invoke(app, ["check", str(tmp_path / "recipe.yaml")], catch_exceptions=False).output
    assert "training state" in shown
    asked = ["train", "sft", "--model", f"hf:{llama}", "--data", f"{tmp_path}/rows.jsonl", "--dry-run"]
    said = CliRunner().invoke(app, [*asked, "-o", str(tmp_path / "out")]).output
    assert "of weights, gradients and optimizer state" in said
    assert not (tmp_path / "out").exists()
