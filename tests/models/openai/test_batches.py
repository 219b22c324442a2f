"""Batch APIs: what is submitted, collected, tried again and paid, and that nothing is submitted twice."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aifeedback.errors import BatchPending, JudgeUnavailable, ModelError
from aifeedback.models import connect
from aifeedback.models.journal import Journal
from aifeedback.models.journaled import Journaled
from aifeedback.models.openai.budget import Price, price_of
from aifeedback.models.openai.server import ServerModel
from aifeedback.types import Message, Problem, Sampling
from models.batch_stub import AnthropicStub, OpenAIStub
from models.stub import Request, Response, StubServer, answer, as_json, chat_body, healthy, truth

QUICK: dict[str, Any] = {"backoff_first_s": 0.002, "backoff_most_s": 0.02, "attempt_timeout_s": 2.0}
LABELS = ["1", "2"]
PRICES = """
as_of: "2026-01"
batch: 0.5
models:
  stub: {input: 3.0, output: 15.0}
"""


def ask(text: str) -> list[Message]:
    return [Message(role="user", content=text)]


PROMPTS = [ask(f"item {n}") for n in range(12)]


class Client:
    """What one start of a command has: a model and a journal, in a folder that the next start finds."""

    def __init__(self, url: str, folder: Path, *, uri: str = "openai:stub", **options: Any) -> None:
        self.url, self.folder, self.uri = url, folder, uri
        self.options = {**QUICK, "batch_api": True, "batch_folder": str(folder / "batches"), **options}

    def __call__(self, work: Callable[[Journaled], Any], **options: Any) -> Any:
        given = {**self.options, **options}
        if not given["batch_api"]:
            given.pop("batch_folder")
        model: Any = connect(self.uri, base_url=self.url, **given)
        try:
            with Journal(self.folder / "journal.sqlite") as journal:
                return work(Journaled(model, journal))
        finally:
            model.close()

    def labels(self, **options: Any) -> Any:
        return self(lambda model: model.read_labels(PROMPTS, LABELS), **options)

    def rows(self) -> list[Any]:
        with Journal(self.folder / "journal.sqlite") as journal:
            return [row.entry for row in journal.rows()]

    @property
    def records(self) -> list[Path]:
        return sorted((self.folder / "batches").glob("*.json*"))


@pytest.fixture
def stub() -> OpenAIStub:
    return OpenAIStub(answer)


@pytest.fixture
def client(stub: OpenAIStub, tmp_path: Path) -> Iterator[Client]:
    with StubServer(stub) as server:
        yield Client(server.url, tmp_path)


def test_labels_of_a_batch_are_those_of_single_calls(stub: OpenAIStub, client: Client, tmp_path: Path) -> None:
    with pytest.raises(BatchPending, match=r"12 requests in batch batch_0 \(in_progress, 0 of 12 done\)"):
        client.labels()
    with pytest.raises(BatchPending):
        client.labels()
    assert len(stub.batches) == 1
    assert client.rows() == []
    stub.finish()
    collected = client.labels()
    assert [reading.logprobs for reading in collected] == [tuple(truth(p[0].content).values()) for p in PROMPTS]
    assert client.records == [], "what is in the journal is kept only there"
    assert client.labels() == collected
    assert stub.answered == 12
    (tmp_path / "single").mkdir()
    single = Client(client.url, tmp_path / "single", batch_api=False)
    assert single.labels() == collected
    kept = (
        "kind",
        "key",
        "setting",
        "prompt_hash",
        "outcome",
        "answer",
        "prompt_tokens",
        "completion_tokens",
        "is_final",
    )
    ours, theirs = ({e.key: [getattr(e, k) for k in kept] for e in c.rows()} for c in (client, single))
    assert ours == theirs
    raw = json.loads(client.rows()[0].raw)
    assert raw["batch"] == "batch_0"
    assert raw["model"] == "stub"


def test_only_what_is_missing_is_submitted(stub: OpenAIStub, client: Client) -> None:
    client(lambda model: model.read_labels(PROMPTS[:5], LABELS), batch_api=False)
    with pytest.raises(BatchPending, match="7 requests"):
        client.labels()
    with pytest.raises(BatchPending):
        client(lambda model: model.read_labels([*PROMPTS, ask("one more")], LABELS))
    assert [len(lines) for lines in stub.requests.values()] == [7, 1]
    stub.finish()
    assert len(client(lambda model: model.read_labels([*PROMPTS, ask("one more")], LABELS))) == 13


def test_a_label_of_two_tokens_waits_twice(stub: OpenAIStub, client: Client) -> None:
    def digits(request: Request) -> Response:
        table = {"0": math.log(0.4), "x": math.log(0.6)}
        if not request.text.endswith("Rating: 1"):
            table = {**{str(g): math.log(0.05) for g in range(2, 10)}, "1": math.log(0.5)}
        return as_json(chat_body(table))

    stub.single = digits
    begun = [*ask("Rate."), Message(role="assistant", content="Rating: ")]
    grades = [str(grade) for grade in range(1, 11)]

    def work() -> Any:
        return client(lambda model: model.read_labels([begun], grades), continuing="native")

    for submitted in (1, 2):
        with pytest.raises(BatchPending, match="1 request in"):
            work()
        assert len(stub.batches) == submitted
        stub.finish()
    reading = work()[0]
    assert [math.exp(p) for p in reading.logprobs] == pytest.approx([0.3, *[0.05] * 8, 0.2])
    assert stub.answered == 2
    assert client.rows()[0].prompt_tokens == 20


@pytest.mark.parametrize("uri", ["openai:stub", "anthropic:stub"])
def test_all_votes_go_into_one_batch(uri: str, tmp_path: Path) -> None:
    said = iter(["1", "2", "1", "Verdict: 1", "no idea", "1"])

    def vote(request: Request) -> Response:
        if uri.startswith("anthropic"):
            content = [{"type": "text", "text": next(said)}]
            usage = {"input_tokens": 10, "output_tokens": 3}
            return as_json({"type": "message", "content": content, "stop_reason": "end_turn", "usage": usage})
        body = chat_body({"x": -0.1}, text=next(said))
        body["choices"][0]["finish_reason"] = "stop"
        return as_json(body)

    stub = OpenAIStub(vote) if uri.startswith("openai") else AnthropicStub(vote)
    with StubServer(stub) as server:
        client = Client(server.url, tmp_path, uri=uri, readout="votes", votes=6)
        with pytest.raises(BatchPending, match="6 requests"):
            client(lambda model: model.read_labels(PROMPTS[:1], LABELS))
        stub.finish()
        reading = client(lambda model: model.read_labels(PROMPTS[:1], LABELS))[0]
    assert [math.exp(p) for p in reading.logprobs] == pytest.approx([4 / 6, 1 / 6])
    assert reading.coverage == pytest.approx(5 / 6)
    assert len(stub.batches) == 1


def test_votes_that_were_paid_are_counted_where_another_one_failed(tmp_path: Path) -> None:
    def vote(request: Request) -> Response:
        body = chat_body({"x": -0.1}, text="1")
        body["choices"][0]["finish_reason"] = "stop"
        return as_json(body)

    stub = OpenAIStub(vote)
    with StubServer(stub) as server:
        client = Client(server.url, tmp_path, readout="votes", votes=4, attempts=1)

        def work() -> Any:
            return client(lambda model: model.read_labels(PROMPTS[:1], LABELS))

        with pytest.raises(BatchPending):
            work()
        first = stub.submitted[0]
        stub.fate = lambda line: "error" if line is first else "ok"
        stub.finish()
        reading = work()[0]
        assert reading.problem is Problem.SERVER_ERROR
        assert reading.prompt_tokens == 30, "three of four were answered"
        assert client.rows()[0].prompt_tokens == 30
        assert client.records == []


@pytest.mark.parametrize("fate", ["expired", "cancelled", "error", "missing"])
def test_failed_requests_are_tried_again_in_the_next_batch(fate: str, stub: OpenAIStub, client: Client) -> None:
    fallen = {"item 3", "item 7"}
    stub.fate = lambda line: fate if line["body"]["messages"][0]["content"] in fallen else "ok"
    with pytest.raises(BatchPending):
        client.labels()
    stub.finish("expired" if fate == "expired" else "completed")
    with pytest.raises(BatchPending, match="2 requests in batch batch_1"):
        client.labels()
    assert len(client.rows()) == 10, "what was answered is kept meanwhile"
    stub.fate = lambda line: "ok"
    stub.finish()
    assert all(reading.problem is None for reading in client.labels())
    assert [len(lines) for lines in stub.requests.values()] == [12, 2]
    again = [json.loads(entry.raw) for entry in client.rows() if "causes" in json.loads(entry.raw)]
    assert [raw["attempts"] for raw in again] == [2, 2]


def test_attempts_are_budgeted_and_a_later_start_begins_anew(stub: OpenAIStub, client: Client) -> None:
    stub.fate = lambda line: "expired" if line["body"]["messages"][0]["content"] == "item 3" else "ok"
    for _ in range(2):
        with pytest.raises(BatchPending):
            client.labels(attempts=2)
        stub.finish()
    readings = client.labels(attempts=2)
    assert [n for n, reading in enumerate(readings) if reading.problem is Problem.TIMEOUT] == [3]
    assert sum(not entry.is_final for entry in client.rows()) == 1
    stub.fate = lambda line: "ok"
    with pytest.raises(BatchPending, match="1 request "):
        client.labels(attempts=2)
    stub.finish()
    assert all(reading.problem is None for reading in client.labels(attempts=2))


def test_a_request_that_is_too_long_is_final_and_costs_the_others_nothing(stub: OpenAIStub, client: Client) -> None:
    def single(request: Request) -> Response:
        if request.text == "item 5":
            message = "This model's maximum context length is 8 tokens"
            return as_json({"error": {"message": message, "code": "context_length_exceeded"}}, status=400)
        return answer(request)

    stub.single = single
    with pytest.raises(BatchPending):
        client.labels()
    stub.finish()
    assert [n for n, r in enumerate(client.labels()) if r.problem is Problem.TOO_LONG] == [5]
    assert len(stub.batches) == 1


def test_what_every_request_was_refused_for_ends_the_run_and_is_asked_anew(stub: OpenAIStub, client: Client) -> None:
    refusal = {"error": {"message": "logprobs are not available for this model"}}
    stub.single = lambda request: as_json(refusal, status=400)
    with pytest.raises(BatchPending):
        client.labels()
    stub.finish()
    with pytest.raises(ModelError, match="logprobs are not available"):
        client.labels()
    stub.single = answer
    with pytest.raises(BatchPending):
        client.labels()
    stub.finish()
    assert all(reading.problem is None for reading in client.labels())


def test_a_server_that_shows_no_log_probabilities_is_named_after_one_batch(stub: OpenAIStub, client: Client) -> None:
    def hidden(request: Request) -> Response:
        body = healthy(request)
        body["choices"][0] |= {"logprobs": None, "finish_reason": "stop"}
        return as_json(body)

    stub.single = hidden
    with pytest.raises(BatchPending):
        client.labels()
    stub.finish()
    with pytest.raises(ModelError, match="set readout to 'votes' or 'parsed'"):
        client.labels()
    assert len(client.rows()) == 12, "what was paid is in the journal"
    with pytest.raises(BatchPending):
        client.labels(readout="parsed")


def test_replies_are_sampled_through_a_batch_too(stub: OpenAIStub, client: Client) -> None:
    def write(request: Request) -> Response:
        body = chat_body({"x": -0.1}, text=f"{request.text} {request.body['seed']}")
        body["choices"][0]["finish_reason"] = "stop"
        return as_json(body)

    stub.single = write
    with pytest.raises(BatchPending):
        client(lambda model: model.reply(PROMPTS, Sampling(seed=1)))
    stub.finish()
    batched = client(lambda model: model.reply(PROMPTS, Sampling(seed=1)))
    assert [reply.text.startswith(p[0].content) for reply, p in zip(batched, PROMPTS, strict=True)] == [True] * 12


def test_text_and_messages_go_into_batches_of_their_own_endpoint(stub: OpenAIStub, client: Client) -> None:
    with pytest.raises(BatchPending, match=r"2 requests in batch batch_0 .*\n.*1 request in batch batch_1"):
        client(lambda model: model.read_labels(["plain", *PROMPTS[:2]], LABELS))
    assert sorted(batch["endpoint"] for batch in stub.batches) == ["/v1/chat/completions", "/v1/completions"]
    stub.finish()
    readings = client(lambda model: model.read_labels(["plain", *PROMPTS[:2]], LABELS))
    assert readings[0].logprobs == tuple(truth("plain").values())


def test_a_limit_on_requests_makes_several_batches(stub: OpenAIStub, client: Client) -> None:
    with pytest.raises(BatchPending):
        client.labels(batch_requests=5)
    assert [len(lines) for lines in stub.requests.values()] == [5, 5, 2]
    stub.finish()
    assert all(reading.problem is None for reading in client.labels(batch_requests=5))


def test_a_batch_that_the_server_refuses_is_reported_with_its_reason(stub: OpenAIStub, client: Client) -> None:
    with pytest.raises(BatchPending):
        client.labels()
    stub.batches[0] |= {
        "status": "failed",
        "errors": {
            "object": "list",
            "data": [{"code": "token_limit_exceeded", "message": "Enqueued token limit reached"}],
        },
    }
    with pytest.raises(ModelError, match=r"(?s)Enqueued token limit reached.*batch_requests"):
        client.labels()
    with pytest.raises(BatchPending):
        client.labels(batch_requests=6)
    assert len(stub.batches) == 3


def test_a_batch_that_the_server_does_not_know_is_not_submitted_again_by_itself(
    stub: OpenAIStub, client: Client
) -> None:
    with pytest.raises(BatchPending):
        client.labels()
    stub.batches.clear()
    with pytest.raises(ModelError, match="batch_0 is not known to the server"):
        client.labels()
    assert stub.batches == []


def test_a_server_without_a_batch_api_is_named(tmp_path: Path) -> None:
    with StubServer(lambda request: as_json({"error": {"message": "Not Found"}}, status=404)) as server:
        client = Client(server.url, tmp_path)
        with pytest.raises(ModelError, match=r"(?s)/files: .*without a batch API"):
            client.labels()
        assert client.records == []


# ---------------------------------------------------------------- never twice

KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from models.openai.test_batches import Client
Client(sys.argv[2], Path(sys.argv[3]), uri=sys.argv[4]).labels()
"""


