"""Bad input: one clear message that names file, row or key and what to do, exit code 2, before any model call."""

from __future__ import annotations

import json
import socket
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from aifeedback import cli
from aifeedback.models import fake

GOOD = {"prompt": "What is 2 + 2?", "first": "four", "second": "five"}


def lines(path: Path, *rows: object) -> str:
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
    return str(path)


def label(data: str, folder: Path, *more: str) -> list[str]:
    return ["label", "--data", data, "--judge", "fake:longer", "-o", str(folder / "out.jsonl"), *more]


def wrong_columns(folder: Path) -> tuple[list[str], tuple[str, ...]]:
    data = lines(folder / "pairs.jsonl", {"question": "a", "answer_1": "b", "answer_2": "c"})
    return label(data, folder), ("pairs.jsonl", "question", "--column prompt=")


def no_such_file(folder: Path) -> tuple[list[str], tuple[str, ...]]:
    return label(str(folder / "nowhere.jsonl"), folder), ("nowhere.jsonl", "no such file")


def not_utf8(folder: Path) -> tuple[list[str], tuple[str, ...]]:
    path = folder / "pairs.jsonl"
    path.write_bytes(b'{"prompt": "caf\xe9", "first": "a", "second": "b"}\n')
    return label(str(path), folder), ("pairs.jsonl", "UTF-8")


def mixed_types(folder: Path) -> tuple[list[str], tuple[str, ...]]:
    data = lines(folder / "pairs.jsonl", {"prompt": 3, "first": ["a"], "second": None})
    return label(data, folder), ("pairs.jsonl", "row 1")


def broken_json(folder: Path) -> tuple[list[str], tuple[str, ...]]:
    data = lines(folder / "pairs.jsonl", '{"prompt": "a", "first": ')
    return label(data, folder), ("pairs.jsonl", "row 1")


def empty_file(folder: Path) -> tuple[list[str], tuple[str, ...]]:
    return label(lines(folder / "pairs.jsonl"), folder), ("pairs.jsonl",)


def only_people_to_calibrate(folder: Path) -> tuple[list[str], tuple[str, ...]]:
    data = lines(folder / "pairs.jsonl", *({"prompt": f"{n}?", "chosen": "a", "rejected": "b"} for n in range(30)))
    return ["calibrate", "--data", data, "-o", "mine"], ("pairs.jsonl", "no model verdict", "aifeedback label")


def simulated_people_to_calibrate(folder: Path) -> tuple[list[str], tuple[str, ...]]:
    row = {**GOOD, "p_first": 1.0, "judge": "people:0", "human_p_first": 1.0}
    data = lines(folder / "pairs.jsonl", row)
    return ["calibrate", "--data", data, "-o", "mine"], ("pairs.jsonl", "no model verdict")


def no_tokenizer(folder: Path) -> tuple[list[str], tuple[str, ...]]:
    model = folder / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"")
    data = lines(folder / "pairs.jsonl", GOOD)
    return ["label", "--data", data, "--judge", f"hf:{model}", "-o", str(folder / "o.jsonl")], ("tokenizer", "model")


def recipe_typo(folder: Path) -> tuple[list[str], tuple[str, ...]]:
    path = folder / "mine.yaml"
    path.write_text(f"name: x\nstages:\n  - {{stage: label, comparisns: {folder}/p.jsonl, judge: 'fake:longer'}}\n")
    return ["run", str(path), "-o", str(folder / "run")], ("mine.yaml", "comparisns", "did you mean 'comparisons'")


def trainer_typo(folder: Path) -> tuple[list[str], tuple[str, ...]]:
    path = folder / "mine.yaml"
    data = lines(folder / "sft.jsonl", {"prompt": "a", "completion": "b"})
    path.write_text(f"name: x\nstages:\n  - {{stage: sft, model: 'hf:{folder}', data: {data}, train: {{step: 3}}}}\n")
    return ["run", str(path), "-o", str(folder / "run")], ("train.step", "did you mean 'steps'")


