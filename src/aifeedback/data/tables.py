"""Rows from any container: JSONL, a JSON list, CSV, Parquet, Arrow, compressed or not, a folder, a hub data set.

Nothing here knows what a row means. A row that cannot be read is yielded with its fault, so that the good rows of a
partly bad file are not lost; a container that cannot be read at all raises FileError.

``ReadReport`` accounts for every row: kept, or skipped for a reason that the user can act on. A cell is read for what
it holds, whatever it means: nothing, a value of some kind, or a list or an object written as text.
"""

from __future__ import annotations

import ast
import bz2
import codecs
import contextlib
import csv
import gzip
import io
import json
import lzma
import math
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from aifeedback import extensions
from aifeedback.data import catalogue
from aifeedback.errors import FileError, MissingExtra
from aifeedback.storage import make_folder
from aifeedback.types import Record

MOST_BAD = 0.5
"""A file in which more than this share of the rows is unusable is not what it was taken for: FileError."""


class RowFault(Exception):
    """This row cannot be used; ``key`` is the column at fault. Caught by the readers and counted.

    ``is_unsupported`` marks a sound row that a pair of plain texts cannot hold: not a sign of a broken file.
    """

    def __init__(self, reason: str, key: str | None = None, *, is_unsupported: bool = False) -> None:
        self.reason, self.key, self.is_unsupported = reason, key, is_unsupported
        super().__init__(reason)


class Skipped(Record):
    """One row that was left out. Rows count from 1."""

    row: int
    key: str | None = None
    reason: str
    is_repeat: bool = False
    """The same thing as an earlier row: left out, but not a sign of a broken file."""
    is_unsupported: bool = False
    """Sound, but more than a pair of plain texts can hold: not a sign of a broken file either."""


class ReadReport(Record):
    """How many rows a file has, how many were kept, which were not and why."""

    file: str
    shape: str
    """The recognised format."""
    rows: int
    kept: int
    """Rows that gave at least one record."""
    skipped: tuple[Skipped, ...] = ()
    merged: int = 0
    """Of the kept rows, those that were further votes on a pair already read."""

    @property
    def reasons(self) -> dict[str, int]:
        """Reason → number of rows, most frequent first."""
        return dict(Counter(_reason(s) for s in self.skipped).most_common())

    def sentence(self) -> str:
        text = f"{self.file}: {self.kept:,} of {self.rows:,} rows read ({self.shape})"
        if self.merged:
            text += f"; {self.merged:,} of them further votes on the same pair"
        if not self.skipped:
            return text
        return f"{text}; skipped: " + ", ".join(f"{count:,} × {reason}" for reason, count in self.reasons.items())


class ReadLog:
    """Collects the fate of each row while a file is read, and judges the file as a whole at the end."""

    def __init__(self, file: str | Path, shape: str) -> None:
        self.file, self.shape = str(file), shape
        self.rows = self.kept = self.merged = 0
        self.skipped: list[Skipped] = []
        self._seen: dict[Any, int] = {}

    def keep(self) -> None:
        self.rows, self.kept = self.rows + 1, self.kept + 1

    def skip(self, row: int, reason: str, key: str | None = None, *, is_repeat: bool = False) -> None:
        self.rows += 1
        self.skipped.append(Skipped(row=row, key=key, reason=reason, is_repeat=is_repeat))

    def skip_fault(self, row: int, fault: RowFault) -> None:
        self.rows += 1
        self.skipped.append(Skipped(row=row, key=fault.key, reason=fault.reason, is_unsupported=fault.is_unsupported))

    def earlier(self, row: int, identity: Any) -> int | None:
        """The row that had this identity before, or None where it is new."""
        earlier = self._seen.setdefault(identity, row)
        return None if earlier == row else earlier

    def report(self) -> ReadReport:
        """Raises FileError if nothing, or less than half of the file, could be used."""
        if not self.rows:
            raise FileError("the file has no rows", file=self.file, fix="give a file with at least one row")
        broken = [s for s in self.skipped if not s.is_repeat and (not s.is_unsupported or not self.kept)]
        if len(broken) > MOST_BAD * self.rows or not self.kept:
            first = broken[0]
            others = f" ({len(broken):,} of {self.rows:,} rows cannot be used)" if len(broken) > 1 else ""
            raise FileError(
                f"{first.reason}{others}",
                file=self.file,
                row=first.row,
                key=first.key,
                fix=f"read as {self.shape}; correct the rows, or rename the columns if this is another format",
            )
        return ReadReport(
            file=self.file,
            shape=self.shape,
            rows=self.rows,
            kept=self.kept,
            skipped=tuple(self.skipped),
            merged=self.merged,
        )