def start(client: Client) -> subprocess.Popen[bytes]:
    tests = str(Path(__file__).parents[2])
    return subprocess.Popen([sys.executable, "-c", KILLED, tests, client.url, str(client.folder), client.uri])


def killed_at(client: Client, stub: OpenAIStub | AnthropicStub, path: str, *, before: bool) -> None:
    """Start a labelling process, and kill it when it sends the request: before or after it is carried out."""
    process: list[subprocess.Popen[bytes]] = []
    ready = threading.Event()

    def kill(request: Request) -> Response | None:
        if request.method != "POST" or not request.path.endswith(path):
            return None
        ready.wait(60)
        os.kill(process[0].pid, signal.SIGKILL)
        return Response(cut=0)

    if before:
        stub.before = kill
    else:
        stub.after = kill
    process.append(start(client))
    ready.set()
    assert process[0].wait(60) == -signal.SIGKILL
    stub.before = stub.after = lambda request: None


@pytest.mark.parametrize(
    ("path", "before", "batches"),
    [("/files", True, 0), ("/files", False, 0), ("/batches", True, 0), ("/batches", False, 1)],
)
def test_a_kill_around_the_submission_submits_once(
    path: str, before: bool, batches: int, stub: OpenAIStub, client: Client
) -> None:
    killed_at(client, stub, path, before=before)
    assert len(stub.batches) == batches
    with pytest.raises(BatchPending, match="12 requests in batch batch_0"):
        client.labels()
    assert len(stub.batches) == 1
    stub.finish()
    assert all(reading.problem is None for reading in client.labels())
    assert stub.answered == 12


