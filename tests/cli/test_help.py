"""Help: what it imports, one example per command that parses, one summary per command, completion."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from typing import Any

import pytest
import typer

from aifeedback.cli import app
from aifeedback.cli.commands import COMMANDS, EXAMPLES, TRAIN_COMMANDS
from aifeedback.cli.lazy import LazyGroup

ROOT = typer.main.get_command(app)
LISTED = """
import sys
sys.argv = ["aifeedback", *sys.argv[1:]]
from aifeedback.cli import main
try:
    main()
except SystemExit as ended:
    assert not ended.code, ended.code
finally:
    print("\\n" + " ".join(sorted(sys.modules)))
"""
LIGHT = {"aifeedback", "aifeedback.cli", "aifeedback.cli.commands", "aifeedback.cli.lazy", "aifeedback.errors"}
HEAVY = {"numpy", "scipy", "torch", "sqlite3", "yaml", "jinja2", "aiohttp", "fastapi"}


def commands() -> dict[str, Any]:
    """Every command by its full name."""
    result: dict[str, Any] = {}
    context = typer.Context(ROOT)
    for name in ROOT.list_commands(context):  # type: ignore[attr-defined]
        command: Any = ROOT.get_command(context, name)  # type: ignore[attr-defined]
        inner = command.list_commands(typer.Context(command)) if hasattr(command, "list_commands") else ()
        result |= {f"{name} {one}": command.get_command(typer.Context(command), one) for one in inner} or {
            name: command
        }
    return result


@pytest.fixture(scope="module")
def every() -> dict[str, Any]:
    return commands()


def modules_of(*arguments: str, **environment: str) -> set[str]:
    ran = subprocess.run(
        [sys.executable, "-c", LISTED, *arguments], env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    return set(ran.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        (["--help"], {}),
        (["train", "--help"], {}),
        ([], {"_AIFEEDBACK_COMPLETE": "complete_bash", "COMP_WORDS": "aifeedback ", "COMP_CWORD": "1"}),
    ],
    ids=["help", "help of a group", "completion"],
)
def test_lists_of_commands_import_no_command(arguments: list[str], environment: dict[str, str]) -> None:
    """So that they are fast: of this package only the list itself, and none of the libraries."""
    imported = modules_of(*arguments, **environment)
    assert {name for name in imported if name.partition(".")[0] == "aifeedback"} == LIGHT
    assert imported & HEAVY == set()


def test_every_command_has_an_example_that_its_parser_accepts(every: dict[str, Any]) -> None:
    assert set(every) == set(EXAMPLES)
    for name, command in every.items():
        assert command.epilog == f"Example: {EXAMPLES[name]}"
        program, *words = shlex.split(EXAMPLES[name].partition(" > ")[0])
        assert (program, words[: len(name.split())]) == ("aifeedback", name.split())
        command.make_context(name, words[len(name.split()) :])


def test_summaries_fit_one_line_and_start_with_a_verb(every: dict[str, Any]) -> None:
    """The list is written apart from the commands, so each must know of the other."""
    listed = {**COMMANDS, **{f"train {name}": verb for name, verb in TRAIN_COMMANDS.items()}}
    for name, entry in listed.items():
        assert len(entry.summary) <= 95, name
        assert entry.summary.endswith("."), name
        verb = entry.summary.split()[0]
        assert verb[0].isupper(), name
        assert not verb.endswith("s"), name
    for name, command in every.items():
        verb = command.help.split()[0]
        assert verb[0].isupper(), (name, command.help)
        assert not verb.endswith("s"), (name, command.help)
        if name in listed:
            assert listed[name].summary.split()[0] == verb, name


def test_help_shows_no_type_beside_a_flag(every: dict[str, Any]) -> None:
    for name, command in every.items():
        for parameter in command.get_params(typer.Context(command)):
            if getattr(parameter, "is_flag", False):
                assert parameter.metavar == "", (name, parameter.name)


def test_a_typo_is_answered_with_the_command_that_was_meant(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        app(["labl"])
    assert ended.value.code == 2
    assert "Did you mean 'label'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("la", {"lab", "label"}),
        ("train r", {"reward", "rl"}),
        ("standards d", {"diff"}),
        ("serve --base", {"--base-url"}),
    ],
)
def test_completion(words: str, completed: set[str]) -> None:
    typed = words.split()
    environment = {
        "_AIFEEDBACK_COMPLETE": "complete_bash",
        "COMP_WORDS": f"aifeedback {words}",
        "COMP_CWORD": str(len(typed)),
    }
    ran = subprocess.run(
        [sys.executable, "-c", "import sys; sys.argv = ['aifeedback']; from aifeedback.cli import main; main()"],
        env={**os.environ, **environment}, capture_output=True, text=True,
    )  # fmt: skip
    assert set(ran.stdout.split()) == completed, ran.stderr


def test_groups_are_lazy() -> None:
    assert isinstance(ROOT, LazyGroup)