def unknown_setting(folder: Path) -> tuple[list[str], tuple[str, ...]]:
    return ["run", "rlaif", "--set", "jugde=fake:longer", "-o", str(folder / "run")], ("jugde", "known")


def missing_setting(folder: Path) -> tuple[list[str], tuple[str, ...]]:
    return ["run", "rlaif", "-o", str(folder / "run")], ("'judge'", "--set judge=")


def unknown_judge(folder: Path) -> tuple[list[str], tuple[str, ...]]:
    data = lines(folder / "pairs.jsonl", GOOD)
    return ["label", "--data", data, "--judge", "gpt", "-o", str(folder / "o.jsonl")], ("gpt", "hf:")


def unknown_prompt(folder: Path) -> tuple[list[str], tuple[str, ...]]:
    data = lines(folder / "pairs.jsonl", GOOD)
    return label(data, folder, "--prompt", "helpful-detaild"), ("helpful-detaild", "did you mean")


def wrong_option(folder: Path) -> tuple[list[str], tuple[str, ...]]:
    data = lines(folder / "pairs.jsonl", GOOD)
    return label(data, folder, "--orders", "three"), ("orders", "three")


def out_is_a_file(folder: Path) -> tuple[list[str], tuple[str, ...]]:
    data, there = lines(folder / "pairs.jsonl", GOOD), lines(folder / "afile", GOOD)
    return ["label", "--data", data, "--judge", "fake:longer", "-o", there], (there, "is a file", ".jsonl")


def out_below_a_file(folder: Path) -> tuple[list[str], tuple[str, ...]]:
    data, there = lines(folder / "pairs.jsonl", GOOD), lines(folder / "afile", GOOD)
    return ["label", "--data", data, "--judge", "fake:longer", "-o", f"{there}/x.jsonl"], (f"{there} is a file",)


def out_cannot_be_made(folder: Path) -> tuple[list[str], tuple[str, ...]]:
    data = lines(folder / "pairs.jsonl", GOOD)
    return ["label", "--data", data, "--judge", "fake:longer", "-o", "/proc/x/o.jsonl"], (
        "/proc/x",
        "cannot create the folder",
        "another place",
    )


def out_file_is_a_folder(folder: Path) -> tuple[list[str], tuple[str, ...]]:
    (folder / "out.jsonl").mkdir()
    return label(lines(folder / "pairs.jsonl", GOOD), folder), ("out.jsonl", "is a folder")


def training_into_a_file(folder: Path) -> tuple[list[str], tuple[str, ...]]:
    data, there = lines(folder / "prompts.jsonl", {"prompt": "a"}), lines(folder / "afile", GOOD)
    reward = folder / "reward.py"
    reward.write_text("def f(prompts, texts):\n    return [0.0 for _ in texts]\n")
    inputs = ["--model", "lab:base", "--prompts", data, "--reward", f"python:{reward}:f", "-o", there]
    return ["train", "rl", *inputs], (there, "is a file")


def choosing_among_adapters(folder: Path) -> tuple[list[str], tuple[str, ...]]:
    data = lines(folder / "prompts.jsonl", {"prompt": "a"})
    reward = folder / "reward.py"
    reward.write_text("def f(prompts, texts):\n    return [0.0 for _ in texts]\n")
    inputs = ["--model", "lab:base", "--prompts", data, "--reward", f"python:{reward}:f", "-o", str(folder / "policy")]
    watch = ["--monitor", data, "--monitor-judge", "fake:longer", "--choose-on", data, "--set", "lora.rank=2"]
    return ["train", "rl", *inputs, *watch], ("choose_on", "lora")


def sample(folder: Path, *more: str) -> list[str]:
    data = lines(folder / "prompts.jsonl", {"prompt": "a"})
    return ["sample", "--model", "fake:longer", "--prompts", data, "-o", str(folder / "o.jsonl"), *more]


def no_samples(folder: Path) -> tuple[list[str], tuple[str, ...]]:
    return sample(folder, "--per-prompt", "0"), ("--per-prompt", "0")


def negative_temperature(folder: Path) -> tuple[list[str], tuple[str, ...]]:
    return sample(folder, "--temperature", "-1"), ("--temperature", "-1")


