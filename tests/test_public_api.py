"""``import aifeedback as af``: the list of names, what importing costs, and the README's snippet as it is written."""

from __future__ import annotations

import ast
import inspect
import json
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

import aifeedback as af
from aifeedback.errors import InputError, RecipeError
from aifeedback.steps.audit import AuditFigures
from aifeedback.steps.compare import CompareFigures
from aifeedback.steps.rl import RlFigures
from models.stub import Request, Response, StubServer, answer, as_json

ROOT = Path(__file__).resolve().parents[1]
NAMES = {
    "AIFeedbackError", "Comparison", "Judge", "Panel", "Preference", "Prompt", "audit", "compare", "connect",
    "load_pairs", "load_prompts", "run", "sample", "train_dpo", "train_reward_model", "train_rl", "train_sft",
}  # fmt: skip
TINY = {"steps": 1, "batch": 2}


def test_the_public_names() -> None:
    assert set(af.__all__) == NAMES
    assert set(dir(af)) >= NAMES
    for name in NAMES:
        assert callable(getattr(af, name))
    with pytest.raises(AttributeError, match="no attribute 'train_ppo'"):
        _ = af.train_ppo  # type: ignore[attr-defined]
    assert (ROOT / "src" / "aifeedback" / "py.typed").is_file()


def test_type_checkers_see_the_names_that_are_there() -> None:
    tree = ast.parse((ROOT / "src" / "aifeedback" / "__init__.py").read_text(encoding="utf-8"))
    guarded = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.name: str(node.module)
        for node in guarded.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert set(seen) == NAMES
    for name, module in seen.items():
        result = getattr(sys.modules.get(module) or __import__(module, fromlist=[name]), name)
        assert result is getattr(af, name) or name == "audit"


@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_public_name_has_a_docstring(name: str) -> None:
    assert inspect.getdoc(getattr(sys.modules["aifeedback.api"], name, None) or getattr(af, name))


