"""Run logs: metrics.jsonl (byte-identical for identical runs), timing.jsonl, and optional trackers."""

from __future__ import annotations

import importlib
import json
import resource
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from aifeedback.errors import MissingExtra


class About(NamedTuple):
    """What trackers show of a run."""

    name: str
    identity: str
    """Equal for a resumed run, which trackers continue."""
    settings: Mapping[str, Any]
    is_resumed: bool = False


class Trail:
    """Metric lines of a run; on resume, lines after the checkpoint are dropped and written again."""

    def __init__(
        self,
        folder: Path,
        *,
        until: int,
        trackers: Sequence[str] = (),
        is_main: bool = True,
        about: About | None = None,
    ) -> None:
        self.folder, self.is_main = folder, is_main
        self.file = folder / "metrics.jsonl"
        self.lines: list[dict[str, float]] = [line for line in _lines(self.file) if line["step"] <= until]
        about = about or About(folder.name, folder.name, {})
        self.sinks = [open_tracker(name, folder, about, step=until) for name in trackers] if is_main else []
        if is_main:
            folder.mkdir(parents=True, exist_ok=True)
            _write_lines(self.file, self.lines)

    @property
    def steps(self) -> int:
        return int(self.lines[-1]["step"]) if self.lines else 0

    def add(self, line: Mapping[str, float]) -> None:
        self.lines.append(dict(line))
        if self.is_main:
            with self.file.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(line) + "\n")
        for sink in self.sinks:
            sink.log(line)

    def last(self, until: int | None = None) -> dict[str, float]:
        """The newest value of every metric, at or before step ``until`` where given."""
        merged: dict[str, float] = {}
        for line in self.lines:
            if until is None or line["step"] <= until:
                merged |= line
        merged.pop("step", None)
        return merged

    def close(self, timing: Timing) -> None:
        if self.is_main:
            _write_lines(self.folder / "timing.jsonl", timing.lines)
        for sink in self.sinks:
            sink.close()


class Timing:
    """Seconds and tokens of each step of this process's part of the run."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.lines: list[dict[str, float]] = []
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def add(self, step: int, seconds: float, *, tokens: float) -> None:
        self.lines.append({"step": step, "seconds": seconds, "tokens": tokens})

    def summary(self) -> tuple[float, float, float]:
        """Median seconds per step, median tokens per second, peak memory in MB; NaN where no step was made."""
        if not self.lines:
            return float("nan"), float("nan"), peak_memory_mb(self.device)
        seconds = statistics.median(line["seconds"] for line in self.lines)
        tokens = statistics.median(line["tokens"] / line["seconds"] for line in self.lines)
        return seconds, tokens, peak_memory_mb(self.device)


def peak_memory_mb(device: torch.device) -> float:
    """Most memory so far: allocated on the GPU, or resident for this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def open_tracker(name: str, folder: Path, about: About, *, step: int) -> Any:
    """A sink with ``log(line)`` and ``close()``, continued after ``step``; raises MissingExtra without its package."""
    return {"tensorboard": _TensorBoard, "trackio": _Trackio, "wandb": _Wandb}[name](folder, about, step)


class _TensorBoard:
    def __init__(self, folder: Path, about: About, step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as missing:
            raise MissingExtra("tensorboard", "track") from missing
        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if about.is_resumed else None)
        self.writer.add_text("settings", f"```json\n{json.dumps(about.settings, indent=2, default=str)}\n```", step)

    def log(self, line: Mapping[str, float]) -> None:
        for key, value in line.items():
            if key != "step":
                self.writer.add_scalar(key, value, int(line["step"]))

    def close(self) -> None:
        self.writer.close()


class _Logged:
    """A package with ``init``, and runs with ``log`` and ``finish``."""

    def __init__(self, package: str, **run: Any) -> None:
        try:
            module = importlib.import_module(package)
        except ImportError as missing:
            raise MissingExtra(package, "track") from missing
        self.run = module.init(project="aifeedback", **run)

    def log(self, line: Mapping[str, float]) -> None:
        self.run.log({k: v for k, v in line.items() if k != "step"}, step=int(line["step"]))

    def close(self) -> None:
        self.run.finish()


class _Wandb(_Logged):
    """Runs are continued by id; W&B ignores steps that it has already."""

    def __init__(self, folder: Path, about: About, step: int) -> None:
        super().__init__(
            "wandb", name=about.name, id=about.identity, config=dict(about.settings), resume="allow", dir=str(folder)
        )


class _Trackio(_Logged):
    """Runs are continued by name, which therefore carries the run's identity."""

    def __init__(self, folder: Path, about: About, step: int) -> None:
        name = f"{about.name}-{about.identity[:6]}"
        super().__init__("trackio", name=name, config=dict(about.settings), resume="allow")


def _lines(file: Path) -> list[dict[str, float]]:
    """All whole lines of a file; a torn last line is dropped."""
    if not file.exists():
        return []
    return [json.loads(text) for text in file.read_text(encoding="utf-8").split("\n")[:-1]]


def _write_lines(file: Path, lines: Sequence[Mapping[str, float]]) -> None:
    partial = file.with_suffix(".partial")
    partial.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    partial.replace(file)
