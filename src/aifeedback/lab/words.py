"""The lab's words: eight facts a post can hold, the cue word that announces each, and the sentences that carry them.

Every fact has ONE cue word that stands right before it, in posts and in summaries alike, so that a tiny transformer can
learn to look facts up. Another person, thing or day that a post merely mentions (a distractor) has another cue.
"""

from __future__ import annotations

VALUES: dict[str, tuple[str, ...]] = {
    "person": (
        "aunt uncle cousin boss neighbor roommate landlord teacher sister brother coach doctor grandmother friend"
    ).split(),  # type: ignore[dict-item]
    "problem": "stolen broken lost hidden sold ruined dropped burned painted scratched washed buried".split(),  # type: ignore[dict-item]
    "thing": "bike lamp guitar ring phone jacket kettle camera piano carpet laptop violin mirror tent".split(),  # type: ignore[dict-item]
    "place": "school home work church camp sea market station hospital college dinner practice".split(),  # type: ignore[dict-item]
    "day": "monday tuesday wednesday thursday friday saturday sunday easter christmas halloween".split(),  # type: ignore[dict-item]
    "feeling": "angry sad guilty hurt ashamed lonely nervous calm jealous proud confused worried".split(),  # type: ignore[dict-item]
    "excuse": "busy tired drunk sick late broke bored hungry cold young old sleepy".split(),  # type: ignore[dict-item]
    "question": "forgive trust help confront avoid sue thank pay ignore report follow invite".split(),  # type: ignore[dict-item]
}
SLOTS = tuple(VALUES)
OPTIONAL = ("feeling", "excuse")
"""Facts that one post in five does not have."""
SLOT_OF = {value: slot for slot, values in VALUES.items() for value in values}
WEIGHT = {
    "question": 2.0,
    "person": 1.0,
    "problem": 1.0,
    "thing": 1.0,
    "feeling": 1.0,
    "place": 0.5,
    "day": 0.5,
    "excuse": 0.5,
}
"""What each fact is worth in a summary."""
DISTRACTED = ("person", "thing", "day")

# In the patterns below {slot} stands for a value. They are how posts and summaries are written, and how gold reads them.
POST_CORE = (
    "so my {person} has {problem} our {thing} .",
    "believe me my {person} has {problem} our {thing} again .",
    "our {thing} looks different since my {person} has {problem} it .",
)
POST_WHERE = ("it happened at {place} on {day} .", "this was on {day} at {place} .")
POST_FEELING = (
    "now i feel {feeling} .",
    "since then i feel {feeling} about everything .",
    "it makes me feel {feeling} .",
)
POST_EXCUSE = (
    "they blame being {excuse} .",
    "the only excuse was being {excuse} .",
    "they say that being {excuse} explains it .",
)
POST_QUESTION = (
    "is it right to {question} them ?",
    "please tell me if i ought to {question} them .",
    "do you think it is time to {question} them ?",
)
DISTRACTORS = {
    "person": ("one {person} saw all of it .", "one {person} of mine thinks i worry too much ."),
    "thing": ("i also own some {thing} which is fine .", "next week i may buy some {thing} instead ."),
    "day": ("every {day} we eat together .", "every {day} i go running ."),
}
FILLERS = (
    "thanks for reading this .",
    "sorry for bad spelling .",
    "english is not easy for me .",
    "i am a student and i live alone .",
    "we never talked about money before .",
    "the weather was terrible that week .",
    "everyone in town says hello .",
    "i do not sleep well these nights .",
    "some details are changed for privacy .",
    "i wrote a longer version but deleted it .",
    "nobody else knows the whole story yet .",
    "music usually calms me down .",
    "i will answer comments after lunch .",
    "a dog barked during everything .",
)
SUMMARY_FEELING = ("i feel {feeling} .", "it makes me feel {feeling} .", "i feel {feeling} about it .")
SUMMARY_EXCUSE = ("they blame being {excuse} .", "the excuse is being {excuse} .")
SUMMARY_QUESTION = (
    "is it right to {question} them ?",
    "ought i to {question} them ?",
    "is it time to {question} them ?",
)

PROMPT_MARK = "tl;dr"
VERDICTS = ("right", "wrong", "missed", "absent")
TALLIES = ("zero", "one", "two", "three")
FORMAT_WORDS = (
    "post summary check rating preferred facts compare fluff repeat cut none : = 1 2 3 4 5 6 7 8 9 10 "
    "someone something has good bad critique revision"
).split()