def test_a_batch_without_metadata_is_recognised_by_its_requests(tmp_path: Path) -> None:
    """Other people's batches, newer and older, lie around it."""
    stub = OpenAIStub(answer, keeps_metadata=False)
    with StubServer(stub) as server:
        (tmp_path / "a").mkdir()
        (tmp_path / "b").mkdir()
        other, client = Client(server.url, tmp_path / "a"), Client(server.url, tmp_path / "b")
        for work in (other.labels, lambda: killed_at(client, stub, "/batches", before=False)):
            with contextlib.suppress(BatchPending):
                work()
        for n in range(4):
            with pytest.raises(BatchPending):
                other(lambda model, n=n: model.read_labels([ask(f"other {n}")], LABELS))
        with pytest.raises(BatchPending, match="12 requests in batch batch_1"):
            client.labels()
    assert len(stub.batches) == 6


def write_verdict(request: Request) -> Response:
    content = [{"type": "text", "text": "1" if len(request.text) % 2 else "2"}]
    usage = {"input_tokens": 10, "output_tokens": 1}
    return as_json({"type": "message", "content": content, "stop_reason": "end_turn", "usage": usage})


@pytest.mark.parametrize("has_ended", [False, True])
def test_message_batches_are_recognised_once_they_end(has_ended: bool, tmp_path: Path) -> None:
    stub = AnthropicStub(write_verdict)
    with StubServer(stub) as server:
        (tmp_path / "a").mkdir()
        (tmp_path / "b").mkdir()
        other = Client(server.url, tmp_path / "a", uri="anthropic:stub")
        client = Client(server.url, tmp_path / "b", uri="anthropic:stub")
        with pytest.raises(BatchPending):
            other.labels()
        killed_at(client, stub, "/messages/batches", before=False)
        if not has_ended:
            with pytest.raises(BatchPending, match=r"12 requests may be in batch msgbatch_1 or msgbatch_0"):
                client.labels()
        stub.finish()
        readings = client.labels()
    assert [reading.problem for reading in readings] == [None] * 12
    assert len(stub.batches) == 2