def no_new_tokens(folder: Path) -> tuple[list[str], tuple[str, ...]]:
    return sample(folder, "--max-new-tokens", "0"), ("--max-new-tokens", "0")


def negative_limit(folder: Path) -> tuple[list[str], tuple[str, ...]]:
    return sample(folder, "--limit", "-3"), ("--limit", "greater than or equal to 1")


def limit_of_none(folder: Path) -> tuple[list[str], tuple[str, ...]]:
    return label(lines(folder / "pairs.jsonl", GOOD), folder, "--limit", "0"), ("--limit", "greater than or equal to 1")


def negative_seed(folder: Path) -> tuple[list[str], tuple[str, ...]]:
    return label(lines(folder / "pairs.jsonl", GOOD), folder, "--seed", "-1"), ("--seed", "greater than or equal to 0")


def negative_rationales(folder: Path) -> tuple[list[str], tuple[str, ...]]:
    return label(lines(folder / "pairs.jsonl", GOOD), folder, "--samples", "-1"), (
        "--samples",
        "greater than or equal to 1",
    )


def too_much_help(folder: Path) -> tuple[list[str], tuple[str, ...]]:
    data = lines(folder / "c.jsonl", {"prompt": "a", "completion": "b"})
    inputs = ["--data", data, "--model", "fake:longer", "-o", str(folder / "o.jsonl"), "--helpful-share", "2"]
    return ["revise", *inputs], ("'--helpful-share' = 2.0", "less than 1")


def reversed_clamp(folder: Path) -> tuple[list[str], tuple[str, ...]]:
    data = lines(folder / "pairs.jsonl", GOOD)
    return label(data, folder, "--set", "clamp=[0.6,0.4]"), ("error: '--set clamp' = [0.6, 0.4]", "low < high")


def misspelled_set(folder: Path) -> tuple[list[str], tuple[str, ...]]:
    message = label(lines(folder / "pairs.jsonl", GOOD), folder, "--set", "clmp=[0.4,0.6]")
    return message, ("unknown key '--set clmp'", "did you mean 'clamp'")


def option_given_by_set(folder: Path) -> tuple[list[str], tuple[str, ...]]:
    message = label(lines(folder / "pairs.jsonl", GOOD), folder, "--rationale", "--set", "rationale.temperature=-1")
    return message, ("error: '--set rationale.temperature' = -1",)


def whole_and_part_by_set(folder: Path) -> tuple[list[str], tuple[str, ...]]:
    data = lines(folder / "pairs.jsonl", GOOD)
    return label(data, folder, "--set", "rationale=true", "--set", "rationale.samples=2"), (
        "--set rationale.samples",
        "as a whole",
    )


def model_folder_without_scheme(folder: Path) -> tuple[list[str], tuple[str, ...]]:
    model = folder / "tiny"
    model.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (model / name).write_text("{}")
    data = lines(folder / "pairs.jsonl", GOOD)
    inputs = ["--model", str(model), "--data", data, "-o", str(folder / "m")]
    return ["train", "reward", *inputs], (f"'{model}' is not a model; write hf:{model}\n",)


def lab_model_without_scheme(folder: Path) -> tuple[list[str], tuple[str, ...]]:
    data = lines(folder / "pairs.jsonl", GOOD)
    inputs = ["--data", data, "--judge", "judge-b", "-o", str(folder / "o.jsonl")]
    return ["label", *inputs], ("'judge-b' is not a model; write lab:judge-b\n",)


def model_of_unknown_scheme(folder: Path) -> tuple[list[str], tuple[str, ...]]:
    data = lines(folder / "pairs.jsonl", GOOD)
    inputs = ["--data", data, "--judge", "vllm:my/judge", "-o", str(folder / "o.jsonl")]
    return ["label", *inputs], ("'vllm:my/judge' is not a model; write hf:DIR_OR_ID, openai:NAME",)


