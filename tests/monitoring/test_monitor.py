"""`aifeedback monitor` against a real server on this machine that is exchanged, wavers, breaks and comes back."""

from __future__ import annotations

import json
import random
import sqlite3
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import NamedTuple

import pytest
from typer.testing import CliRunner

from aifeedback.annotation import RatingStore, read_task
from aifeedback.cli import app
from aifeedback.errors import AIFeedbackError
from aifeedback.models.fake import hidden_quality, judged_pair
from aifeedback.monitoring.monitor import Monitor
from aifeedback.types import Rating
from models.stub import Request, Response, StubServer, as_json, chat_body, others

PAIRS, PROMPTS, PASSES = 30, 20, 2


class Served:
    """What answers behind the address. A test sets its fields between rounds."""

    def __init__(self) -> None:
        self.taste = "one"
        self.fingerprint, self.model = "fp-1", "m-1"
        self.reply = "Here is what you asked for, step by step."
        self.silent_every = 0
        """Every so many pairs get an answer without a label; 1: all of them."""
        self.is_down = False

    def __call__(self, request: Request) -> Response:
        if self.is_down:
            return Response(b"{}", 503)
        pair = judged_pair(request.text)
        table = {**self._labels(pair), **others()} if pair else others()
        if (
            pair
            and self.silent_every
            and int(1e6 * abs(hidden_quality("silent".join(sorted(pair))))) % self.silent_every == 0
        ):
            table = others()
        body = chat_body(table, text=self.reply) | {"model": self.model}
        body["system_fingerprint"] = self.fingerprint
        return as_json(body)

    def _labels(self, pair: tuple[str, str]) -> dict[str, float]:
        first, second = (hidden_quality(f"{self.taste} {text}") for text in pair)
        return {"1": -0.2, "2": -2.0} if first > second else {"1": -2.0, "2": -0.2}


@pytest.fixture
def served() -> Served:
    return Served()


@pytest.fixture
def server(served: Served) -> Iterator[StubServer]:
    with StubServer(served, keep=False) as running:
        yield running


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    draw = random.Random(0)
    golden = [
        {"prompt": f"Question {n}?", "chosen": f"yes {draw.random()}", "rejected": f"no {draw.random()}"}
        for n in range(PAIRS)
    ]
    Path("golden.jsonl").write_text("".join(json.dumps(row) + "\n" for row in golden))
    Path("prompts.jsonl").write_text("".join(json.dumps({"prompt": f"Request {n}"}) + "\n" for n in range(PROMPTS)))
    return tmp_path


class Ended(NamedTuple):
    code: int
    said: str
    """Output, and the message of the error that ended the command."""


def call(*words: object) -> Ended:
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, AIFeedbackError | SystemExit):
        raise result.exception
    code = getattr(result.exception, "exit_code", result.exit_code)
    return Ended(code, f"{result.output}{result.exception or ''}")


def init(server: StubServer, *more: object) -> Ended:
    limits = ("--set", "server.limits.attempts=2", "--set", "server.limits.backoff_first_s=0.01")
    return call("monitor", "init", "watch", "--judge", "openai:m", "--base-url", server.url, "--golden", "golden.jsonl",
                "--passes", PASSES, *limits, *more)  # fmt: skip


