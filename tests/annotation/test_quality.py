"""Rater quality: a coin flipper, a speeder, a straight-liner and a drifter are marked, sound raters are not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from aifeedback.annotation import export, read_task
from aifeedback.annotation.items import SCALES, Expected, Item, single_items
from aifeedback.annotation.rater_quality import rater_quality
from aifeedback.types import Comparison, Completion, Prompt, Rating

from .pages import assignment, fields, pairs, ranked
from .test_app import entered

AT = "2026-01-01T00:00:00+00:00"
Verdict = Callable[[int, Random], float]
"""Share of right decisions on the i-th item."""


def simulated(raters: dict[str, Verdict], items: list[Item], seed: int, seconds: float = 20.0) -> list[Rating]:
    random, ratings = Random(seed), []
    for i, item in enumerate(items):
        right = random.randrange(2)
        for rater, skill in raters.items():
            side = right if random.random() < skill(i, random) else 1 - right
            order = item.order_for(rater, seed)
            ratings.append(
                Rating(
                    item_id=item.id,
                    rater=rater,
                    choice=("first", "second")[side],
                    order_shown=order,
                    at=AT,
                    seconds=seconds,
                    prompt_id=item.prompt.id,
                    answers=item.texts,
                )
            )
    return ratings


def steady(share: float) -> Verdict:
    return lambda i, random: share


SOUND = {"ben": steady(0.85), "cleo": steady(0.85)}


def test_a_coin_flipper_is_marked_and_the_others_are_not() -> None:
    items = pairs(80)
    verdicts = [
        {
            r: one["verdict"]
            for r, one in rater_quality(items, simulated({"anna": steady(0.5), **SOUND}, items, s)).items()
        }
        for s in range(40)
    ]
    assert sum(v["anna"] == "✗" for v in verdicts) >= 36
    assert not any(v[r] == "✗" for v in verdicts for r in SOUND)


def test_sound_raters_are_rarely_alarmed() -> None:
    items = pairs(80)
    alarms = total = 0
    for seed in range(60):
        found = rater_quality(items, simulated({"anna": steady(0.8), **SOUND}, items, seed))
        alarms += sum(one["verdict"] != "✓" for one in found.values())
        total += len(found)
        assert all(one["verdict"] != "✗" for one in found.values())
    assert alarms / total <= 0.08


def test_measurements_come_with_intervals() -> None:
    items = pairs(60)
    one = rater_quality(items, simulated({"anna": steady(0.9), **SOUND}, items, 0))["anna"]
    assert one["agreement"]["low"] < one["agreement"]["value"] < one["agreement"]["high"]
    assert one["agreement"]["n"] == 60
    assert 0.4 < one["chance"] < 0.6
    assert one["median_seconds"] == 20.0


def test_who_always_takes_the_same_position_is_marked() -> None:
    items = pairs(40)
    ratings = [
        r.model_copy(update={"choice": ("first", "second")[r.order_shown[0]]}) if r.rater == "anna" else r
        for r in simulated({"anna": steady(0.8), **SOUND}, items, 0)
    ]
    one = rater_quality(items, ratings)["anna"]
    assert one["verdict"] == "✗"
    assert "same position in 100%" in " ".join(one["reasons"])


def test_who_is_faster_than_reading_is_marked() -> None:
    items = pairs(40, text="Q")
    long = [
        item._replace(
            answers=tuple(Completion.of(item.prompt, a.text + " word" * 200, source="m") for a in item.answers)
        )
        for item in items
    ]
    ratings = [
        r.model_copy(update={"seconds": 0.4}) if r.rater == "anna" else r.model_copy(update={"seconds": 90.0})
        for r in simulated({"anna": steady(0.85), **SOUND}, long, 0)
    ]
    found = rater_quality(long, ratings)
    assert "too fast" in " ".join(found["anna"]["reasons"])
    assert found["ben"]["too_fast"] == 0


def test_agreement_that_falls_is_marked() -> None:
    items = pairs(160)
    tired: Verdict = lambda i, random: 0.95 if i < 80 else 0.55  # noqa: E731
    marked = 0
    for seed in range(10):
        raters = {"anna": tired, "ben": steady(0.95), "cleo": steady(0.95)}
        one = rater_quality(items, simulated(raters, items, seed))["anna"]
        marked += any("first half" in reason for reason in one["reasons"])
    assert marked >= 9


def test_gold_items_identify_a_guesser_even_alone() -> None:
    items = [item._replace(purpose="gold", expected=Expected(1.0)) for item in pairs(40)]
    random = Random(1)
    ratings = [
        Rating(item_id=i.id, rater="anna", choice=random.choice(("first", "second")), order_shown=(0, 1), at=AT,
               purpose="gold", prompt_id=i.prompt.id, answers=i.texts)  # type: ignore[arg-type]
        for i in items
    ]  # fmt: skip
    assert rater_quality(items, ratings)["anna"]["verdict"] == "✗"
    right = [r.model_copy(update={"choice": "first"}) for r in ratings]
    assert rater_quality(items, right)["anna"]["gold"]["value"] == 1.0


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_few_ratings_raise_no_alarm(count: int) -> None:
    items = pairs(count)
    found = rater_quality(items, simulated({"anna": steady(0.0), **SOUND}, items, 0))
    assert all(one["verdict"] == "✓" for one in found.values())


def test_rankings_and_scores_are_compared_too() -> None:
    items = ranked(30)
    ratings = [
        Rating(item_id=i.id, rater=r, ranking=(1, 2, 3), order_shown=(0, 1, 2), at=AT, prompt_id=i.prompt.id,
               answers=i.texts)
        for i in items for r in ("anna", "ben")
    ]  # fmt: skip
    assert rater_quality(items, ratings)["anna"]["agreement"]["value"] == 1.0
    prompts = [Prompt.of(f"Q{i}") for i in range(30)]
    scored = single_items(prompts, [Completion.of(p, "t", source="m") for p in prompts], SCALES["score"])
    values = [
        Rating(item_id=i.id, rater=r, value=5.0 if r == "anna" else float(1 + n % 10), order_shown=(0,), at=AT,
               asks="score", prompt_id=i.prompt.id, answers=i.texts)
        for n, i in enumerate(scored) for r in ("anna", "ben", "cleo")
    ]  # fmt: skip
    found = rater_quality(scored, values)
    assert "same value" in " ".join(found["anna"]["reasons"])
    assert found["ben"]["verdict"] == "✓"


# ── on the page ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_calibration_comes_first_with_feedback_and_counts_for_nothing(tmp_path: Path) -> None:
    item = pairs(1, text="Calibrate")[0]._replace(purpose="calibration", expected=Expected(1.0, "It is <shorter>."))
    where = assignment(tmp_path, pairs(3), calibration=[item])
    client = entered(where)
    page = client.get("/").text
    assert fields(page)["item"] == item.id
    place = item.order_for("anna", 0).index(1)  # the other one
    answer = client.post("/rate", data={**fields(page), "choice": str(place)}).text
    assert "You decided otherwise." in answer
    assert f"{'AB'[1 - place]} is better. It is &lt;shorter&gt;." in answer
    assert where.store.ratings()[0].purpose == "calibration"
    assert f"item?id={item.id}" not in client.get("/mine").text  # its answer is known now


def test_gold_items_are_mixed_in_without_a_word(tmp_path: Path) -> None:
    gold = [i._replace(purpose="gold", expected=Expected(1.0)) for i in pairs(4, text="Gold")]
    where = assignment(tmp_path, pairs(6), gold=gold)
    client, pages = entered(where), []
    for _ in range(10):
        page = client.get("/").text
        pages.append(page)
        client.post("/rate", data={**fields(page), "choice": "0"})
    assert sum("Gold" in page for page in pages) == 4
    assert not any("agreed" in page.lower() for page in pages)
    assert sum(r.purpose == "gold" for r in where.store.ratings()) == 4


def test_repeats_come_later_in_the_turn_and_are_measured(tmp_path: Path) -> None:
    items = pairs(40)
    where = assignment(tmp_path, items, repeat_share=0.25)
    queue = where.queues["anna"]
    again = [i for i in queue if i.purpose == "repeat"]
    assert 4 <= len(again) <= 18
    client = entered(where)
    for _ in queue:
        page = client.get("/").text
        item = where.item("anna", fields(page)["item"])
        assert item is not None
        red = next(n for n, a in enumerate(item.answers) if "red" in a.text)
        client.post("/rate", data={**fields(page), "choice": str(item.order_for("anna", 0).index(red))})
    assert "everything is rated" in client.get("/").text
    one = rater_quality(items, where.store.ratings())["anna"]
    assert one["repeats"]["value"] == 1.0
    assert one["repeats"]["n"] == len(again)
    assert one["n"] == 40


# ── four kinds of unsound raters, with power and false alarms ────────────────────────────────────────────────────────

KINDS = ("coin flipper", "drifter", "speeder", "copier")


def study(kind: str, seed: int, count: int = 160) -> tuple[list[Item], list[Rating]]:
    """Four raters, three of them sound; anna is of this kind, or sound too."""
    items = pairs(count)
    skill: Verdict = steady({"coin flipper": 0.5}.get(kind, 0.82))
    if kind == "drifter":
        skill = lambda i, random: 0.95 if i < count // 2 else 0.5  # noqa: E731
    ratings = simulated({"anna": skill, "ben": steady(0.82), "cleo": steady(0.85), "dan": steady(0.88)}, items, seed)
    if kind == "speeder":
        ratings = [r.model_copy(update={"seconds": 0.2}) if r.rater == "anna" else r for r in ratings]
    if kind == "copier":
        of_ben = {r.item_id: r for r in ratings if r.rater == "ben"}
        ratings = [
            r.model_copy(update={"choice": of_ben[r.item_id].choice}) if r.rater == "anna" else r for r in ratings
        ]
    return items, ratings


def found_in(kind: str, runs: int) -> tuple[float, float, float]:
    """Shares: anna marked for what she is, any sound rater marked ✗, any sound rater marked at all."""
    words = {"coin flipper": "no more than chance", "drifter": "first half", "speeder": "too fast", "copier": "copied"}
    marked, bad, looked, sound = 0, 0, 0, 0
    for seed in range(runs):
        quality = rater_quality(*study(kind, seed))
        if kind in words:
            marked += any(words[kind] in reason for reason in quality["anna"]["reasons"])
        others = [r for r in quality if (r != "anna" or kind not in words) and not (kind == "copier" and r == "ben")]
        sound += len(others)
        bad += sum(quality[r]["verdict"] == "✗" for r in others)
        looked += sum(quality[r]["verdict"] == "!" for r in others)
    return marked / runs, bad / sound, looked / sound


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_unsound_rater_is_found(kind: str) -> None:
    power, bad, looked = found_in(kind, 6)
    assert power >= 0.6
    assert bad == 0
    assert looked <= 0.12


@pytest.mark.campaign
@pytest.mark.parametrize("kind", [*KINDS, "sound"])
def test_power_and_false_alarms_in_a_campaign(kind: str) -> None:
    power, bad, looked = found_in(kind, 500)
    print(f"{kind}: found {100 * power:.1f} %; sound raters marked ✗ {100 * bad:.2f} %, ! {100 * looked:.2f} %")
    assert kind == "sound" or power >= 0.85
    assert bad <= 0.002
    assert looked <= 0.05


def test_two_raters_who_agree_on_an_easy_task_are_not_called_copiers() -> None:
    items = pairs(60)
    ratings = simulated({name: steady(0.99) for name in ("anna", "ben", "cleo")}, items, 0)
    assert all(one["copied"] is None for one in rater_quality(items, ratings).values())
    alone = simulated({"anna": steady(1.0), "ben": steady(1.0)}, items, 0)
    assert all(one["verdict"] == "✓" for one in rater_quality(items, alone).values())


def test_raters_marked_unsound_are_left_out_by_a_declared_rule(tmp_path: Path) -> None:
    comparisons = [Comparison.of(i.prompt, *i.answers) for i in pairs(100)]
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(c.model_dump_json() + "\n" for c in comparisons))
    task = read_task(data)
    ratings = simulated(
        {"anna": steady(0.5), "ben": steady(0.9), "cleo": steady(0.9), "dan": steady(0.9)}, task.items, 1
    )
    kept = export(task, ratings, tmp_path / "all").summary
    assert (kept["excluded"], kept["excluded_because"]) == ([], None)
    out = export(task, ratings, tmp_path / "sound", exclude_unsound=True, exclude=["dan"]).summary
    assert out["excluded_because"] == {"anna": "marked ✗", "dan": "by name"}
    assert set(out["raters"]) == {"ben", "cleo"}
    assert set(out["rater_quality"]) == {"anna", "ben", "cleo", "dan"}
    assert (tmp_path / "sound" / "ratings.jsonl").read_text() == (tmp_path / "all" / "ratings.jsonl").read_text()


def test_agreement_with_others_and_among_them_equals_plain_loops() -> None:
    """Three raters of five, not all on each item: every two agreements, written out one by one."""
    items, random = pairs(30), Random(3)
    everyone = simulated({name: steady(0.7) for name in ("ana", "ben", "cleo", "dora", "emil")}, items, seed=4)
    ratings = [rating for rating in everyone if random.random() < 0.7]
    quality = rater_quality(items, ratings)
    by_item: dict[str, dict[str, str | None]] = {}
    for rating in ratings:
        by_item.setdefault(rating.item_id, {})[rating.rater] = rating.choice
    for name, one in quality.items():
        own, below = [], []
        for choices in by_item.values():
            others = [choice for other, choice in choices.items() if other != name]
            if name not in choices or not others:
                continue
            with_them = sum(choice == choices[name] for choice in others) / len(others)
            among = [a == b for i, a in enumerate(others) for b in others[i + 1 :]]
            own.append(with_them)
            below += [with_them - sum(among) / len(among)] if among else []
        assert one["agreement"]["value"] == pytest.approx(sum(own) / len(own), abs=1e-12)
        assert one["below_others"]["value"] == pytest.approx(sum(below) / len(below), abs=1e-12)
        assert one["below_others"]["n"] == len(below)


def test_the_work_grows_with_pairs_of_raters_not_with_pairs_of_pairs() -> None:
    """120 raters make 7,140 pairs; comparing each with every other pair would take hours."""
    items = pairs(24)
    raters = {f"r{n:03}": steady(0.8) for n in range(119)} | {"copy": steady(0.8)}
    ratings = simulated(raters, items, seed=0)
    verdicts = {rating.item_id: rating.choice for rating in ratings if rating.rater == "r000"}
    ratings = [
        rating.model_copy(update={"choice": verdicts[rating.item_id]}) if rating.rater == "copy" else rating
        for rating in ratings
    ]
    quality = rater_quality(items, ratings)
    assert len(quality) == 120
    assert {rater for rater, one in quality.items() if one["copied"]} <= {"r000", "copy"}