def negative_rate(folder: Path) -> tuple[list[str], tuple[str, ...]]:
    data = lines(folder / "sft.jsonl", {"prompt": "a", "completion": "b"})
    inputs = ["--model", "lab:base", "--data", data, "-o", str(folder / "m"), "--lr", "-1"]
    return ["train", "sft", *inputs], ("error: '--learning-rate' = -1.0",)


def negative_rate_by_set(folder: Path) -> tuple[list[str], tuple[str, ...]]:
    data = lines(folder / "sft.jsonl", {"prompt": "a", "completion": "b"})
    inputs = ["--model", "lab:base", "--data", data, "-o", str(folder / "m"), "--set", "learning_rate=-1"]
    return ["train", "sft", *inputs], ("error: '--set learning_rate' = -1",)


def no_such_combination(folder: Path) -> tuple[list[str], tuple[str, ...]]:
    data = lines(folder / "pairs.jsonl", GOOD)
    return label(data, folder, "--combine", "nope"), (
        "--combine",
        "'nope'",
        "mean, median or a file of learned weights",
    )


def combination_of_one(folder: Path) -> tuple[list[str], tuple[str, ...]]:
    data = lines(folder / "pairs.jsonl", GOOD)
    return label(data, folder, "--combine", "median"), ("--combine", "a single judge", "repeat --judge or --prompt")


def rubric_and_constitution(folder: Path) -> tuple[list[str], tuple[str, ...]]:
    data = lines(folder / "pairs.jsonl", GOOD)
    message = label(data, folder, "--rubric", "general", "--constitution", "harmless")
    return message, ("error: a judge goes by a rubric or by a constitution, not by both",)


def ratings_by_constitution(folder: Path) -> tuple[list[str], tuple[str, ...]]:
    data = lines(folder / "pairs.jsonl", GOOD)
    message = label(data, folder, "--by", "ratings", "--constitution", "harmless")
    return message, ("constitution: ratings cannot use one", "--rubric")


def clamped_ratings(folder: Path) -> tuple[list[str], tuple[str, ...]]:
    data = lines(folder / "pairs.jsonl", GOOD)
    return label(data, folder, "--by", "ratings", "--set", "clamp=[0.4,0.6]"), ("clamp: ", "ratings")


NO_SERVER = ("base_url", "fake:longer", "openai:NAME")


def address_of_no_server(folder: Path) -> tuple[list[str], tuple[str, ...]]:
    data = lines(folder / "pairs.jsonl", GOOD)
    return label(data, folder, "--base-url", "http://localhost:1/v1"), NO_SERVER


def options_of_no_server(folder: Path) -> tuple[list[str], tuple[str, ...]]:
    data = lines(folder / "pairs.jsonl", GOOD)
    return label(data, folder, "--set", "server.concurrency=2"), ("server.concurrency", "fake:longer", "openai:NAME")


def samples_of_no_server(folder: Path) -> tuple[list[str], tuple[str, ...]]:
    return sample(folder, "--base-url", "http://localhost:1/v1"), NO_SERVER


def revisions_of_no_server(folder: Path) -> tuple[list[str], tuple[str, ...]]:
    data = lines(folder / "c.jsonl", {"prompt": "a", "completion": "b"})
    inputs = [
        "--data",
        data,
        "--model",
        "fake:longer",
        "-o",
        str(folder / "o.jsonl"),
        "--base-url",
        "http://localhost:1",
    ]
    return ["revise", *inputs], NO_SERVER


def safety_of_no_server(folder: Path) -> tuple[list[str], tuple[str, ...]]:
    message = compare(folder, "--judge", "fake:longer", "--safety", "fake:longer", "--base-url", "http://localhost:1")
    return message, NO_SERVER


def compare(folder: Path, *more: str) -> list[str]:
    one, other = (lines(folder / f"{name}.jsonl", {"prompt": "a", "completion": name}) for name in "xy")
    data = lines(folder / "prompts.jsonl", {"prompt": "a"})
    return ["compare", f"x={one}", f"y={other}", "--prompts", data, "-o", str(folder / "c"), *more]


