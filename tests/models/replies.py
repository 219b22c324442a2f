"""Generated judge replies whose truth is known: how judges state scores and verdicts, and how they mislead."""

from __future__ import annotations

from random import Random

WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
OPENINGS = (
    "The response answers the question in a clear way.",
    "It covers the main points and stays polite.",
    "The summary leaves out 2 of the 5 key facts.",
    "There are 3 paragraphs, the first of which repeats the question.",
    "The user asked for 10 ideas and got 7.",
    "It was written in 2023 and cites section 4.2.",
    "Accuracy is good, tone is fine.",
    "Let me think about this step by step.",
    "1. It is correct.\n2. It is short.\n3. It is polite.",
    "- clear\n- correct\n- a bit long",
    "Strengths: correct. Weaknesses: too long.",
)
CRITERIA = ("Clarity", "Accuracy", "Depth", "Tone", "Relevance")
FILLERS = (
    "",
    "It could be shorter.",
    "A stronger answer would cite sources.",
    "Overall, it is a solid piece of work.",
    "I have no further remarks.",
)


def score_reply(draw: Random) -> tuple[str, float | None]:
    """(reply, the score that a careful reader takes from it); None where it states none."""
    return _compose(draw, _plain_score, _inline_score, _no_score)


def verdict_reply(draw: Random, labels: tuple[str, str]) -> tuple[str, str | None]:
    """(reply, the label that a careful reader takes from it); None where it names none."""
    return _compose(
        draw,
        lambda d: _plain_verdict(d, labels),
        lambda d: _inline_verdict(d, labels),
        lambda d: _no_verdict(d, labels),
    )


def _compose(draw, plain, inline, nothing):  # type: ignore[no-untyped-def]
    kind = draw.random()
    reply, truth = plain(draw) if kind < 0.6 else inline(draw) if kind < 0.9 else (nothing(draw), None)
    return _dressed(draw, reply), truth


def _dressed(draw: Random, reply: str) -> str:
    """The same words in other clothes: line ends, spaces, invisible characters, mark-up, politeness, thinking."""
    dress = draw.randrange(24)
    if dress == 0:
        reply = reply.replace("\n", "\r\n")
    elif dress == 1:
        reply = f"  \n{reply}\n\n  "
    elif dress == 2:
        reply = reply.replace(" ", "\u00a0")
    elif dress == 3:
        reply = "\u200b".join(reply.split("\n")) if "\n" not in reply else reply.replace("\n", "\u200b\n")
    elif dress == 4:
        reply = f"\ufeff{reply}\u200b"
    elif dress == 5:
        reply = f"<think>\nRating: {draw.randint(1, 10)}? Or Verdict: {draw.choice('12AB')}?\n</think>\n\n{reply}"
    elif dress == 6:
        reply = "\n".join(f"- {line}" if line and not line[0].isdigit() else line for line in reply.split("\n"))
    elif dress == 7:
        reply = reply.replace("'", "’")
    elif dress == 8:
        reply = f"{reply} 🙂" if reply[-1:] in ".!" else reply
    return reply


# ---------------------------------------------------------------- scores


def _number(draw: Random) -> tuple[str, float]:
    if draw.random() < 0.8:
        value = draw.randint(1, 10)
        return draw.choice([str(value), str(value), f"{value}.0", WORDS[value - 1]]), float(value)
    value = draw.choice([1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5, 8.5, 9.5, 7.25, 8.75])
    return str(value), value


def _digits(draw: Random) -> tuple[str, float]:
    written, value = _number(draw)
    return (written, value) if written not in WORDS else (str(int(value)), value)


def _plain_score(draw: Random) -> tuple[str, float]:
    written, value = _digits(draw)
    over = draw.choice(["", "/10", " / 10", " out of 10"])
    heading = draw.choice(["Rating", "Score", "Final score", "Overall rating", "My rating", "Final answer", "Grade"])
    statement = draw.choice(
        [
            f"{written}{over}",
            f"**{written}{over}**",
            f"{heading}: {written}{over}",
            f"**{heading}:** {written}{over}",
            f"**{heading}: {written}{over}**",
            f"{heading} = {written}{over}",
            f"{heading} (1-10): {written}",
            f"### {heading}\n{written}{over}",
            f"{heading}: [[{written}]]",
            f"[[{written}]]",
            f"\\boxed{{{written}}}",
            f"$\\boxed{{{written}}}$",
            f"<rating>{written}</rating>",
            f"<score> {written} </score>",
            f'{{"rating": {written}}}',
            f'{{"score": "{written}"}}',
            f'```json\n{{"rating": {written}}}\n```',
            f"{heading} - {written}{over}.",
            f"> {heading}: {written}{over}",
        ]
    )
    where = draw.random()
    rationale = _rationale(draw, written, over)
    if where < 0.35:
        return statement, value
    if where < 0.75:
        return f"{rationale}\n\n{statement}", value
    return f"{statement}\n\n{_harmless(draw)}", value


def _rationale(draw: Random, written: str, over: str) -> str:
    parts = [draw.choice(OPENINGS)]
    if draw.random() < 0.3:
        parts.append(f"I lean towards {written}{over or '/10'} here.")
    if draw.random() < 0.3:
        parts.append("\n".join(f"{name}: {draw.randint(1, 10)}/10" for name in draw.sample(CRITERIA, 2)))
    if draw.random() < 0.2:
        parts.append(f"I would not give it a {draw.randint(1, 10)}.")
    parts.append(draw.choice(FILLERS))
    return "\n".join(part for part in parts if part)


