"""Closeness to a reference text as a measure of policies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from aifeedback.errors import ModelError
from aifeedback.judging.similarity import SimilarityLabeler
from aifeedback.judging.spec import JudgeSpec
from aifeedback.refs import JudgeRef
from aifeedback.types import Comparison, Completion, Problem, Prompt

WORDS = ("cat", "dog", "fish", "bird")


class Counts:
    """Embeds a text as the counts of four words."""

    def embed(self, texts: Sequence[str]) -> NDArray[np.float64]:
        rows = np.array([[text.split().count(word) for word in WORDS] for text in texts], dtype=float)
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def pair(first: str, second: str, reference: str | None) -> Comparison:
    prompt = Prompt.of("Which animals?", reference=reference)
    return Comparison.of(prompt, Completion.of(prompt, first, source="a"), Completion.of(prompt, second, source="b"))


def test_the_closer_response_is_preferred_in_either_order() -> None:
    close, far = "cat dog", "cat fish bird"
    labeler = SimilarityLabeler(Counts(), "similarity:test")
    found = labeler.label([pair(close, far, "cat dog"), pair(far, close, "cat dog")])
    assert [p.p_first for p in found] == [1.0, 0.0]


def test_equal_closeness_is_one_half() -> None:
    (same, mirrored) = SimilarityLabeler(Counts(), "s").label(
        [pair("cat", "cat cat", "cat dog"), pair("cat", "dog", "cat dog")]
    )
    assert (same.p_first, mirrored.p_first) == (0.5, 0.5)


@pytest.mark.parametrize("reference", [None, ""])
def test_without_a_reference_nothing_is_known(reference: str | None) -> None:
    labeler = SimilarityLabeler(Counts(), "s")
    unknown, known = labeler.label([pair("cat", "dog", reference), pair("cat", "dog", "cat")])
    assert (unknown.p_first, unknown.problem) == (None, Problem.MISSING)
    assert known.p_first == 1.0


def test_a_reference_to_an_embedding_model_is_checked_before_it_is_loaded(tmp_path: Path) -> None:
    assert "no such folder" in str(JudgeRef(f"similarity:{tmp_path / 'absent'}").problem())
    assert "config.json is missing" in str(JudgeRef(f"similarity:{tmp_path}").problem())
    assert not JudgeRef(f"similarity:{tmp_path}").is_readable
    assert JudgeSpec.model_validate(f"similarity:{tmp_path}").calls_per_pair == 0


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT of two layers over words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("encoder")
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=12,
    )
    BertModel(config).save_pretrained(folder)
    return folder


def pooled_by(folder: Path, **modes: bool) -> None:
    (folder / "1_Pooling").mkdir(exist_ok=True)
    settings = ", ".join(f'"pooling_mode_{name}": {str(value).lower()}' for name, value in modes.items())
    (folder / "1_Pooling" / "config.json").write_text(f"{{{settings}}}")


def test_vectors_do_not_depend_on_what_shares_the_batch(encoder: Path) -> None:
    from aifeedback.models.embedding import Embedder

    pooled_by(encoder, mean_tokens=True, cls_token=False)
    model = Embedder(encoder)
    together = model.embed(["cat", "cat dog fish bird cat dog", "cat " * 40])
    assert np.allclose(together[:1], model.embed(["cat"]), atol=1e-6)
    assert np.allclose(np.linalg.norm(together, axis=1), 1.0)


def test_the_mean_and_the_first_token_are_different_poolings(encoder: Path) -> None:
    import torch

    from aifeedback.models.embedding import Embedder

    pooled_by(encoder, mean_tokens=False, cls_token=True)
    model = Embedder(encoder)
    with torch.no_grad():
        states = model.model(**model.tokenizer(["cat dog"], return_tensors="pt")).last_hidden_state[0].double()
    assert np.allclose(model.embed(["cat dog"])[0], states[0] / states[0].norm(), atol=1e-6)
    pooled_by(encoder, mean_tokens=True)
    mean = states.mean(0)
    assert np.allclose(Embedder(encoder).embed(["cat dog"])[0], mean / mean.norm(), atol=1e-6)
    pooled_by(encoder, max_tokens=True)
    with pytest.raises(ModelError, match="max_tokens"):
        Embedder(encoder)


def test_a_policy_is_compared_by_closeness_without_model_calls(encoder: Path, tmp_path: Path) -> None:
    from aifeedback.data import write_completions, write_records
    from aifeedback.steps.compare import Compare
    from aifeedback.steps.step import Context

    pooled_by(encoder, mean_tokens=True)
    prompts = [Prompt.of(f"Animals {n}?", reference=f"{one} {other}") for n, (one, other) in enumerate(PAIRS)]
    near = [Completion.of(p, str(p.reference), source="near") for p in prompts]
    far = [Completion.of(p, "fish bird fish", source="far") for p in prompts]
    write_records(tmp_path / "test.jsonl", prompts)
    for name, completions in (("near", near), ("far", far)):
        write_completions(tmp_path / f"{name}.jsonl", prompts, completions)
    step = Compare.model_validate(
        {
            "policies": {"far": str(tmp_path / "far.jsonl"), "near": str(tmp_path / "near.jsonl")},
            "reference": "far",
            "prompts": str(tmp_path / "test.jsonl"),
            "judges": {"measure": f"similarity:{encoder}"},
        }
    )
    figures = step.run(Context(folder=tmp_path / "out", run=tmp_path / "out"))
    won = figures.policies["near"].win_rate
    assert won is not None
    assert (won.value, won.n) == (1.0, len(PAIRS))
    assert figures.judges["measure"].family == "embedding"


PAIRS = [("cat", "dog"), ("dog", "cat"), ("cat", "cat"), ("dog", "dog")]
