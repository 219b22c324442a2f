"""llama.cpp's server serves a tiny random model; its labels equal the local engine's."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from aifeedback.models import connect
from aifeedback.models.journal import Journal
from aifeedback.models.journaled import Journaled
from aifeedback.models.openai.server import ServerModel
from aifeedback.types import Sampling
from models.gguf_export import export_gguf, make_folder
from models.llama_process import serving

pytestmark = [
    pytest.mark.server,
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in ("xllamacpp", "gguf", "torch")),
        reason="xllamacpp and gguf are not installed: make test-server",
    ),
]
PROMPTS = [
    f"Which of the two responses is better? Question {n}.\nResponse 1 - {'answer ' * (n % 7)}{n}\nResponse 2 - no\n{end}"
    for n, end in enumerate(["Better=", "Better: ", "The better one is ", "Rating:"] * 6)
]
PRECISION = 2e-3
"""Of log-probabilities: llama.cpp computes attention scores and its cache in another order and, in part, width."""


TRIES = 4
"""The server shows no log-probabilities where it draws half a character, as a random model often does; the same
question is then asked again by the next call."""
ONE_SPELLING = (["1", "2"], ["A", "B"])
"""Labels that only one token sequence spells."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    make_folder(folder, seed=1)
    return folder


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    export_gguf(folder, folder / "model.gguf")
    with serving(folder / "model.gguf", folder / "server.log", name="tiny") as address:
        yield address


def server_model(url: str, **options: object) -> ServerModel:
    settings = {"api": "completions", "either_space": False, "top": 400, "concurrency": 2, **options}
    return connect("openai:tiny", base_url=url, **settings)  # type: ignore[return-value]


@pytest.mark.parametrize("labels", [["1", "2"], [" 1", " 2"], ["A", "B"], [str(n) for n in range(1, 11)]])
def test_labels_equal_the_local_engine(labels: list[str], folder: Path, url: str, tmp_path: Path) -> None:
    local = connect(f"hf:{folder}").label_logprobs(PROMPTS, labels)
    with Journal(tmp_path / "journal.sqlite") as journal:
        model = server_model(url)
        judge = Journaled(model, journal)
        for _ in range(TRIES):
            served = judge.label_logprobs(PROMPTS, labels)
            if not np.isnan(served).any():
                break
        model.close()
        assert judge.model.readout == "logprobs"
        assert journal.verify().rows >= len(PROMPTS)
    assert np.isfinite(local).all()
    worst = float(np.nanmax(np.abs(np.exp(served) - np.exp(local))))
    print(
        f"labels {labels}: largest difference of a probability {worst:.1e}, of a log {np.nanmax(np.abs(served - local)):.1e}"
    )
    assert not np.isnan(served).any()
    assert worst < 1e-4
    if labels in ONE_SPELLING:
        assert np.nanmax(np.abs(served - local)) < PRECISION
    # Elsewhere the local engine also counts " " then "1", and "1" then "0", beside the token that spells the label:
    # next to nothing of the probability, but not of the logarithm of a label that hardly occurs.


def test_a_narrow_top_hides_labels_and_says_so(folder: Path, url: str) -> None:
    readings = server_model(url, top=3).read_labels(PROMPTS, ["1", "2"])
    local = connect(f"hf:{folder}").label_logprobs(PROMPTS, ["1", "2"])
    assert any(reading.problem == "label_hidden" for reading in readings)
    for reading, expected in zip(readings, local, strict=True):
        for value, right in zip(reading.logprobs, expected, strict=True):
            assert value is None or abs(value - right) < PRECISION


def test_greedy_replies_equal_the_local_engine(folder: Path, url: str) -> None:
    greedy = Sampling(temperature=0.0, max_new_tokens=8)
    local = connect(f"hf:{folder}").reply(PROMPTS[:6], greedy)
    served = server_model(url).reply(PROMPTS[:6], greedy)
    # llama.cpp's server leaves out bytes that are no UTF-8 by themselves; the local tokenizer shows them as U+FFFD
    same = sum(
        a.text.replace("\ufffd", "").strip() == b.text.replace("\ufffd", "").strip()
        for a, b in zip(local, served, strict=True)
    )
    assert same >= 5, [(a.text, b.text) for a, b in zip(local, served, strict=True)]
    assert all(reply.prompt_tokens > 0 for reply in served)
