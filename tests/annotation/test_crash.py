"""Killed in the middle of a sitting, the page has lost and doubled nothing that it acknowledged."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from aifeedback.annotation import RatingStore

from .pages import fields
from .test_command import _wait_for, pairs_file

RATERS, ITEMS, KILLS = 4, 12, 2


@pytest.mark.server
def test_kills_lose_and_double_no_rating(tmp_path: Path) -> None:
    import httpx

    data, out = pairs_file(tmp_path, ITEMS), tmp_path / "out"
    names = [f"r{i}" for i in range(RATERS)]
    state = {"address": ""}
    acknowledged: dict[str, set[str]] = {name: set() for name in names}
    over = threading.Event()

    def start(number: int) -> subprocess.Popen[bytes]:
        output = (tmp_path / f"output-{number}").open("w+")
        command = [sys.executable, "-m", "aifeedback", "rate", str(data), "-o", str(out), "--port", "0", "--seed", "1"]
        raters = [part for name in names for part in ("--rater", name)]
        process = subprocess.Popen(
            [*command, *raters], stdout=output, stderr=subprocess.STDOUT, env=os.environ | {"PYTHONUNBUFFERED": "1"}
        )
        link = _wait_for(Path(output.name), rf"{names[-1]}: http://127\.0\.0\.1:\d+/r/\S+")
        state["links"] = Path(output.name).read_text()
        state["address"] = link
        return process

    def rate(name: str) -> None:
        draw = random.Random(name)
        while not over.is_set():
            link = re.search(rf"{name}: (http\S+)/r/(\S+)", state["links"])
            assert link is not None
            try:
                with httpx.Client(follow_redirects=True, timeout=5) as client:
                    page = client.get(f"{link[1]}/r/{link[2]}").text
                    while "item" in (form := fields(page)):
                        time.sleep(0.05)
                        for _ in range(1 + (draw.random() < 0.2)):  # some click twice
                            answer = client.post(f"{link[1]}/rate", data={**form, "choice": "0"})
                        if answer.status_code == 200:
                            acknowledged[name].add(form["item"])
                        page = answer.text
                    if "everything is rated" in page:
                        return
            except httpx.HTTPError:
                time.sleep(0.1)  # killed: try again at the next address

    process = start(0)
    threads = [threading.Thread(target=rate, args=(name,), daemon=True) for name in names]
    for thread in threads:
        thread.start()
    for number in range(KILLS):
        time.sleep(0.4)
        process.kill()
        process.wait(timeout=60)
        process = start(number + 1)
    for thread in threads:
        thread.join(timeout=120)
    over.set()
    process.send_signal(signal.SIGINT)
    process.wait(timeout=120)
    ratings = RatingStore(out / "ratings.sqlite").ratings()
    stored = [(rating.rater, rating.item_id) for rating in ratings]
    assert len(stored) == len(set(stored)) == RATERS * ITEMS
    assert all((name, item) in set(stored) for name, items in acknowledged.items() for item in items)