def events(kind: str) -> list[dict[str, object]]:
    rows = [json.loads(line) for line in Path("watch/events.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == kind]


def test_every_round_asks_anew_and_a_judge_that_stays_as_it_is_raises_nothing(here: Path, server: StubServer) -> None:
    done = init(server)
    assert done.code == 0, done.said
    assert server.count == PASSES * 2 * PAIRS
    assert "aifeedback monitor run watch" in done.said
    assert "exit code 6" in done.said
    for number in (1, 2):
        ran = call("monitor", "run", "watch", "--json", "round.json")
        assert ran.code == 0, ran.said
        assert server.count == (PASSES + number) * 2 * PAIRS
    assert json.loads(Path("round.json").read_text())["figures"]["flips"] == {
        "flipped": 0, "n": PAIRS, "to_wrong": 0, "to_right": 0, "p": None
    }  # fmt: skip
    assert len(list(Path("watch/rounds").iterdir())) == 3
    assert "No alarm in 2 rounds" in Path("watch/report.html").read_text()
    assert events("alarm") == []


def test_a_model_exchanged_behind_the_address_is_noticed_in_the_first_round(
    here: Path, server: StubServer, served: Served
) -> None:
    """Name, address and fingerprint stay as they are: only the verdicts tell."""
    assert init(server).code == 0
    served.taste = "another"
    ran = call("monitor", "run", "watch")
    assert ran.code == 6, ran.said
    raised = {row["chart"] for row in events("alarm")}
    assert {"flips", "switched"} <= raised
    assert "version" not in raised
    again = call("monitor", "run", "watch")
    assert again.code == 6, "an alarm stays open until somebody closes it"
    assert {row["chart"] for row in events("alarm")} == raised
    noted = call("monitor", "note", "watch", "--kind", "change", "--text", "moved to the new model", "--by", "ana")
    assert noted.code == 0, noted.said
    assert call("monitor", "run", "watch").code == 0
    assert [one.kind for one in Monitor(Path("watch")).rounds()] == ["baseline", "round", "round", "baseline"]
    assert call("monitor", "run", "watch").code == 0


def test_an_alarm_that_is_closed_while_the_drift_goes_on_is_raised_again(
    here: Path, server: StubServer, served: Served
) -> None:
    assert init(server).code == 0
    served.taste = "another"
    call("monitor", "run", "watch")
    for alarm in events("alarm"):
        closed = call("monitor", "note", "watch", "--close", alarm["id"], "--outcome", "looked at", "--by", "ben")
        assert closed.code == 0, closed.said
    assert call("monitor", "run", "watch").code == 6
    assert len(events("alarm")) > len(events("close"))


@pytest.mark.parametrize(("field", "value"), [("fingerprint", "fp-2"), ("model", "m-2")])
def test_a_new_version_that_the_server_reports_is_an_alarm_though_all_verdicts_are_equal(
    here: Path, server: StubServer, served: Served, field: str, value: str
) -> None:
    assert init(server).code == 0
    before = getattr(served, field)
    setattr(served, field, value)
    assert call("monitor", "run", "watch").code == 6
    (alarm,) = events("alarm")
    assert alarm["chart"] == "version"
    assert f"{field} {value}, before {before}" in str(alarm["text"])
    assert call("monitor", "note", "watch", "--close", "alarm-1", "--outcome", "announced").code == 0
    assert call("monitor", "run", "watch").code == 0, "a version that was seen is not new"


def test_fingerprints_that_rotate_can_be_shown_without_an_alarm(here: Path, server: StubServer, served: Served) -> None:
    assert init(server, "--fingerprint", "note").code == 0
    served.fingerprint = "fp-2"
    assert call("monitor", "run", "watch").code == 0
    assert "fp-2" in Path("watch/report.html").read_text()
    served.model = "m-2"
    assert call("monitor", "run", "watch").code == 6


def test_answers_that_can_no_longer_be_read_are_an_alarm(here: Path, server: StubServer, served: Served) -> None:
    assert init(server).code == 0
    served.silent_every = 2
    ran = call("monitor", "run", "watch")
    assert ran.code == 6, ran.said
    assert [row["chart"] for row in events("alarm")] == ["unread"]


def test_a_round_without_any_verdict_failed_and_counts_for_nothing(
    here: Path, server: StubServer, served: Served
) -> None:
    assert init(server).code == 0
    served.silent_every = 1
    ran = call("monitor", "run", "watch")
    assert ran.code == 4
    (failed,) = events("failed")
    assert "could be read" in str(failed["text"])
    served.silent_every = 0
    assert call("monitor", "run", "watch").code == 0
    assert len(Monitor(Path("watch")).rounds()) == 2


def test_a_server_that_is_down_fails_the_round_and_the_next_one_recovers(
    here: Path, server: StubServer, served: Served
) -> None:
    assert init(server).code == 0
    served.is_down = True
    assert call("monitor", "run", "watch").code == 4
    assert "failed" in Path("watch/events.jsonl").read_text()
    served.is_down = False
    assert call("monitor", "run", "watch").code == 0
    assert len(Monitor(Path("watch")).rounds()) == 2


@pytest.mark.parametrize(
    ("reply", "charts"),
    [
        ("I'm sorry, but I cannot help with that request.", {"refusals"}),
        ("Here is what you asked for, step by step, and a good deal that nobody asked for. " * 3, {"longer"}),
        ("Here.", {"shorter"}),
    ],
)
def test_a_policy_that_answers_otherwise_is_noticed(
    here: Path, server: StubServer, served: Served, reply: str, charts: set[str]
) -> None:
    done = init(server, "--policy", "openai:p", "--prompts", "prompts.jsonl", "--redteam", "prompts.jsonl")
    assert done.code == 0, done.said
    served.reply = reply
    assert call("monitor", "run", "watch").code == 6
    raised = {row["chart"] for row in events("alarm")}
    assert charts <= raised
    assert raised.isdisjoint({"flips", "switched", "agreement", "unread", "version"})


# ---------------------------------------------------------------- the webhook


@pytest.fixture
def hook() -> Iterator[tuple[str, list[dict[str, object]]]]:
    posted: list[dict[str, object]] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    httpd = HTTPServer(("127.0.0.1", 0), Hook)
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}/alarm", posted
    httpd.shutdown()
    httpd.server_close()


def test_the_webhook_gets_each_alarm_once_and_a_failed_round(
    here: Path, server: StubServer, served: Served, hook: tuple[str, list[dict[str, object]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    url, posted = hook
    monkeypatch.setenv("ALARM_URL", url)
    assert init(server, "--webhook", "$ALARM_URL").code == 0
    assert url not in Path("watch/monitor.yaml").read_text(), "an address may hold a secret"
    call("monitor", "run", "watch")
    assert posted == []
    served.fingerprint = "fp-2"
    call("monitor", "run", "watch")
    call("monitor", "run", "watch")
    (message,) = posted
    assert message["kind"] == "alarm"
    assert [alarm["chart"] for alarm in message["alarms"]] == ["version"]  # type: ignore[union-attr, index]
    assert message["figures"]["agreement"]["n"] == PAIRS  # type: ignore[index]
    served.is_down = True
    assert call("monitor", "run", "watch").code == 4
    assert [one["kind"] for one in posted] == ["alarm", "failed"]


def test_a_webhook_that_cannot_be_reached_changes_no_exit_code(here: Path, server: StubServer, served: Served) -> None:
    assert init(server).code == 0
    served.fingerprint = "fp-2"
    ran = call("monitor", "run", "watch", "--webhook", "http://127.0.0.1:1/none")
    assert ran.code == 6
    assert "was not delivered" in ran.said


# ---------------------------------------------------------------- the log, incidents, appeals


def test_incidents_are_logged_and_closed_with_names_and_dates(here: Path, server: StubServer) -> None:
    assert init(server).code == 0
    noted = call("monitor", "note", "watch", "--kind", "incident", "--severity", 1, "--by", "ana", "--text",
                 "A wrong dose was recommended.")  # fmt: skip
    assert noted.code == 0, noted.said
    assert call("monitor", "run", "watch").code == 0, "an incident is not an alarm"
    assert "incident-1" in call("monitor", "show", "watch").said
    closed = call("monitor", "note", "watch", "--close", "incident-1", "--outcome", "prompt corrected", "--by", "ben")
    assert closed.code == 0
    assert "prompt corrected" in Path("watch/report.html").read_text()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--kind", "incident", "--text", "x"), "--severity"),
        (("--kind", "incident", "--severity", 2), "--text"),
        (("--kind", "appeal", "--text", "x"), "--item"),
        (("--kind", "appeal", "--text", "x", "--item", "nothing"), "golden set"),
        (("--close", "alarm-7", "--outcome", "x"), "not open"),
        ((), "--kind"),
    ],
)
def test_a_note_that_lacks_something_is_refused_by_name(
    here: Path, server: StubServer, words: tuple[object, ...], says: str
) -> None:
    assert init(server).code == 0
    refused = call("monitor", "note", "watch", *words)
    assert refused.code == 2
    assert says in refused.said
    assert len(Monitor(Path("watch")).log.events()) == 0


@pytest.mark.parametrize("statement", [
    "UPDATE calls SET answer = replace(answer, 'harmless', 'harmful!') WHERE kind = 'event'",
    "DELETE FROM calls WHERE seq = (SELECT min(seq) FROM calls WHERE kind = 'event')",
])  # fmt: skip
def test_a_log_that_was_edited_is_refused_with_exit_code_3(here: Path, server: StubServer, statement: str) -> None:
    assert init(server).code == 0
    for _ in range(2):
        call("monitor", "note", "watch", "--kind", "incident", "--severity", 2, "--text", "it was harmless")
    with sqlite3.connect("watch/journal.sqlite") as db:
        db.execute(statement)
    for command in (("run",), ("show",), ("note", "--kind", "change", "--text", "x")):
        refused = call("monitor", command[0], "watch", *command[1:])
        assert refused.code == 3


def verified() -> Ended:
    result = CliRunner().invoke(app, ["audit", "verify", "watch"])
    return Ended(getattr(result.exception, "exit_code", result.exit_code), f"{result.output}{result.exception or ''}")


def test_an_edited_round_is_found_and_no_round_goes_on_from_it(here: Path, server: StubServer) -> None:
    assert init(server).code == 0
    assert verified().code == 0, verified().said
    (file,) = Path("watch/rounds").glob("*/outcomes.json")
    file.write_text(file.read_text().replace('"p_first": 0.', '"p_first": 0.9', 1))
    assert verified().code == 3
    refused = call("monitor", "run", "watch")
    assert refused.code == 3
    assert "outcomes.json" in refused.said


def test_edited_settings_count_once_the_change_is_noted(here: Path, server: StubServer) -> None:
    assert init(server).code == 0
    settings = Path("watch/monitor.yaml")
    settings.write_text(settings.read_text() + "rounds_per_year: 365\n")
    refused = call("monitor", "run", "watch")
    assert refused.code == 3
    assert "--kind change" in refused.said
    assert call("monitor", "note", "watch", "--kind", "change", "--text", "daily rounds").code == 0
    assert call("monitor", "run", "watch").code == 0
    assert Monitor(Path("watch")).rounds()[-1].kind == "baseline"


def rate(item: str, choice: str, raters: tuple[str, ...] = ("cleo", "dan", "eve")) -> None:
    """What the rating page stores for ``aifeedback rate watch/appeals.jsonl -o watch/people``."""
    (task,) = [one for one in read_task(Path("watch/appeals.jsonl")).items if item in one.answers[0].text]
    store = RatingStore(Path("watch/people/ratings.sqlite"))
    for rater in raters:
        store.add(
            Rating(
                item_id=task.id, rater=rater, choice=choice, order_shown=(0, 1), at="2026-01-01T00:00:00+00:00",
                prompt_id=task.prompt.id, answers=task.texts,
            )
        )  # fmt: skip
    store.close()


@pytest.mark.parametrize(("people_agree", "outcome"), [(False, "upheld"), (True, "rejected")])
def test_an_appeal_asks_again_is_decided_by_people_and_joins_the_golden_set(
    here: Path, server: StubServer, people_agree: bool, outcome: str
) -> None:
    assert init(server).code == 0
    Path("live.jsonl").write_text(json.dumps({"prompt": "A new question?", "first": "left", "second": "right"}) + "\n")
    labelled = call("label", "--data", "live.jsonl", "--judge", "openai:m", "--base-url", server.url, "-o", "out.jsonl")
    assert labelled.code == 0, labelled.said
    row = json.loads(Path("out.jsonl").read_text())
    before = server.count
    opened = call("monitor", "note", "watch", "--kind", "appeal", "--item", row["comparison_id"], "--data", "out.jsonl",
                  "--text", "The other one is right.", "--by", "ana")  # fmt: skip
    assert opened.code == 0, opened.said
    assert server.count == before + 2, "both orders, although the file holds a verdict"
    assert "aifeedback rate watch/appeals.jsonl" in opened.said.replace("\n", " ")
    (appeal,) = events("appeal")
    assert appeal["p_first"] == appeal["p_again"] == row["p_first"]
    early = call("monitor", "note", "watch", "--close", "appeal-1")
    assert "nobody has decided" in early.said

    first_is_right = (row["p_first"] > 0.5) == people_agree
    rate("left", "first" if first_is_right else "second")
    other = "rejected" if outcome == "upheld" else "upheld"
    wrong = call("monitor", "note", "watch", "--close", "appeal-1", "--outcome", other)
    assert f"says {outcome}" in wrong.said
    closed = call("monitor", "note", "watch", "--close", "appeal-1", "--by", "ben")
    assert closed.code == 0, closed.said
    (event,) = events("close")
    assert (event["outcome"], event["by"], event["human_p_first"]) == (outcome, "ben", float(first_is_right))
    (added,) = [item for item in Monitor(Path("watch")).golden if item.origin == "appeal-1"]
    assert added.human_p_first == float(first_is_right)
    assert Path("watch/appeals.jsonl").read_text() == ""
    before = server.count
    assert call("monitor", "run", "watch").code == 0
    assert server.count == before + 2 * (PAIRS + 1)


def test_an_appeal_closed_without_a_verdict_stays_out_of_the_golden_set(here: Path, server: StubServer) -> None:
    """That the judge was wrong does not say which response is right: nothing is made up."""
    assert init(server).code == 0
    item = Monitor(Path("watch")).golden[0]
    note = ("monitor", "note", "watch")
    assert call(*note, "--kind", "appeal", "--item", item.id, "--text", "Neither is right.").code == 0
    twice = call(*note, "--kind", "appeal", "--item", item.id, "--text", "Once more.")
    assert "under appeal already" in twice.said
    assert call(*note, "--close", "appeal-1", "--outcome", "upheld").code == 0
    assert Monitor(Path("watch")).golden[0] == item
    assert call(*note, "--kind", "appeal", "--item", item.id, "--text", "Equal.").code == 0
    assert call(*note, "--close", "appeal-2", "--verdict", "tie").code == 0
    (kept,) = [one for one in Monitor(Path("watch")).golden if one.id == item.id]
    assert (kept.human_p_first, kept.origin) == (0.5, "appeal-2")


# ---------------------------------------------------------------- what is refused before the first call


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--policy", "openai:p"), "prompts or redteam"),
        (("--prompts", "prompts.jsonl"), "these need a policy"),
        (("--passes", 1), "passes"),
        (("--false-alarms", 400), "once in"),
        (("--webhook", "ftp://127.0.0.1/x"), "not an address"),
        (("--webhook", "$NOT_SET_ANYWHERE"), "not set"),
        (("--set", "goldn=x"), "unknown key '--set goldn'"),
        (("--policy", "openai:p", "--prompts", "missing.jsonl"), "missing.jsonl"),
    ],
)
def test_settings_are_checked_before_the_first_call(
    here: Path, server: StubServer, more: tuple[object, ...], says: str
) -> None:
    refused = init(server, *more)
    assert refused.code != 0
    assert says in refused.said
    assert server.count == 0
    assert not Path("watch/rounds").exists()


def test_a_folder_that_is_no_monitor_and_one_that_is_already_are_refused(here: Path, server: StubServer) -> None:
    assert "no monitor here" in call("monitor", "run", "watch").said
    assert init(server).code == 0
    assert "already contains a monitor" in init(server).said
    Path("watch/monitor.yaml").write_text("judge: openai:m\ngolden: g\ncadence: 3\n")
    assert "unknown key 'cadence'" in call("monitor", "run", "watch").said
    for damaged in (b"judge: [", b"\xff\xfe", b"- a\n"):
        Path("watch/monitor.yaml").write_bytes(damaged)
        refused = call("monitor", "run", "watch")
        assert refused.code == 2
        assert "monitor.yaml" in refused.said
