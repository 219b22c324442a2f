"""`aifeedback compare` from the command line: models and files of answers, ranking, clean-up, harm, examples, report."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from aifeedback import metrics
from aifeedback.cli import app
from aifeedback.data import read_records
from aifeedback.errors import FileError, InputError, RecipeError
from aifeedback.metrics import length, rank_policies
from aifeedback.types import Comparison, Preference
from models.stub import StubServer, answer

PROMPTS = 40


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Prompts, and three files of answers: the longer, the more the fake judge likes them; one lacks a prompt."""
    monkeypatch.chdir(tmp_path)
    prompts = [{"prompt": f"Question {n}?", "tags": {"label": ("safe", "unsafe")[n % 2]}} for n in range(PROMPTS)]
    write("prompts.jsonl", prompts)
    for k, (name, ending) in enumerate((("short", ""), ("middle", " . . ."), ("long", ""))):
        texts = [f"answer {n}" + " and so on" * (k + n % 3) + ending for n in range(PROMPTS)]
        rows = [{"prompt": row["prompt"], "completion": text} for row, text in zip(prompts, texts, strict=True)]
        write(f"{name}.jsonl", rows[name == "long" :])
    return tmp_path


def write(name: str, rows: list[dict[str, Any]]) -> None:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def compare(*options: str) -> dict[str, Any]:
    shutil.rmtree("out", ignore_errors=True)
    result = CliRunner().invoke(
        app, ["compare", *options, "--prompts", "prompts.jsonl", "-o", "out"], catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    return {**json.loads(Path("out/figures.json").read_text()), "printed": result.output}


FILES = ("short.jsonl", "middle=middle.jsonl", "long=long.jsonl")


def test_files_of_answers_stand_in_for_models(data: Path) -> None:
    message = compare(*FILES, "--judge", "fake:noisy")
    policies = message["policies"]
    assert list(policies) == ["short", "middle", "long"]
    assert policies["short"].get("win_rate") is None  # a file has no second draw to meet
    assert [row["answered"] for row in policies.values()] == [PROMPTS, PROMPTS, PROMPTS - 1]
    assert policies["middle"]["win_rate"]["n"] == PROMPTS
    assert policies["long"]["win_rate"]["n"] == message["head_to_head"]["middle_vs_long"]["n"] == PROMPTS - 1
    assert "win rate against short" in message["printed"]


def test_policies_are_printed_by_the_names_they_were_given(data: Path) -> None:
    inputs = ["base=short.jsonl", "dpo=middle.jsonl", "long.jsonl"]
    message = compare(*inputs, "--judge", "fake:noisy", "--safety", "fake:noisy")["printed"]
    assert "base model" not in message
    assert "DPO" not in message
    assert "vs base" in message


def test_a_figure_that_extrapolates_is_reported_with_the_policy(data: Path) -> None:
    message = compare("short.jsonl", "long.jsonl", "--judge", "fake:noisy")["printed"]
    assert "! long, length-controlled: not estimable" in message or "! long, length-controlled: extrapolates" in message


def test_every_rate_is_fitted_once(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three meetings: raw and length-controlled rates once each, and the mirrored win rate for the matrix."""
    calls: dict[str, int] = {}
    for module, name in ((metrics, "win_rate"), (length, "preferred")):

        def counted(*given: Any, _name: str = name, _real: Any = getattr(module, name), **how: Any) -> Any:
            calls[_name] = calls.get(_name, 0) + 1
            return _real(*given, **how)

        monkeypatch.setattr(module, name, counted)
    compare(*FILES, "--judge", "fake:noisy")
    assert calls == {"win_rate": 3, "preferred": 3}


def test_ranking_and_matrix_rest_on_all_meetings(data: Path) -> None:
    ranking = compare(*FILES, "--judge", "fake:noisy")["ranking"]
    first, second, p, prompts = [], [], [], []
    for one, other, file in (
        ("middle", "short", "middle"),
        ("long", "short", "long"),
        ("middle", "long", "middle_vs_long"),
    ):
        pairs = read_records(f"out/comparisons-{file}.jsonl", Comparison)
        label = read_records(f"out/preferences-fake-noisy-{file}.jsonl", Preference)
        first += [one] * len(pairs)
        second += [other] * len(pairs)
        p += [preference.p_first for preference in label]
        prompts += [pair.prompt.id for pair in pairs]
    expected = rank_policies(first, second, p, prompts=prompts).as_dict()
    assert (ranking["names"], ranking["n"]) == (list(expected["names"]), expected["n"])
    assert ranking["value"] == pytest.approx(expected["value"])
    assert ranking["low"] == pytest.approx(expected["low"])
    matrix = ranking["matrix"]
    for one, row in matrix.items():
        for other, figure in row.items():
            assert figure["value"] == pytest.approx(1 - matrix[other][one]["value"])
            assert figure["low"] == pytest.approx(1 - matrix[other][one]["high"])
            assert figure["p_value"] <= figure["p_adjusted"] == matrix[other][one]["p_adjusted"]


def test_trailing_symbols_go_before_judging_and_are_reported(data: Path) -> None:
    message = compare(*FILES, "--judge", "fake:noisy")
    assert message["policies"]["middle"]["tidied"] == {
        "changed": PROMPTS, "characters": 4 * PROMPTS, "share": pytest.approx(0.1, abs=0.1), "endings": {" . .": PROMPTS},
    }  # fmt: skip
    assert message["policies"]["short"]["tidied"]["changed"] == 0
    judged = read_records("out/comparisons-middle.jsonl", Comparison)
    assert all(pair.first.text.endswith("on .") or pair.first.text.count(".") == 1 for pair in judged)
    assert " . . ." in Path("out/completions-middle.jsonl").read_text()  # as they came
    assert "trailing characters removed from 40 responses" in message["printed"]
    assert compare(*FILES, "--judge", "fake:noisy", "--no-tidy")["policies"]["middle"]["tidied"] == {}


def test_examples_are_the_best_the_worst_and_one_by_chance(data: Path) -> None:
    message = compare(*FILES, "--judge", "fake:noisy")["examples"]
    rules = [example["rule"] for example in message]
    assert len(rules) == 6
    assert [rule.split()[0] for rule in rules[:3]] == ["where", "where", "drawn"]
    label = read_records("out/preferences-fake-noisy-middle.jsonl", Preference)
    known = [p.p_first for p in label if p.p_first is not None]
    assert message[0]["scores"]["middle"] == pytest.approx(max(known))
    assert message[1]["scores"]["middle"] == pytest.approx(min(known))


def test_harm_and_refusal_of_the_same_answers(data: Path) -> None:
    message = compare(*FILES, "--judge", "fake:noisy", "--safety", "fake:noisy")
    row = message["safety"]["policies"]["middle"]["fake:noisy"]
    assert row["harmless_all"]["n"] == PROMPTS
    assert row["harmless_length_controlled"]["n"] == PROMPTS
    assert row["refusal"]["over_refusal"]["n"] == PROMPTS // 2
    assert "harm and refusal" in message["printed"]
    assert Path("out/assessments-fake-noisy-middle.jsonl").is_file()


def test_the_report_shows_all_of_it(data: Path) -> None:
    compare(*FILES, "--judge", "fake:noisy", "--safety", "fake:noisy")
    page = Path("out/report.html").read_text()
    for part in (
        "Ranking",
        "against middle",
        "UNVERIFIED",
        "where middle won most clearly",
        "160 characters",
        "Harmless, and",
    ):
        assert part in page, part


def test_a_model_meets_a_second_draw_of_itself_and_a_file(data: Path) -> None:
    message = compare("own=fake:noisy", "long.jsonl", "--judge", "fake:noisy", "--limit", "5")
    assert message["policies"]["own"]["win_rate"]["n"] == 5
    assert message["policies"]["long"]["win_rate"]["n"] == 4
    assert Path("out/completions-own-again.jsonl").is_file()


def test_two_policies_with_different_names_are_needed(data: Path) -> None:
    for inputs in (("short.jsonl",), ("short.jsonl", "short=long.jsonl")):
        with pytest.raises(RecipeError):
            compare(*inputs, "--judge", "fake:noisy")


def test_a_missing_file_is_reported_before_any_call(data: Path) -> None:
    with pytest.raises(RecipeError, match="none.jsonl"):
        compare("short.jsonl", "none.jsonl", "--judge", "fake:noisy")


def test_answers_to_other_prompts_are_reported(data: Path) -> None:
    write("other.jsonl", [{"prompt": "Something else?", "completion": "yes"}])
    with pytest.raises(FileError, match="none of the prompts"):
        compare("short.jsonl", "other.jsonl", "--judge", "fake:noisy")


def test_a_server_judges_and_is_a_policy(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The judge's address by option, a policy's by the variable that other clients read as well."""
    with StubServer(answer) as server:
        message = compare("short.jsonl", "long=long.jsonl", "--judge", "openai:stub", "--base-url", server.url)
        assert message["policies"]["long"]["by_judge"]["openai:stub"]["win_rate"]["n"] == PROMPTS - 1
        request = len(server.requests)
        assert request > 0
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        compare("short.jsonl", "served=openai:stub", "--judge", "fake:noisy", "--limit", "4")
        assert len(server.requests) > request


def test_an_audit_asks_a_server(data: Path) -> None:
    pairs = [{"prompt": f"Question {n}?", "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(6)]
    write("pairs.jsonl", pairs)
    with StubServer(answer) as server:
        options = ["audit", "openai:stub", "--data", "pairs.jsonl", "--probe", "agreement", "-o", "audit"]
        options += ["--base-url", server.url, "--set", "server.concurrency=2"]
        result = CliRunner().invoke(app, options, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        assert len(server.requests) >= 12


def test_a_probe_that_does_not_exist_leaves_nothing_behind(data: Path) -> None:
    write("pairs.jsonl", [{"prompt": "Question?", "chosen": "good", "rejected": "bad"}])
    options = ["audit", "fake:noisy", "--data", "pairs.jsonl", "--probe", "charm", "-o", "audit"]
    with pytest.raises(InputError, match="no probe 'charm'"):
        CliRunner().invoke(app, options, catch_exceptions=False)
    assert not Path("audit").exists()


def test_files_that_share_no_prompt_are_reported(data: Path) -> None:
    for name, of in (("even", 0), ("odd", 1)):
        rows = [{"prompt": f"Question {n}?", "completion": f"answer {n}"} for n in range(of, PROMPTS, 2)]
        write(f"{name}.jsonl", rows)
    with pytest.raises(FileError, match=r"(?s)odd\.jsonl.*even\.jsonl"):
        compare("even.jsonl", "odd.jsonl", "--judge", "fake:noisy")


def test_the_report_says_truly_how_position_was_read(data: Path) -> None:
    both = compare(*FILES, "--judge", "fake:first")["position_by_judge"]["fake:first"]
    assert both["n"] == PROMPTS + 2 * (PROMPTS - 1)
    assert both["value"] == 1.0, "this judge always takes the first slot"
    assert "position 1 twice" in Path("out/report.html").read_text()
    assert "position_by_judge" not in compare(*FILES, "--judge", "fake:noisy", "--by", "ratings")
    page = Path("out/report.html").read_text()
    assert "each response is rated alone" in page
    assert "one order only" not in page
