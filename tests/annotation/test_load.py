"""Two hundred raters at once, the page killed five times: nothing is lost or stored twice, and nobody waits."""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aifeedback.annotation import RatingStore

from .pages import fields
from .test_command import _wait_for, pairs_file

RATERS, ITEMS, KILLS = 200, 100, 5
PACED = 10
"""The last ratings of each rater come at a steady pace, and are timed."""
RATE = 20.0
"""Ratings a second of all raters together while they are timed."""


class Page:
    """The command ``rate`` in a process of its own, started again after each kill."""

    def __init__(self, folder: Path, data: Path, out: Path, raters: list[str], store: list[str]) -> None:
        self.folder, self.starts = folder, 0
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

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(timeout=60)


class Crowd:
    """Raters who take whatever comes next; some click twice."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.acknowledged: dict[str, set[str]] = {name: set() for name in page.links}
        self.waits_s: list[float] = []

    async def rate(self, name: str, until: int, *, pause_s: float = 0.0) -> None:
        """Rate until ``until`` items are done, however often the page goes away; ``pause_s`` times every rating."""
        import httpx

        draw = random.Random(f"{name} {until}")
        done = self.acknowledged[name]
        while len(done) < until:
            try:
                link, _, token = self.page.links[name].rpartition("/r/")
                async with httpx.AsyncClient(base_url=link, follow_redirects=True, timeout=30) as client:
                    shown = await client.get(f"/r/{token}")
                    while len(done) < until and "item" in (form := fields(shown.text)):
                        if pause_s:
                            await asyncio.sleep(draw.expovariate(1 / pause_s))
                        where = f"/u/{shown.url.path.split('/')[2]}/rate"
                        began = time.perf_counter()
                        shown = await client.post(where, data={**form, "choice": "0"})
                        if pause_s:
                            self.waits_s.append(time.perf_counter() - began)
                        if shown.status_code == 200:
                            done.add(form["item"])
                        if draw.random() < 0.05:
                            await client.post(where, data={**form, "choice": "0"})
                    if "everything is rated" in shown.text:
                        return
            except httpx.HTTPError:
                await asyncio.sleep(0.2)  # killed: try again at the next address


@contextmanager
def started(page: Page) -> Iterator[Page]:
    page.start()
    try:
        yield page
    finally:
        page.process.send_signal(signal.SIGINT)
        page.process.wait(timeout=120)


@pytest.mark.campaign
@pytest.mark.server
@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_two_hundred_raters_and_five_kills(tmp_path: Path, kind: str, request: pytest.FixtureRequest) -> None:
    out = tmp_path / "out"
    where: Any = out / "ratings.sqlite"
    if kind == "postgres":
        where = request.getfixturevalue("postgres").new_database("load")
    data, names = pairs_file(tmp_path, ITEMS), [f"r{i}" for i in range(RATERS)]
    page = Page(tmp_path, data, out, names, ["--store", where] if kind == "postgres" else [])

    async def sitting() -> Crowd:
        crowd = Crowd(page)
        rating = asyncio.gather(*(crowd.rate(name, ITEMS - PACED) for name in names))
        total = RATERS * (ITEMS - PACED)
        for kill in range(KILLS):
            while sum(map(len, crowd.acknowledged.values())) < (kill + 1) * total // (KILLS + 1):
                await asyncio.sleep(0.05)
            page.kill()
            await asyncio.to_thread(page.start)
        await rating
        await asyncio.gather(*(crowd.rate(name, ITEMS, pause_s=RATERS / RATE) for name in names))
        return crowd

    with started(page):
        began = time.perf_counter()
        crowd = asyncio.run(sitting())
        took = time.perf_counter() - began
    ratings = RatingStore(where).ratings()
    stored = [(rating.rater, rating.item_id) for rating in ratings]
    p50, p99 = np.quantile(crowd.waits_s, [0.5, 0.99])
    print(f"\n{kind}: {len(stored):,} ratings, {KILLS} kills, {took:.0f} s; at {RATE:.0f} ratings/s: median {p50 * 1000:.0f} ms, "
          f"p99 {p99 * 1000:.0f} ms, longest {max(crowd.waits_s) * 1000:.0f} ms (n = {len(crowd.waits_s):,})")  # fmt: skip
    assert len(stored) == len(set(stored)) == RATERS * ITEMS
    assert set(stored) >= {(name, item) for name, items in crowd.acknowledged.items() for item in items}
