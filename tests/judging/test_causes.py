"""Why labels are unknown: the cause, what a judge wrote, and where a rationale ends."""

from __future__ import annotations

from pathlib import Path

from aifeedback.judging.diagnosis import most_frequent_cause, written_verdicts
from aifeedback.judging.pairwise import before_verdict, default_stops
from aifeedback.models.journal import Journal
from aifeedback.models.journaled import Journaled
from aifeedback.prompts.judge_prompt import JudgePrompt
from aifeedback.types import Problem
from models.openai.test_server import ask, model_of
from models.stub import Response, StubServer, as_json, chat_body


def test_the_most_frequent_cause_is_kept(tmp_path: Path) -> None:
    page = Response(b"<html>Welcome</html>")
    with StubServer(lambda r: page, models=b"{}") as server, Journal(tmp_path / "j.sqlite") as journal:
        readings = Journaled(model_of(server), journal).read_labels([ask("a"), ask("b")], ["1", "2"])
        assert server.count == 6, "a page is what a wrong address answers every time"
        cause = most_frequent_cause(readings, journal)
    assert cause is not None
    assert (cause.problem, cause.count, cause.of) == (Problem.SERVER_ERROR, 2, 2)
    assert "Welcome" in str(cause)
    assert "check base_url" in str(cause)
    assert most_frequent_cause([]) is None


def test_cut_verdicts_advise_the_limit_and_written_ones_are_kept(tmp_path: Path) -> None:
    body = chat_body({"x": -0.1}, text="Well, let me see")
    with StubServer(lambda r: as_json(body)) as server, Journal(tmp_path / "j.sqlite") as journal:
        (reading,) = Journaled(model_of(server, readout="parsed"), journal).read_labels([ask("a")], ["1", "2"])
        assert written_verdicts(journal, reading.call_id or "") == ["Well, let me see"]
        assert "raise answer_tokens" in str(most_frequent_cause([reading], journal))


def test_a_rationale_ends_where_it_states_the_verdict_itself() -> None:
    for name, start in [
        ("helpful-detailed", "Preferred Response="),
        ("rating", "Rating="),
        ("goodbad", "The response is:"),
    ]:
        prompt = JudgePrompt.load(name)
        assert default_stops(prompt) == (start,)
        for written in (f"{start}1", f"**{start.upper()}** 1", f"{start[:-1]}: 1"):
            text = f"It is clear.\n{written}\n\nConversation:\n> invented"
            assert before_verdict(text, prompt).strip() == "It is clear."
        assert before_verdict("It is clear. The preferred one is 1.", prompt) == "It is clear. The preferred one is 1."