def no_price_table(folder: Path) -> tuple[list[str], tuple[str, ...]]:
    data = lines(folder / "pairs.jsonl", GOOD)
    return label(data, folder, "--prices", str(folder / "no.yaml")), ("no.yaml", "--prices", "no such file")


def audit_of_few(folder: Path) -> tuple[list[str], tuple[str, ...]]:
    data = lines(folder / "pairs.jsonl", GOOD)
    return ["audit", "fake:longer", "--data", data, "--n", "-4", "-o", str(folder / "a")], (
        "--n",
        "greater than or equal to 2",
    )


def verify_nothing(folder: Path) -> tuple[list[str], tuple[str, ...]]:
    return ["audit", "verify"], ("verify", "RUN")


def data_without_judge(folder: Path) -> tuple[list[str], tuple[str, ...]]:
    return ["standards", "check", "harmless", "--data", lines(folder / "p.jsonl", GOOD)], ("--data", "--judge")


def judge_without_data(folder: Path) -> tuple[list[str], tuple[str, ...]]:
    return ["standards", "diff", "harmless", "helpful", "--judge", "fake:longer"], ("--judge", "--data")


def narrow_plan(folder: Path) -> tuple[list[str], tuple[str, ...]]:
    return ["plan", "--half-width", "-1"], ("error: '--half-width' = -1.0: input should be greater than 0",)


def completions_without_answers(folder: Path) -> tuple[list[str], tuple[str, ...]]:
    data = lines(folder / "c.jsonl", {"prompt": "a", "said": "b"})
    inputs = ["--data", data, "--judge", "fake:longer", "-o", str(folder / "o.jsonl")]
    return ["score", *inputs], ("c.jsonl", "'completion'", "rename")


def lab_pairs_below_a_file(folder: Path) -> tuple[list[str], tuple[str, ...]]:
    there = lines(folder / "afile", GOOD)
    return ["lab", "pairs", "2", "-o", f"{there}/x.jsonl"], (f"{there} is a file",)


def ratings_into_a_file(folder: Path) -> tuple[list[str], tuple[str, ...]]:
    there = lines(folder / "afile", GOOD)
    return ["rate", lines(folder / "p.jsonl", GOOD), "-o", there, "--rater", "a"], (f"{there} is a file",)


def port_that_is_taken(folder: Path) -> tuple[list[str], tuple[str, ...]]:
    reward = folder / "reward.py"
    reward.write_text("def f(prompts, texts):\n    return [0.0 for _ in texts]\n")
    taken = socket.create_server(("127.0.0.1", 0))
    TAKEN.append(taken)
    port = str(taken.getsockname()[1])
    inputs = ["serve", f"python:{reward}:f", "--port", port, "-o", str(folder / "served")]
    return inputs, (f"127.0.0.1:{port} cannot be opened", "give another --port")


TAKEN: list[socket.socket] = []
"""Held open while the command runs."""


def figures_below_a_file(folder: Path) -> tuple[list[str], tuple[str, ...]]:
    data, there = lines(folder / "p.jsonl", {**GOOD, "p_first": 0.7, "judge": "a model"}), lines(folder / "afile", GOOD)
    return ["evaluate", "--data", data, "--json", f"{there}/f.json"], (f"{there} is a file",)


def lab_pairs_nowhere(folder: Path) -> tuple[list[str], tuple[str, ...]]:
    return ["lab", "pairs", "2", "-o", "/proc/x.jsonl"], ("/proc", "cannot write to the folder", "another place")


def lab_models_nowhere(folder: Path) -> tuple[list[str], tuple[str, ...]]:
    return ["lab", "build", "base", "-o", "/proc/x"], ("/proc/x", "cannot create the folder", "another place")


def calibration_nowhere(folder: Path) -> tuple[list[str], tuple[str, ...]]:
    rows = [{**GOOD, "prompt": f"{n}?", "p_first": 0.7, "judge": "a model", "human_p_first": n % 2} for n in range(40)]
    data = lines(folder / "p.jsonl", *rows)
    return ["calibrate", "--data", data, "-o", "/proc/x.json"], ("/proc", "cannot write to the folder", "another place")


