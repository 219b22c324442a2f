"""The public functions: the steps of commands and recipes, called from Python.

    import aifeedback as af

    pairs = af.load_pairs("pairs.jsonl")
    judge = af.Judge("openai:my-model", prompt="helpful-detailed", base_url="http://localhost:8000/v1")
    preferences = judge.compare(pairs)

Everything resumes: model calls are kept in a journal, training in checkpoints, and the same call made again repeats
neither. Where no ``out`` is given, results go to ``runs/python/``, in a folder named after the inputs and settings.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from os import fspath
from pathlib import Path
from typing import Any, Generic, Literal, TypeAlias, TypeVar, overload

from aifeedback import data
from aifeedback.config import parse
from aifeedback.data import (
    Comparisons,
    LabelledRow,
    ReadReport,
    labelled,
    read_comparisons,
    read_prompts,
    read_records,
    write_completions,
    write_labelled,
    write_records,
)
from aifeedback.errors import InputError
from aifeedback.judging.spec import JudgeSpec, Judging, PanelSpec, one_judge
from aifeedback.models.journal.digests import seal
from aifeedback.pipeline import checks
from aifeedback.pipeline.command import Destination, run_step
from aifeedback.pipeline.runner import digests, fingerprint
from aifeedback.refs import refs_in
from aifeedback.steps import connect
from aifeedback.steps.audit import Audit, AuditFigures
from aifeedback.steps.compare import Compare, CompareFigures
from aifeedback.steps.dpo import Dpo
from aifeedback.steps.label import label_all
from aifeedback.steps.pairs import human_rows
from aifeedback.steps.reward_model import RewardModel, RewardModelFigures
from aifeedback.steps.rewards import RewardSpec
from aifeedback.steps.rl import Rl, RlFigures
from aifeedback.steps.sample import Sample, SampleFigures
from aifeedback.steps.sft import Sft
from aifeedback.steps.step import Context, Figures, Step
from aifeedback.steps.trained import TrainFigures
from aifeedback.storage import digest, make_folder
from aifeedback.types import Comparison, Completion, Preference, Problem, Prompt

ROOT = Path("runs/python")
"""Where results go that no ``out`` names, and the journal of judges."""

R = TypeVar("R", Comparison, Prompt, Completion)
F = TypeVar("F", bound=Figures, covariant=True)
S = TypeVar("S", bound=Step)


class _Rows(Sequence[R]):
    """Records in file order."""

    def __init__(self, rows: Sequence[R]) -> None:
        self._rows = rows

    @overload
    def __getitem__(self, index: int) -> R: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[R]: ...
    def __getitem__(self, index: int | slice) -> R | Sequence[R]:
        return self._rows[index]

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {len(self)}>"


class Pairs(_Rows[Comparison]):
    """Pairs of responses, in storage order, with the human labels of their file."""

    def __init__(self, read: Comparisons) -> None:
        super().__init__(read.rows)
        self.read = read

    @property
    def human(self) -> list[float | None]:
        """P(first better) by people, in [0, 1], one per pair; None where the file has no human label."""
        return self.read.human

    @property
    def report(self) -> ReadReport:
        """How many rows the file has, and which were skipped and why."""
        return self.read.report


class Prompts(_Rows[Prompt]):
    """Different prompts, in file order."""

    def __init__(self, rows: Sequence[Prompt], report: ReadReport) -> None:
        super().__init__(rows)
        self.report = report


class Samples(_Rows[Completion]):
    """Completions, prompt by prompt; ``prompts`` runs parallel."""

    def __init__(self, rows: Sequence[Completion], prompts: Sequence[Prompt], figures: SampleFigures) -> None:
        super().__init__(rows)
        self.prompts, self.figures = prompts, figures


PairData: TypeAlias = str | Path | Pairs | Sequence[Comparison]
PromptData: TypeAlias = str | Path | Prompts | Sequence[Prompt]


def load_pairs(
    path: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    criterion: str | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> Pairs:
    """Read pairs of responses from a file in any known format.

    ``columns`` maps our column names to the file's; ``criterion`` selects the human verdict if the file has several;
    ``limit`` is the most pairs to read. If the file puts the better response first, ``seed`` draws the storage order.
    Rows that cannot be used are left out and listed in ``.report``. Raises FileError if the file as a whole is unusable.
    """
    return Pairs(read_comparisons(path, seed, columns=columns, criterion=criterion, limit=limit))


def load_prompts(path: str | Path, *, columns: Mapping[str, str] | None = None, limit: int | None = None) -> Prompts:
    """Read each different prompt of a file once; a file of pairs or completions gives its prompts.

    ``columns`` maps our column names to the file's; ``limit`` is the most prompts to read. Raises FileError if the file
    as a whole is unusable.
    """
    read = data.load_prompts(path, columns=columns, limit=limit)
    return Prompts(read.rows, read.report)


Spec = TypeVar("Spec", JudgeSpec, PanelSpec)


class _Judging(Generic[Spec]):
    """What a judge and a panel have in common."""

    spec: Spec
    """Its settings, as a recipe writes them."""

    def __init__(self, spec: Spec, *, seed: int, folder: str | Path) -> None:
        checks.require_refs(list(refs_in(spec)))
        self.spec, self.seed, self.folder = spec, seed, Path(folder)

    def compare(self, pairs: PairData) -> list[Preference]:
        """Judge every pair in both orders and return one preference per pair, in order.

        ``p_first`` is P(first stored response better), in [0, 1], averaged over both orders; None if it is unknown, with
        the reason in ``problem``. Every call is journaled in ``folder``, so a second run repeats none. Raises
        JudgeUnavailable if a server stays unreachable after all retries.
        """
        rows = list(load_pairs(pairs) if isinstance(pairs, str | Path) else pairs)
        make_folder(self.folder)
        context = Context(self.folder, self.folder, step="python", seed=self.seed)
        return label_all(connect.labeler(self.spec, context), rows, context, connect.batch_for(self.spec, context, 256))


class Judge(_Judging[JudgeSpec]):
    """A model made into a judge of pairs."""

    def __init__(
        self,
        model: str,
        *,
        prompt: str | Path | None = None,
        seed: int = 0,
        folder: str | Path = ROOT,
        **settings: Any,
    ) -> None:
        """Set a judge up; no model is loaded or called.

        ``model``: hf:DIR_OR_ID, openai:NAME, lab:NAME, fake:NAME, rm:DIR or python:FILE.py:NAME. ``prompt``: a judge
        prompt by its shipped name or YAML file; a default that suits model and settings otherwise. ``settings``: any
        other setting of a judge, such as ``base_url``, ``rationale=True``, ``constitution`` or ``spend_cap_usd``.
        ``folder`` keeps the journal. Raises RecipeError for a wrong setting, a missing model or prompt, and MissingExtra
        if a library is not installed.
        """
        values = one_judge(model, None if prompt is None else fspath(prompt), settings)
        super().__init__(parse(JudgeSpec, values), seed=seed, folder=folder)

    def __repr__(self) -> str:
        return f"Judge({str(self.spec.model)!r}, prompt={str(self.spec.prompt)!r})"

    def reward(self, *, prompt: str | Path | None = None) -> RewardSpec:
        """Make the judge's live score a reward for ``train_rl`` (d-RLAIF, Lee et al. 2023).

        The reward is the judge's expected rating from 1 to 10, mapped to [−1, 1], under a rating ``prompt`` (by default
        the shipped one). What only concerns pairs is not taken over: the judge's prompt, order and principles.
        """
        own = self.spec.model_dump(mode="json", include=set(_SHARED), exclude_unset=True)
        model = own.pop("model")
        judge = one_judge(model, None if prompt is None else fspath(prompt), {"by": "ratings", **own})
        return parse(RewardSpec, {"judge": judge})


_SHARED = ("model", "base_url", "spend_cap_usd", "prices", "server", "rationale", "chat", "hidden_mass", "min_coverage")
"""Settings of a judge of pairs that also concern a judge that rates responses."""


class Panel(_Judging[PanelSpec]):
    """Several judges as one."""

    def __init__(
        self,
        judges: Sequence[Judge],
        *,
        combine: Literal["mean", "median"] = "mean",
        weights: str | Path | None = None,
        quorum: int | None = None,
        max_spread: float = 1.0,
        seed: int = 0,
        folder: str | Path = ROOT,
    ) -> None:
        """Set a panel of two or more judges up.

        ``combine``: how the members' p_first become one. ``weights``: a file of learned weights; equal by default.
        ``quorum``: fewest members whose judgement must be known, all of them by default. ``max_spread``: a larger
        distance between members, in [0, 1], leaves the preference unknown. Raises RecipeError for a wrong setting.
        """
        values = {
            "members": [judge.spec for judge in judges],
            "combine": combine,
            "weights": None if weights is None else fspath(weights),
            "quorum": quorum,
            "max_spread": max_spread,
        }
        super().__init__(parse(PanelSpec, values), seed=seed, folder=folder)

    def __repr__(self) -> str:
        return f"Panel({len(self.spec.members)} judges, combine={self.spec.combine!r})"


def _copied(report: Path, target: Path) -> Path:
    make_folder(target.parent)
    shutil.copyfile(report, target)
    return target


@dataclass(frozen=True)
class Result(Generic[F]):
    """A finished comparison or audit."""

    figures: F
    """Its metrics, as the step reports them."""
    folder: Path
    """Responses, preferences, metrics, report and journal."""
    report: Path
    """The report: one HTML file that opens offline."""

    def save_report(self, path: str | Path) -> Path:
        """Copy the report to ``path`` and return it."""
        return _copied(self.report, Path(path))


@dataclass(frozen=True)
class TrainedModel(Generic[F]):
    """A model folder that training wrote. Usable wherever a model, a policy or a reward is expected."""

    figures: F
    """Steps, rows, speed, and the last value of every logged metric."""
    folder: Path
    """A Hugging Face model folder."""
    scheme: Literal["hf", "rm"] = "hf"
    """rm: a reward model."""

    @property
    def uri(self) -> str:
        """hf:FOLDER or rm:FOLDER, as commands and recipes name it."""
        return f"{self.scheme}:{self.folder}"

    def __str__(self) -> str:
        return self.uri


ModelLike: TypeAlias = "str | TrainedModel[TrainFigures]"
RewardLike: TypeAlias = "str | RewardSpec | TrainedModel[RewardModelFigures]"


def train_sft(
    model: ModelLike,
    data: PairData | Samples,
    preferences: Sequence[Preference] | None = None,
    *,
    out: str | Path,
    seed: int = 0,
    **settings: Any,
) -> TrainedModel[TrainFigures]:
    """Fine-tune a model on completions, or on the preferred responses of pairs; write a model folder.

    ``data``: a file, ``sample(…)``, or pairs; pairs are labelled by ``preferences``, or else by their human labels.
    ``settings``: any setting of the trainer, such as ``steps``, ``batch`` or ``learning_rate``. Raises RecipeError before
    training for a wrong setting, and if ``out`` holds another result.
    """
    rows = _completions(data, out) if isinstance(data, Samples) else _labels(data, preferences, out)
    return _train(Sft, "train sft", {"model": str(model), "data": rows}, settings, out, seed)


def train_reward_model(
    model: ModelLike,
    pairs: PairData,
    preferences: Sequence[Preference] | None = None,
    *,
    out: str | Path,
    seed: int = 0,
    **settings: Any,
) -> TrainedModel[RewardModelFigures]:
    """Fit a reward model on soft labels; write a folder for AutoModelForSequenceClassification.

    ``pairs`` are labelled by ``preferences`` (one per pair, in order), or else by their human labels; a file by the
    labels in it. Pairs with an unknown label are left out and counted. ``settings``: any setting of the step
    (``heldout``, ``hard``, ``centre``) or of the trainer. Raises RecipeError before training for a wrong setting, and if
    ``out`` holds another result.
    """
    inputs = {"model": str(model), "data": _labels(pairs, preferences, out)}
    return _train(RewardModel, "train reward", inputs, settings, out, seed, scheme="rm")


def train_dpo(
    model: ModelLike,
    pairs: PairData,
    preferences: Sequence[Preference] | None = None,
    *,
    out: str | Path,
    seed: int = 0,
    **settings: Any,
) -> TrainedModel[TrainFigures]:
    """Optimise a policy directly on soft preferences (DPO); write a model folder.

    Labels come as in ``train_reward_model``. ``settings``: any setting of the step (``reference``, ``hard``) or of the
    trainer (``beta``, ``steps``). Raises RecipeError before training for a wrong setting, and if ``out`` holds another
    result.
    """
    inputs = {"model": str(model), "data": _labels(pairs, preferences, out)}
    return _train(Dpo, "train dpo", inputs, settings, out, seed)


def train_rl(
    model: ModelLike,
    prompts: PromptData,
    *,
    reward: RewardLike | Sequence[RewardLike | tuple[RewardLike, float]],
    out: str | Path,
    seed: int = 0,
    **settings: Any,
) -> TrainedModel[RlFigures]:
    """Train a policy by policy gradient with a KL penalty to its start; write a model folder.

    ``reward``: a reward model from ``train_reward_model``, a judge's ``reward()``, or a name: rm:DIR, judge:MODEL or
    python:FILE.py:FUNCTION; or a list of them, each alone or as (reward, weight), which are added. ``settings``: any
    setting of the step (``monitor``, ``limit``) or of the trainer (``steps``, ``samples_per_prompt``, ``beta``,
    ``baseline``). Raises RecipeError before training for a wrong setting, and if ``out`` holds another result.
    """
    inputs = {
        "model": str(model),
        "prompts": _prompts(prompts, out),
        "reward": _reward(reward),
    }
    return _train(Rl, "train rl", inputs, settings, out, seed)


def _reward(reward: RewardLike | Sequence[RewardLike | tuple[RewardLike, float]]) -> Any:
    if isinstance(reward, RewardSpec):
        return reward
    if isinstance(reward, str | TrainedModel):
        return str(reward)
    return {"mix": [_part(*one) if isinstance(one, tuple) else _part(one) for one in reward]}


def _part(reward: RewardLike, weight: float | None = None) -> RewardSpec:
    """One of several rewards; without ``weight`` it keeps its own."""
    spec = reward if isinstance(reward, RewardSpec) else RewardSpec.model_validate(str(reward))
    return spec if weight is None else spec.model_copy(update={"weight": weight})


def sample(
    model: ModelLike,
    prompts: PromptData,
    *,
    per_prompt: int = 2,
    out: str | Path | None = None,
    seed: int = 0,
    **settings: Any,
) -> Samples:
    """Draw completions from a model and return them prompt by prompt.

    A prompt whose call failed has fewer than ``per_prompt``; ``.figures.problems`` counts the reasons. ``settings``:
    ``temperature``, ``top_k``, ``top_p``, ``max_new_tokens``, ``stop``, and ``base_url`` and the like for a server.
    Raises RecipeError for a wrong setting, before the first call.
    """
    inputs = {"model": str(model), "prompts": _prompts(prompts, out or ROOT), "per_prompt": per_prompt}
    step = parse(Sample, _nested(Sample, "sampling", inputs, settings))
    done = _run(step, "sample", out, seed)
    rows = read_records(done.folder / "completions.records.jsonl", Completion)
    by_id = {prompt.id: prompt for prompt in read_prompts(step.prompts)}
    return Samples(rows, [by_id[row.prompt_id] for row in rows], done.figures)


def compare(
    policies: Mapping[str, ModelLike | str | Path],
    prompts: PromptData,
    *,
    judges: Sequence[Judge | Panel | str],
    reference: str | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    **settings: Any,
) -> Result[CompareFigures]:
    """Compare policies on held-out prompts: win rates raw and length-controlled, a ranking, a report.

    ``policies``: name → model or a file of its responses. All are compared with ``reference``, by default the first.
    ``judges``: the first decides headline and ranking. ``settings``: any other setting of the step, such as ``limit``,
    ``trained_by`` or ``safety``, and of sampling, such as ``temperature`` or ``max_new_tokens``. Raises RecipeError for a
    wrong setting or a missing input, before the first call.
    """
    inputs = {
        "policies": {name: _policy(policy) for name, policy in policies.items()},
        "reference": next(iter(policies), "") if reference is None else reference,
        "prompts": _prompts(prompts, out or ROOT),
        "judges": _specs(judges),
    }
    done = _run(parse(Compare, _nested(Compare, "sampling", inputs, settings)), "compare", out, seed)
    return _result(done, seed)


def audit(
    judge: Judge | Panel | str | Sequence[Judge | Panel | str],
    pairs: PairData,
    *,
    out: str | Path | None = None,
    seed: int = 0,
    **settings: Any,
) -> Result[AuditFigures]:
    """Audit a judge, or several on the same pairs: bias, agreement with human labels, attacks; write a report.

    ``settings``: ``probes`` (names, or python:FILE.py:NAME; all shipped ones by default), ``n`` (pairs of a probe that
    changes texts), ``limit``. Raises RecipeError for a wrong setting or a missing input, before the first call.
    """
    judges = [judge] if isinstance(judge, str | Judge | Panel) else judge
    inputs = {"judges": _specs(judges), "data": _unlabelled(pairs, out or ROOT)}
    done = _run(parse(Audit, {**inputs, **settings}), "audit", out, seed)
    return _result(done, seed)


@dataclass(frozen=True)
class RunResult:
    """A finished run of a recipe."""

    figures: Mapping[str, Any]
    """summary.json: every metric of the run, in the recipe's own names first."""
    folder: Path
    report: Path

    def save_report(self, path: str | Path) -> Path:
        """Copy the report to ``path`` and return it."""
        return _copied(self.report, Path(path))


