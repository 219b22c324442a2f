"""Command groups that import a command only when it is used: `--help` and completion stay fast."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, ClassVar

import typer
from typer import _click as click
from typer.core import TyperCommand, TyperGroup
from typer.main import get_group

from aifeedback.cli.commands import COMMANDS, EXAMPLES, TRAIN_COMMANDS, Other, Verb


class LazyGroup(TyperGroup):
    """The commands of ``listed``; of each, only name, summary and heading are known before it is used."""

    listed: ClassVar[Mapping[str, Verb | Other]] = {}
    prefix: ClassVar[str] = ""
    _is_listing = False

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.listed)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = self.listed.get(cmd_name)
        if entry is None:
            return None
        if self._is_listing:
            return TyperCommand(cmd_name, help=entry.summary, rich_help_panel=entry.panel)
        return _built(f"{self.prefix}{cmd_name}", entry)

    def get_params(self, ctx: click.Context) -> list[Any]:
        return _without_flag_types(super().get_params(ctx))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """``audit verify RUN`` is a command of two words beside ``audit JUDGE``."""
        two = " ".join(args[:2])
        if len(args) > 1 and (command := self.get_command(ctx, two)) is not None:
            return two, command, args[2:]
        self.commands = dict.fromkeys(self.listed)  # type: ignore[assignment]  # the names that a typo is compared with
        return super().resolve_command(ctx, args)

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        self._is_listing = True
        try:
            super().format_help(ctx, formatter)
        finally:
            self._is_listing = False

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        self._is_listing = True
        try:
            return super().shell_complete(ctx, incomplete)
        finally:
            self._is_listing = False


class Commands(LazyGroup):
    listed = COMMANDS


class TrainCommands(LazyGroup):
    listed = TRAIN_COMMANDS
    prefix = "train "


def _built(name: str, entry: Verb | Other) -> click.Command:
    """The command with its options; the module that defines it is imported here."""
    if isinstance(entry, Verb):
        from aifeedback.cli.steps import command

        built: Any = command(name, entry)
    elif name == "train":
        built = TrainCommands(name=name, help=entry.summary, no_args_is_help=True, rich_markup_mode="rich")
    else:
        group: Any = get_group(import_module(f"aifeedback.cli.{entry.module}").app)
        built = group if entry.is_group else group.commands[name]
    built.name = name.rpartition(" ")[2] if isinstance(entry, Verb) else name
    if isinstance(entry, Other) and entry.is_group and name != "train":
        built.help, built.no_args_is_help = entry.summary, True
        for inner, one in built.commands.items():
            _finish(f"{name} {inner}", one)
    _finish(name, built)
    return built


def _finish(name: str, command: Any) -> None:
    """Add an example to the end of its help."""
    if name in EXAMPLES:
        command.epilog = f"Example: {EXAMPLES[name]}"
    _without_flag_types(command.get_params(typer.Context(command)))


def _without_flag_types(parameters: list[Any]) -> list[Any]:
    """The same parameters; help shows no type beside a flag."""
    for parameter in parameters:
        if getattr(parameter, "is_flag", False) and parameter.metavar is None:
            parameter.metavar = ""
    return parameters