def _reason(skipped: Skipped) -> str:
    """The reason without its row number, so that equal causes count together."""
    reason = skipped.reason.partition(" (first in row ")[0]
    return f"'{skipped.key}' {reason}" if skipped.key else reason


_NOTHING = {"", "nan", "none", "null", "na", "n/a", "<na>", "[]", "{}"}
_MESSAGE_LIST = re.compile(r"\s*\[\s*\{\s*['\"](role|from|content|value)['\"]\s*:")


def is_missing(value: Any) -> bool:
    """Whether a cell is absent: null, NaN, or text without a character."""
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def is_blank(value: Any) -> bool:
    """Whether a cell holds nothing, however its writer spelled that: also 'nan', 'null', '[]', an empty list."""
    if isinstance(value, str):
        return value.strip().lower() in _NOTHING
    return is_missing(value) or (isinstance(value, (list, tuple, Mapping)) and not value)


def name_in(row: Mapping[str, Any], key: str, default: str = "data") -> str:
    """A name from a cell; ``default`` where the cell holds nothing."""
    value = row.get(key)
    return default if is_missing(value) else str(value)


def kind_of(value: Any) -> str:
    """What a JSON value is, in plain words."""
    names: dict[Any, str] = {str: "text", list: "a list", dict: "an object", bool: "true or false", type(None): "null"}
    if type(value) is int and abs(value) >= 10**20:
        return "a number of more than 20 digits"
    if type(value) in (int, float):
        return f"a number ({value})"
    return names.get(type(value), type(value).__name__)


class TornList(ValueError):
    """A cell that is written like a list of messages and cannot be read as one; ``args[0]`` is its column."""


def unfolded(row: dict[str, Any]) -> dict[str, Any]:
    """The row with lists of messages that are written as text turned into lists. Raises TornList."""
    written = [key for key, value in row.items() if isinstance(value, str) and _MESSAGE_LIST.match(value)]
    if not written:
        return row
    row = dict(row)
    for key in written:
        row[key] = parsed(row[key])
        if not isinstance(row[key], list):
            raise TornList(key)
    return row


