"""Every way of labelling that the method names, from the command line to the records it leaves."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from aifeedback.cli import app
from aifeedback.data import read_records, read_rows, write_rows
from aifeedback.errors import AIFeedbackError, RecipeError, StandardsError
from aifeedback.judging.spec import JudgeSpec, PanelSpec
from aifeedback.steps import connect
from aifeedback.types import Preference, Score

PAIRS = 30
ANSWERS = 4


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    pairs = [
        {"prompt": f"Question {n}?", "chosen": f"a longer answer {n}", "rejected": f"answer {n}"} for n in range(PAIRS)
    ]
    answers = [
        {"prompt": f"Question {n}?", "completion": f"answer {n} " + "and so on " * k}
        for n in range(5)
        for k in range(ANSWERS)
    ]
    for name, rows in (("pairs", pairs), ("answers", answers)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def run(*options: str) -> str:
    """One command; its own errors come out as they are."""
    result = CliRunner().invoke(app, list(options), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def label(*options: str, judge: str = "fake:noisy", out: str = "out") -> list[Preference]:
    run("label", "--data", "pairs.jsonl", "--judge", judge, "-o", out, *options)
    return read_records(f"{out}/preferences.jsonl", Preference)


def figures(folder: str = "out") -> dict[str, Any]:
    return json.loads(Path(folder, "figures.json").read_text())


def p(preferences: list[Preference]) -> list[float | None]:
    return [preference.p_first for preference in preferences]


def test_both_orders_or_one(data: Path) -> None:
    both, one = label(out="both"), label("--orders", "one", out="one")
    assert {len(x.judgements) for x in both} == {2}
    assert {len(x.judgements) for x in one} == {1}
    assert {x.judgements[0].shown_swapped for x in one} == {True, False}


def test_probabilities_or_logits(data: Path) -> None:
    means = zip(label(out="p"), label("--average", "logits", out="l"), strict=True)
    apart = [(a.p_first, b.p_first) for a, b in means]
    assert any(abs(a - b) > 1e-6 for a, b in apart)
    assert all((a - 0.5) * (b - 0.5) >= 0 for a, b in apart)


@pytest.mark.parametrize("prompt", ["summary-base", "summary-detailed", "helpful-base", "harmless-detailed"])
@pytest.mark.parametrize("shots", [0, 2, 8])
def test_preambles_and_exemplars(prompt: str, shots: int, data: Path) -> None:
    label("--prompt", prompt, "--shots", str(shots), "--limit", "2")
    message = figures()["judge"]["prompt"]
    assert (message["name"], message["exemplars"]) == (prompt, shots)


def test_exemplars_in_another_order_are_another_prompt(data: Path) -> None:
    digests = set()
    for number, order in enumerate(([], ["--set", "shots_seed=1"], ["--set", "shots_seed=2"])):
        label("--shots", "4", "--limit", "1", *order, out=f"o{number}")
        digests.add(figures(f"o{number}")["judge"]["prompt"]["digest"])
    assert len(digests) == 3


def test_self_consistency(data: Path) -> None:
    options = ("--cot", "--samples", "3", "--temperature", "0.7", "--top-k", "40", "--limit", "4")
    for preference in label(*options):
        assert len(preference.judgements) == 6
        assert all(judgement.rationale for judgement in preference.judgements)
    assert figures()["judge"]["settings"]["rationale"]["top_k"] == 40


def test_a_setting_without_a_flag_of_its_own(data: Path) -> None:
    assert all(0.4 <= value <= 0.6 for value in p(label("--set", "clamp=[0.4, 0.6]")) if value is not None)
    with pytest.raises(RecipeError, match="did you mean 'clamp'"):
        label("--set", "clmp=[0.4, 0.6]")


def test_principles_drawn_averaged_together(data: Path) -> None:
    request = {
        use: {
            len({j.principle_id for j in x.judgements})
            for x in label("--constitution", "honest", "--use", use, out=use)
        }
        for use in ("drawn", "averaged", "together")
    }
    assert request["drawn"] == request["together"] == {1}
    assert min(request["averaged"]) > 3


def test_rubric_of_pairs_is_the_weighted_mean_of_its_criteria(data: Path) -> None:
    from aifeedback.prompts.rubric import Rubric

    weights = {wording.id: wording.weight for wording in Rubric.load("general").pair_wordings()}
    for preference in label("--rubric", "general", "--limit", "5"):
        by_criterion = {key: [j.p_first for j in preference.judgements if j.principle_id == key] for key in weights}
        means = {key: sum(values) / len(values) for key, values in by_criterion.items()}
        expected = math.fsum(weights[key] * mean for key, mean in means.items()) / sum(weights.values())
        assert preference.p_first == pytest.approx(expected, abs=1e-12)


def test_ratings_and_good_bad(data: Path) -> None:
    for number, options in enumerate((["--by", "ratings"], ["--by", "ratings", "--prompt", "goodbad"])):
        preferences = label(*options, out=f"r{number}")
        assert {x.judgements[0].readout for x in preferences} == {"ratings"}
        assert all(x.p_first is not None for x in preferences)


def test_any_judge_can_be_calibrated(data: Path) -> None:
    from aifeedback.judging.calibration import fit_calibration

    rows = [i / 100 for i in range(20, 80)]
    people = [float(i % 3 > 0) for i in range(60)]
    fit_calibration(rows, people, name="sure", judge="gold:talk", kind="platt").save(data / "calibrations")
    with pytest.raises(StandardsError, match="was fitted for 'gold:talk', not for"):
        label("--calibration", "sure", judge="people:lab")


def test_a_panels_servers_are_distinguished_from_its_local_members(data: Path) -> None:
    from aifeedback.steps.label import Label

    inputs = {"base_url": "http://127.0.0.1:9/v1", "server": {"concurrency": 2}, "hidden_mass": 0.1}
    judge = {"model": ["fake:quality", "openai:stub"], **inputs}
    local, served = Label.from_options({"comparisons": "x.jsonl", "judge": judge}).judge.members
    assert (local.base_url, local.server, local.hidden_mass) == (None, {}, 0.1)
    assert (served.base_url, served.server, served.hidden_mass) == (inputs["base_url"], {"concurrency": 2}, 0.1)


def test_panel_of_judges_and_prompts(data: Path) -> None:
    alone = [
        label("--prompt", prompt, judge=judge, out=f"{judge[5:]}-{prompt}")
        for judge in ("fake:noisy", "fake:quality")
        for prompt in ("helpful-base", "helpful-detailed")
    ]
    both = ["--judge", "fake:quality", "--prompt", "helpful-base", "--prompt", "helpful-detailed"]
    mean, median = label(*both, out="mean"), label(*both, "--combine", "median", out="median")
    for place in range(PAIRS):
        values = sorted(members[place].p_first for members in alone)
        assert mean[place].p_first == pytest.approx(sum(values) / 4, abs=1e-12)
        assert median[place].p_first == pytest.approx((values[1] + values[2]) / 2, abs=1e-12)
        assert len({j.judge for j in mean[place].judgements}) == 4
    message = figures("mean")
    assert message["disagreement"]["n"] == PAIRS
    assert message["disagreement"]["mean_spread"] > 0
    assert len(message["judges"]) == 4


def test_weights_learned_on_a_human_slice_find_the_better_judge(data: Path) -> None:
    panel = ["--judge", "fake:first", "--orders", "one"]
    label(*panel, judge="fake:longer")
    run("calibrate", "--data", "out", "--kind", "weights", "-o", "weights.json")
    learned = json.loads(Path("weights.json").read_text())
    assert learned["members"]["fake:longer helpful-detailed"] > 0.9
    assert learned["log_loss_learned"] < learned["log_loss_equal"]
    weighted = label(*panel, "--combine", "weights.json", judge="fake:longer", out="weighted")
    alone = label("--orders", "one", judge="fake:longer", out="alone")
    assert p(weighted) == pytest.approx(p(alone), abs=0.1)
    with pytest.raises(AIFeedbackError, match="these weights are of"):
        label(*panel, "--combine", "weights.json", judge="fake:shorter", out="other")


def test_calibration_by_name(data: Path) -> None:
    before = label(out="before")
    run("calibrate", "--data", "before/labelled.jsonl", "--kind", "platt", "-o", "mine", "--figure", "mine.svg")
    assert "<svg" in Path("mine.svg").read_text()
    stored = json.loads(Path("calibrations/mine.json").read_text())
    assert stored["judge"] == "fake:noisy helpful-detailed"
    after = label("--calibration", "mine", out="after")
    assert all(x.source.endswith("calibrated by mine") for x in after)
    assert p(before) != p(after)
    assert all((a - 0.5) * (b - 0.5) >= 0 for a, b in zip(p(before), p(after), strict=True))
    with pytest.raises(RecipeError, match=r"calibrations/other\.json"):
        label("--calibration", "other", out="none")


@pytest.mark.parametrize("options", [["--rank", "all"], ["--rank", "tournament", "--rounds", "1"]])
def test_ranking_the_answers_to_a_prompt(options: list[str], data: Path) -> None:
    run("score", "--data", "answers.jsonl", "--judge", "fake:longer", "-o", "ranked", *options)
    values = [score.value for score in read_records("ranked/scores.jsonl", Score)]
    assert "mean_expected" not in json.loads(Path("ranked/figures.json").read_text())  # a rank is no rating
    for start in range(0, len(values), ANSWERS):
        assert values[start : start + ANSWERS] == sorted(values[start : start + ANSWERS])


@pytest.mark.parametrize("out", ["scored.jsonl", "scored.parquet"])
def test_scores_stand_beside_prompt_and_completion(out: str, data: Path) -> None:
    run("score", "--data", "answers.jsonl", "--judge", "fake:quality", "-o", out)
    rows = [row.values for row in read_rows(out)]
    inputs = [row.values for row in read_rows("answers.jsonl")]
    assert [(r["prompt"], r["completion"]) for r in rows] == [(g["prompt"], g["completion"]) for g in inputs]
    totals = read_records(f"{out}.run/scores.jsonl", Score)
    assert [(r["completion_id"], r["expected"]) for r in rows] == [(t.completion_id, t.expected) for t in totals]


def test_scores_by_rubric_keep_the_criteria(data: Path) -> None:
    run("score", "--data", "answers.jsonl", "--judge", "fake:quality", "--rubric", "general", "-o", "rated")
    totals = read_records("rated/scores.jsonl", Score)
    criteria = read_records("rated/criteria.jsonl", Score)
    names = {score.judge for score in criteria}
    assert len(criteria) == len(names) * len(totals)
    assert len(names) > 2


def test_formats_of_export(data: Path) -> None:
    datasets = pytest.importorskip("datasets")
    label_to = ("label", "--data", "pairs.jsonl", "--judge", "fake:noisy")
    run(*label_to, "-o", "a.parquet")
    assert len(list(read_rows("a.parquet"))) == PAIRS
    run(*label_to, "-o", "trl.jsonl", "--format", "trl")
    rows = [row.values for row in read_rows("trl.jsonl")]
    assert all(set(row) == {"prompt", "chosen", "rejected", "chosen_probability"} for row in rows)
    assert all(row["chosen"] and row["rejected"] for row in rows)
    run(*label_to, "-o", "set", "--format", "dataset")
    assert "fake:noisy helpful-detailed" in Path("set/README.md").read_text()
    loaded = datasets.load_dataset(str(data / "set"), split="train", cache_dir=str(data / "cache"))
    assert loaded.num_rows == PAIRS
    with pytest.raises(RecipeError, match="a dataset is a folder"):
        run(*label_to, "-o", "x.jsonl", "--format", "dataset")


def test_trl_rows_leave_out_what_is_not_known(data: Path) -> None:
    from aifeedback.cli.exports import Exports

    label(out="some")
    rows = [dict(row.values) for row in read_rows("some/labelled.jsonl")]
    rows[0] |= {"p_first": None, "chosen": None, "rejected": None, "problem": "refused"}
    write_rows("some/labelled.jsonl", rows)
    Exports.of("trl", Path("some")).write(None)
    assert len(list(read_rows("some/trl.jsonl"))) == PAIRS - 1


def test_dry_run_reports_calls_tokens_cost_and_cap(data: Path) -> None:
    Path("prices.yaml").write_text('as_of: "2026-01"\nmodels:\n  "m*": {input: 1000, output: 0}\n')
    request = ("--judge", "openai:m1", "--base-url", "http://127.0.0.1:9/v1", "--prices", "prices.yaml")
    label_all = ("label", "--data", "pairs.jsonl", "-o", "never", "--dry-run", *request)
    labels = run(*label_all, "--spend-cap-usd", "0.1")
    assert "Response 1:" in labels
    assert f" {2 * PAIRS} " in labels
    assert "is reached after about" in labels
    assert "is enough" in run(*label_all, "--spend-cap-usd", "1000")
    assert not Path("never").exists()
    run("score", "--data", "answers.jsonl", "--rubric", "general", "-o", "never", "--dry-run", *request)


def test_a_server_s_cap_counts_what_earlier_runs_spent(data: Path) -> None:
    from models.stub import StubServer, answer

    Path("prices.yaml").write_text('as_of: "2026-01"\nmodels:\n  "stub": {input: 1000, output: 1000}\n')
    with StubServer(answer) as server:
        request = ("--base-url", server.url, "--prices", "prices.yaml", "--set", "server.concurrency=1")
        cap = ("--spend-cap-usd", "6")
        first = label(*request, *cap, judge="openai:stub")
        calls = server.count
        again = label(*request, *cap, judge="openai:stub")
        assert server.count - calls <= 1
        more = label(*request, "--spend-cap-usd", "1000", judge="openai:stub")
    known = [sum(value is not None for value in p(labels)) for labels in (first, again, more)]
    assert 0 < known[0] <= known[1] < known[2] == PAIRS
    assert {x.problem for x in first if x.p_first is None} <= {"over_budget", "missing"}


def test_the_identity_of_a_judge_is_requested_from_its_own_server(tmp_path: Path) -> None:
    from aifeedback.steps.step import Context
    from models.stub import StubServer, answer

    with StubServer(answer) as server:
        judge = JudgeSpec(model="openai:stub", base_url=server.url)
        context = Context(tmp_path, tmp_path)
        assert connect.judge_card(judge, context).uri == "openai:stub"
        assert server.url in connect.judge_card(judge, context).revision


@pytest.mark.parametrize(
    ("judge", "key"),
    [
        ({"model": "fake:noisy", "promt": "x"}, "judge.promt"),
        ({"members": ["fake:a", {"by": "x"}]}, "judge.members.1.by"),
    ],
)
def test_a_wrong_setting_is_named_as_the_user_wrote_it(judge: dict[str, Any], key: str) -> None:
    from aifeedback.config import parse
    from aifeedback.steps.label import Label

    with pytest.raises(RecipeError) as message:
        parse(Label, {"comparisons": "x.jsonl", "judge": judge})
    assert f"'{key}'" in str(message.value)


def test_calls_are_counted_with_principles_and_rationales() -> None:
    assert JudgeSpec(model="fake:noisy").calls_per_pair == 2
    averaged = JudgeSpec(model="fake:noisy", constitution="honest", use="averaged")
    drawn = JudgeSpec(model="fake:noisy", constitution="honest", use="drawn", per_pair=2, rationale={"samples": 3})
    assert averaged.calls_per_pair == 2 * averaged.questions > 6
    assert drawn.calls_per_pair == 2 * 2 * 2 * 3
    panel = PanelSpec(members=("fake:noisy", {"model": "fake:first", "orders": "one"}))
    assert panel.calls_per_pair == 3
