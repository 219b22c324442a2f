"""A third-party server (llama.cpp's) serves a trained model; its labels equal the local engine's."""

from __future__ import annotations

import importlib.util
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
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

pytestmark = [
    pytest.mark.server,
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in ("llama_cpp", "gguf", "torch")),
        reason="llama-cpp-python[server] and gguf are not installed: make test-server",
    ),
]
PROMPTS = [
    f"Which of the two responses is better? Question {n}.\nResponse 1 - {'answer ' * (n % 7)}{n}\nResponse 2 - no\n{end}"
    for n, end in enumerate(["Better=", "Better: ", "The better one is ", "Rating:"] * 6)
]
PRECISION = 2e-3
"""Of log-probabilities: llama.cpp computes attention scores and its cache in another order and, in part, width."""


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
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--n_ctx", "512", "--logits_all", "true", "--type_k", "0", "--type_v", "0", "--n_threads", "1"]
    log = (folder / "server.log").open("w")
    server = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "llama_cpp.server",
            "--model",
            str(folder / "model.gguf"),
            "--port",
            str(port),
            "--model_alias",
            "tiny",
            *options,
        ],
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    try:
        _wait_for(f"http://127.0.0.1:{port}/v1/models", server, folder / "server.log")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.kill()
        server.wait()


def _wait_for(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and server.poll() is None:
        try:
            urllib.request.urlopen(address, timeout=2)
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    raise AssertionError(log.read_text()[-3000:])


def server_model(url: str, **options: object) -> ServerModel:
    settings = {"api": "completions", "either_space": False, "top": 400, "concurrency": 2, **options}
    return connect("openai:tiny", base_url=url, **settings)  # type: ignore[return-value]


@pytest.mark.parametrize("labels", [["1", "2"], [" 1", " 2"], ["A", "B"], [str(n) for n in range(1, 11)]])
def test_labels_equal_the_local_engine(labels: list[str], folder: Path, url: str, tmp_path: Path) -> None:
    local = connect(f"hf:{folder}").label_logprobs(PROMPTS, labels)
    with Journal(tmp_path / "journal.sqlite") as journal:
        model = server_model(url)
        judge = Journaled(model, journal)
        served = judge.label_logprobs(PROMPTS, labels)
        model.close()
        assert judge.model.readout == "logprobs"
        assert journal.verify().rows == len(PROMPTS)
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