def parsed(text: str) -> Any:
    """The list or object that a text spells out, as JSON or as Python prints it; the text itself if it spells none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        value = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return text
    return value if isinstance(value, (list, dict)) else text


TABLE_SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow")
COMPRESSED = (".gz", ".zst", ".bz2", ".xz")
FORMATS = "aifeedback.formats"
MAX_ROW_CHARS = 4_000_000
_HUB_ID = re.compile(r"^(?!\.)[\w.-]+/[\w.-]+(#[\w./-]+)?$")
_SPLITS = {
    "train": "train", "training": "train", "test": "test", "testing": "test", "eval": "eval", "evaluation": "eval",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "dev",
    "heldout": "heldout", "held_out": "heldout",
}  # fmt: skip
"""Words in a file's or folder's name that name a split → the split."""
_ABOUT = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
"""Files that describe the tables beside them."""


class Row(NamedTuple):
    """One row: its number from 1, and either its values or the reason why there are none."""

    number: int
    values: Mapping[str, Any]
    fault: str | None = None


def read_rows(path: str | Path) -> Iterator[Row]:
    """Yield the rows of a file, a folder, a set known by name (``catalogue.py``) or a hub data set (``owner/name``,
    ``owner/name#split``, ``owner/name#config/split``). A folder takes ``#split`` too. Raises FileError where there is
    nothing to read."""
    path = split_format(path)[1]
    location, part = _located(path)
    if location.is_dir():
        return _folder(location, part)
    if location.is_file():
        return _file(location)
    known = catalogue.KNOWN.get(str(path))
    if known is not None:
        if known.hub is None:
            raise catalogue.missing(str(path))
        return _loaded(known.hub.dataset, split=known.hub.split, data_dir=known.hub.folder)
    if is_hub_id(str(path)):
        return _hub(str(path))
    raise FileError("no such file or folder", file=path, fix=f"give {_readable()}")


def split_format(name: str | Path) -> tuple[str, str]:
    """``FORMAT:PATH`` or ``python:FILE.py:NAME:PATH`` → the format from outside and the path; ('', name) without one."""
    text = str(name)
    if text.startswith(extensions.PYTHON) and text.count(":") >= 3:
        scheme, file, attribute, path = text.split(":", 3)
        return f"{scheme}:{file}:{attribute}", path
    head, _, path = text.partition(":")
    return (head, path) if path and head in extensions.registered(FORMATS) else ("", text)


def place_of(name: str | Path) -> Path:
    """The file or folder that a name stands for: a path as it is, a folder without its ``#split``, a known set's copy
    on this machine."""
    return _located(split_format(name)[1])[0]


def _located(name: str | Path) -> tuple[Path, str]:
    """The file or folder behind a name, and the part of a folder that it names after a '#'."""
    path = Path(name)
    if path.exists():
        return path, ""
    folder, hash_sign, part = str(name).partition("#")
    if hash_sign and Path(folder).is_dir():
        return Path(folder), part
    return catalogue.local_copy(str(name)) or path, ""


def is_hub_id(name: str) -> bool:
    return _HUB_ID.match(name) is not None and _suffix(Path(name)) not in TABLE_SUFFIXES


def is_table(name: str | Path) -> bool:
    """Whether a file's name ends in a format that can be read."""
    return _suffix(Path(name)) in TABLE_SUFFIXES


def is_on_hub(name: str) -> bool:
    """Whether a data set would be loaded from the hub: it is named, and not on this machine."""
    name = split_format(name)[1]
    known = catalogue.KNOWN.get(name)
    return not _located(name)[0].exists() and (bool(known and known.hub) or (known is None and is_hub_id(name)))


def place_problem(name: str) -> str | None:
    """What is wrong with the name of a file, without reading it; None if it can be tried."""
    name = split_format(name)[1]
    location, part = _located(name)
    if location.is_dir():
        return _folder_problem(location, part)
    if location.exists():
        return None
    known = catalogue.KNOWN.get(name)
    if known is not None:
        return None if known.hub else str(catalogue.missing(name))
    # 'folder/name' with that folder present is a mistyped path rather than a data set of the hub
    is_on_hub = is_hub_id(name) and ("#" in name or not Path(name).parent.is_dir())
    return None if is_on_hub else f"{name}: no such file"


def write_rows(path: str | Path, rows: Iterable[Mapping[str, Any]], *, schema: Any = None) -> int:
    """Write rows as JSONL, JSONL.gz or Parquet by the file's ending, through a temporary file; return how many."""
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
    return Path(path.stem).suffix.lower() if path.suffix.lower() in COMPRESSED else path.suffix.lower()


def _readable() -> str:
    return f"a file ending in {', '.join(TABLE_SUFFIXES)} (compressed: {', '.join(COMPRESSED)})"


def _file(path: Path) -> Iterator[Row]:
    suffix = _suffix(path)
    if suffix not in TABLE_SUFFIXES:
        raise FileError(
            f"unsupported file type '{suffix or path.name}'",
            file=path,
            fix=f"save it as CSV, JSONL or Parquet: {_readable()}",
        )
    if suffix in (".parquet", ".arrow"):
        if path.suffix.lower() in COMPRESSED:
            raise FileError("this format is compressed inside", file=path, fix="unpack the file and give the result")
        return _parquet(path) if suffix == ".parquet" else _arrow(path)
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
        data = _unpacked(path)
    except (OSError, EOFError, zlib.error, lzma.LZMAError, ValueError) as cause:
        raise FileError(
            f"cannot be read: {cause}", file=path, fix="check the file; fetch it again if it was cut off"
        ) from None
    encoding = _encoding(data)
    try:
        return data.decode(encoding, "surrogateescape" if encoding == "utf-8-sig" else "strict")
    except UnicodeDecodeError as cause:
        raise FileError(f"not valid {encoding.upper()}: {cause.reason}", file=path, fix="save it as UTF-8") from None


def _unpacked(path: Path) -> bytes:
    suffix = path.suffix.lower()
    if suffix == ".zst":
        try:
            import pyarrow
        except ImportError:
            raise MissingExtra("pyarrow", "hub") from None
        with pyarrow.CompressedInputStream(pyarrow.OSFile(str(path)), "zstd") as stream:
            return stream.read()
    data = path.read_bytes()
    unpack = {".gz": gzip.decompress, ".bz2": bz2.decompress, ".xz": lzma.decompress}.get(suffix)
    return unpack(data) if unpack else data


def _encoding(data: bytes) -> str:
    """UTF-8, unless the file begins as spreadsheets write UTF-16 or UTF-32."""
    if data.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "utf-32"
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    head = data[:200]
    if len(head) > 3 and head[1::2].count(0) > 0.9 * len(head[1::2]):
        return "utf-16-le"
    return "utf-16-be" if len(head) > 3 and head[::2].count(0) > 0.9 * len(head[::2]) else "utf-8-sig"


class _DuplicateKey(ValueError):
    """An object with two equal keys."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys are all different: with two equal keys it is unclear which one counts."""
    record = dict(pairs)
    if len(record) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _DuplicateKey(f"two values for the key '{next(key for key in keys if keys.count(key) > 1)[:40]}'")
    return record


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
            value = json.loads(line, object_pairs_hook=_once)
        except (ValueError, RecursionError) as cause:  # ValueError: also an integer of thousands of digits
            yield Row(number, {}, f"not valid JSON: {_json_fault(cause)}")
            continue
        yield checked(number, value, may_be_torn="\\u" in line)


def _json(path: Path, text: str) -> Iterator[Row]:
    try:
        value = json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError) as cause:
        if text.lstrip().startswith("{") and "\n{" in text:
            return _lines(text)
        line = getattr(cause, "lineno", None)
        raise FileError(
            f"not valid JSON{f' (line {line})' if line else ''}: {_json_fault(cause)}",
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


def _json_fault(cause: Exception) -> str:
    if isinstance(cause, json.JSONDecodeError):
        return cause.msg
    if isinstance(cause, _DuplicateKey):
        return str(cause)
    return "too deeply nested" if isinstance(cause, RecursionError) else "contains a number with thousands of digits"


def _csv(path: Path, text: str, delimiter: str) -> Iterator[Row]:
    csv.field_size_limit(MAX_ROW_CHARS)
    delimiter = _delimiter(text, delimiter)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, restkey="\0more")
    names = [name or "" for name in reader.fieldnames or ()]
    # pandas writes its row numbers as a first column without a name
    has_index = len(names) > 1 and not names[0].strip() and _numbers_rows(text, delimiter)
    if not names or any(not name.strip() for name in names[has_index:]):
        raise FileError("the first line must name every column", file=path, row=1, fix="add a header line")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise FileError("two columns have this name", file=path, row=1, key=twice, fix="rename one of them")
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
            continue
        if has_index:
            del values[names[0]]
        yield _unfolded(checked(number, values))