def run(
    recipe: str | Path,
    *,
    out: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    **values: Any,
) -> RunResult:
    """Run a recipe: a shipped one by name, or a YAML file. Finished stages are skipped.

    ``values``: the recipe's settings, ``seed`` and ``workers`` among them; models, prompts and pairs may be objects of
    this module. ``settings``: the same by any key, for a stage's own setting ("rl.steps"). ``out`` is runs/NAME by
    default. Raises RecipeError with every problem before anything runs.
    """
    from aifeedback.pipeline.recipe import load
    from aifeedback.pipeline.run import require, run_recipe

    place = Path(out) if out is not None else None
    stored = place or Path("runs") / Path(recipe).stem
    plain = {key: _setting(value, stored) for key, value in {**(settings or {}), **values}.items()}
    loaded = load(fspath(recipe), plain)
    folder = place or Path("runs") / loaded.name
    require(loaded, folder)
    finished = run_recipe(loaded, folder, _Silent())
    return RunResult(finished.summary, folder, finished.report)


class _Silent:
    """A watcher that shows nothing."""

    def started(self, stage_id: str) -> None: ...
    def advanced(self, stage_id: str, done: int, total: int, figures: Mapping[str, float]) -> None: ...
    def finished(self, stage_id: str, *, seconds: float, skipped: bool, verdict: Any) -> None: ...


