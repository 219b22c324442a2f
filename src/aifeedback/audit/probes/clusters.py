"""What the disagreements with people have in common: clusters of similar prompts, each with its own error rate.

Prompts become tf-idf vectors, scipy's k-means groups them (seeded); a cluster's errors are tested against the rest,
Benjamini–Hochberg over clusters. The words named are those with the highest mean weight in the cluster.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

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
