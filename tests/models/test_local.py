"""Local models: what ``connect`` makes of a folder, readings, replies, and what is told when a folder is unusable."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from aifeedback.errors import ModelError
from aifeedback.models import connect
from aifeedback.models.local import LocalModel
from aifeedback.types import Message, Model, Problem, Sampling

WORDS = ["<unk>", "</s>", *"Which is better ? = 1 2 10 red blue cat dog".split()]


def tokenizer() -> PreTrainedTokenizerFast:
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Sequence(  # type: ignore[attr-defined]
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split("=", "isolated")]
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", eos_token="</s>")


def tiny(**settings: Any) -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(
        vocab_size=len(WORDS), max_position_embeddings=32, bos_token_id=None, eos_token_id=1, **sizes, **settings
    )
    return LlamaForCausalLM(config)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    tiny().save_pretrained(path)
    tokenizer().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def judge(folder: Path) -> LocalModel:
    model = connect(f"hf:{folder}")
    assert isinstance(model, LocalModel)
    return model


def test_label_logprobs_are_those_of_transformers(folder: Path, judge: LocalModel) -> None:
    prompts = ["Which is better ? red blue =", "Which is better ? cat dog ="]
    found = judge.label_logprobs(prompts, ["1", "2"])
    plain = AutoModelForCausalLM.from_pretrained(folder)
    ids = [[WORDS.index(w) for w in p.split()] for p in prompts]
    with torch.no_grad():
        expected = [plain(torch.tensor([row])).logits[0, -1].log_softmax(-1)[[7, 8]].tolist() for row in ids]
    assert (WORDS[7], WORDS[8]) == ("1", "2")
    assert found.shape == (2, 2)
    assert found.dtype == np.float64
    assert np.abs(found - np.array(expected)).max() < 1e-5


def test_readings_carry_coverage_and_are_never_cut(judge: LocalModel) -> None:
    assert isinstance(judge, Model)
    fits, too_long, empty = judge.read_labels(["red =", "cat " * 33, ""], ["1", "2"])
    assert fits.logprobs[0] is not None
    assert fits.coverage == pytest.approx(sum(np.exp(p) for p in fits.logprobs if p is not None))
    assert fits.prompt_tokens == 2
    assert (too_long.problem, too_long.logprobs, too_long.prompt_tokens) == (Problem.TOO_LONG, (None, None), 33)
    assert empty.problem == Problem.EMPTY
    assert np.isnan(judge.label_logprobs(["cat " * 33], ["1", "2"])).all()
    assert judge.label_logprobs([], ["1", "2"]).shape == (0, 2)


def test_a_full_window_is_still_read(judge: LocalModel) -> None:
    assert not np.isnan(judge.label_logprobs(["cat " * 32], ["1"])).any()


def test_message_lists(judge: LocalModel) -> None:
    messages = [Message(role="user", content="Which is better ?"), Message(role="assistant", content=" =")]
    as_text = judge.label_logprobs(["Which is better ? ="], ["1", "2"])
    assert judge.label_logprobs([messages], ["1", "2"]) == pytest.approx(as_text)


def test_card(folder: Path, judge: LocalModel, tmp_path: Path) -> None:
    card = judge.card
    assert (card.uri, card.family, card.context_window) == (f"hf:{folder}", "llama", 32)
    assert card.parameters == sum(p.numel() for p in judge.model.parameters())
    copy = shutil.copytree(folder, tmp_path / "copy")
    assert connect(f"hf:{copy}").card.revision == card.revision
    (copy / "tokenizer_config.json").write_text((copy / "tokenizer_config.json").read_text() + "\n")
    assert connect(f"hf:{copy}").card.revision != card.revision


def test_family_of_a_trained_model() -> None:
    model = LocalModel(tiny(aifeedback_family="lab-judge"), tokenizer(), uri="hf:policy")
    assert model.card.family == "lab-judge"


def test_a_policy_in_training_has_a_new_revision_after_every_step() -> None:
    model = LocalModel(tiny(), tokenizer(), uri="hf:policy")
    before, same = model.card, model.card
    with torch.no_grad():
        model.model.lm_head.weight.add_(0.1)
    assert before == same
    assert model.card.revision != before.revision
    assert LocalModel(tiny(), tokenizer(), uri="hf:policy").card == before


def test_reading_leaves_training_mode_alone() -> None:
    model = LocalModel(tiny(attention_dropout=0.5).train(), tokenizer(), uri="hf:policy")
    first = model.label_logprobs(["red ="], ["1"])
    assert model.model.training
    assert first == model.label_logprobs(["red ="], ["1"])


def test_replies_depend_on_seed_and_prompt_only(judge: LocalModel) -> None:
    prompts = ["Which is better ?", "red", "blue cat"]
    sampling = Sampling(max_new_tokens=6, seed=1)
    together = judge.reply(prompts, sampling)
    assert together == judge.reply(prompts, sampling)
    assert [r.text for r in together] == [judge.reply([p], sampling)[0].text for p in prompts]
    texts = [judge.reply(prompts, Sampling(max_new_tokens=6, seed=s))[0].text for s in range(6)]
    assert len(set(texts)) > 1
    for reply in together:
        assert reply.completion_tokens <= 6
        assert reply.finish_reason == ("stop" if reply.completion_tokens < 6 else reply.finish_reason)


def test_reply_stops_before_a_stop_string(judge: LocalModel) -> None:
    greedy = Sampling(temperature=0, max_new_tokens=8)
    free = judge.reply(["red"], greedy)[0].text
    second = free.split()[1]
    stopped = judge.reply(["red"], greedy.model_copy(update={"stop": (f" {second}",)}))[0]
    assert (stopped.text, stopped.finish_reason) == (free.split()[0], "stop")


def test_reply_that_does_not_fit(judge: LocalModel) -> None:
    fits, too_long = judge.reply(["red", "cat " * 30], Sampling(max_new_tokens=5))
    assert fits.problem is None
    assert (too_long.problem, too_long.text, too_long.finish_reason) == (Problem.TOO_LONG, "", "error")


@pytest.mark.parametrize(
    ("missing", "message"),
    [("config.json", "has no config.json"), ("model.safetensors", "has no weights"), ("tokenizer", "has no tokenizer")],
)
def test_unusable_folders_are_distinguished(folder: Path, tmp_path: Path, missing: str, message: str) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    for path in copy.glob(f"{missing}*"):
        path.unlink()
    with pytest.raises(ModelError, match=message) as told:
        connect(f"hf:{copy}")
    assert str(copy) in str(told.value)
    assert "→" in str(told.value)


def test_uris_that_name_nothing(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such folder"):
        connect(f"hf:{tmp_path}/none")
    with pytest.raises(ModelError, match="no model can be made of 'gpt'"):
        connect("gpt")
    with pytest.raises(ModelError, match="no model can be made of 'hf:'"):
        connect("hf:")