@dataclass(frozen=True)
class _Done(Generic[S]):
    step: S
    figures: Any
    folder: Path
    spent: Any


def _run(step: S, command: str, out: str | Path | None, seed: int) -> _Done[S]:
    """Run the step in ``out``, or in a folder named after everything that its result depends on."""
    checks.require(step)
    folder = Path(out) if out is not None else ROOT / f"{command}-{fingerprint(step, seed, {}, digests(step))[:12]}"
    done = run_step(step, Destination(folder, step.main), command=command, seed=seed)
    return _Done(step, done.figures, folder, done.spent)


def _result(done: _Done[Any], seed: int) -> Result[Any]:
    report = done.step.report(done.figures, done.spent, done.folder, seed)
    assert report is not None
    seal(done.folder, done.folder / "journal.sqlite", rewritten=[report])
    return Result(done.figures, done.folder, report)


def _train(
    kind: type[Step],
    command: str,
    inputs: Mapping[str, Any],
    settings: Mapping[str, Any],
    out: str | Path,
    seed: int,
    scheme: Literal["hf", "rm"] = "hf",
) -> TrainedModel[Any]:
    done = _run(parse(kind, _nested(kind, "train", inputs, settings)), command, out, seed)
    return TrainedModel(done.figures, done.folder, scheme)


