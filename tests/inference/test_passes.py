"""Shared prefixes against one sequence at a time, on every architecture; how what cannot share is noticed."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest
import torch
from torch import Tensor

from aifeedback.inference.forward import choose_path, difference, engine_of, last_hidden
from aifeedback.inference.padded import Read
from aifeedback.inference.passes import Engine
from aifeedback.inference.tree_attention import NAME

from .architectures import CONFIGS, FALLBACK, make

PATHS = dict.fromkeys(CONFIGS, "tree") | {"falcon": "mask"} | dict.fromkeys(FALLBACK, "padded")
STATIC, CONTEXTS = 70, 3


def judging(vocabulary: int = 61) -> list[list[int]]:
    """Both orders of two pairs per context under one static prefix, and two strangers."""
    draw = torch.Generator().manual_seed(3)

    def some(n: int) -> list[int]:
        return torch.randint(3, vocabulary, (n,), generator=draw).tolist()

    static, rows = some(STATIC), []
    for _ in range(CONTEXTS):
        context = some(int(torch.randint(5, 30, (1,), generator=draw)))
        for _ in range(2):
            first, second = some(7), some(5)
            rows += [[*static, *context, *first, *second, 4], [*static, *context, *second, *first, 4]]
    return rows


def collected(engine: Engine, rows: list[list[int]], reads: list[Read]) -> Tensor:
    result: dict[int, Tensor] = {}
    engine.read(rows, reads, lambda indices, logits: result.update(zip(indices, logits.clone(), strict=True)))
    assert sorted(result) == list(range(len(reads)))
    return torch.stack([result[i] for i in range(len(reads))])


def one_at_a_time(model: Any, rows: list[list[int]], reads: list[Read]) -> Tensor:
    with torch.inference_mode():
        return torch.stack([model(torch.tensor([rows[i][: p + 1]])).logits[0, -1] for i, p in reads])


@pytest.mark.parametrize("name", PATHS)
def test_equals_one_at_a_time(name: str) -> None:
    """Probabilities to 1e-5, with packs small enough that prefixes are kept, chained and cut."""
    model = make(name)
    assert engine_of(model).path == PATHS[name]
    rows = [*judging(), [5, 6, 7], [9] * 40]
    reads = [(i, len(row) - 1) for i, row in enumerate(rows)] + [(0, 2), (1, STATIC), (2, 90), (0, 2)]
    expected = one_at_a_time(model, rows, reads).softmax(-1)
    for tokens, some in ((4096, rows), (37, rows), (37, judging())):
        wanted = [(i, p) for i, p in reads if i < len(some)]
        result = collected(Engine(model, path=engine_of(model).path, tokens=tokens), some, wanted).softmax(-1)
        keep = [n for n, (i, _) in enumerate(reads) if i < len(some)]
        assert float((result - expected[keep]).abs().max()) < 1e-5


def test_static_prefix_is_computed_once_per_job() -> None:
    model = make("llama")
    engine = Engine(model, path="tree", tokens=64)
    rows = judging()
    reads = [(i, len(row) - 1) for i, row in enumerate(rows)]
    seen: list[int] = []
    hook = model.model.embed_tokens.register_forward_hook(lambda m, inputs, out: seen.append(inputs[0].numel()))
    first = collected(engine, rows, reads)
    in_first, before = sum(seen), len(seen)
    second = collected(engine, rows, reads)
    assert sum(seen[before:]) == in_first - 64  # one chunk of the static prefix
    assert torch.equal(first, second)
    alone = collected(engine, rows[:2], reads[:2])
    hook.remove()
    assert torch.equal(alone, collected(Engine(model, path="tree", tokens=64), rows[:2], reads[:2]))


def test_a_kept_prefix_is_dropped_when_the_weights_change() -> None:
    model = make("llama")
    engine = Engine(model, path="tree", tokens=64)
    rows = judging()
    reads = [(i, len(row) - 1) for i, row in enumerate(rows)]
    collected(engine, rows, reads)
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(1.5)
    result = collected(engine, rows, reads).softmax(-1)
    assert float((result - one_at_a_time(model, rows, reads).softmax(-1)).abs().max()) < 1e-5


def test_a_kept_prefix_is_dropped_when_adapters_are_turned_off_and_on() -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    model = peft.get_peft_model(
        make("llama"), peft.LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    ).eval()
    engine, rows = Engine(model, path="tree", tokens=64), judging()
    reads = [(i, len(row) - 1) for i, row in enumerate(rows)]
    with_adapter = collected(engine, rows, reads)
    with model.disable_adapter():
        result, wanted = collected(engine, rows, reads), one_at_a_time(model, rows, reads)
        assert float((result.softmax(-1) - wanted.softmax(-1)).abs().max()) < 1e-5
    assert torch.equal(with_adapter, collected(engine, rows, reads))
    model.add_adapter("other", peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    model.set_adapter("other")
    result, wanted = collected(engine, rows, reads), one_at_a_time(model, rows, reads)
    assert float((result.softmax(-1) - wanted.softmax(-1)).abs().max()) < 1e-5


def test_same_call_same_bits() -> None:
    model, rows = make("qwen3"), judging()
    reads = [(i, len(row) - 1) for i, row in enumerate(rows)]
    engine = Engine(model, path="tree", tokens=64)
    collected(engine, [[8, 8, 8], *rows[:5]], [(i, 2) for i in range(6)])
    fresh = Engine(model, path="tree", tokens=64)
    assert torch.equal(collected(engine, rows, reads), collected(fresh, rows, reads))


@pytest.mark.parametrize("name", FALLBACK)
def test_what_cannot_share_runs_padded_and_says_so_once(name: str, caplog: pytest.LogCaptureFixture) -> None:
    model = make(name)
    with caplog.at_level(logging.WARNING):
        assert engine_of(model).path == engine_of(model).path == "padded"
    assert len([r for r in caplog.records if "cannot share prefixes" in r.message]) == 1


def test_a_wrong_mask_is_noticed_by_its_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """LFM2 claims support for masks and gives other numbers: found without trusting what it calls its layers."""
    monkeypatch.setattr("aifeedback.inference.forward.KNOWN_LAYERS", {"full_attention", "conv"})
    assert "logits differ" in (difference(make("lfm2"), "tree") or "")
    assert choose_path(make("lfm2")) == "padded"


def test_a_short_window_is_tried() -> None:
    """With the mask way a window is not seen, and that is noticed."""
    assert "logits differ" in (difference(make("mistral_sliding"), "mask") or "")


def test_the_models_own_attention_is_back_afterwards() -> None:
    model = make("llama")
    before = model.config._attn_implementation
    collected(Engine(model, path="tree"), [[3, 4, 5]], [(0, 2)])
    assert model.config._attn_implementation == before


@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_lengths_at_which_rotary_frequencies_change_are_kept_apart(kind: str) -> None:
    model = make("phi3")
    model.config.rope_parameters = {"rope_type": kind, "original_max_position_embeddings": 32}
    model.config.max_position_embeddings = 32
    engine = Engine(model, path="tree")
    assert engine.path_for(32) == "tree"
    assert engine.path_for(33) == "padded"


def test_threads_take_turns_at_a_model_and_leave_it_as_it_was() -> None:
    model = make("llama")
    before = {name: dict(vars(m)) for name, m in model.named_modules()}
    rows = [[5, 6, 7, 8, 9, 1], [5, 6, 7, 8, 9, 2], [4, 4]]
    wanted, answers = last_hidden(model, rows, grad=False), []

    def ask() -> None:
        answers.extend(last_hidden(model, rows, grad=False) for _ in range(40))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 160
    assert all(torch.equal(result, wanted) for result in answers)
    assert model.config._attn_implementation != NAME
    assert before == {name: dict(vars(m)) for name, m in model.named_modules()}
