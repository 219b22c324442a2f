"""The pages say what the code does: every key, every finding, every setting; their examples work."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from aifeedback.judging.calibration import Fit
from aifeedback.judging.pairwise import JudgeSettings, Rationale
from aifeedback.judging.panel import Disagreement, LearnedWeights
from aifeedback.judging.pointwise import ScoreSettings
from aifeedback.judging.principles import Coverage, Flips, Overlap, PrincipleResult
from aifeedback.judging.revision import Gain, ReviseSettings
from aifeedback.judging.spec import JudgeSpec, PanelSpec
from aifeedback.models.openai.client import Limits
from aifeedback.models.openai.settings import ServerSettings
from aifeedback.prompts import lint, registry
from aifeedback.prompts.constitution import Case, Constitution, Principle
from aifeedback.prompts.judge_prompt import JudgePrompt
from aifeedback.prompts.rubric import Criterion, Rubric
from aifeedback.types import Problem

DOCS = Path(__file__).resolve().parents[2] / "docs"
JUDGING, STANDARDS, CONSTITUTIONAL, RECIPES, SERVERS = (
    (DOCS / f"{name}.md").read_text(encoding="utf-8")
    for name in ("judging", "standards", "constitutional-ai", "recipes", "servers")
)
REST = {"principle_id", "cases"}  # containers, not figures
TOLD = [
    (JUDGING, JudgePrompt.model_fields),
    (JUDGING, JudgeSettings.model_fields),
    (JUDGING, ScoreSettings.model_fields),
    (JUDGING, Rationale.model_fields),
    (JUDGING, Problem),
    (JUDGING, [name for name in Fit.model_fields if name.startswith(("ece", "log_loss", "brier"))]),
    (JUDGING, Disagreement._fields),
    (JUDGING, LearnedWeights.model_fields.keys() - {"members", "n", "folds", "seed"}),
    (JUDGING, registry.shipped("judges")),
    (RECIPES, JudgeSpec.model_fields.keys() - {"seed", "batch_size"}),
    (RECIPES, PanelSpec.model_fields),
    (STANDARDS, Constitution.model_fields),
    (STANDARDS, Case.model_fields),
    (STANDARDS, Rubric.model_fields),
    (STANDARDS, Criterion.model_fields),
    (STANDARDS, set(PrincipleResult._fields) - REST),
    (STANDARDS, Flips._fields),
    (STANDARDS, [*Overlap._fields[2:], *Coverage._fields[1:]]),
    (STANDARDS, [*registry.shipped("constitutions"), *registry.shipped("rubrics")]),
    (CONSTITUTIONAL, ReviseSettings.model_fields),
    (CONSTITUTIONAL, [name for name in Gain._fields if name != "judge"]),
    (SERVERS, Limits.model_fields),
    (SERVERS, ServerSettings.model_fields.keys() - {"base_url", "limits"}),
]


@pytest.mark.parametrize("number", range(len(TOLD)))
def test_every_name_is_explained(number: int) -> None:
    page, names = TOLD[number]
    message = {word for code in re.findall(r"`([^`\n]+)`", page) for word in re.findall(r"[\w-]+", code)}
    assert {str(name) for name in names} <= message


def test_every_key_of_a_principle_is_explained() -> None:
    assert all(re.search(rf"`(principles\[\])?\.{key}`", STANDARDS) for key in Principle.model_fields)


def test_every_finding_is_explained() -> None:
    codes = set(re.findall(r'Finding\(\s*"([a-z-]+)"', Path(lint.__file__).read_text(encoding="utf-8")))
    assert len(codes) == 17
    table = STANDARDS.split("## Checking it")[1].split("With `--judge")[0]
    assert codes == set(re.findall(r"^\| `([a-z-]+)` \| ", table, re.M))


def test_the_example_constitution_is_clean() -> None:
    example = re.search(r"```yaml\n(.*?)```", STANDARDS, re.S)
    assert lint.check_values(yaml.safe_load(example[1])).findings == []