def _nested(kind: type[Step], inner: str, inputs: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The step's own settings, and the others under ``inner``."""
    own = {key: value for key, value in settings.items() if key in kind.model_fields}
    others = {key: value for key, value in settings.items() if key not in kind.model_fields}
    return {**inputs, **own, **({inner: {**own.get(inner, {}), **others}} if others else {})}


def _specs(judges: Sequence[Judge | Panel | str]) -> dict[str, Judging]:
    """Judges by name: the model, with its prompt and a number where several would have the same name."""
    named: dict[str, Judging] = {}
    for judge in judges:
        spec = (Judge(judge) if isinstance(judge, str) else judge).spec
        name = "panel" if isinstance(spec, PanelSpec) else str(spec.model)
        if name in named and isinstance(spec, JudgeSpec):
            name = f"{name} {spec.prompt}"
        count = sum(other.partition(" #")[0] == name for other in named)
        named[f"{name} #{count + 1}" if count else name] = spec
    return named


def _policy(policy: ModelLike | str | Path) -> str:
    return f"hf:{policy}" if isinstance(policy, Path) and policy.is_dir() else str(policy)


def _setting(value: Any, out: Path) -> Any:
    """A recipe's setting as YAML would hold it."""
    if isinstance(value, TrainedModel):
        return value.uri
    if isinstance(value, Prompts):
        return _prompts(value, out)
    if isinstance(value, Pairs):
        return _labels(value, None, out)
    if isinstance(value, Judge):
        raise InputError("a recipe names its judge by the model", fix=f"write {str(value.spec.model)!r}")
    return str(value) if isinstance(value, Path) else value


def _labels(pairs: PairData, preferences: Sequence[Preference] | None, out: str | Path) -> str:
    """A labelled file: as given, or of pairs in memory with preferences, or else with their human labels."""
    if isinstance(pairs, str | Path):
        if preferences is None:
            return fspath(pairs)
        pairs = load_pairs(pairs)
    read = pairs.read if isinstance(pairs, Pairs) else None
    if preferences is not None:
        if len(preferences) != len(pairs):
            raise InputError(
                f"{len(preferences)} preferences for {len(pairs)} pairs", fix="give one per pair, in order"
            )
        rows = labelled(read or pairs, preferences)
    elif read is not None and any(known is not None for known in read.human):
        rows = human_rows(read)
    else:
        raise InputError("these pairs have no labels", fix="give preferences, for example judge.compare(pairs)")
    return _stored("labels", out, lambda file: write_labelled(file, rows))


def _unlabelled(pairs: PairData, out: str | Path) -> str:
    """A file of pairs with their human labels, as given or of pairs in memory."""
    if isinstance(pairs, str | Path):
        return fspath(pairs)
    human: Iterable[float | None] = pairs.human if isinstance(pairs, Pairs) else [None] * len(pairs)
    rows = [
        LabelledRow(comparison=pair, p_first=None, judge="unknown", problem=Problem.MISSING, human_p_first=known)
        for pair, known in zip(pairs, human, strict=True)
    ]
    return _stored("pairs", out, lambda file: write_labelled(file, rows))


def _prompts(prompts: PromptData, out: str | Path) -> str:
    if isinstance(prompts, str | Path):
        return fspath(prompts)
    return _stored("prompts", out, lambda file: write_records(file, prompts))


def _completions(samples: Samples, out: str | Path) -> str:
    return _stored("completions", out, lambda file: write_completions(file, samples.prompts, samples))


def _stored(name: str, out: str | Path, write: Callable[[Path], Any]) -> str:
    """The path of what ``write`` writes, below ``out`` and named after its content: equal data is the same input."""
    folder = make_folder(Path(out) / "inputs")
    made = folder / f".{name}.jsonl"
    write(made)
    target = folder / f"{name}-{digest(made)[:12]}.jsonl"
    made.replace(target)
    return str(target)