def figures_nowhere(folder: Path) -> tuple[list[str], tuple[str, ...]]:
    data = lines(folder / "pairs.jsonl", GOOD)
    return label(data, folder, "--json", "/proc/f.json"), ("/proc", "cannot write to the folder", "another place")


def figures_of_training_nowhere(folder: Path) -> tuple[list[str], tuple[str, ...]]:
    data = lines(folder / "sft.jsonl", {"prompt": "a", "completion": "b"})
    inputs = ["--model", "lab:base", "--data", data, "-o", str(folder / "m"), "--json", "/proc/f.json"]
    return ["train", "sft", *inputs], ("/proc", "cannot write to the folder", "another place")


CASES = [
    wrong_columns, no_such_file, not_utf8, mixed_types, broken_json, empty_file, only_people_to_calibrate,
    simulated_people_to_calibrate, no_tokenizer, recipe_typo,
    trainer_typo, unknown_setting, missing_setting, unknown_judge, unknown_prompt, wrong_option, out_is_a_file,
    out_below_a_file, out_cannot_be_made, out_file_is_a_folder, training_into_a_file, choosing_among_adapters, no_samples,
    negative_temperature, no_new_tokens, negative_limit, limit_of_none, negative_seed, negative_rationales,
    too_much_help, reversed_clamp, no_price_table, audit_of_few, verify_nothing, data_without_judge,
    judge_without_data, narrow_plan, completions_without_answers, lab_pairs_below_a_file, ratings_into_a_file,
    port_that_is_taken, figures_below_a_file, lab_pairs_nowhere, lab_models_nowhere, calibration_nowhere, figures_nowhere,
    figures_of_training_nowhere, no_such_combination, combination_of_one, rubric_and_constitution,
    ratings_by_constitution, clamped_ratings,
    address_of_no_server, options_of_no_server, samples_of_no_server, revisions_of_no_server, safety_of_no_server,
    model_folder_without_scheme, lab_model_without_scheme, model_of_unknown_scheme,
    misspelled_set, whole_and_part_by_set, option_given_by_set, negative_rate, negative_rate_by_set,
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_bad_input_is_reported_before_any_model_call(
    case: Callable[[Path], tuple[list[str], tuple[str, ...]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def called(*_: object) -> None:
        raise AssertionError("a model was called")

    monkeypatch.setattr(fake.FakeModel, "read_labels", called)
    arguments, text = case(tmp_path)
    monkeypatch.setattr(sys, "argv", ["aifeedback", *arguments])
    with pytest.raises(SystemExit) as left:
        cli.main()
    while TAKEN:
        TAKEN.pop().close()
    message = capsys.readouterr().err
    assert left.value.code == 2
    assert "Traceback" not in message
    for part in text:
        assert part in message


def test_good_rows_of_a_partly_bad_file_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = lines(tmp_path / "pairs.jsonl", GOOD, {**GOOD, "prompt": "b", "first": 7}, {**GOOD, "prompt": "c"})
    monkeypatch.setattr(sys, "argv", ["aifeedback", *label(data, tmp_path)])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code in (0, None)
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 2
    figures = json.loads((tmp_path / "out.jsonl.run" / "figures.json").read_text())
    assert figures["rows"]["read"] == 3
    assert sum(figures["rows"]["skipped"].values()) == 1


def test_a_warning_is_one_line_without_a_place_in_the_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"prompt": f"{n}?", "first": f"a{n}", "second": f"a far longer answer {n}"} for n in range(30)]
    rows = [{**row, "p_first": 0.2 + n / 50, "judge": "fake:longer"} for n, row in enumerate(rows)]
    monkeypatch.setattr(sys, "argv", ["aifeedback", "evaluate", "--data", lines(tmp_path / "pairs.jsonl", *rows)])
    with warnings.catch_warnings(action="always"), pytest.raises(SystemExit):
        cli.main()
    message = [line for line in capsys.readouterr().err.splitlines() if line]
    assert message == [
        "! not estimable: all rows lie on one side of equal length, 0 of 30 rows within a factor 1.25 of it"
    ]
