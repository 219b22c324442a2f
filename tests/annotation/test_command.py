"""`aifeedback rate`: a file in, a labelled file out, whatever happens in between."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aifeedback.annotation import RatingStore, read_task
from aifeedback.annotation.items import Item
from aifeedback.cli import app
from aifeedback.data import read_labelled
from aifeedback.errors import AIFeedbackError
from aifeedback.types import Rating

from .pages import fields


def pairs_file(folder: Path, count: int = 4, **more: object) -> Path:
    path = folder / "pairs.jsonl"
    rows = [{"prompt": f"Q{i}", "first": f"red {i}", "second": f"blue {i}", **more} for i in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rated(item: Item, rater: str, choice: str | None = None, ranking: tuple[int, ...] | None = None) -> Rating:
    order = tuple(range(len(item.answers)))
    return Rating(
        item_id=item.id,
        rater=rater,
        choice=choice,  # type: ignore[arg-type]
        ranking=ranking,
        order_shown=order,
        at="2026-01-01T00:00:00+00:00",
        seconds=4.0,
    )


def export(data: Path, out: Path) -> dict[str, object]:
    result = CliRunner().invoke(app, ["rate", str(data), "-o", str(out), "--export"])
    assert result.exit_code == 0, (result.output, result.exception)
    return json.loads((out / "summary.json").read_text())


def test_ratings_become_a_labelled_file(tmp_path: Path) -> None:
    data, out = pairs_file(tmp_path), tmp_path / "out"
    items = read_task(data).items
    store = RatingStore(out / "ratings.sqlite")
    verdicts = [("first", "first"), ("second", "second"), ("first", "second"), ("tie", "cannot_tell")]
    for item, (anna, ben) in zip(items, verdicts, strict=True):
        store.add(rated(item, "anna", anna))
        store.add(rated(item, "ben", ben))
    store.close()
    summary = export(data, out)
    rows = read_labelled(out / "labelled.jsonl")
    assert [row.human_p_first for row in rows] == [1.0, 0.0, 0.5, 0.5]
    assert [row.p_first for row in rows] == [1.0, 0.0, 0.5, 0.5]
    assert rows[0].extra["item_id"] == items[0].id
    assert summary["ratings"] == 8
    assert summary["cannot_tell"] == 1
    # three pairs both decided: two of three alike, chance agreement (2·1 + 1·2)/9 = 4/9, so κ = (2/3 − 4/9)/(5/9) = 0.4
    assert summary["kappa"]["value"] == pytest.approx(0.4)  # type: ignore[index]
    assert summary["same_verdict"]["value"] == pytest.approx(2 / 3)  # type: ignore[index]
    assert summary["krippendorff_alpha"]["n"] == 3  # type: ignore[index]
    assert len((out / "ratings.jsonl").read_text().splitlines()) == 8


def test_a_models_verdict_stays_beside_peoples(tmp_path: Path) -> None:
    """A file labelled by a judge, rated by people, is what `evaluate` compares the two on."""
    data = pairs_file(tmp_path, 1, p_first=0.2, judge="some-judge", human_p_first=None)
    item = read_task(data).items[0]
    store = RatingStore(tmp_path / "out" / "ratings.sqlite")
    store.add(rated(item, "anna", "first"))
    store.close()
    export(data, tmp_path / "out")
    row = read_labelled(tmp_path / "out" / "labelled.jsonl")[0]
    assert (row.p_first, row.judge, row.human_p_first) == (0.2, "some-judge", 1.0)


def test_rankings_become_pairs_and_a_concordance(tmp_path: Path) -> None:
    data = tmp_path / "answers.jsonl"
    data.write_text("".join(json.dumps({"prompt": "Q", "completion": f"a{i}"}) + "\n" for i in range(3)))
    item = read_task(data).items[0]
    store = RatingStore(tmp_path / "out" / "ratings.sqlite")
    store.add(rated(item, "anna", ranking=(1, 2, 3)))
    store.add(rated(item, "ben", ranking=(1, 3, 3)))
    store.close()
    summary = export(data, tmp_path / "out")
    rows = read_labelled(tmp_path / "out" / "labelled.jsonl")
    said = {(r.comparison.first.text, r.comparison.second.text): r.p_first for r in rows}
    assert said == {("a0", "a1"): 1.0, ("a0", "a2"): 1.0, ("a1", "a2"): 0.75}
    # Kendall's W with ties by hand: ranks 1 2 3 and 1 2.5 2.5, sums 2 4.5 5.5, S = 6.5, m²(n³−n) − m·T = 4·24 − 2·6 = 84
    assert summary["kendalls_w"]["value"] == pytest.approx(12 * 6.5 / 84)  # type: ignore[index]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "no --rater given"),
        (["--rater", "anna", "--rater", "anna"], "same name"),
        (["--rater", "anna", "--per-item", "2"], "2 ratings per item"),
        (["--rater", "anna", "--volunteer", "ben"], "'ben' is not a rater"),
        (["--export"], "no ratings yet"),
    ],
)
def test_mistakes_are_reported_before_a_page_opens(tmp_path: Path, arguments: list[str], told: str) -> None:
    result = CliRunner().invoke(
        app, ["rate", str(pairs_file(tmp_path)), "-o", str(tmp_path / "o"), "--port", "0", *arguments]
    )
    assert isinstance(result.exception, AIFeedbackError)
    assert told in str(result.exception)
    assert result.exception.exit_code == 2


def test_a_port_that_is_taken_is_named() -> None:
    from aifeedback.annotation.app import listening

    with listening("127.0.0.1", 0) as door, pytest.raises(AIFeedbackError, match="cannot be opened"):
        listening("127.0.0.1", door.getsockname()[1])


@pytest.mark.server
def test_the_command_serves_until_ctrl_c_and_resumes_with_the_same_links(tmp_path: Path) -> None:
    import httpx

    data, out = pairs_file(tmp_path, 2), tmp_path / "out"
    links = {}
    for sitting in range(2):
        told = (tmp_path / f"told-{sitting}").open("w+")
        process = subprocess.Popen(
            [sys.executable, "-m", "aifeedback", "rate", str(data), "-o", str(out), "--rater", "anna", "--port", "0"],
            stdout=told,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )
        link = _wait_for(Path(told.name), r"http://127\.0\.0\.1:\d+/r/\S+")
        links[sitting] = link.rpartition("/")[2]
        with httpx.Client(follow_redirects=True, timeout=60) as client:
            page = client.get(link).text
            assert f"{sitting} of 2 done" in page
            client.post(f"{link.partition('/r/')[0]}/rate", data={**fields(page), "choice": "0"})
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=120) == 0, Path(told.name).read_text()
        assert len((out / "ratings.jsonl").read_text().splitlines()) == sitting + 1
    assert links[0] == links[1]
    assert (out / "links.json").stat().st_mode & 0o077 == 0


def _wait_for(path: Path, pattern: str, most_s: float = 120) -> str:
    until = time.monotonic() + most_s
    while time.monotonic() < until:
        if found := re.search(pattern, path.read_text()):
            return found[0]
        time.sleep(0.1)
    raise AssertionError(path.read_text())
