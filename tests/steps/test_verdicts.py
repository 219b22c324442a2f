"""The last line of a command and of a stage: ✓ ! ✗, what the result means, what to do about it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from aifeedback.cli import app
from aifeedback.errors import AIFeedbackError
from aifeedback.judging.calibration import fit_calibration
from aifeedback.judging.diagnosis import Cause
from aifeedback.steps.audit import AuditFigures
from aifeedback.steps.calibrate import CalibrateFigures
from aifeedback.steps.compare import CompareFigures
from aifeedback.steps.connect import JudgeCard
from aifeedback.steps.evaluate import EvaluateFigures
from aifeedback.steps.label import LabelFigures, label_figures
from aifeedback.steps.revise import ReviseFigures
from aifeedback.steps.sample import SampleFigures
from aifeedback.steps.score import ScoreFigures
from aifeedback.steps.step import Figures, Measured, Rows
from aifeedback.steps.verdict import Verdict, percent, with_interval
from aifeedback.types import Judgement, Preference, Problem
from models.stub import Request, Response, StubServer, as_json, chat_body, others, truth

ROWS = Rows(read=10, kept=10)
CARD = JudgeCard(model="fake:noisy", family="fake")
CAUSE = Cause(
    problem=Problem.NO_LOGPROBS, count=9, of=10, cause="logprobs is not supported", advice="set readout to 'votes'"
)


def preference(p_first: float | None, mass: float = 0.9) -> Preference:
    problem = None if p_first is not None else Problem.UNREADABLE
    judgement = Judgement(
        comparison_id="c", judge="j", shown_swapped=False, readout="logprobs", p_first=p_first, coverage=mass, problem=problem
    )  # fmt: skip
    return Preference(comparison_id="c", source="j", p_first=p_first, judgements=(judgement,), problem=problem)


def in_both_orders(as_stored: float, swapped: float) -> Preference:
    """P(first) as read with the first and with the second response shown first."""
    read = [
        Judgement(comparison_id="c", judge="j", shown_swapped=order, readout="logprobs", p_first=p, coverage=0.9)
        for order, p in ((False, as_stored), (True, swapped))
    ]
    return Preference(comparison_id="c", source="j", p_first=(as_stored + swapped) / 2, judgements=tuple(read))


SURE = [preference(0.9), preference(0.2)] * 20
LABELS: list[tuple[str, Sequence[Preference], Sequence[float | None], str, str]] = [
    ("good", SURE, [None] * 40, "ok", "40 of 40 pairs labelled, label mass 90 %"),
    ("agreeing", SURE, [1.0, 0.0] * 20, "ok", "Agreement with human labels 100 %"),
    ("no mass", [preference(0.9, 2.6e-6), preference(0.2, 2.6e-6)], [], "bad", "Only 0.00026 % of the probability"),
    ("no mass, agreeing", [preference(0.9, 0.04)] * 40, [1.0] * 40, "bad", "Only 4 % of the probability"),
    ("little mass", [preference(0.9, 0.3)], [], "watch", "30 % of the probability"),
    ("never decides", [preference(0.5002), preference(0.4999)], [], "bad", "the judge does not decide"),
    ("hardly decides", [preference(0.51), preference(0.49)], [], "bad", "the judge does not decide"),
    ("mostly undecided", [*[preference(0.5)] * 6, *[preference(0.9)] * 4], [], "watch", "60 % of the labels"),
    ("just decides", [preference(0.52), preference(0.48)], [], "ok", "2 of 2"),
    ("position alone", [in_both_orders(0.95, 0.1), in_both_orders(0.9, 0.2)] * 5, [], "bad", "the same position"),
    ("by chance", SURE, [1.0, 1.0] * 20, "bad", "no better than chance: 50 %"),
    ("against people", SURE, [0.0, 1.0] * 20, "bad", "no better than chance: 0 %"),
    ("too few to say", SURE, [1.0, 0.0, 1.0, 0.0, 0.0, *[None] * 35], "watch", "cannot be distinguished from chance"),
    ("unknown", [preference(0.9), preference(None), preference(None)], [], "watch", "2 of 3 pairs are unknown"),
    ("few unknown", [*SURE, preference(None)], [], "ok", "40 of 41 pairs labelled"),
    ("none known", [preference(None)] * 3, [], "bad", "None of the 3 pairs could be read"),
]  # fmt: skip


@pytest.mark.parametrize(("_", "preferences", "human", "level", "meaning"), LABELS, ids=[case[0] for case in LABELS])
def test_labels(
    _: str, preferences: Sequence[Preference], human: Sequence[float | None], level: str, meaning: str
) -> None:
    human = [*human, *[None] * (len(preferences) - len(human))]
    figures = label_figures(preferences, human)
    found = figures.verdict()
    assert found.level == level, found
    assert meaning.lower() in found.meaning.lower()
    assert bool(found.action) == (level != "ok" and figures.unknown == 0), found
    assert figures.is_unread == all(p.p_first is None for p in preferences)
    assert LabelFigures.model_validate_json(json.dumps(figures.as_json())).verdict() == found


def test_no_pairs_are_not_a_failure() -> None:
    found = label_figures([], [])
    assert found.verdict().level == "watch"
    assert not found.is_unread


def score(**changes: Any) -> ScoreFigures:
    usual = {"scores": 10, "mean_value": 0.2, "problems": {}, "judge": CARD, "rows": ROWS, "spread": 0.3}
    return ScoreFigures(**{**usual, "label_mass": 0.9, **changes})


def sample(**changes: Any) -> SampleFigures:
    usual = {"prompts": 5, "completions": 10, "truncated": 0, "problems": {}, "rows": ROWS}
    return SampleFigures(**{**usual, **changes})


def revise(**changes: Any) -> ReviseFigures:
    usual = {"responses": 10, "changed": 8, "steps": 20, "problems": {}, "sft_rows": {}, "reviser": CARD, "rows": ROWS}
    return ReviseFigures(**{**usual, **changes})


def evaluate(alignment: Measured | None, unknown: int = 0) -> EvaluateFigures:
    half = Measured(value=0.5)
    return EvaluateFigures(
        rows=100, unknown=unknown, win_rate_of_first=half, length_controlled=half, alignment=alignment
    )


def agreement(value: float | None, low: float | None = None, high: float | None = None) -> Measured:
    return Measured(value=value, low=low, high=high, n=100)


def finding(title: str, level: str) -> dict[str, Any]:
    return {"title": title, "level": level}


def audit(*findings: dict[str, Any], unreadable: int = 0, name: str = "fake:noisy") -> dict[str, Any]:
    return {"judge": name, "pairs": 60, "unreadable": unreadable, "findings": list(findings)}


FINE, WATCH, BAD = finding("Colour", "fine"), finding("Length", "watch"), finding("Position", "bad")
FIGURES: list[tuple[Figures, str, str]] = [
    (score(), "ok", "10 of 10 completions scored, mean reward +0.20, label mass 90 %"),
    (score(label_mass=None), "ok", "mean reward +0.20."),
    (score(label_mass=1e-4), "bad", "Only 0.01 % of the probability"),
    (score(label_mass=0.2), "watch", "20 % of the probability"),
    (score(spread=0.0), "bad", "All 10 scores are equal"),
    (score(scores=1, spread=0.0, problems={}), "ok", "1 of 1"),
    (score(scores=6, problems={"no_logprobs": 4}, cause=CAUSE), "watch", "4 of 10 completions are unknown: 9 no_logprobs"),
    (score(scores=0, spread=None, problems={"no_logprobs": 10}, cause=CAUSE), "bad", "logprobs is not supported"),
    (sample(), "ok", "10 completions of 5 prompts."),
    (sample(truncated=1), "ok", "10 completions"),
    (sample(truncated=9), "watch", "9 of 10 completions were cut at the token limit"),
    (sample(completions=0, problems={"server_error": 10}), "bad", "None of the 10 completions"),
    (sample(completions=6, problems={"timeout": 4}), "watch", "4 of 10 completions are unknown"),
    (revise(), "ok", "8 of 10 responses were changed"),
    (revise(changed=0), "bad", "None of the 10 responses was changed"),
    (revise(problems={"too_long": 3}), "watch", "3 of 10 revisions are unknown: 3 too_long"),
    (revise(changed=0, problems={"server_error": 10}), "bad", "None of the 10 revisions"),
    (evaluate(agreement(0.8, 0.7, 0.9)), "ok", "80 % (95 % CI 70–90 %, n = 100)"),
    (evaluate(agreement(0.55, 0.45, 0.65)), "watch", "cannot be distinguished from chance"),
    (evaluate(agreement(0.4, 0.3, 0.5)), "bad", "no better than chance"),
    (evaluate(agreement(0.8, 0.7, 0.9), unknown=50), "watch", "50 of 100 labels are unknown"),
    (evaluate(None), "watch", "no human labels"),
    (evaluate(agreement(None)), "watch", "no human labels"),
    (AuditFigures(judges=[audit(FINE, finding("x", "unknown"))]), "ok", "no significant fault found by 1 probe."),
    (AuditFigures(judges=[audit(FINE, WATCH)]), "watch", "1 point to watch: Length"),
    (AuditFigures(judges=[audit(BAD, WATCH, FINE)]), "bad", "1 serious fault, and 1 point to watch: Position"),
    (AuditFigures(judges=[audit(FINE), audit(BAD, name="fake:first")]), "bad", "fake:first: 1 serious fault: Position"),
    (AuditFigures(judges=[audit(finding("x", "uninformative"))]), "watch", "nothing could be measured"),
    (AuditFigures(judges=[audit(FINE, unreadable=60)]), "bad", "none of the 60 pairs could be read"),
]  # fmt: skip


@pytest.mark.parametrize(("figures", "level", "meaning"), FIGURES, ids=lambda value: type(value).__name__)
def test_other_steps(figures: Figures, level: str, meaning: str) -> None:
    found = figures.verdict()
    assert found is not None
    assert found.level == level, found
    assert meaning in found.meaning
    assert type(figures).model_validate_json(json.dumps(figures.as_json())).verdict() == found


@pytest.mark.parametrize(
    ("figures", "is_unread"),
    [
        (score(scores=0, problems={"timeout": 3}), True),
        (score(scores=0, problems={}), False),
        (sample(completions=0, problems={"timeout": 3}), True),
        (sample(completions=1, problems={"timeout": 3}), False),
        (revise(problems={"timeout": 10}), True),
        (revise(problems={"timeout": 9}), False),
        (AuditFigures(judges=[audit(FINE, unreadable=60), audit(FINE)]), False),
        (AuditFigures(judges=[audit(FINE, unreadable=60)]), True),
    ],
    ids=str,
)
def test_nothing_read(figures: Figures, is_unread: bool) -> None:
    assert figures.is_unread is is_unread


# ── calibration ───────────────────────────────────────────────────────────────────────────────────────────────────


def calibrated(p_first: list[float], human: list[float], kind: Any) -> CalibrateFigures:
    fit = fit_calibration(p_first, human, name="x", judge="j", kind=kind).fit
    return CalibrateFigures(kind=kind, fit=fit.model_dump(mode="json"), worse=fit.worse)


def test_a_map_that_does_worse_on_held_out_pairs_is_not_to_be_used() -> None:
    sure = [0.95] * 40
    overconfident = calibrated(sure, [1.0, 0.0] * 20, "temperature").verdict()
    assert overconfident.level == "ok"
    assert "Calibration error on held-out pairs 0.450 → " in overconfident.meaning
    noise = [0.5 + 0.02 * (n % 20) for n in range(24)]
    right = [float((n * 7) % 24 < 18) for n in range(24)]
    isotonic = calibrated(noise, right, "isotonic")
    assert isotonic.worse, "24 pairs are too few for a step function"
    assert isotonic.verdict().level == "bad"
    assert isotonic.worse[0] in isotonic.verdict().meaning


def test_weights_that_do_worse_are_not_to_be_used() -> None:
    fit = {"members": {"a": 0.9, "b": 0.1}, "n": 40, "log_loss_equal": 0.5, "log_loss_learned": 0.6}
    worse = CalibrateFigures(kind="weights", fit=fit, worse=("log loss 0.5 → 0.6",)).verdict()
    assert (worse.level, worse.action[:26]) == ("bad", "Do not use these weights: ")
    better = CalibrateFigures(kind="weights", fit={**fit, "log_loss_learned": 0.4}).verdict()
    assert (better.level, better.meaning) == ("ok", "Log loss on held-out pairs 0.500 → 0.400 (n = 40).")


# ── comparisons ───────────────────────────────────────────────────────────────────────────────────────────────────


def share(value: float, half_width: float = 0.05) -> dict[str, Any]:
    return {"value": value, "low": value - half_width, "high": value + half_width, "n": 400}


def compared(
    raw: float,
    controlled: float | None = None,
    *,
    verified: bool = True,
    independent: float | None = None,
    harm: Any = None,
) -> CompareFigures:
    """One policy against sft by a judge that is independent where ``verified``."""
    at_length = share(raw if controlled is None else controlled)
    by_judge = {"main": {"win_rate": share(raw), "length_controlled": at_length, "unknown": {}}}
    if independent is not None:
        by_judge["other"] = {"win_rate": share(independent), "length_controlled": share(independent), "unknown": {}}
    policy = {"answered": 400, "tidied": {}, "mean_length": 100.0}
    evaluators = {
        name: {
            "model": f"hf:{name}",
            "family": name,
            "independent": verified and (name != "main" or independent is None),
        }
        for name in by_judge
    }
    figures: dict[str, Any] = {
        "reference": "sft",
        "policies": {
            "sft": {**policy, "by_judge": {}},
            "rl": {**policy, "win_rate": share(raw), "length_controlled": at_length, "by_judge": by_judge},
        },
        "head_to_head": {},
        "independence": {
            "judges": evaluators,
            "trained_by": [{"name": "hf:trainer", "model": "hf:trainer", "family": "t", "revision": ""}],
            "verified": verified,
            "reason": "" if verified else "nobody recorded who gave the training feedback",
        },
        "judges": {name: {"model": f"hf:{name}", "family": name} for name in by_judge},
        "examples": [],
        "rows": {"read": 400, "kept": 400},
    }  # fmt: skip
    if harm is not None:
        rates = {"sft": 0.02, "rl": harm}
        figures["safety"] = {
            "policies": {
                name: {"gold": {"harmless_unsafe": share(1 - rate, 0.01), "harmless_all": share(1 - rate, 0.01)}}
                for name, rate in rates.items()
            },
            "reference": "sft",
            "judge": "gold",
            "prompts": {"safe": 0, "unsafe": 400, "not said": 0},
            "examples": [],
            "masked": {},
        }
    return CompareFigures.model_validate(figures)


@pytest.mark.parametrize(
    ("figures", "level", "parts"),
    [
        (compared(0.7), "ok", ["rl is clearly preferred to sft"]),
        (compared(0.7, 0.45), "watch", ["preferred", "not distinguishable once length is controlled"]),
        (compared(0.7, 0.3), "watch", ["worse once length is controlled"]),
        (compared(0.7, verified=False), "watch", ["no independent evaluator confirms it"]),
        (compared(0.7, independent=0.5), "watch", ["but not by"]),
        (compared(0.7, independent=0.6), "ok", ["clearly preferred"]),
        (compared(0.7, harm=0.33), "bad", ["harmful more often (33 %"]),
        (compared(0.7, harm=0.02), "ok", ["clearly preferred"]),
        (compared(0.52), "watch", ["not distinguishable from sft"]),
        (compared(0.3), "bad", ["worse than sft"]),
    ],
)
def test_comparisons_weigh_length_independence_and_harm(figures: CompareFigures, level: str, parts: list[str]) -> None:
    found = figures.verdict()
    assert found is not None
    assert found.level == level, found
    for part in parts:
        assert part in found.meaning


def test_a_comparison_without_verdicts_has_no_finding() -> None:
    figures = compared(0.7)
    lone = figures.model_copy(update={"policies": {"sft": figures.policies["sft"]}})
    assert lone.verdict() is None


# ── words ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_shares_are_written_alike() -> None:
    assert [percent(share) for share in (0.0, 2.6e-6, 0.0499, 0.71, 1.0)] == [
        "0 %",
        "0.00026 %",
        "5 %",
        "71 %",
        "100 %",
    ]
    assert with_interval(Measured(value=0.71)) == "71 %"
    assert with_interval(Measured(value=None)) == "unknown"
    assert str(Verdict("bad", "It is bad.", "Mend it.")) == "✗ It is bad.\n  → Mend it."


# ── commands ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    pairs = [{"prompt": f"q{n}", "first": f"a{n}", "second": f"a longer answer {n}"} for n in range(3)]
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    answers = [{"prompt": row["prompt"], "completion": row["first"]} for row in pairs]
    Path("answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in answers))
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def test_the_verdict_is_the_last_line_of_a_command(data: Path) -> None:
    labelled = run("label", "--data", "pairs.jsonl", "--judge", "fake:longer", "-o", "labels.jsonl")
    assert labelled.output.splitlines()[-1] == "✓ 3 of 3 pairs labelled, label mass 97 %."
    again = run("label", "--data", "pairs.jsonl", "--judge", "fake:longer", "-o", "labels.jsonl")
    assert again.output.splitlines()[-1] == labelled.output.splitlines()[-1]
    shown = run("show", "labels.jsonl").output
    assert "✓ 3 of 3 pairs labelled" in shown
    measured = run("evaluate", "--data", "labels.jsonl")
    assert measured.output.splitlines()[-2].startswith("! The file has no human labels")


def test_each_stage_of_a_recipe_ends_with_its_verdict(data: Path) -> None:
    Path("two.yaml").write_text(
        "name: two\nstages:\n"
        "  - {id: labels, stage: label, comparisons: pairs.jsonl, judge: 'fake:longer'}\n"
        "  - {id: check, stage: evaluate, data: '@labels/labelled.jsonl'}\n"
    )
    for _ in range(2):  # finished stages tell theirs too
        lines = run("run", "two.yaml", "-o", "run").output.splitlines()
        at = next(i for i, line in enumerate(lines) if line.startswith("✓ labels"))
        assert lines[at + 1] == "  ✓ 3 of 3 pairs labelled, label mass 97 %."
        at = next(i for i, line in enumerate(lines) if line.startswith("✓ check"))
        assert lines[at + 1].startswith("  ! The file has no human labels")
    summary = json.loads(Path("run/summary.json").read_text())
    assert summary["stages"]["labels"]["verdict"]["level"] == "ok"
    assert summary["stages"]["check"]["verdict"]["level"] == "watch"


NO_LABELS = {"object": "list", "data": [{"id": "stub"}]}


def page(_: Request) -> Response:
    return Response(b"<html>Welcome</html>")


def thinking(_: Request) -> Response:
    message = {"role": "assistant", "content": None, "reasoning_content": "Let me see"}
    return as_json({"choices": [{"index": 0, "finish_reason": "length", "message": message}]})


@pytest.fixture(params=[page, thinking], ids=["a page of HTML", "thinking up to the limit"])
def server(request: pytest.FixtureRequest) -> Iterator[StubServer]:
    with StubServer(request.param, models=json.dumps(NO_LABELS).encode()) as stub:
        yield stub


def exit_code(result: Result) -> int:
    """As the program ends."""
    return result.exception.exit_code if isinstance(result.exception, AIFeedbackError) else result.exit_code


COMMANDS = {
    "label": ("--data", "pairs.jsonl", "--judge", "openai:stub", "-o", "out.jsonl"),
    "score": ("--data", "answers.jsonl", "--judge", "openai:stub", "-o", "out.jsonl"),
    "sample": ("--prompts", "answers.jsonl", "--model", "openai:stub", "--per-prompt", "1", "-o", "out.jsonl"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_that_could_read_nothing_says_why_and_ends_with_4(
    command: str, data: Path, server: StubServer
) -> None:
    how = ["--base-url", server.url]
    if server.handler is thinking and command != "sample":
        how += ["--set", "server.readout=parsed"]
    found = run(command, *COMMANDS[command], *how)
    assert exit_code(found) == 4, found.output
    assert "✗ None of the 3" in found.output
    if server.handler is page:
        assert "3 server_error" in found.output or "6 server_error" in found.output
        assert "Welcome" in found.output
        assert "Check base_url" in found.output
    else:
        assert "truncated" in found.output
        assert ("Raise --max-new-tokens" if command == "sample" else "Raise answer_tokens") in found.output
    resumed = run(command, *COMMANDS[command], *how)
    assert exit_code(resumed) == 4, "a result that holds nothing is no success the second time either"


def test_a_server_that_answers_some_rows_is_not_a_failure(data: Path) -> None:
    too_long = {"message": "maximum context length is 5 tokens", "code": "context_length_exceeded"}

    def mostly(request: Request) -> Response:
        if "q0" in request.text:
            return as_json({"error": too_long}, status=400)
        return as_json(chat_body({**truth(request.text), **others()}))

    with StubServer(mostly, models=json.dumps(NO_LABELS).encode()) as stub:
        found = run("label", *COMMANDS["label"], "--base-url", stub.url)
    assert found.exit_code == 0, found.output
    assert "! 1 of 3 pairs are unknown: 2 too_long" in found.output
