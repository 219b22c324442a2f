"""Agreement with human labels: overall, per slice, calibrated, and in clusters of similar prompts.

**Agreement** overall, beyond chance, and per slice with the worst first. A slice is tested against the rest of the
pairs (two-sided Fisher); Benjamini–Hochberg controls the share of false alarms over slices. Slices are the prompts'
tags, thirds of answer length and how sure people were.

**Calibration.** Does a stated 80 % come true in 80 % of cases? Expected calibration error and the reliability table.

**Clusters** of similar prompts, each with its own error rate. Prompts become tf-idf vectors, scipy's k-means groups
them (seeded); a cluster's errors are tested against the rest, Benjamini–Hochberg over clusters. The words named are
those with the highest mean weight in the cluster.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from aifeedback.audit.finding import Finding, ProbeInput, of_estimate, unmeasured

WEAK = 0.6
"""Agreement that is not certainly above this is watched, certainly below it is bad."""
FEWEST = 20
"""Pairs that a slice needs to be reported."""


def agreement(inputs: ProbeInput) -> list[Finding]:
    from aifeedback.metrics import alignment, cohens_kappa

    title = "Agreement with people"
    decided = [i for i, h in enumerate(inputs.human) if h is not None and h != 0.5]
    known = [i for i in decided if inputs.p_first[i] is not None]
    if not known:
        why = "no pair has a verdict of people" if not decided else "none of the verdicts could be read"
        return [unmeasured("agreement", "agreement", title, why, unreadable=inputs.unreadable)]
    share = alignment(inputs.p_first, inputs.human, prompts=inputs.prompts())
    taken = [i for i in known if inputs.p_first[i] != 0.5]  # who takes no side agrees with nobody beyond chance
    kappa = cohens_kappa(
        [inputs.p_first[i] > 0.5 for i in taken],  # type: ignore[operator]
        [inputs.human[i] > 0.5 for i in taken],  # type: ignore[operator]
        prompts=inputs.prompts(taken),
    )
    beyond = f"; kappa {kappa.value:.2f} (0 is chance, 1 always)" if kappa.is_known else ""
    classes = _by_class(inputs, decided)
    # a judge that always answers the same is what agreement must beat where most pairs have one answer
    enough = max(WEAK, classes["constant judge"])
    level = "bad" if share.high < enough else "watch" if share.low < enough else "fine"
    overall = of_estimate(
        share,
        probe="agreement",
        group="agreement",
        title=title,
        sentence=f"The judge decides {100 * share.value:.1f} % of pairs as people did{beyond}; always answering "
        f"the same would agree on {100 * classes['constant judge']:.1f} %.",
        ideal=1.0,
        level=level,
        unreadable=inputs.unreadable,
        examples=_disagreements(inputs, known),
        details={"kappa": kappa.as_dict(), "undecided by people": share.undecided, **classes},
    )
    return [overall, *_slices(inputs, known)]


def _by_class(inputs: ProbeInput, decided: Sequence[int]) -> dict[str, Any]:
    """What a constant judge would agree on, and the share of each human choice that the judge finds (recall)."""
    from aifeedback.metrics import alignment

    firsts = [i for i in decided if (inputs.human[i] or 0.0) > 0.5]
    seconds = [i for i in decided if (inputs.human[i] or 0.0) < 0.5]
    recall = {
        name: alignment(
            [inputs.p_first[i] for i in of], [inputs.human[i] for i in of], prompts=inputs.prompts(of)
        ).as_dict()
        for name, of in (("recall, first is better", firsts), ("recall, second is better", seconds))
    }
    return {"constant judge": max(len(firsts), len(seconds)) / len(decided), **recall}


def _slices(inputs: ProbeInput, known: Sequence[int]) -> list[Finding]:
    from aifeedback.metrics import benjamini_hochberg
    from aifeedback.metrics.intervals import wilson

    right = {i: (inputs.p_first[i] > 0.5) == (inputs.human[i] > 0.5) for i in known if inputs.p_first[i] != 0.5}  # type: ignore[operator]
    rows: list[dict[str, Any]] = []
    for name, members in slices(inputs, list(right)).items():
        inside = [right[i] for i in members]
        outside = [right[i] for i in right if i not in members]
        if len(inside) < FEWEST or len(outside) < FEWEST:
            continue
        share = sum(inside) / len(inside)
        ends = wilson(share, len(inside))
        rows.append({"slice": name, "value": share, "low": ends.low, "high": ends.high, "n": len(inside),
                     "rest": sum(outside) / len(outside), "p_value": _fisher(inside, outside)})  # fmt: skip
    if not rows:
        why = f"no slice of at least {FEWEST} pairs; give prompts tags such as topic, language or group"
        return [unmeasured("slices", "agreement", "Agreement per slice", why)]
    adjusted = benjamini_hochberg([row["p_value"] for row in rows])
    rows = [row | {"p_adjusted": float(p)} for row, p in zip(rows, adjusted, strict=True)]
    rows.sort(key=lambda row: (row["value"], row["slice"]))
    worst = rows[0]
    weak = [row["slice"] for row in rows if row["p_adjusted"] < 0.05 and row["value"] < row["rest"]]
    summary = f"weaker than elsewhere in {', '.join(weak)}" if weak else "no slice is certainly weaker than the others"
    finding = Finding(
        probe="slices",
        group="agreement",
        title="Agreement per slice",
        sentence=f"Worst slice: {worst['slice']} with {100 * worst['value']:.0f} % of {worst['n']}; {summary}.",
        value=worst["value"],
        low=worst["low"],
        high=worst["high"],
        n=worst["n"],
        level="watch" if weak or worst["high"] < WEAK else "fine",
        details={"slices": rows},
    )
    return [finding]


def slices(inputs: ProbeInput, known: Sequence[int]) -> dict[str, set[int]]:
    """Slice → indices: every tag value, thirds of answer length, people's certainty where votes tell it."""
    by_name: dict[str, set[int]] = {}
    for i in known:
        for tag, value in inputs.comparisons[i].prompt.tags.items():
            by_name.setdefault(f"{tag}: {value}", set()).add(i)
        certainty = abs((inputs.human[i] or 0.0) - 0.5)
        if certainty not in (0.0, 0.5):
            by_name.setdefault("people: divided", set()).add(i)
    if any(name == "people: divided" for name in by_name):
        by_name["people: unanimous"] = set(known) - by_name["people: divided"]
    by_length = sorted(known, key=lambda i: (_length(inputs, i), i))
    third = max(1, len(by_length) // 3)
    for name, members in (
        ("short answers", by_length[:third]),
        ("medium answers", by_length[third:-third]),
        ("long answers", by_length[-third:]),
    ):
        by_name[name] = set(members)
    return {name: members for name, members in by_name.items() if len(members) < len(known)}


def _length(inputs: ProbeInput, i: int) -> int:
    comparison = inputs.comparisons[i]
    return len(comparison.first.text) + len(comparison.second.text)


def _fisher(inside: Sequence[bool], outside: Sequence[bool]) -> float:
    from scipy.stats import fisher_exact

    counts = [[sum(part), len(part) - sum(part)] for part in (inside, outside)]
    return float(fisher_exact(counts)[1])  # type: ignore[index]


def _disagreements(inputs: ProbeInput, known: Sequence[int], most: int = 3) -> tuple[dict[str, Any], ...]:
    """Where the judge was surest and people said the opposite."""
    wrong = [i for i in known if (inputs.p_first[i] > 0.5) != (inputs.human[i] > 0.5)]  # type: ignore[operator]
    wrong.sort(key=lambda i: (-abs((inputs.p_first[i] or 0.5) - 0.5), inputs.comparisons[i].id))
    return tuple(
        {
            "prompt": inputs.comparisons[i].prompt.text,
            "first": inputs.comparisons[i].first.text,
            "second": inputs.comparisons[i].second.text,
            "P(first), judge": inputs.p_first[i],
            "P(first), people": inputs.human[i],
        }
        for i in wrong[:most]
    )


def calibration(inputs: ProbeInput) -> list[Finding]:
    from aifeedback.metrics import brier, expected_calibration_error, reliability_table
    from aifeedback.metrics.intervals import wilson

    title = "Calibration"
    known = [i for i, (p, h) in enumerate(zip(inputs.p_first, inputs.human, strict=True)) if None not in (p, h)]
    rows, prompts = [(inputs.p_first[i], inputs.human[i]) for i in known], inputs.prompts(known)
    if len(rows) < 50:
        return [unmeasured("calibration", "agreement", title, "fewer than 50 pairs have verdicts of judge and people")]
    p, y = [row[0] for row in rows], [row[1] for row in rows]
    if all(value in (0.0, 0.5, 1.0) for value in p):
        return [unmeasured("calibration", "agreement", title, "the judge states no probabilities, only verdicts")]
    error = expected_calibration_error(p, y, prompts=prompts, seed=inputs.seed)
    score = brier(p, y, prompts=prompts)
    table = []
    for b in reliability_table(p, y):
        ends = wilson(b.observed, b.n) if b.n else None
        low, high = (None, None) if ends is None else (ends.low, ends.high)
        table.append({"p": b.predicted, "share": b.observed, "low": low, "high": high, "n": b.n})
    return [
        of_estimate(
            error,
            probe="calibration",
            group="agreement",
            title=title,
            sentence=f"Stated probabilities are off by {100 * error.value:.1f} points (Brier {score.value:.3f}).",
            ideal=0.0,
            level="bad" if error.low > 0.15 else "watch" if error.low > 0.05 else "fine",
            details={"reliability": table, "brier": score.as_dict()},
        )
    ]


TITLE = "Clusters of disagreement"


def clusters(inputs: ProbeInput) -> list[Finding]:
    from aifeedback.metrics import benjamini_hochberg
    from aifeedback.metrics.intervals import wilson

    known = [i for i, (p, h) in enumerate(zip(inputs.p_first, inputs.human, strict=True))
             if p is not None and h is not None and p != 0.5 and h != 0.5]  # fmt: skip
    if len(known) < 100:
        return [unmeasured("clusters", "agreement", TITLE, f"{len(known)} pairs with verdicts of both; 100 are needed")]
    texts = [inputs.comparisons[i].prompt.text for i in known]
    wrong = [(inputs.p_first[i] > 0.5) != (inputs.human[i] > 0.5) for i in known]  # type: ignore[operator]
    codes, words = _grouped(texts, inputs.seed)
    if not words:
        return [unmeasured("clusters", "agreement", TITLE, "the prompts share too few words to be grouped")]
    rows: list[dict[str, Any]] = []
    for code, named in words.items():
        inside = [w for w, c in zip(wrong, codes, strict=True) if c == code]
        outside = [w for w, c in zip(wrong, codes, strict=True) if c != code]
        if len(inside) < 15 or len(outside) < 15:
            continue
        share = sum(inside) / len(inside)
        ends = wilson(share, len(inside))
        rows.append({"words": named, "value": share, "low": ends.low, "high": ends.high, "n": len(inside),
                     "p_value": _fisher(inside, outside)})  # fmt: skip
    if not rows:
        return [unmeasured("clusters", "agreement", TITLE, "every cluster is too small")]
    adjusted = benjamini_hochberg([row["p_value"] for row in rows])
    rows = [row | {"p_adjusted": float(p)} for row, p in zip(rows, adjusted, strict=True)]
    rows.sort(key=lambda row: (-row["value"], row["words"]))
    worst, certain = rows[0], rows[0]["p_adjusted"] < 0.05
    sentence = (
        f"Most disagreement about prompts with '{worst['words']}': {100 * worst['value']:.0f} % of {worst['n']}, "
        f"{'certainly more than elsewhere' if certain else 'not certainly more than elsewhere'}."
    )
    return [
        Finding("clusters", "agreement", TITLE, sentence, worst["value"], worst["low"], worst["high"], worst["n"],
                level="watch" if certain else "fine", details={"clusters": rows})
    ]  # fmt: skip


def _grouped(texts: list[str], seed: int) -> tuple[list[int], dict[int, str]]:
    """Cluster of each text, and the words that name each cluster; no words where too few are shared."""
    import warnings

    import numpy as np
    from scipy.cluster.vq import kmeans2

    matrix, vocabulary = _tf_idf(texts)
    if len(vocabulary) < 2:
        return [], {}
    distinct = np.unique(matrix.round(9), axis=0)
    count = int(min(12, max(2, len(texts) // 60), len(distinct)))
    starts = distinct[np.random.default_rng(seed).choice(len(distinct), count, replace=False)]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="One of the clusters is empty")
        centres, codes = kmeans2(matrix, starts, iter=30, minit="matrix", missing="warn")
    heaviest = np.argsort(-centres, axis=1, kind="stable")[:, :4]
    named = {code: ", ".join(vocabulary[j] for j in heaviest[code]) for code in sorted(set(codes.tolist()))}
    return codes.tolist(), named


def _tf_idf(texts: list[str], most: int = 500) -> tuple[Any, list[str]]:
    """Rows of unit length over the words that at least three texts and at most half of them hold."""
    import numpy as np

    counted = [Counter(re.findall(r"\w\w+", text.casefold())) for text in texts]
    spread = Counter(word for words in counted for word in words)
    shared = [(n, w) for w, n in spread.items() if 3 <= n <= len(texts) / 2]
    vocabulary = [word for _, word in sorted(shared, key=lambda row: (-row[0], row[1]))[:most]]
    column = {word: j for j, word in enumerate(vocabulary)}
    matrix = np.zeros((len(texts), len(vocabulary)))
    for i, words in enumerate(counted):
        for word, n in words.items():
            if word in column:
                matrix[i, column[word]] = (1 + np.log(n)) * np.log(len(texts) / spread[word])
    return matrix / np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), 1e-12), vocabulary
