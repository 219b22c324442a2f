"""A monitor: its folder, its rounds, what they raise, and the notes that people add."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Generator, Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

from aifeedback import data
from aifeedback.config import parse
from aifeedback.errors import FileError, JournalError, JudgeUnavailable, RecipeError
from aifeedback.models.journal.digests import seal, verify
from aifeedback.monitoring import charts
from aifeedback.monitoring.figures import RoundFigures, figures_of
from aifeedback.monitoring.log import Log
from aifeedback.monitoring.records import Event, GoldenItem, MonitorSettings, Round
from aifeedback.monitoring.rounds import (
    Questions,
    changes,
    new_versions,
    read_rounds,
    since_baseline,
    take_round,
)
from aifeedback.pipeline.checks import require_refs
from aifeedback.pipeline.run_folder import RunFolder
from aifeedback.refs import digest_ref
from aifeedback.storage import make_folder, read_yaml_mapping, write_json
from aifeedback.types import Progress, Prompt, silent

SETTINGS, GOLDEN, CANARY, REDTEAM = "monitor.yaml", "golden.jsonl", "prompts.jsonl", "redteam.jsonl"
FEW_ITEMS = 50
"""With fewer golden pairs, only gross changes can show."""


class Outcome(NamedTuple):
    """What a round found."""

    round: Round
    figures: RoundFigures
    raised: list[Event]
    """Alarms of this round."""
    open: list[Event]
    """Alarms that nobody has closed, those of this round included."""


class Monitor:
    """A monitored judge and, optionally, its policy. Raises FileError if the folder is not a monitor."""

    def __init__(self, folder: Path) -> None:
        file = folder / SETTINGS
        if not file.is_file():
            raise FileError("no monitor here", file=file, fix=f"aifeedback monitor init {folder} --judge … --golden …")
        self.folder, self.log = folder, Log(folder)
        stored = read_yaml_mapping(file, empty="holds no settings", fix="restore it, or start anew with monitor init")
        self.inputs: dict[str, str] = stored.pop("inputs", {})
        """File or model that the settings name → its digest when the monitor was made."""
        self.settings = parse(MonitorSettings, stored, file=file)

    # ---------------------------------------------------------------- making one

    @classmethod
    def create(cls, folder: Path, settings: MonitorSettings, *, progress: Progress = silent) -> tuple[Monitor, Outcome]:
        """Check everything, write the folder, and take the baseline.

        Raises RecipeError where the folder has a baseline already, FileError where the golden set is empty.
        """
        if (folder / SETTINGS).is_file() and read_rounds(folder / "rounds"):
            raise RecipeError("already contains a monitor", file=folder, fix=f"aifeedback monitor run {folder}")
        require_refs(list(settings.refs()))
        golden = read_golden(settings)
        prompt_files = {
            name: _prompts(ref) for name, ref in ((CANARY, settings.prompts), (REDTEAM, settings.redteam)) if ref
        }
        _require_rate(settings)
        make_folder(folder)
        data.write_records(folder / GOLDEN, golden)
        for name, prompts in prompt_files.items():
            data.write_records(folder / name, prompts)
        inputs = {str(ref): digest_ref(ref) for ref in settings.refs()}
        plain = settings.model_dump(mode="json", exclude_defaults=True)
        text = yaml.safe_dump({**plain, "inputs": inputs}, sort_keys=False, allow_unicode=True)
        (folder / SETTINGS).write_text(text, encoding="utf-8")
        monitor = cls(folder)
        return monitor, monitor.run(progress=progress)

    # ---------------------------------------------------------------- reading

    @property
    def golden(self) -> list[GoldenItem]:
        return data.read_records(self.folder / GOLDEN, GoldenItem)

    def questions(self) -> Questions:
        def kept(name: str) -> list[Prompt]:
            return data.read_records(self.folder / name, Prompt) if (self.folder / name).is_file() else []

        return Questions(self.golden, kept(CANARY), kept(REDTEAM))

    def rounds(self) -> list[Round]:
        return read_rounds(self.folder / "rounds")

    def tracks(self) -> list[tuple[charts.Chart, charts.Track]]:
        """Every chart that can be drawn, over the rounds since the latest baseline."""
        rounds = since_baseline(self.rounds())
        if not rounds:
            return []
        columns = charts.columns_of(rounds, self.golden)
        shown = charts.measurable(columns)
        between = self.rounds_between(len(shown))
        return [(c, charts.track(c, columns[c.part], len(rounds[0].passes), between)) for c in shown]

    def rounds_between(self, count: int) -> float:
        """Rounds between two false alarms of one of ``count`` charts."""
        return count * self.settings.rounds_per_year / self.settings.false_alarms_per_year

    @contextlib.contextmanager
    def locked(self, *, changes: Collection[str] = ()) -> Generator[list[Path]]:
        """Work in the folder: log and page are written, and everything is sealed, when the block ends.

        Yields a list for the files that the block writes. Refuses a second process. Raises JournalError where a file,
        the log or a journal of a round is not as it was left; ``changes`` names files that may be.
        """
        from aifeedback.monitoring.page import write_page

        with RunFolder(self.folder).locked():
            self._require_unchanged(changes)
            written = [self.folder / name for name in changes]
            try:
                yield written
            finally:
                self.log.export()
                written += [self.log.exported, write_page(self)]
                seal(self.folder, self.log.journal, rewritten=list(dict.fromkeys(written)))

    def _require_unchanged(self, changes: Collection[str]) -> None:
        if not self.log.journal.is_file():
            return
        heads = [head for one in self.rounds() for head in one.heads.values()]
        faults = [fault for fault in verify(self.folder, heads).faults if not fault.startswith(tuple(changes) or "\0")]
        if faults:
            note = f"aifeedback monitor note {self.folder} --kind change --text …"
            fix = f"note a change of the settings by: {note}" if faults[0].startswith(SETTINGS) else "restore a copy"
            raise JournalError(f"{self.folder}: {faults[0]}\n  → {fix}")

    # ---------------------------------------------------------------- a round

    def run(self, *, progress: Progress = silent) -> Outcome:
        """Run one round, or a baseline if there is none since the last change. No cached answers are used.

        Raises JudgeUnavailable, noted in the log, where the models cannot be reached or none of the golden pairs could
        be read.
        """
        with self.locked() as written:
            kind = "baseline" if self._needs_baseline() else "round"
            try:
                taken = take_round(
                    self.settings, self.questions(), self.folder / "rounds", kind=kind, progress=progress
                )
            except JudgeUnavailable as failed:
                self.log.add("failed", str(failed).splitlines()[0], by="aifeedback")
                raise
            rounds = since_baseline(self.rounds())
            figures = figures_of(rounds, self.golden)[-1]
            place = self.folder / "rounds" / taken.name
            write_json(place / "figures.json", figures.model_dump(mode="json"))
            written += [path for path in place.rglob("*") if path.is_file() and "journal" not in path.name]
            raised = [] if kind == "baseline" else self._raise(rounds)
            return Outcome(taken, figures, raised, [one for one in self.log.open() if one.kind == "alarm"])

    def _needs_baseline(self) -> bool:
        rounds = self.rounds()
        if not rounds:
            return True
        changed = [event.round or "" for event in self.log.events() if event.kind == "change"]
        return bool(changed) and since_baseline(rounds)[0].name <= changed[-1]

    def _raise(self, rounds: Sequence[Round]) -> list[Event]:
        """Add an alarm for each chart and each version that raises one, unless it is open already."""
        open_ = {event.chart for event in self.log.open() if event.kind == "alarm"}
        latest = rounds[-1].name
        raised = []
        for sentence in version_sentences(rounds, with_fingerprint=self.settings.fingerprint == "alarm"):
            if "version" not in open_:
                raised.append(self.log.add("alarm", sentence, by="aifeedback", round=latest, chart="version"))
        for chart, track in self.tracks():
            if track.level[-1] >= 1.0 and chart.name not in open_:
                text = f"{chart.title}: {sentence_of(chart, track)}"
                raised.append(self.log.add("alarm", text, by="aifeedback", round=latest, chart=chart.name))
        return raised


def read_golden(settings: MonitorSettings) -> list[GoldenItem]:
    """The pairs of the golden file, each once. Raises FileError where there are none."""
    read = data.read_comparisons(settings.golden, settings.seed)
    items = {c.id: GoldenItem(comparison=c, human_p_first=h) for c, h in zip(read.rows, read.human, strict=True)}
    if not items:
        raise FileError("no pair could be read", file=settings.golden, fix="give pairs, best with human labels")
    return list(items.values())


def _prompts(ref: str) -> list[Prompt]:
    rows = {prompt.id: prompt for prompt in data.load_prompts(ref).rows}
    if not rows:
        raise FileError("no prompt could be read", file=ref, fix="give one prompt per row")
    return list(rows.values())


def _require_rate(settings: MonitorSettings) -> None:
    """Raises InputError where the stated rate of false alarms is not possible for any number of charts."""
    from aifeedback.metrics.drift import alarm_limit

    for count in (1, len(charts.CHARTS)):
        alarm_limit(count * settings.rounds_per_year / settings.false_alarms_per_year)


def sentence_of(chart: charts.Chart, track: charts.Track, place: int = -1) -> str:
    """One round of a chart in words."""
    observed, items, p = track.observed[place], track.items[place], track.p[place]
    text = f"{observed:.0f} of {items:.0f} {chart.says}"
    if chart.window:
        return f"{text}; the last {chart.window} rounds, taken together, against all before: p = {p:.2g}."
    return f"{text}; {track.expected[place]:.1f} expected if nothing changed."


def version_sentences(rounds: Sequence[Round], *, with_fingerprint: bool = True) -> list[str]:
    """What the latest round's models report that no earlier round saw, one sentence per version."""
    names = {"uri": "name", "revision": "revision", "model": "model", "fingerprint": "fingerprint"}
    sentences = []
    for version, before in new_versions(rounds):
        new = changes(version, before)
        if not with_fingerprint:
            new = {field: values for field, values in new.items() if field != "fingerprint"}
        if new:
            what = "; ".join(f"{names[field]} {now}, before {old}" for field, (old, now) in new.items())
            sentences.append(f"{version.uri} is not the version of the earlier rounds: {what}.")
    return sentences
