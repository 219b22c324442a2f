"""What the disagreements with people have in common: clusters of similar prompts, each with its own error rate.

Prompts become tf-idf vectors, k-means groups them (seeded); a cluster's errors are tested against the rest, Benjamini–
Hochberg over clusters. The words named are those with the highest mean weight in the cluster.
"""

from __future__ import annotations

from typing import Any, cast

from aifeedback.audit.finding import Finding, Ground, unmeasured
from aifeedback.audit.probes.agreement import _fisher

TITLE = "Clusters of disagreement"


def clusters(ground: Ground) -> list[Finding]:
    from aifeedback.evaluate import benjamini_hochberg
    from aifeedback.evaluate.intervals import wilson

    known = [i for i, (p, h) in enumerate(zip(ground.p_first, ground.human, strict=True))
             if p is not None and h is not None and p != 0.5 and h != 0.5]  # fmt: skip
    if len(known) < 100:
        return [unmeasured("clusters", "agreement", TITLE, f"{len(known)} pairs with verdicts of both; 100 are needed")]
    texts = [ground.comparisons[i].prompt.text for i in known]
    wrong = [(ground.p_first[i] > 0.5) != (ground.human[i] > 0.5) for i in known]  # type: ignore[operator]
    codes, words = _grouped(texts, ground.seed)
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
    """Cluster of each text, and the words that name each cluster; no words where tf-idf finds none."""
    import numpy as np
    from sklearn.cluster import KMeans
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(max_features=2000, min_df=3, max_df=0.5, sublinear_tf=True)
    try:
        matrix = vectorizer.fit_transform(texts)
    except ValueError:  # an empty vocabulary
        return [], {}
    count = int(min(12, max(2, len(texts) // 60)))
    model = KMeans(count, random_state=seed, n_init=cast(Any, 2), max_iter=60).fit(matrix)
    names = vectorizer.get_feature_names_out()
    words = {}
    for code in range(count):
        heaviest = np.argsort(-model.cluster_centers_[code], kind="stable")[:4]
        words[code] = ", ".join(str(names[j]) for j in heaviest)
    return [int(code) for code in cast(Any, model.labels_)], words
