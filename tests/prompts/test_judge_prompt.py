"""Judge prompts as files: what loads, what is refused with file and key, and every space of what is rendered."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from aifeedback.errors import StandardsError
from aifeedback.prompts import registry
from aifeedback.prompts.judge_prompt import JudgePrompt
from aifeedback.prompts.render import Renderer, needs_principle
from aifeedback.types import Message, Prompt

WORDS = {
    "name": "words",
    "task": "rating",
    "labels": list(range(1, 11)),
    "sample": "post : {{ context }} summary : {{ response }}",
    "ending": "rating :",
    "rationale_request": "check :",
    "rationale_stop": "rating",
    "between": " ",
    "quote": "none",
    "chat": False,
}
PAIRS = {
    "name": "pairs",
    "task": "pairwise",
    "labels": ["1", "2"],
    "preamble": "Choose.\n",
    "exemplars": [
        {"context": "c1", "first": "a1", "second": "b1", "label": 2, "rationale": " why \n"},
        {"context": "c2", "first": "a2", "second": "b2", "label": "1"},
    ],
    "sample": "Text:\n{{ context }}\nOne:\n{{ first }}\nTwo:\n{{ second }}\n",
    "ending": "Better=",
    "rationale_request": "Why:",
}


@pytest.mark.parametrize("name", registry.shipped("judges"))
def test_every_shipped_prompt_loads(name: str) -> None:
    prompt = JudgePrompt.load(name)
    assert prompt.name == name
    assert prompt.about
    assert prompt.quote == "lines"
    assert not prompt.shown, "zero-shot unless asked otherwise"
    if prompt.exemplars:
        assert len(prompt.exemplars) == 8
        assert all(exemplar.rationale for exemplar in prompt.exemplars)
        assert len({exemplar.label for exemplar in prompt.exemplars}) > 1


def test_plain_text_is_the_parts_in_order() -> None:
    rendered = Renderer(JudgePrompt.read(PAIRS), chat=False).verdict("c", {"first": "a", "second": "b\nb"})
    assert rendered == (
        "Choose.\n\n"
        "Text:\n> c1\nOne:\n> a1\nTwo:\n> b1\n\nBetter=2\n\n"
        "Text:\n> c2\nOne:\n> a2\nTwo:\n> b2\n\nBetter=1\n\n"
        "Text:\n> c\nOne:\n> a\nTwo:\n> b\n> b\n\nBetter="
    )


def test_with_a_rationale_step_two_continues_step_one() -> None:
    renderer = Renderer(JudgePrompt.read(PAIRS), chat=False)
    values = {"first": "a", "second": "b"}
    step_one = renderer.request("c", values)
    assert step_one.startswith("Choose.\n\nText:\n> c1\nOne:\n> a1\nTwo:\n> b1\n\nWhy: why\n\nBetter=2\n\n")
    assert step_one.endswith("Two:\n> b\n\nWhy:")
    assert renderer.verdict("c", values, rationale="  so\n") == f"{step_one} so\n\nBetter="


def test_words_stay_single_spaced() -> None:
    renderer = Renderer(JudgePrompt.read(WORDS), chat=False)
    values = {"response": "my aunt ."}
    assert renderer.verdict("p q", values) == "post : p q summary : my aunt . rating :"
    assert renderer.request("p q", values) == "post : p q summary : my aunt . check :"
    assert renderer.verdict("p q", values, rationale="person aunt .") == (
        "post : p q summary : my aunt . check : person aunt . rating :"
    )


def test_as_messages_the_ending_starts_the_answer() -> None:
    renderer = Renderer(JudgePrompt.read(PAIRS).with_shots(0), chat=True)
    values = {"first": "a", "second": "b"}
    sample = "Choose.\n\nText:\n> c\nOne:\n> a\nTwo:\n> b"
    user, assistant = Message(role="user", content=sample), Message(role="assistant", content="Better=")
    assert renderer.verdict("c", values) == [user, assistant]
    request = Message(role="user", content=f"{sample}\n\nWhy:")
    assert renderer.request("c", values) == [request]
    answered = Message(role="assistant", content="so\n\nBetter=")
    assert renderer.verdict("c", values, rationale="so") == [request, answered]


def test_a_dialogue_keeps_its_turns_out_of_the_quotation() -> None:
    turns = [("user", "hi\n\nAssistant: 1"), ("assistant", "yes?"), ("user", "go")]
    prompt = Prompt.of([Message(role=role, content=text) for role, text in turns])
    rendered = Renderer(JudgePrompt.read(PAIRS).with_shots(0), chat=False).verdict(prompt, {"first": "", "second": ""})
    assert "User:\n> hi\n> \n> Assistant: 1\nAssistant:\n> yes?\nUser:\n> go" in rendered


def test_what_is_inserted_is_never_evaluated() -> None:
    renderer = Renderer(JudgePrompt.read({**PAIRS, "quote": "none", "exemplars": []}), chat=False)
    text = "{{ first }} {% raw %} {{ 7 * 7 }} {# #}"
    assert text in renderer.verdict("{{ second }}", {"first": text, "second": "b"})
    principled = JudgePrompt.read({**PAIRS, "ending": "{{ principle }} Better="})
    shown = Renderer(principled, chat=False).verdict("c", {"first": "a", "second": "b"}, principle="{{ first }}")
    assert shown.endswith("{{ first }} Better=")


def test_a_template_cannot_reach_into_python() -> None:
    values = {**PAIRS, "sample": "{{ context.__class__.__mro__ }}\n{{ first }}\n{{ second }}"}
    with pytest.raises(StandardsError, match="sample"):
        JudgePrompt.read(values)


@pytest.mark.parametrize(
    ("change", "key", "message"),
    [
        ({"sample": "{{ first }}\n{{ second }}\n{{ thrid }}"}, "sample", "unknown variable 'thrid'"),
        ({"sample": "{{ first }}"}, "sample", "never shows 'second'"),
        ({"sample": "One: {{ first }}\n{{ second }}"}, "sample", "shares its line"),
        ({"sample": "{{ first }\n{{ second }}"}, "sample", "not a valid template"),
        ({"ending": "{{ context }} Better="}, "ending", "unknown variable 'context' in ending"),
        ({"labels": ["1"]}, "labels", "has 2 to 3 labels, this one 1"),
        ({"labels": ["1", "1"]}, "labels", "labels must differ"),
        ({"exemplars": [{"first": "a", "second": "b", "label": "3"}]}, "exemplars.0.label", "not one of"),
        ({"exemplars": [{"first": "a", "label": "1"}]}, "exemplars.0", "'second' is missing"),
        ({"preambel": "x"}, "preambel", "did you mean 'preamble'"),
        ({"task": "pairs"}, "task", "'pairwise'"),
        ({"exemplars": "no-such-file"}, None, "no exemplar is called 'no-such-file'"),
    ],
)
def test_mistakes_name_file_and_key(tmp_path: Path, change: dict, key: str | None, message: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({**PAIRS, **change}))
    with pytest.raises(StandardsError, match=message) as caught:
        JudgePrompt.load(file)
    assert caught.value.key == key
    assert key is None or str(file) in str(caught.value)


def test_files_that_are_not_a_prompt(tmp_path: Path) -> None:
    with pytest.raises(StandardsError, match="did you mean 'summary-base'"):
        JudgePrompt.load("sumary-base")
    with pytest.raises(StandardsError, match="no such file"):
        JudgePrompt.load(tmp_path / "none.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("name: [unclosed")
    with pytest.raises(StandardsError, match="line 1, column"):
        JudgePrompt.load(broken)
    broken.write_text("name: a\nname: b\n")
    with pytest.raises(StandardsError, match=r"line 2, column 1: duplicate key 'name'"):
        JudgePrompt.load(broken)
    broken.write_bytes(b"name: \xff\xfe")
    with pytest.raises(StandardsError, match="UTF-8"):
        JudgePrompt.load(broken)
    broken.write_text("just words")
    with pytest.raises(StandardsError, match="keys and values"):
        JudgePrompt.load(broken)


def test_shared_exemplars_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "solved.yaml").write_text(yaml.safe_dump(PAIRS["exemplars"]))
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**PAIRS, "exemplars": "solved.yaml", "shots": 1}))
    prompt = JudgePrompt.load(tmp_path / "mine.yaml")
    assert [exemplar.context for exemplar in prompt.shown] == ["c1"]


def test_shots_and_their_order() -> None:
    prompt = JudgePrompt.load("summary-detailed")
    assert [len(prompt.with_shots(k).shown) for k in (0, 1, 2, 8)] == [0, 1, 2, 8]
    orders = {tuple(e.context for e in prompt.with_shots(4, seed=seed).shown) for seed in range(5)}
    assert len(orders) == 5
    assert prompt.with_shots(4, seed=1) == prompt.with_shots(4, seed=1)
    with pytest.raises(StandardsError, match="has 8 exemplars, 9 requested"):
        prompt.with_shots(9)


def test_the_digest_is_about_what_the_judge_reads() -> None:
    prompt = JudgePrompt.read(PAIRS)
    renamed = JudgePrompt.read({**PAIRS, "name": "other", "about": "for people"})
    assert prompt.digest == renamed.digest
    others = [
        prompt.with_shots(1),
        JudgePrompt.read({**PAIRS, "ending": "Best="}),
        JudgePrompt.read({**PAIRS, "labels": [" 1", " 2"], "exemplars": []}),
        JudgePrompt.read({**PAIRS, "quote": "none"}),
    ]
    assert len({prompt.digest, *(other.digest for other in others)}) == 5
    assert len({prompt.with_shots(2, seed=seed).digest for seed in range(10)}) == 2, "the order counts"


def test_which_prompts_show_a_principle() -> None:
    showing = {name for name in registry.shipped("judges") if needs_principle(JudgePrompt.load(name))}
    assert showing == {"principle", "criterion-rating", "critique", "revise"}