def test_message_batches_that_are_all_other_peoples_do_not_keep_ours_back(tmp_path: Path) -> None:
    stub = AnthropicStub(write_verdict)
    with StubServer(stub) as server:
        (tmp_path / "a").mkdir()
        (tmp_path / "b").mkdir()
        other = Client(server.url, tmp_path / "a", uri="anthropic:stub")
        client = Client(server.url, tmp_path / "b", uri="anthropic:stub")
        with pytest.raises(BatchPending):
            other.labels()
        killed_at(client, stub, "/messages/batches", before=True)
        with pytest.raises(BatchPending, match="may be in batch msgbatch_0"):
            client.labels()
        stub.finish()
        with pytest.raises(BatchPending, match=r"12 requests in batch msgbatch_1"):
            client.labels()
    assert len(stub.batches) == 2


@pytest.mark.parametrize("reply", [Response(cut=0), as_json({"error": "later"}, status=503)])
def test_a_lost_answer_to_the_submission_is_looked_up(reply: Response, stub: OpenAIStub, client: Client) -> None:
    lost = []

    def lose(request: Request) -> Response | None:
        if request.method == "POST" and request.path.endswith("/batches") and not lost:
            lost.append(request)
            return reply
        return None

    stub.after = lose
    with pytest.raises(BatchPending, match="12 requests in batch batch_0"):
        client.labels()
    assert len(stub.batches) == 1