def _harmless(draw: Random) -> str:
    return " ".join(part for part in (draw.choice(OPENINGS[:8]), draw.choice(FILLERS)) if part)


def _inline_score(draw: Random) -> tuple[str, float]:
    written, value = _number(draw)
    of = draw.choice(["/10", " out of 10"]) if written not in WORDS else draw.choice([" out of ten", " out of 10"])
    statement = draw.choice(
        [
            f"I would rate this response {written}{of}.",
            f"I'd give it {written}{of} because it is clear.",
            f"On a scale of 1 to 10, I would rate this a {written}.",
            f"This response deserves a score of {written}{of}.",
            f"I would give this response a rating of {written}{of}.",
            f"My overall rating is {written}{of}.",
            f"The final score is {written}.",
            f"Overall, I would give it a {written}{of}.",
            f"It earns {written}{of} from me.",
            f"Rating: {written}{of} - clear and correct.",
        ]
    )
    opening = draw.choice([*OPENINGS[:8], ""])
    return " ".join(part for part in (opening, statement, draw.choice(FILLERS[:3])) if part), value


def _no_score(draw: Random) -> str:
    low = draw.randint(1, 8)
    return draw.choice(
        [
            *OPENINGS,
            "I'm sorry, but I cannot rate this.",
            "",
            "   \n",
            "N/A",
            f"Rating: {draw.choice([0, 11, 42, 100, -3, 55])}",
            f"Rating: {low}-{low + 2}",
            f"Somewhere between {low} and {low + 2}.",
            f"{low}/5",
            f"{10 * low}/100",
            f"{10 * low}%",
            f"I would give it less than {low}.",
            f"If it were shorter, I would rate it {low}/10.",
            f"It is not a {low}/10.",
            f"Confidence: {low}/10",
            f"Confidence score: {low}",
            f"Clarity: {low}/10\nDepth: {low + 1}/10",
            f"Rating: {low}\nRating: {low + 1}",
            f"★★★ ({low} stars)",
            "Rating:",
            "Rating: good",
        ]
    )


# ---------------------------------------------------------------- verdicts


def _plain_verdict(draw: Random, labels: tuple[str, str]) -> tuple[str, str]:
    label = draw.choice(labels)
    other = labels[1] if label == labels[0] else labels[0]
    noun = draw.choice(["Response", "Summary", "Answer", "Option"])
    heading = draw.choice(
        ["Preferred", "Better", "Verdict", "Answer", "Final verdict", "Winner", "Choice", "My choice"]
    )
    statement = draw.choice(
        [
            label,
            f"**{label}**",
            f"({label})",
            f"[[{label}]]",
            f"{noun} {label}",
            f"**{noun} {label}**",
            f"{heading}: {label}",
            f"{heading}: {noun} {label}",
            f"**{heading}:** {label}",
            f"Preferred {noun}={label}",
            f"\\boxed{{{label}}}",
            f'{{"winner": "{label}"}}',
            f"<verdict>{label}</verdict>",
            f"{noun} {label} is better.",
            f"My final verdict is: [[{label}]]",
        ]
    )
    lead = [draw.choice(OPENINGS[:7])]
    if draw.random() < 0.4:
        lead.append(f"{noun} {label} is better at following the request.")
    if draw.random() < 0.3:
        lead.append(f"{noun} {other} is better in terms of style.")
    if draw.random() < 0.2:
        lead.append(f"{noun} {other} is not bad, and both are polite.")
    where = draw.random()
    if where < 0.4:
        return statement, label
    if where < 0.8:
        return "\n".join(lead) + f"\n\n{statement}", label
    return f"{statement}\n\n{_harmless(draw)}", label


def _inline_verdict(draw: Random, labels: tuple[str, str]) -> tuple[str, str]:
    label = draw.choice(labels)
    other = labels[1] if label == labels[0] else labels[0]
    noun = draw.choice(["Response", "Summary", "Option"])
    statement = draw.choice(
        [
            f"I prefer {noun} {label} because it is clearer.",
            f"I would choose {noun} {label}.",
            f"{noun} {label} is clearly better than {noun} {other}.",
            f"{noun} {label} is the better one, {noun} {other} is worse.",
            f"The better one is {noun} {label}.",
            f"Overall, {noun} {label} is better.",
            f"{noun} {label} is preferred over {noun} {other}.",
            f"I'd go with {noun} {label}, since {noun} {other} rambles.",
        ]
    )
    return f"{draw.choice(OPENINGS[:7])} {statement}", label


def _no_verdict(draw: Random, labels: tuple[str, str]) -> str:
    first, second = labels
    return draw.choice(
        [
            *OPENINGS[:8],
            "It is a tie.",
            "Verdict: tie",
            "[[C]]",
            "Both are equally good.",
            "Neither response is better.",
            "I cannot decide.",
            "I'm sorry, but I can't help with that.",
            f"{first} or {second}",
            f"Response {first} is not better than Response {second}.",
            f"If Response {first} were shorter, I would prefer it.",
            f"Response {first} is better at style. Response {second} is better at content.",
            f"Worse response: {second}",
            f"Verdict: {first}\nVerdict: {second}",
            f"Answer: {first}{second}",
            "",
        ]
    )
