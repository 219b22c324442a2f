"""From options of the command line to a judge, or to a panel where several judges or prompts are named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aifeedback.config import parse
from aifeedback.errors import RecipeError

COMBINED = ("mean", "median")


def judge_spec(
    model: str,
    prompt: str | None,
    how: Mapping[str, Any],
    *,
    sets: Sequence[str] | None = None,
    prices: Path | None = None,
    among: Sequence[str] = (),
) -> Any:
    """Options as a JudgeSpec, ``--set KEY=VALUE`` laid over them; a mistake names the option.

    ``among``: every model that the options are for; a server's settings go to those of them that are servers.
    """
    from aifeedback.recipe import assign, merge, nest
    from aifeedback.stages.judges import JudgeSpec, is_served

    if prompt is None and model.startswith("lab:"):
        prompt = "lab:rating" if how.get("by") == "ratings" else "lab:pairwise"
    given: dict[str, Any] = {"model": model, "prompt": prompt, **how}
    if prices is not None:
        if not prices.is_file():
            raise RecipeError(
                "no such file", file=prices, key="--prices", fix="give a YAML price table, or leave it out"
            )
        given["server"] = {"prices": str(prices)}
    given = {key: value for key, value in given.items() if value is not None}
    chosen = dict(assign(text) for text in sets or [])
    if not is_served(model) and any(map(is_served, among)):
        given, chosen = _unserved(given), _unserved(chosen)
    return parse(JudgeSpec, merge(given, nest(chosen)), prefix="--", by_set=chosen)


def _unserved(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key.partition(".")[0] not in ("base_url", "server")}


def assessor_spec(model: str, base_url: str | None, among: Sequence[str]) -> Any:
    """Who says whether answers do harm; ``among`` as in ``judge_spec``."""
    from aifeedback.stages.judges import is_served
    from aifeedback.stages.safety import AssessorSpec

    own = base_url if is_served(model) or not any(map(is_served, among)) else None
    return parse(AssessorSpec, {"model": model, "base_url": own}, prefix="--")


def judging(
    models: Sequence[str],
    prompts: Sequence[str] | None,
    how: Mapping[str, Any],
    *,
    sets: Sequence[str] | None = None,
    prices: Path | None = None,
    combine: str = "mean",
    calibration: str | None = None,
) -> Any:
    """One judge, or a panel of every named model under every named prompt. Raises RecipeError for a way to combine that
    is none, or that has nothing to combine."""
    from aifeedback.stages.judges import PanelSpec

    asked = [
        judge_spec(model, prompt, how, sets=sets, prices=prices, among=models)
        for model in models
        for prompt in prompts or [None]
    ]
    if combine not in COMBINED and not combine.endswith(".json"):
        known = f"{', '.join(COMBINED)} or a file of learned weights (.json)"
        raise RecipeError(f"there is no way to combine called '{combine}'", key="--combine", fix=known)
    if len(asked) == 1 and combine != COMBINED[0]:
        raise RecipeError("one judge has nothing to combine", key="--combine", fix="give several --judge or --prompt")
    if len(asked) == 1:
        return asked[0].model_copy(update={"calibration": calibration}) if calibration else asked[0]
    weights = combine if combine.endswith(".json") else None
    joined = {"combine": "mean" if weights else combine, "weights": weights, "calibration": calibration}
    return parse(PanelSpec, {"members": asked, **joined}, prefix="--")


def label_stage(engine: str, workers: int | None = None, **settings: Any) -> Any:
    """The labelling stage in this process, or the same one on Ray with so many workers."""
    if engine == "local":
        from aifeedback.stages.feedback import Label

        return Label(**settings)
    if engine != "ray":
        raise RecipeError(f"there is no engine '{engine}'", key="--engine", fix="local or ray")
    from aifeedback.integrations.ray import RayLabel

    return RayLabel(**settings, workers=workers)