def test_a_download_that_breaks_off_is_fetched_again(stub: OpenAIStub, client: Client) -> None:
    with pytest.raises(BatchPending):
        client.labels()
    stub.finish()
    stub.before = lambda request: (
        Response(stub.files["file-1"], cut=300) if request.path.endswith("/files/file-1/content") else None
    )
    with pytest.raises(JudgeUnavailable, match="run the same command again"):
        client.labels()
    assert client.rows() == []
    stub.before = lambda request: None
    assert all(reading.problem is None for reading in client.labels())


# ---------------------------------------------------------------- money


@pytest.fixture
def prices(tmp_path: Path) -> str:
    (tmp_path / "prices.yaml").write_text(PRICES)
    return str(tmp_path / "prices.yaml")


def test_a_batch_costs_the_share_that_the_table_says(prices: str, tmp_path: Path) -> None:
    assert price_of("stub", prices, in_batch=True) == Price(input=1.5, output=7.5)
    assert price_of("stub", prices) == Price(input=3.0, output=15.0)
    shipped = price_of("gpt-4", in_batch=True)
    assert shipped is not None
    assert (shipped.input, shipped.output) == (15.0, 30.0)
    own = tmp_path / "own.yaml"
    own.write_text(
        'as_of: "x"\nmodels: {a: {input: 2, output: 4, cached_input: 1, batch: 0.25}, b: {input: 2, output: 4}}'
    )
    assert price_of("a", own, in_batch=True) == Price(input=0.5, output=1.0, cached_input=0.25)
    assert price_of("b", own, in_batch=True) == Price(input=2.0, output=4.0), "no share is assumed"


def test_the_journal_holds_the_cost_of_the_batch(stub: OpenAIStub, client: Client, prices: str) -> None:
    with pytest.raises(BatchPending):
        client.labels(prices=prices)
    stub.finish()
    client.labels(prices=prices)
    with Journal(client.folder / "journal.sqlite") as journal:
        totals = journal.totals()
    full = (3.0 * totals.prompt_tokens + 15.0 * totals.completion_tokens) / 1e6
    assert totals.cost_usd == pytest.approx(full / 2)
    assert totals.calls == 12


