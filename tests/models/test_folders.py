"""A folder is loaded as what it is: no weight is drawn at random in silence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aifeedback.errors import ModelError
from aifeedback.models.folders import check_is_generator, check_weights


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ("Qwen2ForSequenceClassification", "rm:"),
        ("LlamaForRewardModel", "rm:"),
        ("GPT2ForTokenClassification", "rm:"),
        ("BertForMaskedLM", "does not write text"),
    ],
)
def test_other_kinds_of_model_are_refused_as_language_models(architecture: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": [architecture]}))
    with pytest.raises(ModelError, match=message):
        check_is_generator(tmp_path)


@pytest.mark.parametrize("config", ['{"architectures": ["Qwen2ForCausalLM"]}', "{}", "[]", "broken"])
def test_the_others_are_left_to_the_loader(config: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(config)
    check_is_generator(tmp_path)


def test_missing_and_reshaped_weights_are_named(tmp_path: Path) -> None:
    check_weights(tmp_path, {"missing_keys": [], "mismatched_keys": []})
    with pytest.raises(ModelError, match=r"lm_head\.weight"):
        check_weights(tmp_path, {"missing_keys": {"lm_head.weight"}})
    with pytest.raises(ModelError, match=r"another shape.*wte"):
        check_weights(tmp_path, {"mismatched_keys": [("wte", (1, 2), (2, 1))]})


def test_a_saved_reward_model_and_a_folder_without_a_layer_are_refused_by_both_loaders(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForSequenceClassification

    from aifeedback.models.local import load
    from aifeedback.training.folders import load_policy
    from small_models import bpe_llama, llama_config

    policy = bpe_llama(tmp_path / "policy", ["some words to learn"] * 20, vocabulary=300, width=16, layers=1)
    reward = bpe_llama(tmp_path / "reward", ["some words to learn"] * 20, vocabulary=300, width=16, layers=1)
    config = llama_config(300, width=16, layers=1, num_labels=1)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(reward)
    weights = load_file(policy / "model.safetensors")
    lacking = next(name for name in weights if "down_proj" in name)
    del weights[lacking]
    save_file(weights, policy / "model.safetensors", metadata={"format": "pt"})
    for folder, message in ((reward, "rm:"), (policy, "down_proj")):
        for loader in (load, load_policy):
            with pytest.raises(ModelError, match=message):
                loader(str(folder))
