"""The page killed while many rate: nothing that it acknowledged is lost, nothing is stored twice, and nobody waits."""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from aifeedback.annotation import RatingStore

from .pages import fields
from .test_command import _wait_for, pairs_file


class Size(NamedTuple):
    raters: int
    items: int
    kills: int
    paced: int
    """The last ratings of each rater, which come at a steady pace and are timed."""
    rate: float = 20.0
    """Ratings a second of all raters together while they are timed."""
    twice: float = 0.05
    """Share of ratings that are sent twice."""


SMALL = Size(raters=4, items=12, kills=1, paced=1, twice=0.2)
FULL = Size(raters=200, items=100, kills=5, paced=10)

TLS = ssl.create_default_context()
"""One for all clients: each would read every certificate of the machine for its own."""


class Page:
    """The command ``rate`` in a process of its own, started again after each kill."""

    def __init__(self, folder: Path, data: Path, out: Path, raters: list[str], store: list[str]) -> None:
        self.folder, self.starts, self.is_up = folder, 0, False
        named = [part for name in raters for part in ("--rater", name)]
        self.command = [sys.executable, "-m", "aifeedback", "rate", str(data), "-o", str(out), "--port", "0",
                        "--seed", "1", *named, *store]  # fmt: skip
        self.last = raters[-1]
        self.links: dict[str, str] = {}

    def start(self) -> None:
        output = self.folder / f"output-{self.starts}"
        self.starts += 1
        with output.open("w") as file:
            self.process = subprocess.Popen(
                self.command, stdout=file, stderr=subprocess.STDOUT, env=os.environ | {"PYTHONUNBUFFERED": "1"}
            )
        _wait_for(output, rf"{self.last}: http://127\.0\.0\.1:\d+/r/\S+")
        self.links = dict(re.findall(r"^(r\d+): (http\S+)$", output.read_text(), re.MULTILINE))
        self.is_up = True

    def kill(self) -> None:
        self.is_up = False
        self.process.kill()
        self.process.wait(timeout=60)


class Crowd:
    """Raters who take whatever comes next; some click twice."""

    def __init__(self, page: Page, twice: float) -> None:
        self.page, self.twice = page, twice
        self.acknowledged: dict[str, set[str]] = {name: set() for name in page.links}
        self.waits_s: list[float] = []
        self.refused = 0
        """Forms that came back because the store was busy, to be sent again."""

    async def rate(self, name: str, until: int, *, pause_s: float = 0.0) -> None:
        """Rate until ``until`` items are done, however often the page goes away; ``pause_s`` times every rating."""
        import httpx

        draw = random.Random(f"{name} {until}")
        done = self.acknowledged[name]
        while len(done) < until:
            if not self.page.is_up:
                await asyncio.sleep(0.2)
                continue
            try:
                link, _, token = self.page.links[name].rpartition("/r/")
                async with httpx.AsyncClient(base_url=link, follow_redirects=True, timeout=60, verify=TLS) as client:
                    shown = await client.get(f"/r/{token}")
                    while len(done) < until and "item" in (form := fields(shown.text)):
                        if pause_s:
                            await asyncio.sleep(pause_s * draw.uniform(0.5, 1.5))
                        where = f"/u/{shown.url.path.split('/')[2]}/rate"
                        began = time.perf_counter()
                        shown = await client.post(where, data={**form, "choice": "0"})
                        if pause_s:
                            self.waits_s.append(time.perf_counter() - began)
                        if shown.status_code == 200:
                            done.add(form["item"])
                        self.refused += shown.status_code == 503
                        if draw.random() < self.twice:
                            await client.post(where, data={**form, "choice": "0"})
                    if "everything is rated" in shown.text:
                        return
            except httpx.HTTPError:
                await asyncio.sleep(0.2)  # killed: the next address is elsewhere


@contextmanager
def started(page: Page) -> Iterator[Page]:
    page.start()
    try:
        yield page
    finally:
        page.process.send_signal(signal.SIGINT)
        page.process.wait(timeout=120)


async def sitting(page: Page, size: Size) -> Crowd:
    """Everybody rates as fast as the page answers while it is killed again and again, then at a steady pace."""
    crowd, early = Crowd(page, size.twice), size.items - size.paced
    rating = asyncio.gather(*(crowd.rate(name, early) for name in page.links))
    for kill in range(size.kills):
        while sum(map(len, crowd.acknowledged.values())) < (kill + 1) * size.raters * early // (size.kills + 1):
            await asyncio.sleep(0.02)
        page.kill()
        await asyncio.to_thread(page.start)
    await rating
    pause_s = size.raters / size.rate
    await asyncio.gather(*(crowd.rate(name, size.items, pause_s=pause_s) for name in page.links))
    return crowd


def require_all_kept(folder: Path, size: Size, database: str | None = None) -> Crowd:
    """A sitting of this size, on a file or on ``database``, after which every rating is stored once."""
    data, names, out = pairs_file(folder, size.items), [f"r{i}" for i in range(size.raters)], folder / "out"
    page = Page(folder, data, out, names, ["--store", database] if database else [])
    with started(page):
        crowd = asyncio.run(sitting(page, size))
    ratings = RatingStore(database or out / "ratings.sqlite").ratings()
    stored = [(rating.rater, rating.item_id) for rating in ratings]
    assert len(stored) == len(set(stored)) == size.raters * size.items
    assert set(stored) >= {(name, item) for name, items in crowd.acknowledged.items() for item in items}
    assert len((out / "ratings.jsonl").read_text().splitlines()) == len(stored)
    return crowd


def test_a_kill_loses_and_doubles_no_rating(tmp_path: Path) -> None:
    require_all_kept(tmp_path, SMALL)


@pytest.mark.campaign
@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_two_hundred_raters_and_five_kills(tmp_path: Path, kind: str, request: pytest.FixtureRequest) -> None:
    database = request.getfixturevalue("postgres").new_database("load") if kind == "postgres" else None
    began = time.perf_counter()
    crowd = require_all_kept(tmp_path, FULL, database)
    took, waits = time.perf_counter() - began, np.array(crowd.waits_s) * 1000
    p50, p99 = np.quantile(waits, [0.5, 0.99])
    print(f"\n{kind}: {FULL.raters * FULL.items:,} ratings, {FULL.kills} kills, {took:.0f} s; at {FULL.rate:.0f} ratings/s: "
          f"median {p50:.0f} ms, p99 {p99:.0f} ms, longest {waits.max():.0f} ms (n = {len(waits):,}); "
          f"{crowd.refused:,} forms came back")  # fmt: skip
    assert p99 < 500, "raters wait"
