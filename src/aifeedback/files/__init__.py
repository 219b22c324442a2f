"""Files that people exchange, in and out: prompts, completions, comparisons, labels, and any record list as JSONL."""

from aifeedback.files.comparisons import (
    Comparisons,
    Labelled,
    LabelledRow,
    labelled,
    load_judged,
    load_labelled,
    load_preferred,
    read_comparisons,
    read_judged,
    read_labelled,
    write_labelled,
)
from aifeedback.files.prompts import (
    Completions,
    Prompts,
    load_prompts,
    read_completions,
    read_prompts,
    read_records,
    write_completions,
    write_records,
)
from aifeedback.files.report import ReadReport, Skipped
from aifeedback.files.tables import is_on_hub, is_table, place_of, place_problem, read_rows, write_rows

__all__ = [
    "Comparisons",
    "Completions",
    "Labelled",
    "LabelledRow",
    "Prompts",
    "ReadReport",
    "Skipped",
    "is_on_hub",
    "is_table",
    "labelled",
    "load_judged",
    "load_labelled",
    "load_preferred",
    "load_prompts",
    "place_of",
    "place_problem",
    "read_comparisons",
    "read_completions",
    "read_judged",
    "read_labelled",
    "read_prompts",
    "read_records",
    "read_rows",
    "write_completions",
    "write_labelled",
    "write_records",
    "write_rows",
]
