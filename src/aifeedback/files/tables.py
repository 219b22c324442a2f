"""Rows out of any container: JSONL (.gz), a JSON list, CSV, Parquet, a folder of those, a Hugging Face data set.

Nothing here knows what a row means. A row that cannot be read is yielded with its fault, so that the good rows of a
partly bad file are not lost; a container that cannot be read at all raises FileError.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from aifeedback.errors import FileError, MissingExtra
from aifeedback.files import catalogue
from aifeedback.storage import make_folder

TABLE_SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
MAX_ROW_CHARS = 4_000_000
_HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+(#[\w./-]+)?$")


class Row(NamedTuple):
    """One row: its number from 1, and either its values or the reason why there are none."""

    number: int
    values: Mapping[str, Any]
    fault: str | None = None


def read_rows(path: str | Path) -> Iterator[Row]:
    """Yields the rows of a file, a folder, a set known by name (``catalogue.py``) or a hub data set (``owner/name``,
    ``owner/name#split``, ``owner/name#config/split``). Raises FileError where there is nothing to read."""
    location = place_of(path)
    if location.is_dir():
        return _folder(location)
    if location.is_file():
        return _file(location)
    known = catalogue.KNOWN.get(str(path))
    if known is not None:
        if known.hub is None:
            raise catalogue.missing(str(path))
        return _loaded(known.hub.dataset, split=known.hub.split, data_dir=known.hub.folder)
    if is_hub_id(str(path)):
        return _hub(str(path))
    raise FileError(
        "no such file or folder", file=path, fix=f"give a file ending in {', '.join(TABLE_SUFFIXES)} (.gz allowed)"
    )


def place_of(name: str | Path) -> Path:
    """The file or folder that a name stands for: a path as it is, a known set's copy on this machine."""
    path = Path(name)
    return path if path.exists() else catalogue.local_copy(str(name)) or path


def is_hub_id(name: str) -> bool:
    return _HUB_ID.match(name) is not None and _suffix(Path(name)) not in TABLE_SUFFIXES


def place_problem(name: str) -> str | None:
    """What is wrong with the name of a file, told without reading it; None where it can be tried."""
    if place_of(name).exists():
        return None
    known = catalogue.KNOWN.get(name)
    if known is not None:
        return None if known.hub else str(catalogue.missing(name))
    # 'folder/name' with that folder present is a mistyped path rather than a data set of the hub
    is_on_hub = is_hub_id(name) and ("#" in name or not Path(name).parent.is_dir())
    return None if is_on_hub else f"{name}: no such file"


def write_rows(path: str | Path, rows: Iterable[Mapping[str, Any]], *, schema: Any = None) -> int:
    """Writes rows as JSONL, JSONL.gz or Parquet by the file's ending, through a temporary file; returns how many."""
    target = Path(path)
    make_folder(target.parent)
    temporary = target.with_name(target.name + ".part")
    suffix = _suffix(target)
    if suffix == ".parquet":
        count = _write_parquet(temporary, list(rows), schema)
    elif suffix in (".jsonl", ".ndjson"):
        count = _write_jsonl(temporary, rows, compress=target.suffix == ".gz")
    else:
        raise FileError("rows are written as .jsonl, .jsonl.gz or .parquet", file=path, fix="change the file's ending")
    temporary.replace(target)
    return count


def _suffix(path: Path) -> str:
    return path.with_suffix("").suffix.lower() if path.suffix == ".gz" else path.suffix.lower()


def _file(path: Path) -> Iterator[Row]:
    suffix = _suffix(path)
    if suffix == ".parquet":
        return _parquet(path)
    if suffix not in TABLE_SUFFIXES:
        raise FileError(
            f"the ending '{suffix or path.name}' is none that can be read",
            file=path,
            fix=f"use {', '.join(TABLE_SUFFIXES)} (.gz allowed)",
        )
    text = _text(path)
    if not text.strip():
        raise FileError("the file is empty", file=path, fix="give a file with at least one row")
    if suffix in (".csv", ".tsv"):
        return _csv(path, text, "\t" if suffix == ".tsv" else ",")
    if suffix == ".json":
        return _json(path, text)
    return _lines(text)


def _text(path: Path) -> str:
    """The whole text; bytes that are not UTF-8 become surrogates, so that only their own rows are lost."""
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as cause:
        raise FileError(
            f"cannot be read: {cause}", file=path, fix="check the file; fetch it again if it was cut off"
        ) from None
    return data.decode("utf-8-sig", "surrogateescape")


def _lines(text: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        if len(line) > MAX_ROW_CHARS:
            yield Row(number, {}, f"longer than {MAX_ROW_CHARS:,} characters")
            continue
        if _is_torn(line):
            yield Row(number, {}, "not valid UTF-8")
            continue
        try:
            value = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as cause:
            yield Row(number, {}, f"not valid JSON: {getattr(cause, 'msg', cause)}")
            continue
        yield checked(number, value, may_be_torn="\\u" in line)


def _json(path: Path, text: str) -> Iterator[Row]:
    try:
        value = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as cause:
        if text.lstrip().startswith("{") and "\n{" in text:
            return _lines(text)
        line = getattr(cause, "lineno", None)
        raise FileError(
            f"not valid JSON (line {line}): {getattr(cause, 'msg', cause)}",
            file=path,
            fix="repair it, or save it as JSONL",
        ) from None
    if isinstance(value, dict):
        value = next(
            (v for k, v in value.items() if k in ("data", "rows", "examples") and isinstance(v, list)), [value]
        )
    if not isinstance(value, list):
        raise FileError("a JSON file must hold a list of objects", file=path, fix="save it as a list, or as JSONL")
    return (checked(number, row) for number, row in enumerate(value, 1))


def _csv(path: Path, text: str, delimiter: str) -> Iterator[Row]:
    csv.field_size_limit(MAX_ROW_CHARS)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, restkey="\0more")
    if not reader.fieldnames or any(not (name or "").strip() for name in reader.fieldnames):
        raise FileError("the first line must name every column", file=path, row=1, fix="add a header line")
    number = 0
    while True:
        number += 1
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as cause:
            yield Row(number, {}, f"not valid CSV: {cause}")
            continue
        if "\0more" in values or None in values.values():
            yield Row(number, {}, f"has {'more' if chr(0) + 'more' in values else 'fewer'} cells than the header")
        else:
            yield checked(number, values)


def _parquet(path: Path) -> Iterator[Row]:
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise MissingExtra("pyarrow", "hub") from None
    try:
        table = parquet.ParquetFile(path)
    except Exception as cause:  # pyarrow raises many kinds
        raise FileError(
            f"not a Parquet file: {cause}", file=path, fix="check the file; fetch it again if it was cut off"
        ) from None
    return _numbered(row for batch in table.iter_batches(1024) for row in batch.to_pylist())


def _folder(path: Path) -> Iterator[Row]:
    """A folder saved by ``datasets`` or one of tables, in the order of their names."""
    if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
        datasets = _datasets()
        loaded = datasets.load_from_disk(str(path))
        if hasattr(loaded, "keys"):
            loaded = loaded[_only_split(list(loaded), str(path))]
        return _numbered(iter(loaded))
    files = sorted(file for file in path.iterdir() if file.is_file() and _suffix(file) in TABLE_SUFFIXES)
    if not files:
        raise FileError(
            "no table in this folder", file=path, fix=f"it should hold files ending in {', '.join(TABLE_SUFFIXES)}"
        )
    rows = (row for file in files for row in _file(file))
    return (row._replace(number=number) for number, row in enumerate(rows, 1))


def _hub(name: str) -> Iterator[Row]:
    dataset, _, place = name.partition("#")
    config, _, split = place.rpartition("/")
    return _loaded(dataset, name=config or None, split=split or None)


def _loaded(dataset: str, **which: str | None) -> Iterator[Row]:
    datasets = _datasets()
    try:
        loaded = datasets.load_dataset(dataset, **which)
    except Exception as cause:  # the hub client raises many kinds
        raise FileError(
            f"is neither a file here nor a data set that could be loaded: {cause}",
            file=dataset,
            fix="give an existing path, or owner/name#split of a data set that you can reach",
        ) from None
    if hasattr(loaded, "keys"):
        loaded = loaded[_only_split(list(loaded), dataset)]
    return _numbered(iter(loaded))


def _only_split(splits: list[str], name: str) -> str:
    if len(splits) == 1:
        return splits[0]
    raise FileError(f"has several splits: {', '.join(splits)}", file=name, fix=f"name one: {name}#{splits[0]}")


def _datasets() -> Any:
    try:
        import datasets
    except ImportError:
        raise MissingExtra("datasets", "hub") from None
    return datasets


def _numbered(rows: Iterable[Any]) -> Iterator[Row]:
    return (checked(number, row) for number, row in enumerate(rows, 1))


def checked(number: int, value: Any, *, may_be_torn: bool = True) -> Row:
    """A row as it came, or a faulty one where it is no object or holds text that cannot be written down again."""
    if not isinstance(value, dict):
        return Row(number, {}, f"a row must be an object, this is {kind_of(value)}")
    if may_be_torn and _is_torn(value):
        return Row(number, {}, "not valid UTF-8")
    return Row(number, value)


def _is_torn(value: Any) -> bool:
    """Whether any text in it holds a lone surrogate (bytes that were not UTF-8, or a broken \\u escape)."""
    if isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            return True
        return False
    if isinstance(value, dict):
        return any(_is_torn(k) or _is_torn(v) for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return any(_is_torn(v) for v in value)
    return False


def kind_of(value: Any) -> str:
    """What a JSON value is, in plain words."""
    names = {str: "text", list: "a list", dict: "an object", bool: "true or false", type(None): "null"}
    if type(value) in (int, float):
        return f"a number ({value})"
    return names.get(type(value), type(value).__name__)


def _write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]], *, compress: bool) -> int:
    with path.open("wb") as raw, contextlib.ExitStack() as stack:
        # mtime=0 and no name: the same rows give the same bytes
        stream = stack.enter_context(gzip.GzipFile("", "wb", fileobj=raw, mtime=0)) if compress else raw
        count = 0
        for row in rows:
            stream.write(json.dumps(row, ensure_ascii=False, allow_nan=False).encode("utf-8") + b"\n")
            count += 1
    return count


def _write_parquet(path: Path, rows: list[Mapping[str, Any]], schema: Any) -> int:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise MissingExtra("pyarrow", "hub") from None
    columns = list(dict.fromkeys(name for row in rows for name in row))
    arrays = {}
    for name in columns:
        kind = (schema or {}).get(name)
        cells = [_filled(row.get(name)) for row in rows]
        arrays[name] = pyarrow.array(cells, type=kind and pyarrow.type_for_alias(kind))
    parquet.write_table(pyarrow.table(arrays), path)
    return len(rows)


def _filled(value: Any) -> Any:
    """With null for an object without keys, which Parquet cannot hold."""
    if isinstance(value, Mapping):
        return {key: _filled(item) for key, item in value.items()} or None
    return [_filled(item) for item in value] if isinstance(value, (list, tuple)) else value