@pytest.mark.parametrize("share", [0.3, 0.7])
def test_the_cap_holds_over_submitted_and_collected_batches(
    share: float, stub: OpenAIStub, client: Client, prices: str
) -> None:
    """Every start is a process of its own that knows the journal and the records alone."""
    bill = 0.0

    def single(request: Request) -> Response:
        nonlocal bill
        body = healthy(request)
        used = body["usage"] = {"prompt_tokens": 400, "completion_tokens": 1}
        bill += (1.5 * used["prompt_tokens"] + 7.5 * used["completion_tokens"]) / 1e6
        return as_json(body)

    stub.single = single
    prompts = [ask(f"item {n} " + "word " * 300) for n in range(20)]
    whole = 20 * (1.5 * 400 + 7.5) / 1e6
    cap_usd = share * whole

    def work(model: Journaled) -> Any:
        return model.read_labels(prompts, LABELS)

    def spent() -> float:
        with Journal(client.folder / "journal.sqlite") as journal:
            return journal.spent_usd("openai:stub")

    for _ in range(12):
        try:
            readings = client(work, prices=prices, cap_usd=cap_usd, spent_usd=spent())
            break
        except BatchPending:
            with pytest.raises(BatchPending):
                client(work, prices=prices, cap_usd=cap_usd, spent_usd=spent())
            stub.finish()
    else:
        raise AssertionError("it never ends")
    assert bill <= cap_usd
    assert bill > cap_usd - 0.2 * whole, "and the money is used"
    known = [reading for reading in readings if reading.problem is None]
    assert {r.problem for r in readings} == {None, Problem.OVER_BUDGET}
    assert len(known) == stub.answered
    with Journal(client.folder / "journal.sqlite") as journal:
        assert journal.totals().cost_usd == pytest.approx(bill)
    with pytest.raises(BatchPending):
        client(work, prices=prices, cap_usd=10.0, spent_usd=bill)
    stub.finish()
    assert all(r.problem is None for r in client(work, prices=prices, cap_usd=10.0, spent_usd=bill))
    assert stub.answered == 20


def test_money_set_aside_for_a_submitted_batch_is_not_promised_again(
    stub: OpenAIStub, client: Client, prices: str
) -> None:
    """Another job of the same run may not spend what a batch under way will cost."""
    prompts = [ask(f"item {n} " + "word " * 300) for n in range(20)]
    cap_usd = 20 * 1.5 * 700 / 1e6
    with pytest.raises(BatchPending, match="20 requests"):
        client(lambda model: model.read_labels(prompts, LABELS), prices=prices, cap_usd=cap_usd)
    other = client(lambda model: model.read_labels([ask("x " * 3000)] * 2, LABELS), prices=prices, cap_usd=cap_usd)
    assert {reading.problem for reading in other} == {Problem.OVER_BUDGET}
    assert len(stub.batches) == 1


# ---------------------------------------------------------------- settings


def test_a_folder_is_needed_and_decision_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="batch_folder"):
        connect("openai:stub", base_url="http://127.0.0.1:9/v1", batch_api=True)
    with pytest.raises(ModelError, match="decision models have no batch API"):
        connect("decisions:x", base_url="http://127.0.0.1:9/v1", batch_api=True, batch_folder=str(tmp_path))


def test_azure_names_endpoints_without_a_version(stub: OpenAIStub, client: Client, monkeypatch: Any) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "abc")
    with pytest.raises(BatchPending):
        client.labels(api_version="2026-01-01")
    assert stub.batches[0]["endpoint"] == "/chat/completions"
    stub.finish()
    assert all(reading.problem is None for reading in client.labels(api_version="2026-01-01"))


def test_the_key_is_in_no_record_of_a_batch(stub: OpenAIStub, client: Client, monkeypatch: Any) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "hidden-9431")
    with pytest.raises(BatchPending):
        client.labels()
    assert client.records
    assert not any("hidden-9431" in path.read_text() for path in client.records)


def test_a_model_that_answers_later_says_so(client: Client) -> None:
    model: Any = connect("openai:stub", base_url=client.url, **client.options)
    assert isinstance(model, ServerModel)
    assert model.answers_later
    model.close()