def _delimiter(text: str, usual: str) -> str:
    """What separates the columns: the character that splits the first line into most, the usual one if in doubt."""
    head = text.lstrip("\r\n").partition("\n")[0].rstrip("\r")
    return max((usual, ",", ";", "\t", "|"), key=lambda one: len(next(csv.reader([head], delimiter=one), [])))


def _numbers_rows(text: str, delimiter: str) -> bool:
    """Whether the first column counts the rows."""
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    with contextlib.suppress(csv.Error):
        next(rows, None)
        return all(row[0].strip().isdecimal() for row, _ in zip(rows, range(20), strict=False) if row)
    return False


def _unfolded(row: Row) -> Row:
    """The row with lists of messages that are written as text turned into lists."""
    if row.fault:
        return row
    try:
        return row._replace(values=unfolded(dict(row.values)))
    except TornList as torn:
        return Row(row.number, {}, f"'{torn.args[0]}' looks like a list of messages and cannot be read as one")


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
    batches = (batch.to_pylist() for batch in table.iter_batches(1024))
    return (_unfolded(row) for row in _numbered(row for batch in batches for row in batch))


def _arrow(path: Path) -> Iterator[Row]:
    """Arrow's IPC format, as a file or as the stream that ``datasets`` saves."""
    try:
        import pyarrow
        from pyarrow import ipc
    except ImportError:
        raise MissingExtra("pyarrow", "hub") from None
    try:
        with pyarrow.memory_map(str(path)) as source:
            try:
                table = ipc.open_file(source).read_all()
            except pyarrow.ArrowInvalid:
                source.seek(0)
                table = ipc.open_stream(source).read_all()
    except Exception as cause:  # pyarrow raises many kinds
        raise FileError(
            f"not an Arrow file: {cause}", file=path, fix="check the file; fetch it again if it was cut off"
        ) from None
    return (_unfolded(row) for row in _numbered(row for batch in table.to_batches() for row in batch.to_pylist()))


def _folder(path: Path, part: str) -> Iterator[Row]:
    """One part of a folder: a split saved by ``datasets``, or the tables of one configuration and split."""
    if _is_saved(path):
        loaded = _datasets().load_from_disk(str(path))
        if hasattr(loaded, "keys"):
            loaded = loaded[part if part in loaded else _only_split(list(loaded), str(path), part)]
        elif part:
            raise FileError(f"has no part '{part}'", file=path, fix=f"it holds one split: give {path}")
        return _numbered(iter(loaded))
    rows = (row for file in _tables(path, part) for row in _file(file))
    return (row._replace(number=number) for number, row in enumerate(rows, 1))


