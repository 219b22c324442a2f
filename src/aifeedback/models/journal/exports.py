"""Taking a journal or labelled rows elsewhere: JSONL, Parquet, or a Hugging Face dataset folder with its card."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from aifeedback.config import Config
from aifeedback.errors import FileError, MissingExtra
from aifeedback.models.journal.integrity import Row
from aifeedback.models.journal.journal import Journal
from aifeedback.storage import make_folder

_BATCH = 10_000


class DatasetCard(Config):
    """What a dataset folder says of itself in its README.md."""

    title: str
    about: str
    """What the rows are and how they came about: judge, prompt, standards, calibration."""
    licence: str = "other"
    """Of the data, as a Hugging Face licence id; labels of a hosted model may fall under its terms."""
    source: str = ""
    """Where prompts and responses come from."""
    language: tuple[str, ...] = ()
    tags: tuple[str, ...] = ("preference", "rlaif", "llm-as-a-judge")
    columns: Mapping[str, str] = {}
    """Column → one line of explanation."""


def journal_rows(journal: Journal, kind: str | None = None) -> Iterator[dict[str, Any]]:
    """Every row of a journal as plain values, the chain checked on the way; raises JournalError where it breaks."""
    return (_flat(row) for row in journal.rows(kind))


def _flat(row: Row) -> dict[str, Any]:
    entry, setting = row.entry, json.loads(row.entry.setting)
    card = setting.pop("card", None) or {}
    return {
        "seq": row.seq,
        "call_id": row.call_id,
        "kind": entry.kind,
        "model": card.get("uri") if isinstance(card, dict) else str(card),
        "revision": card.get("revision") if isinstance(card, dict) else None,
        "setting": json.dumps(setting, sort_keys=True),
        "prompt_hash": entry.prompt_hash.hex(),
        "outcome": entry.outcome,
        "answer": entry.answer,
        "raw": entry.raw,
        "prompt_tokens": entry.prompt_tokens,
        "completion_tokens": entry.completion_tokens,
        "cost_usd": entry.cost_usd,
        "seconds": entry.seconds,
        "at": datetime.fromtimestamp(entry.at, UTC).isoformat(timespec="milliseconds"),
        "is_final": entry.is_final,
        "link": row.link.hex(),
    }


def export_rows(rows: Iterable[Mapping[str, Any]], path: str | os.PathLike[str]) -> int:
    """Writes rows to ``.jsonl`` or ``.parquet``, whole or not at all; returns how many. Raises FileError for others."""
    target = Path(path)
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    writers = {".jsonl": _write_jsonl, ".parquet": _write_parquet}
    if target.suffix not in writers:
        raise FileError("an export is a .jsonl or a .parquet file", file=target)
    make_folder(target.parent)
    try:
        count = writers[target.suffix](rows, partial)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return count


def write_dataset(rows: Iterable[Mapping[str, Any]], folder: str | os.PathLike[str], card: DatasetCard) -> int:
    """Writes a folder that ``datasets.load_dataset(folder)`` reads and the Hub shows; returns the number of rows."""
    root = Path(folder)
    file = root / "data" / "train-00000-of-00001.parquet"
    count = export_rows(rows, file)
    (root / "README.md").write_text(_card_text(card, count), encoding="utf-8")
    return count


def _write_jsonl(rows: Iterable[Mapping[str, Any]], path: Path) -> int:
    count = 0
    with path.open("w", encoding="utf-8", errors="surrogatepass") as file:
        for count, row in enumerate(rows, start=1):  # noqa: B007 - the count is the result
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return count


def _write_parquet(rows: Iterable[Mapping[str, Any]], path: Path) -> int:
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError as missing:
        raise MissingExtra("pyarrow", "hub") from missing
    remaining, count = iter(rows), 0
    first = list(islice(remaining, _BATCH))
    table = pyarrow.Table.from_pylist([dict(row) for row in first])
    # A column that is empty in the first rows still needs a type, should later ones fill it.
    fields = [field.with_type(pyarrow.string()) if field.type == pyarrow.null() else field for field in table.schema]
    schema = pyarrow.schema(fields)
    with parquet.ParquetWriter(path, schema) as writer:
        batch = first
        while batch:
            writer.write_table(pyarrow.Table.from_pylist([dict(row) for row in batch], schema=schema))
            count += len(batch)
            batch = list(islice(remaining, _BATCH))
    return count


def _card_text(card: DatasetCard, count: int) -> str:
    front = {
        "license": card.licence,
        "language": list(card.language),
        "tags": list(card.tags),
        "size_categories": [_size(count)],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*"}]}],
    }
    head = yaml.safe_dump({key: value for key, value in front.items() if value}, sort_keys=False, allow_unicode=True)
    parts = [f"---\n{head}---", f"# {card.title}", card.about, f"{count:,} rows."]
    if card.source:
        parts.append(f"Prompts and responses: {card.source}")
    if card.columns:
        rows = "\n".join(f"| `{name}` | {about} |" for name, about in card.columns.items())
        parts.append(f"| column | meaning |\n|---|---|\n{rows}")
    parts.append("Made with aifeedback. A row whose label is not known keeps it empty and names the problem.")
    return "\n\n".join(parts) + "\n"


def _size(count: int) -> str:
    """The Hub's size classes."""
    steps = [(10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M")]
    return next((name for most, name in steps if count < most), "10M<n<100M")
