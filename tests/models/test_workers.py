"""A local model in several processes: the same answers in the same order, whatever happens to the other processes."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from typing import Any

import pytest

from aifeedback.judging.spec import JudgeSpec, PanelSpec
from aifeedback.models import local
from aifeedback.models.fake import FakeModel
from aifeedback.models.journal import Journal
from aifeedback.models.journaled import Journaled
from aifeedback.models.workers import HELPED_FROM, WorkerPool, _serve
from aifeedback.steps import connect
from aifeedback.steps.label import Label
from aifeedback.steps.score import Score
from aifeedback.steps.step import Context
from aifeedback.types import ModelCard, PromptLike, Sampling

LABELS = ["1", "2"]
BATCHES: list[list[PromptLike]] = [[f"question {b} {n}" for n in range(5)] for b in range(12)]
EXPECTED = [FakeModel("noisy").read_labels(batch, LABELS) for batch in BATCHES]


class Copyable(FakeModel):
    """A fake that other processes can make for themselves."""

    has_chat_template = False
    special_tokens = ()

    def with_threads(self, count: int) -> AbstractContextManager[None]:
        return nullcontext()


def spread(delay_s: float = 0.0, **options: object) -> WorkerPool:
    return WorkerPool(Copyable("noisy", delay_s=delay_s), workers=2, options={"delay_s": delay_s, **options})


def ready(given: WorkerPool) -> WorkerPool:
    """With its other process up and its model loaded."""
    given._running()[0].require(given.card)
    return given


def labels(given: WorkerPool, batches: list[list[PromptLike]] = BATCHES) -> list[list[object]]:
    return [answers for answers, _ in given.each("read_labels", batches, LABELS)]


def test_both_processes_answer_and_the_order_is_that_of_the_batches() -> None:
    with closing(ready(spread(delay_s=0.005))) as both:
        assert labels(both) == EXPECTED
        assert 0 < both.model.calls < 60  # type: ignore[attr-defined]
        replies = [answers for answers, _ in both.each("reply", BATCHES, Sampling(seed=3))]
    assert replies == [FakeModel("noisy").reply(batch, Sampling(seed=3)) for batch in BATCHES]


def test_the_journal_is_the_same_as_with_one_process(tmp_path: Path) -> None:
    prompts = [prompt for batch in BATCHES for prompt in batch]
    said = []
    with closing(ready(spread(delay_s=0.005))) as both:
        for model in (FakeModel("noisy"), both):
            with Journal(tmp_path / f"{len(said)}.sqlite") as journal:
                said.append(Journaled(model, journal, batch=5).read_labels(prompts, LABELS))
                said.append([(row.entry.key, row.entry.answer) for row in journal.rows()])
    assert said[0] == said[2]
    assert said[1] == said[3]


def test_a_short_call_starts_no_process() -> None:
    both = spread()
    assert labels(both, BATCHES[: HELPED_FROM - 1]) == EXPECTED[: HELPED_FROM - 1]
    assert both._others is None
    assert both.read_labels(BATCHES[0], LABELS) == EXPECTED[0]


@pytest.mark.parametrize("when_s", [0.0, 0.06])
def test_a_killed_process_is_reported_and_its_work_is_done_here(
    when_s: float, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(ready(spread(delay_s=0.01))) as both:
        process = both._running()[0].process
        threading.Timer(when_s, process.kill).start()
        with caplog.at_level(logging.WARNING):
            assert labels(both) == EXPECTED
        assert "fake:noisy: a worker process is lost (exit code -9); its questions are asked here" in caplog.text
        caplog.clear()
        assert labels(both) == EXPECTED  # and is not started again
        assert not caplog.text
        assert both._running() == []


@pytest.mark.parametrize(
    ("options", "why"), [({"unknown": 1}, "TypeError"), ({"coverage": 0.5}, "it loaded other weights")]
)
def test_a_process_that_cannot_have_the_same_model_is_not_used(
    options: dict[str, object], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(spread(delay_s=0.02, **options)) as both, caplog.at_level(logging.WARNING):
        assert labels(both, BATCHES * 3) == EXPECTED * 3
        assert why in caplog.text
        assert both.model.calls == 180  # type: ignore[attr-defined]


def test_left_before_the_end_the_other_process_ends_and_a_later_call_starts_one() -> None:
    with closing(ready(spread(delay_s=0.01))) as both:
        process = both._running()[0].process
        with closing(both.each("read_labels", BATCHES, LABELS)) as answers:
            next(answers)
        process.join(5)
        assert process.exitcode == -signal.SIGKILL
        assert labels(ready(both)) == EXPECTED
        assert both._running()[0].process.is_alive()


def test_a_model_that_is_let_go_takes_its_processes_with_it() -> None:
    both = ready(spread())
    process = both._running()[0].process
    del both
    process.join(5)
    assert not process.is_alive()


@pytest.mark.parametrize("ending", [EOFError, ConnectionResetError, BrokenPipeError])
def test_a_process_whose_parent_is_gone_ends_without_a_word(
    ending: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Pipe:
        def send(self, answer: object) -> None:
            if not isinstance(answer, ModelCard):
                raise BrokenPipeError

        def recv(self) -> object:
            raise ending

    monkeypatch.setattr(os, "environ", dict(os.environ))
    before = signal.getsignal(signal.SIGINT)
    try:
        _serve(Pipe(), "fake:noisy", {}, 1)
    finally:
        signal.signal(signal.SIGINT, before)


QUIET = """
from aifeedback.models import connect
from aifeedback.models.workers import WorkerPool
both = WorkerPool(connect("lab:judge-xs"), workers=2)
both._running()[0].require(both.card)
print(len(list(both.each("read_labels", [[f"question {n}"] for n in range(8)], ["1", "2"]))))
"""


def test_a_run_that_ends_says_nothing_of_its_processes() -> None:
    ended = subprocess.run([sys.executable, "-c", QUIET], capture_output=True, text=True, timeout=100, check=True)
    assert ended.stdout == "8\n"
    assert "leaked" not in ended.stderr


RUN = """
import sys
sys.path.insert(0, sys.argv[2])
from aifeedback.models.journaled import Journaled
from aifeedback.models.journal import Journal
from models.test_workers import BATCHES, LABELS, ready, spread
both = ready(spread(delay_s=0.02))
print(both._running()[0].process.pid, flush=True)
Journaled(both, Journal(sys.argv[1]), batch=5).read_labels([p for batch in BATCHES for p in batch], LABELS)
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_run_leaves_no_process_behind_and_resumes(how: signal.Signals, tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    tests = str(Path(__file__).parents[1])
    run = subprocess.Popen(
        [sys.executable, "-c", RUN, str(path), tests],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert run.stdout is not None
    other = int(run.stdout.readline())
    until(lambda: path.exists() and rows(path) >= 5)
    if how is signal.SIGINT:
        os.killpg(run.pid, how)  # as a terminal does: to every process
    else:
        os.kill(run.pid, how)
    _, told = run.communicate(timeout=60)
    assert run.returncode in (-how, 1)
    assert told.count("Traceback") == (how is signal.SIGINT)  # this one's own; the other process says nothing
    until(lambda: not is_alive(other))
    prompts = [prompt for batch in BATCHES for prompt in batch]
    with Journal(path) as journal:
        kept = journal.verify().rows
        assert 5 <= kept < 60
        model = FakeModel("noisy")
        said = Journaled(model, journal, batch=5).read_labels(prompts, LABELS)
        assert model.calls == 60 - kept
    assert [r.logprobs for r in said] == [r.logprobs for batch in EXPECTED for r in batch]


def until(is_so: object, wait_s: float = 15.0) -> None:
    end = time.monotonic() + wait_s
    while not is_so():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.02)


def rows(path: Path) -> int:
    with Journal(path) as journal:
        return journal.head().rows


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_a_real_model_gives_the_same_bits_in_two_processes(tmp_path: Path) -> None:
    """Also through the names of the command line; batches of two, so that the other process takes some."""
    prompts = [f"post : {word} . summary 1 : a . summary 2 : b . preferred summary =" for word in "abcdefghijklmnop"]
    one = connect.connect_model("lab:judge", Context(tmp_path, tmp_path, journal_name="one.sqlite"))
    two = connect.connect_model("lab:judge", Context(tmp_path, tmp_path, journal_name="two.sqlite", workers=2))
    assert isinstance(two, Journaled)
    assert isinstance(two.model, WorkerPool)
    with closing(ready(two.model)):
        one.batch = two.batch = 2  # type: ignore[attr-defined]
        assert two.read_labels(prompts, LABELS) == one.read_labels(prompts, LABELS)
    connect.release_models()


def test_how_many_processes_suit_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """One per thread, four at most, and copies of weights and 1 GiB in half of the free memory beside the first."""
    model = local.load_lab("judge")
    for threads, free, expected in (
        (1, 1 << 40, 1),
        (2, 1 << 40, 2),
        (64, 1 << 40, 4),
        (64, 1 << 30, 1),
        (64, 6 << 30, 3),
    ):
        monkeypatch.setattr(local.torch, "get_num_threads", lambda threads=threads: threads)
        monkeypatch.setattr(local, "_free_bytes", lambda free=free: free)
        assert model.copies_that_fit() == expected, (threads, free)


def test_label_and_score_ask_enough_at_once_and_leave_the_same_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def each(self: WorkerPool, method: str, batches: Any, how: Any) -> Iterator[Any]:
        calls.append(len(batches))
        yield from ((getattr(self.model, method)(batch, how), 0.0) for batch in batches)

    monkeypatch.setattr(WorkerPool, "each", each)
    pairs, answers = tmp_path / "pairs.jsonl", tmp_path / "answers.jsonl"
    pairs.write_text(
        "".join(json.dumps({"prompt": f"post {n}", "first": "a cat", "second": f"dog {n}"}) + "\n" for n in range(260))
    )
    answers.write_text(
        "".join(json.dumps({"prompt": f"post {n}", "completion": f"dog {n}"}) + "\n" for n in range(260))
    )
    stages = (
        Label(comparisons=str(pairs), judge=JudgeSpec(model="lab:judge-xs", prompt="lab:pairwise")),
        Score(completions=str(answers), judge=JudgeSpec(model="lab:judge-xs", prompt="lab:rating", by="ratings")),
    )
    for workers in (1, 2):
        for stage in stages:
            folder = tmp_path / f"{stage.kind}{workers}"
            folder.mkdir()
            stage.run(Context(folder, folder, workers=workers))
    assert calls == [3, 2]  # 520 readings and 260, in one call each
    for name in ("label/preferences.jsonl", "label/labelled.jsonl", "score/scores.jsonl", "score/scored.jsonl"):
        kind, _, file = name.partition("/")
        one, two = ((tmp_path / f"{kind}{workers}" / file).read_bytes() for workers in (1, 2))
        assert one == two
    connect.release_models()


@pytest.mark.parametrize(("told", "expected"), [(None, 1), (2, 2)])
def test_members_of_a_panel_stay_in_one_process_unless_set_otherwise(
    told: int | None, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    panel = PanelSpec(members=tuple(JudgeSpec(model=f"fake:{name}") for name in ("noisy", "longer")))
    seen: list[int | None] = []

    def connected(_name: str, context: Context, **_options: object) -> FakeModel:
        seen.append(context.workers)
        return FakeModel("noisy" if len(seen) == 1 else "longer")

    monkeypatch.setattr(connect, "connect_model", connected)
    context = Context(tmp_path, tmp_path, workers=told)
    connect.labeler(panel, context)
    assert seen == [expected, expected]
    assert connect.batch_for(panel, context, 256) == 256
