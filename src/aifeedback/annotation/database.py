"""Where ratings are kept: a SQLite file, or a PostgreSQL database by its URL. One dialect of SQL for both.

A connection commits by itself unless ``BEGIN`` was executed. ``begin`` starts a transaction that only one writer has at
a time, over all threads, processes and machines, and that is on disk when ``COMMIT`` returns.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from aifeedback.errors import InputError, JournalError, MissingExtra
from aifeedback.storage import make_folder

POSTGRES = ("postgresql://", "postgres://")
WRITERS_LOCK = 0x6166_7261_7465
"""Advisory lock that every writer of a PostgreSQL database takes: the chain of digests needs one order."""


def is_url(place: object) -> bool:
    return str(place).startswith(POSTGRES)


def shown(place: object) -> str:
    """The place for messages: of a URL neither user, password nor parameters."""
    if not is_url(place):
        return str(place)
    parts = urlsplit(str(place))
    return f"postgresql://{parts.hostname or ''}{parts.path}"


class Unavailable(JournalError):
    """Cannot be read or written just now; ``reason`` is a sentence for raters. Nothing was stored."""

    def __init__(self, place: object, cause: BaseException | None) -> None:
        text = str(cause or "locked").lower()
        if "full" in text or "no space" in text:
            self.reason = "The disk of this server is full."
        elif "lock" in text or "busy" in text:
            self.reason = "Another program is using the file of ratings."
        else:
            self.reason = "The file of ratings cannot be used just now."
        super().__init__(f"{shown(place)}: {str(cause or 'locked').strip()}")


class Connection(Protocol):
    """What both kinds of connection can do; ``?`` stands for a value."""

    def execute(self, query: str, values: Sequence[Any] = ..., /) -> Any: ...
    def close(self) -> None: ...


class Database(Protocol):
    place: Any
    schema: str
    """Statements, one after the other, that make every table where it is missing."""
    passing: Any
    """Classes of errors that another try may not meet: a lock, a full disk, a server that restarts."""

    def connect(self) -> Connection: ...
    def prepare(self, connection: Connection) -> None: ...
    def begin(self, connection: Connection) -> None: ...
    def in_transaction(self, connection: Connection) -> bool: ...
    def is_usable(self, connection: Connection) -> bool: ...


def database(place: object, patience_s: float) -> Database:
    """Raises MissingExtra for a URL without psycopg."""
    return Postgres(str(place), patience_s) if is_url(place) else Sqlite(Path(str(place)), patience_s)


_TABLES = """
CREATE TABLE IF NOT EXISTS ratings (
  seq {serial}, item_id TEXT NOT NULL, rater TEXT NOT NULL, record TEXT NOT NULL, digest TEXT NOT NULL,
  revision INTEGER NOT NULL DEFAULT 0, UNIQUE (item_id, rater, revision));
