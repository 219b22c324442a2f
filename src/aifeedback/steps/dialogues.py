"""``dialogues``: prompts for Constitutional AI, from a file or from the lab."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import Field

from aifeedback import data
from aifeedback.config import Cli
from aifeedback.refs import Ref
from aifeedback.steps.split import Split, held_out_size
from aifeedback.steps.step import Context, Figures, Forecast, Rows, Step, at_most


class DialoguesFigures(Figures):
    train: int
    test: int
    test_wanted: int | None = None
    sft: int | None = None
    helpful: int | None = None
    heldout: int | None = None
    rows: Rows | None = None


class Dialogues(Step):
    """Prepare prompts for Constitutional AI, a file split by seed or the lab's own; writes train.jsonl and test.jsonl.

    The lab also writes ``sft.jsonl`` (responses of every manner, harmful ones among them), ``helpful.jsonl`` (helpful
    human responses) and ``heldout.jsonl`` (pairs with the oracle's preference, for measuring alone).
    """

    kind: ClassVar[str] = "dialogues"
    main: ClassVar[str] = "train.jsonl"
    Figures = DialoguesFigures
    prompts: Annotated[Ref, Cli(("--data", "--prompts"), metavar="FILE")]
    """A prompt file, or lab:talk."""
    test: int = Field(default=400, ge=1)
    """Prompts held out for evaluation; at most half of a file."""
    limit: int | None = Field(default=None, ge=1)
    """Use at most this many prompts."""
    columns: Annotated[dict[str, str] | None, Cli(("--column",), metavar="OURS=THEIRS")] = None
    """Column names of an unusual file, ours=theirs. Repeat for several."""
    train: int = Field(default=1200, ge=1)
    """The lab: prompts to train on."""
    sft: int = Field(default=2000, ge=1)
    """The lab: demonstrations."""
    helpful: int = Field(default=1200, ge=1)
    """The lab: helpful human responses."""
    heldout: int = Field(default=500, ge=1)
    """The lab: held-out pairs."""

    def refs(self) -> Iterator[Ref]:
        if not self.prompts.startswith("lab:"):
            yield self.prompts

    def problems(self) -> Iterator[str]:
        if self.prompts.startswith("lab:") and self.prompts != "lab:talk":
            yield f"{self.prompts}: the lab's dialogue prompts are called lab:talk"

    def forecast(self, rows: Mapping[str, int]) -> Forecast:
        if self.prompts.startswith("lab:"):
            names = ("train", "test", "sft", "helpful", "heldout")
            return Forecast(0, {f"{name}.jsonl": getattr(self, name) for name in names})
        count = at_most(rows.get(self.prompts), self.limit)
        if count is None:
            return Forecast(0)
        test = held_out_size(self.test, count)
        return Forecast(0, {"train.jsonl": count - test, "test.jsonl": test})

    def run(self, context: Context) -> DialoguesFigures:
        if not self.prompts.startswith("lab:"):
            split = Split(prompts=self.prompts, test=self.test, limit=self.limit, columns=self.columns).run(context)
            return DialoguesFigures(**split.model_dump())
        from aifeedback.lab.talk import samples
        from aifeedback.lab.talk.gold import TalkGold

        seed = context.seed
        data.write_records(context.folder / "train.jsonl", samples.prompts(self.train, split="train", seed=seed))
        data.write_records(context.folder / "test.jsonl", samples.prompts(self.test, split="test", seed=seed))
        shown = samples.demonstrations(self.sft, split="train", seed=seed)
        data.write_completions(context.folder / "sft.jsonl", [d.prompt for d in shown], [d.completion for d in shown])
        helpful = samples.helpful_demonstrations(self.helpful, split="train", seed=seed)
        data.write_completions(
            context.folder / "helpful.jsonl", [d.prompt for d in helpful], [d.completion for d in helpful]
        )
        pairs = samples.comparisons(self.heldout, split="test", seed=seed)
        truth = [p.p_first for p in TalkGold().label(pairs)]
        data.write_labelled(context.folder / "heldout.jsonl", _as_if_people(pairs, truth))
        return DialoguesFigures(
            **{name: getattr(self, name) for name in ("train", "test", "sft", "helpful", "heldout")}
        )


def _as_if_people(pairs: Sequence[Any], truth: Sequence[float | None]) -> list[data.LabelledRow]:
    """Gold verdicts in the column where a file would hold people's."""
    return [
        data.LabelledRow(comparison=c, p_first=p, human_p_first=p, judge="gold")
        for c, p in zip(pairs, truth, strict=True)
    ]
