"""A command group that loads a step only when its command is used: `--help` stays fast."""

from __future__ import annotations

from typing import Any, ClassVar

import typer
from typer import _click as click
from typer.core import TyperCommand, TyperGroup

from aifeedback.cli.steps import TRAIN_VERBS, VERBS, Verb, command


class LazyGroup(TyperGroup):
    """Its own commands, and those of ``verbs``."""

    verbs: ClassVar[dict[str, Verb]] = {}
    prefix: ClassVar[str] = ""
    _is_listing = False

    def list_commands(self, ctx: click.Context) -> list[str]:
        own = super().list_commands(ctx)
        return [*self.verbs, *(name for name in own if name not in self.verbs)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        verb = self.verbs.get(cmd_name)
        if verb is None:
            return super().get_command(ctx, cmd_name)
        if self._is_listing:
            return TyperCommand(cmd_name, help=verb.summary, rich_help_panel=verb.panel)
        built: Any = typer.main.get_command(command(f"{self.prefix}{cmd_name}", verb))
        built.name = cmd_name
        return built

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """``audit verify RUN`` is a command of two words beside ``audit JUDGE``."""
        two = " ".join(args[:2])
        if len(args) > 1 and (command := super().get_command(ctx, two)) is not None:
            return two, command, args[2:]
        return super().resolve_command(ctx, args)

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        self._is_listing = True
        try:
            super().format_help(ctx, formatter)
        finally:
            self._is_listing = False


class Verbs(LazyGroup):
    verbs = VERBS


class TrainVerbs(LazyGroup):
    verbs = TRAIN_VERBS
    prefix = "train "