CREATE TABLE IF NOT EXISTS raters (name TEXT PRIMARY KEY, token_sha256 TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS secret (one INTEGER PRIMARY KEY CHECK (one = 1), key TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS exposures (
  seq {serial}, item_id TEXT NOT NULL, rater TEXT NOT NULL, at TEXT NOT NULL, UNIQUE (item_id, rater));
CREATE TABLE IF NOT EXISTS skips (seq {serial}, item_id TEXT NOT NULL, rater TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS drafts (
  item_id TEXT NOT NULL, rater TEXT NOT NULL, entry TEXT NOT NULL, PRIMARY KEY (item_id, rater));
CREATE INDEX IF NOT EXISTS ratings_of ON ratings (rater);
"""


class Sqlite:
    """Readers never wait for a writer (WAL); every commit is on disk (synchronous=FULL)."""

    schema = _TABLES.format(serial="INTEGER PRIMARY KEY AUTOINCREMENT") + (
        "CREATE TRIGGER IF NOT EXISTS ratings_stay BEFORE UPDATE ON ratings "
        "BEGIN SELECT RAISE(ABORT, 'append-only'); END;\n"
        "CREATE TRIGGER IF NOT EXISTS ratings_keep BEFORE DELETE ON ratings "
        "BEGIN SELECT RAISE(ABORT, 'append-only'); END;\n"
    )
    passing = (sqlite3.OperationalError,)

    def __init__(self, place: Path, patience_s: float) -> None:
        self.place, self.patience_s = place, patience_s
        make_folder(place.parent)

    def connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self.place, check_same_thread=False, isolation_level=None, timeout=self.patience_s)

    def prepare(self, connection: Any) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        _allow_corrections(connection)
        connection.executescript(self.schema)

    def begin(self, connection: Connection) -> None:
        connection.execute("BEGIN IMMEDIATE")

    def in_transaction(self, connection: Any) -> bool:
        return connection.in_transaction

    def is_usable(self, connection: Connection) -> bool:
        return True


def _allow_corrections(db: sqlite3.Connection) -> None:
    """Replace a table of ratings that has no revisions, as earlier versions made it, by one with the same rows."""
    columns = {row[1] for row in db.execute("PRAGMA table_info(ratings)")}
    if not columns or "revision" in columns:
        return
    db.execute("BEGIN IMMEDIATE")
    try:
        if "revision" not in {row[1] for row in db.execute("PRAGMA table_info(ratings)")}:
            for trigger in ("ratings_stay", "ratings_keep"):
                db.execute(f"DROP TRIGGER IF EXISTS {trigger}")
            db.execute("ALTER TABLE ratings RENAME TO ratings_without_revisions")
            db.execute(Sqlite.schema.split(";")[0])
            db.execute(
                "INSERT INTO ratings (seq, item_id, rater, record, digest) "
                "SELECT seq, item_id, rater, record, digest FROM ratings_without_revisions ORDER BY seq"
            )
            db.execute("DROP TABLE ratings_without_revisions")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


class Postgres:
    """Of several studies in one database each has a schema: ``postgresql://…/db?options=-csearch_path%3Dstudy``."""

    schema = _TABLES.format(serial="BIGSERIAL PRIMARY KEY") + (
        "CREATE OR REPLACE FUNCTION ratings_stay() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'append-only'; END $$;\n"
        "CREATE OR REPLACE TRIGGER ratings_stay BEFORE UPDATE OR DELETE ON ratings "
        "FOR EACH ROW EXECUTE FUNCTION ratings_stay();\n"
    )

    def __init__(self, place: str, patience_s: float) -> None:
        try:
            import psycopg
        except ModuleNotFoundError:
            raise MissingExtra("psycopg", "postgres") from None
        self.place, self.patience_s = place, patience_s
        self._psycopg = psycopg
        self.passing = (psycopg.OperationalError, psycopg.errors.ReadOnlySqlTransaction)

    def connect(self) -> Connection:
        patience = f"-c lock_timeout={int(1000 * self.patience_s)}"
        try:
            options = " ".join(filter(None, (self._options(), patience)))
            connection = self._psycopg.connect(
                self.place, autocommit=True, options=options, connect_timeout=max(2, int(self.patience_s))
            )
        except self._psycopg.ProgrammingError as cause:
            raise InputError(f"not a PostgreSQL URL: {cause}", key="--store") from None
        return _Dollar(connection)

    def _options(self) -> str:
        """The URL's own options, which ``connect(options=…)`` would replace."""
        return self._psycopg.conninfo.conninfo_to_dict(self.place).get("options") or ""  # type: ignore[return-value]

    def prepare(self, connection: Connection) -> None:
        self.begin(connection)  # two starts at once would make the same tables
        connection.execute(self.schema)
        connection.execute("COMMIT")

    def begin(self, connection: Connection) -> None:
        connection.execute("BEGIN")
        connection.execute(f"SELECT pg_advisory_xact_lock({WRITERS_LOCK})")

    def in_transaction(self, connection: Any) -> bool:
        return connection.info.transaction_status in (
            self._psycopg.pq.TransactionStatus.INTRANS,
            self._psycopg.pq.TransactionStatus.INERROR,
        )

    def is_usable(self, connection: Any) -> bool:
        return not connection.closed


class _Dollar:
    """A psycopg connection that takes ``?`` for a value."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def execute(self, query: str, values: Sequence[Any] = (), /) -> Any:
        return self._connection.execute(re.sub(r"\?", "%s", query) if values else query, values or None)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def close(self) -> None:
        self._connection.close()
