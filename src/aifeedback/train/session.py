"""From folder to folder: what SFT, reward model and DPO do before and after the loop, in one place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from aifeedback.errors import RecipeError
from aifeedback.protocols import Progress
from aifeedback.records import Record, content_id
from aifeedback.train import checkpoint, folders, loop, lora
from aifeedback.train.loop import Outcome
from aifeedback.train.settings import LoopConfig

NOT_IDENTITY = {"checkpoint_every", "keep_checkpoints", "trackers"}
"""Settings that may change between two starts of one run."""


class TrainResult(Record):
    """What a training run reports; also written to ``training/result.json`` in its folder."""

    folder: str
    steps: int
    rows: int
    skipped: Mapping[str, int]
    """Rows left out, by reason."""
    seconds_per_step: float
    """Median, without evaluation and checkpoints."""
    tokens_per_s: float
    """Median over steps, of one process."""
    peak_memory_mb: float
    figures: Mapping[str, float]
    """Last value of every logged figure."""
    stopped: str | None = None
    """Why it ended before its last planned step."""
    best_step: int | None = None
    """The step whose weights are in the folder, where the run was stopped and went back to its best; None: the last."""
    identity: str = ""
    """Digest of model, data and settings."""


class Title(NamedTuple):
    """What the card of the trained folder says first."""

    title: str
    summary: str


class Session:
    """One run from ``base`` to ``out``: the same model, data and settings go on where they were, or are done."""

    def __init__(
        self,
        kind: str,
        *,
        base: str | PathLike[str],
        out: str | PathLike[str],
        config: LoopConfig,
        rows: Sequence[Any],
        heldout: Sequence[Any] = (),
        further: Sequence[str | PathLike[str]] = (),
    ) -> None:
        weights = [folders.weights_digest(folder) for folder in (base, *further)]
        settings = config.model_dump(mode="json", exclude=NOT_IDENTITY)
        measured = [[row_key(row) for row in heldout]] if heldout else []
        self.identity = content_id(kind, weights, settings, [row_key(row) for row in rows], *measured)
        self.base, self.out, self.config = str(base), Path(out), config
        self.accelerator = loop.start(config)
        self._adapters: Any = None

    def finished(self) -> TrainResult | None:
        """The result where this run is already complete; a finished *other* run in the folder raises."""
        file = self.out / "training" / "result.json"
        if not file.exists():
            return None
        result = TrainResult.model_validate_json(file.read_text(encoding="utf-8"))
        if result.identity != self.identity:
            what = "holds a finished run with other data, model or settings"
            raise RecipeError(what, file=self.out, fix="give another output folder, or delete this one first")
        return result

    def adapt(self, model: Any) -> Any:
        """The model as it is, or with adapters in it where the settings ask for them."""
        if self.config.lora is not None:
            self._adapters = lora.attach(model, self.config.lora, seed=self.config.seed)
        return model

    def run(self, objective: Any, *, steps: int, progress: Progress, **rest: Any) -> Outcome:
        """The loop, with this run's identity and folder."""
        return loop.run(
            objective,
            config=self.config,
            steps=steps,
            out=self.out / "training",
            identity=self.identity,
            accelerator=self.accelerator,
            progress=progress,
            **rest,
        )

    def conclude(
        self,
        model: Any,
        tokenizer: Any,
        outcome: Outcome,
        title: Title,
        *,
        rows: int,
        skipped: Mapping[str, int],
    ) -> TrainResult:
        """Writes the folder, then the result, last of all; drops the checkpoints that it makes needless."""
        weights = {name: checkpoint.whole(value) for name, value in model.state_dict().items()}
        result = TrainResult(
            folder=str(self.out), rows=rows, skipped=dict(skipped), identity=self.identity, **outcome._asdict()
        )
        if self.accelerator.is_main_process:
            self._save(model, weights, tokenizer, result, title)
        self.accelerator.wait_for_everyone()
        return result

    def _save(self, model: Any, weights: Mapping[str, Any], tokenizer: Any, result: TrainResult, title: Title) -> None:
        if self.config.shard and self.accelerator.num_processes > 1:
            settings = getattr(model, "generation_config", None)
            model = type(model)(model.config)
            model.generation_config = settings
            self.adapt(model)
            model.load_state_dict(weights)
        if self._adapters is not None:
            model = lora.merge(self._adapters, self.out / "adapter")
        settings = self.config.model_dump(mode="json")
        text = folders.card(*title, base=self.base, settings=settings, figures=result.figures)
        folders.save_folder(model, tokenizer, self.out, card=text, dtype=folders.stored_dtype(self.base))
        training = self.out / "training"
        (training / "result.partial").write_text(result.model_dump_json(indent=2), encoding="utf-8")
        (training / "result.partial").replace(training / "result.json")
        for file in (training / "checkpoints").glob("*.safetensors"):
            file.unlink()


def row_key(row: Any) -> Mapping[str, Any]:
    """What of a row enters a run's identity."""
    if hasattr(row, "comparison"):
        return {"id": row.comparison.id, "p_first": row.p_first, "weight": getattr(row, "weight", 1.0)}
    return {"prompt": row[0].id, "completion": row[1].id, "weight": row[2] if len(row) > 2 else 1.0}