def _is_saved(path: Path) -> bool:
    """Whether a folder was saved by ``datasets``."""
    return (path / "state.json").is_file() or (path / "dataset_dict.json").is_file()


def _folder_problem(path: Path, part: str) -> str | None:
    if _is_saved(path):
        return None
    try:
        _tables(path, part)
    except FileError as wrong:
        return str(wrong)
    return None


def _tables(path: Path, part: str) -> list[Path]:
    """The tables of one part of a folder, by name. Raises FileError that lists the parts if it has several."""
    parts = _parts(path)
    if not parts:
        raise FileError("no table in this folder", file=path, fix=f"it should hold {_readable()}")
    if not part and len(parts) == 1:
        return next(iter(parts.values()))
    if part:
        if part in parts:
            return parts[part]
        ending = [name for name in parts if name.rpartition("/")[2] == part or name.partition("/")[0] == part]
        if len(ending) == 1:
            return parts[ending[0]]
    names = ", ".join(name or "files that name no split" for name in parts)
    example = min((name for name in parts if name), key=lambda name: ("train" not in name, name), default="")
    raise FileError(
        f"has no part '{part}'; its parts: {names}" if part else f"has several parts: {names}",
        file=path,
        fix=f"name one: {path}#{example}, or give one file" if example else f"give {path}, or one file",
    )


def _parts(path: Path) -> dict[str, list[Path]]:
    """Part (``split``, ``config``, ``config/split``, or empty) → its tables. Tables of the folder itself come before
    those below it, so that a copy of a hub data set is read as well as a folder of tables."""
    tables = sorted(file for file in path.iterdir() if _holds_rows(file))
    if not tables:
        below = (file for file in path.rglob("*") if _holds_rows(file))
        tables = sorted(file for file in below if not any(p.startswith(".") for p in file.relative_to(path).parts))
    parts: dict[str, list[Path]] = {}
    for file in tables:
        parts.setdefault(_part_of(file.relative_to(path)), []).append(file)
    return parts


def _holds_rows(file: Path) -> bool:
    return file.is_file() and is_table(file) and file.name not in _ABOUT


def _part_of(file: Path) -> str:
    """The configuration and the split that a path inside a folder names."""
    split = _split_in(file.name.partition(".")[0])
    config = []
    for name in file.parts[:-1]:
        if name.lower() in _SPLITS:
            split = split or _SPLITS[name.lower()]
        elif name != "data":
            config.append(name)
    return "/".join([*config, split] if split else config)


def _split_in(stem: str) -> str:
    """The split that a file's name gives as one of its words, such as train-00000-of-00002; empty if none."""
    words = re.split(r"[-_. ]+", stem.lower())
    words += ["heldout"] if {"held", "out"} <= set(words) else []
    return next((_SPLITS[word] for word in words if word in _SPLITS), "")


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


def _only_split(splits: list[str], name: str, wanted: str = "") -> str:
    if len(splits) == 1 and not wanted:
        return splits[0]
    what = f"has no split '{wanted}', but" if wanted else "has several splits:"
    raise FileError(f"{what} {', '.join(splits)}", file=name, fix=f"name one: {name}#{splits[0]}")


def _datasets() -> Any:
    try:
        import datasets
    except ImportError:
        raise MissingExtra("datasets", "hub") from None
    return datasets


def _numbered(rows: Iterable[Any]) -> Iterator[Row]:
    return (checked(number, row) for number, row in enumerate(rows, 1))


def checked(number: int, value: Any, *, may_be_torn: bool = True) -> Row:
    """A row as it came, or a faulty one if it is not an object or holds text that cannot be encoded again."""
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
        try:
            arrays[name] = pyarrow.array(cells, type=kind and pyarrow.type_for_alias(kind))
        except (pyarrow.ArrowException, OverflowError, TypeError):  # several types in one column, or a huge integer
            arrays[name] = pyarrow.array([_as_text(cell) for cell in cells], type=pyarrow.string())
    parquet.write_table(pyarrow.table(arrays), path)
    return len(rows)


def _as_text(cell: Any) -> str | None:
    """A cell of a column that holds several types: text as it is, anything else as JSON."""
    return cell if cell is None or isinstance(cell, str) else json.dumps(cell, ensure_ascii=False)


def _filled(value: Any) -> Any:
    """With null for an object without keys, which Parquet cannot hold."""
    if isinstance(value, Mapping):
        return {key: _filled(item) for key, item in value.items()} or None
    return [_filled(item) for item in value] if isinstance(value, (list, tuple)) else value
