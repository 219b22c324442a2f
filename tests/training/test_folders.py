"""Model folders: what is wrong with one is said with its name; padding is never EOS; heads come from the seed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from tiny import save_tokenizer

from aifeedback.errors import ModelError
from aifeedback.training import folders


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    for load in (folders.load_tokenizer, folders.load_policy, lambda f: folders.load_scorer(f, seed=0)):
        with pytest.raises(ModelError, match="no such model folder"):
            load(tmp_path / "nowhere")
        with pytest.raises(ModelError, match=r"no config\.json"):
            load(tmp_path)


def test_a_folder_without_a_tokenizer(llama: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        shutil.copy(llama / name, tmp_path / name)
    with pytest.raises(ModelError, match=f"{tmp_path}: no tokenizer"):
        folders.load_tokenizer(tmp_path)


def test_a_language_model_is_not_a_reward_model(llama: Path) -> None:
    with pytest.raises(ModelError, match="language model, not a reward model"):
        folders.load_scorer(llama, seed=None)


def test_a_new_head_comes_from_the_seed_alone(llama: Path) -> None:
    torch.manual_seed(0)
    first = folders.load_scorer(llama, seed=5).score.weight
    torch.manual_seed(1)
    second = folders.load_scorer(llama, seed=5).score.weight
    assert torch.equal(first, second)
    assert not torch.equal(first, folders.load_scorer(llama, seed=6).score.weight)


def test_padding_is_another_token_than_eos(llama: Path, tmp_path: Path) -> None:
    save_tokenizer(tmp_path, pad_is_eos=True)
    shutil.copy(llama / "config.json", tmp_path / "config.json")
    tokenizer = folders.load_tokenizer(tmp_path)
    model = folders.load_scorer(llama, seed=0)
    folders.set_pad_token(tokenizer, model)
    assert tokenizer.pad_token == "<unk>"
    assert model.config.pad_token_id == tokenizer.pad_token_id != tokenizer.eos_token_id


def test_a_tokenizer_with_one_special_token_gets_a_new_one(llama: Path, tmp_path: Path) -> None:
    save_tokenizer(tmp_path, pad_is_eos=True)
    shutil.copy(llama / "config.json", tmp_path / "config.json")
    tokenizer = folders.load_tokenizer(tmp_path)
    tokenizer.unk_token = tokenizer.bos_token = tokenizer.eos_token
    model = folders.load_scorer(llama, seed=0)
    folders.set_pad_token(tokenizer, model)
    assert tokenizer.pad_token == folders.PAD_TOKEN
    assert model.get_input_embeddings().num_embeddings > tokenizer.pad_token_id


def test_weights_digest_sees_weights(llama: Path, tmp_path: Path) -> None:
    shutil.copytree(llama, tmp_path / "copy")
    assert folders.weights_digest(llama) == folders.weights_digest(tmp_path / "copy")
    with (tmp_path / "copy" / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x01")
    assert folders.weights_digest(llama) != folders.weights_digest(tmp_path / "copy")