def loaded_after(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter has after running the code."""
    ran = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys, json\nprint(json.dumps(sorted(sys.modules)))"],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return {name.partition(".")[0] for name in json.loads(ran.stdout.splitlines()[-1])}


def test_importing_the_package_loads_nothing_heavy() -> None:
    heavy = {"torch", "transformers", "scipy", "numpy", "pydantic", "aiohttp", "matplotlib", "statsmodels", "sklearn"}
    assert heavy.isdisjoint(loaded_after("import aifeedback as af; dir(af); af.__all__; af.__version__"))


def test_no_public_name_loads_torch() -> None:
    used = loaded_after("import aifeedback as af\nfor name in af.__all__: getattr(af, name)")
    assert {"torch", "transformers", "scipy"}.isdisjoint(used)


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the files and models that the snippet names: the lab's, under other names."""
    from aifeedback.lab import samples, zoo

    made = samples.comparisons(8, split="test", seed=0)
    rows = [
        {"prompt": c.prompt.text, "first": c.first.text, "second": c.second.text, "label": i % 2 + 1}
        for i, c in enumerate(made)
    ]
    write(tmp_path / "pairs.jsonl", rows)
    write(tmp_path / "prompts.jsonl", [{"prompt": row["prompt"]} for row in rows])
    (tmp_path / "my").mkdir()
    for name, model in (("my/sft", "base"), ("my/judge", "judge"), ("other", "judge-xs")):
        (tmp_path / name).symlink_to(zoo.folder(model))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def served(request: Request) -> Response:
    """Preferences as ever; a rating where ten labels can be answered."""
    if "1 to 10" in request.text or "from 1" in request.text:
        top = [{"token": str(i), "logprob": -2.4, "bytes": None} for i in range(1, 11)]
        content = [{"token": "7", "logprob": -2.3, "top_logprobs": top}]
        choice = {"message": {"content": "7"}, "finish_reason": "stop", "logprobs": {"content": content}}
        return as_json({"choices": [choice], "usage": {"prompt_tokens": 9, "completion_tokens": 1}})
    return answer(request)


def snippet() -> str:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    return readme.partition("## Python")[2].partition("```python\n")[2].partition("```")[0]


def test_the_snippet_of_the_readme_works_as_written(place: Path) -> None:
    """Only the server's port, and the size of the recipe's run, are not the snippet's own."""
    code = snippet()
    assert len(code.strip().splitlines()) >= 13
    with StubServer(served) as server:
        code = code.replace("http://localhost:8000/v1", server.url)
        code = code.replace('out="runs/rlaif")', 'out="runs/rlaif", steps=1, rm_steps=1, test=2, max_new_tokens=4)')
        names: dict[str, Any] = {"prompts": af.load_prompts("prompts.jsonl")}
        exec(compile(code, "README.md", "exec"), names)
    assert len(names["prefs"]) == 8
    assert all((p.p_first is None) == (p.problem is not None) for p in names["prefs"])
    assert (place / "rm" / "model.safetensors").is_file()
    assert isinstance(names["policy"].figures, RlFigures)
    assert names["direct"].figures.reward.startswith("judge ")
    result = names["result"]
    assert isinstance(result.figures, CompareFigures)
    assert list(result.figures.policies) == ["sft", "rlaif"]
    assert list(result.figures.judges) == ["openai:my-model", "panel"]
    assert set(result.figures.judges["panel"].members or ()) == {
        "openai:my-model helpful-detailed",
        "hf:other helpful-detailed",
    }
    assert "<html" in (place / "report.html").read_text(encoding="utf-8")
    assert "<html" in (place / "audit.html").read_text(encoding="utf-8")
    assert (place / "runs" / "rlaif" / "report.html").is_file()


def test_a_script_may_call_run_at_its_top_level(place: Path) -> None:
    write(place / "small.jsonl", [{"prompt": f"p{i}", "first": "a", "second": "b"} for i in range(4)])
    (place / "own.yaml").write_text(
        "name: own\nstages:\n- {id: labels, stage: label, comparisons: small.jsonl, judge: 'fake:quality'}\n"
    )
    (place / "script.py").write_text(
        "import aifeedback as af\nprint('started')\nresult = af.run('own.yaml', out='out')\n"
        "print(result.figures['stages']['labels']['figures']['labels'], __file__ is not None)\n"
    )
    ran = subprocess.run([sys.executable, "script.py"], cwd=place, capture_output=True, text=True,
                         env={**os.environ, "PYTHONPATH": str(ROOT / "src")})  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == ["started", "4", "True"]


def test_calls_are_made_once_and_pairs_keep_their_human_labels(place: Path) -> None:
    pairs = af.load_pairs("pairs.jsonl")
    assert pairs.human == [1.0, 0.0] * 4
    assert len(pairs[:3]) == 3
    with StubServer(answer) as server:
        judge = af.Judge("openai:my-model", base_url=server.url)
        first = judge.compare(pairs)
        calls = server.count
        assert judge.compare("pairs.jsonl") == first
        assert server.count == calls == 16


def test_compare_and_audit_are_the_commands(place: Path) -> None:
    from typer.testing import CliRunner

    from aifeedback.cli import app

    write(place / "a.jsonl", [{"prompt": f"p{i}", "completion": "a b c"} for i in range(6)])
    write(place / "b.jsonl", [{"prompt": f"p{i}", "completion": "d"} for i in range(6)])
    write(place / "p.jsonl", [{"prompt": f"p{i}"} for i in range(6)])
    result = af.compare({"a": "a.jsonl", "b": Path("b.jsonl")}, "p.jsonl", judges=["fake:longer"], out="one")
    how = "compare a=a.jsonl b=b.jsonl --prompts p.jsonl --judge fake:longer -o two"
    ran = CliRunner().invoke(app, how.split())
    assert ran.exit_code == 0, ran.output
    assert json.loads(Path("one/figures.json").read_text()) == json.loads(Path("two/figures.json").read_text())
    assert result.figures.policies["b"].win_rate is not None
    assert result.figures.policies["b"].win_rate.value == 0.0
    audit = af.audit([af.Judge("fake:first"), "fake:quality"], "pairs.jsonl", probes=["position"], out="audit-one")
    assert isinstance(audit.figures, AuditFigures)
    how = "audit fake:first fake:quality --data pairs.jsonl --probe position -o audit-two"
    ran = CliRunner().invoke(app, how.split())
    assert ran.exit_code == 0, ran.output
    one, two = (json.loads(Path(f"audit-{n}/audit.json").read_text()) for n in ("one", "two"))
    assert [judge["findings"] for judge in one["judges"]] == [judge["findings"] for judge in two["judges"]]


def test_audit_stays_callable_once_its_package_is_loaded(place: Path) -> None:
    import aifeedback.audit.judge

    assert isinstance(aifeedback.audit, types.ModuleType)
    result = af.audit("fake:first", af.load_pairs("pairs.jsonl"), probes=["position"])
    assert result.figures.judges[0]["findings"][0]["probe"] == "position"
    assert result.folder.parent == Path("runs/python")


def test_a_panel_is_audited_like_a_judge(place: Path) -> None:
    panel = af.Panel([af.Judge("fake:longer"), af.Judge("fake:first")], combine="median")
    result = af.audit(panel, "pairs.jsonl", probes=["length"])
    assert result.figures.judges[0]["judge"].startswith("panel(median:")


def test_every_trainer_takes_what_is_in_memory(place: Path) -> None:
    pairs = af.load_pairs("pairs.jsonl")
    preferences = af.Judge("fake:quality").compare(pairs)
    samples = af.sample("lab:base", af.load_prompts("prompts.jsonl", limit=2), per_prompt=2, max_new_tokens=4)
    assert [sample.prompt_id for sample in samples] == [prompt.id for prompt in samples.prompts]
    sft = af.train_sft("lab:base", samples, out="sft", **TINY)
    dpo = af.train_dpo(sft, pairs, preferences, out="dpo", beta=0.2, **TINY)
    reward = af.train_reward_model(sft, pairs, out="rm", **TINY)
    assert reward.uri == "rm:rm"
    assert dpo.figures.steps == reward.figures.steps == 1
    again = af.train_dpo(sft, pairs, preferences, out="dpo", beta=0.2, **TINY)
    assert again.figures == dpo.figures
    with pytest.raises(RecipeError, match="different settings"):
        af.train_dpo(sft, pairs, preferences, out="dpo", beta=0.3, **TINY)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: af.Judge("openai"), "is not a model"),
        (lambda: af.Judge("fake:quality", prompt="helpful-detaild"), "helpful-detaild"),
        (lambda: af.Judge("fake:quality", base_url="http://localhost"), "only a server"),
        (lambda: af.Judge("fake:quality", rational=True), "did you mean 'rationale'"),
        (lambda: af.Panel([af.Judge("fake:quality")]), "members"),
        (lambda: af.train_dpo("lab:base", af.load_pairs("pairs.jsonl"), [], out="x"), "0 preferences for 8 pairs"),
        (lambda: af.train_dpo("lab:base", list(af.load_pairs("pairs.jsonl")), out="x"), "have no labels"),
        (lambda: af.train_dpo("lab:base", "pairs.jsonl", out="x", stesp=1), "did you mean 'steps'"),
        (lambda: af.train_rl("lab:absent", "prompts.jsonl", reward="rm:absent", out="x"), "no such lab model"),
        (lambda: af.compare({"a": "lab:base"}, "absent.jsonl", judges=["fake:quality"]), "absent.jsonl: no such file"),
        (lambda: af.audit("fake:quality", "pairs.jsonl", probes=["charm"]), "no probe 'charm'"),
        (lambda: af.run("rlaif", judge="fake:quality"), "setting 'policy' is needed"),
        (lambda: af.run("rlaif", judge=af.Judge("fake:quality")), "write 'fake:quality'"),
    ],
)  # fmt: skip
def test_mistakes_are_named_before_anything_runs(place: Path, call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
    assert not list(place.rglob("journal.sqlite"))
