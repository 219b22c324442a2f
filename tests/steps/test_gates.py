"""Gates end with exit code 6 and one line; fresh audits ask anew; two audits are compared; saved runs judged again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from aifeedback.audit import gate
from aifeedback.cli import app
from aifeedback.errors import GateClosed, InputError, RecipeError


def finding(probe: str, level: str) -> dict[str, Any]:
    return {"probe": probe, "level": level}


@pytest.mark.parametrize(
    ("levels", "closes"),
    [
        (["fine", "fine"], ()),
        (["fine", "watch"], ("watch",)),
        (["bad", "fine"], ("serious", "watch")),
        (["unknown", "uninformative"], ("serious", "watch")),
        (["unknown", "fine"], ()),
    ],
)
def test_a_finding_closes_its_gate(levels: list[str], closes: tuple[str, ...]) -> None:
    audit = {"judge": "j", "findings": [finding(f"p{n}", level) for n, level in enumerate(levels)]}
    for fail_on in ("serious", "watch"):
        if fail_on in closes:
            with pytest.raises(GateClosed) as closed:
                gate.require_audits([audit], fail_on)
            assert closed.value.exit_code == 6
            assert "\n" not in str(closed.value)
        else:
            gate.require_audits([audit], fail_on)


def comparison(*, verified: bool = True, harm: bool | None = None, low: float | None = 0.55) -> dict[str, Any]:
    claims = {"win_rate": {"verified": verified, "reason": "r"}, "agreement": {"verified": False, "reason": "r"}}
    claims |= {} if harm is None else {"harm": {"verified": harm, "reason": "r"}}
    return {
        "reference": "base",
        "policies": {"base": {}, "policy": {"length_controlled": {"low": low}}},
        "independence": {"claims": claims},
    }


@pytest.mark.parametrize(
    ("figures", "requirement", "is_open"),
    [
        (comparison(), "independent", True),
        (comparison(verified=False), "independent", False),
        (comparison(harm=False), "independent", False),
        (comparison(harm=True), "independent", True),
        ({"policies": {}, "reference": ""}, "independent", False),
        (comparison(), "length-controlled", True),
        (comparison(low=0.5), "length-controlled", False),
        (comparison(low=None), "length-controlled", False),
    ],
)
def test_a_comparison_meets_what_is_required(figures: Any, requirement: Any, is_open: bool) -> None:
    if is_open:
        gate.require_comparison(figures, [requirement])
    else:
        with pytest.raises(GateClosed):
            gate.require_comparison(figures, [requirement])


def test_an_unknown_requirement_is_refused_before_anything_is_spent() -> None:
    with pytest.raises(RecipeError, match="independent, length-controlled"):
        gate.requirements(["independence"])
    assert gate.requirements(["independent", "independent"]) == ["independent"]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rows = [
        {"prompt": f"Question {n}?", "chosen": f"good answer {n} and more", "rejected": f"bad {n}"} for n in range(20)
    ]
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, text in (("short", "answer"), ("long", "a much longer answer")):
        lines = [{"prompt": f"Test {n}?", "completion": f"{text} {n}"} for n in range(12)]
        Path(f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    Path("prompts.jsonl").write_text("".join(json.dumps({"prompt": f"Test {n}?"}) + "\n" for n in range(12)))
    return tmp_path


def command(*words: str) -> Any:
    return CliRunner().invoke(app, list(words))


def audit(*words: str) -> Any:
    return command("audit", "--data", "pairs.jsonl", "--n", "6", "--probe", "position", "--probe", "agreement", *words)


def test_audit_and_compare_end_with_code_6(data: Path) -> None:
    told = audit("fake:first", "--fail-on", "serious", "-o", "one")  # always the first slot
    assert isinstance(told.exception, GateClosed)
    assert "position" in str(told.exception)
    assert Path("one/report.html").is_file(), "everything was measured and written"
    compared = command(
        *"compare short.jsonl long.jsonl --prompts prompts.jsonl --judge fake:longer -o out --require independent".split()
    )
    assert isinstance(compared.exception, GateClosed)
    assert Path("out/report.html").is_file()
    assert (
        command(*"compare short.jsonl long.jsonl --prompts prompts.jsonl --judge fake:longer -o out".split()).exit_code
        == 0
    )


def test_a_fresh_audit_asks_again_every_time(data: Path) -> None:
    for n in (1, 2):
        assert audit("fake:noisy", "--fresh", "-o", "one").exit_code == 0
        journals = [p for p in Path("one").glob("journal-*.sqlite") if "again" not in p.name]
        assert len(journals) == n
        assert json.loads(Path("one/audit.json").read_text())["judges"][0]["new_calls"] > 0
    assert audit("fake:noisy", "-o", "two").exit_code == 0


def test_a_judge_exchanged_between_two_audits_is_found(data: Path) -> None:
    assert audit("fake:longer", "-o", "old").exit_code == 0
    assert audit("fake:longer", "--fresh", "-o", "same").exit_code == 0
    assert audit("fake:first", "-o", "new").exit_code == 0
    same = command("audit", "diff", "old", "same", "--fail-on", "changed", "--json", "diff.json")
    assert same.exit_code == 0
    assert json.loads(Path("diff.json").read_text())["judges"][0]["flips"]["value"] == 0
    changed = command("audit", "diff", "old", "new", "--fail-on", "changed")
    assert isinstance(changed.exception, GateClosed)
    assert "flipped" in changed.output


def test_audits_that_share_nothing_are_refused(data: Path) -> None:
    audit("fake:longer", "fake:first", "-o", "two")
    audit("fake:noisy", "-o", "one")
    assert isinstance(command("audit", "diff", "two", "one").exception, InputError)
    assert isinstance(command("audit", "diff", "one", "nowhere").exception, InputError)


def test_a_saved_comparison_is_judged_again_from_its_pairs(data: Path) -> None:
    command(*"compare short.jsonl long.jsonl --prompts prompts.jsonl --judge fake:longer -o out".split())
    for name in ("short", "long", "prompts"):
        Path(f"{name}.jsonl").unlink()  # nothing but the saved run is needed
    told = command(*"rejudge out --judge fake:first --judge fake:longer -o again".split())
    assert told.exit_code == 0, told.output
    figures = json.loads(Path("again/figures.json").read_text())
    assert Path("again/comparisons-long.jsonl").read_bytes() == Path("out/comparisons-long.jsonl").read_bytes()
    before = json.loads(Path("out/figures.json").read_text())["policies"]["long"]["by_judge"]["fake:longer"]
    after = figures["comparison"]["policies"]["long"]["by_judge"]
    assert after["fake:longer"]["win_rate"]["value"] == before["win_rate"]["value"]
    assert figures["agreement_with_earlier"]["fake:longer"]["fake-longer"]["value"] == 1.0
    assert not figures["comparison"]["independence"]["verified"]
    assert Path("again/report.html").is_file()


def test_saved_labels_are_judged_again(data: Path) -> None:
    command(*"label --data pairs.jsonl --judge fake:longer -o labels.jsonl".split())
    told = command(*"rejudge labels.jsonl --judge fake:longer --judge fake:first -o again".split())
    assert told.exit_code == 0, told.output
    figures = json.loads(Path("again/figures.json").read_text())
    assert figures["labels"]["fake:longer"]["alignment"]["value"] == 1.0, "human labels are kept"
    (earlier,) = figures["agreement_with_earlier"]["fake:longer"].values()
    assert (earlier["value"], earlier["n"]) == (1.0, 20)


@pytest.mark.parametrize("what", ["edited", "nothing", "not there"])
def test_what_cannot_be_judged_again_is_named(data: Path, what: str) -> None:
    command(*"label --data pairs.jsonl --judge fake:longer -o labels".split())
    if what == "edited":
        file = Path("labels/labelled.jsonl")
        file.write_text(file.read_text().replace("fake:longer", "fake:wiser"))
        told = command(*"rejudge labels --judge fake:first -o again".split())
        assert "The saved run was changed" in told.output
    else:
        Path("empty").mkdir()
        place = "empty" if what == "nothing" else "nowhere"
        assert isinstance(command("rejudge", place, "--judge", "fake:first", "-o", "again").exception, InputError)
