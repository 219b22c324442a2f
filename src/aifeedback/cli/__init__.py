"""The command line. Nothing heavy is imported before a command runs; every AIFeedbackError ends as one message."""

from __future__ import annotations

import os
import shlex
import sys
import warnings

import typer

from aifeedback import __version__
from aifeedback.cli.lazy import Commands
from aifeedback.errors import AIFeedbackError, BatchPending, GateClosed

app = typer.Typer(
    name="aifeedback",
    cls=Commands,
    help="Reinforcement learning from AI feedback: principles and a judge in; labels, rewards, a policy, evidence out.",
    epilog="Start with: aifeedback demo. Every command shows its options and an example with --help.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)


def _version(show: bool) -> None:
    if show:
        typer.echo(f"aifeedback {__version__}")
        raise typer.Exit


@app.callback()
def _root(version: bool = typer.Option(False, "--version", callback=_version, is_eager=True)) -> None:
    pass


STOPPED = 130


def main() -> None:
    """Entry point: exit codes are those of errors.py; 130 after Ctrl-C."""
    for quiet, value in (
        ("TQDM_DISABLE", "1"),
        ("TRANSFORMERS_VERBOSITY", "error"),
        ("TOKENIZERS_PARALLELISM", "false"),
    ):
        os.environ.setdefault(quiet, value)
    warnings.showwarning = _show_warning
    try:
        app()
    except BatchPending as pending:
        from rich.console import Console

        console = Console(stderr=True, soft_wrap=True)
        for line in pending.waiting:
            console.print(f"[yellow]![/] Waiting for {_escaped(line)}.", highlight=False)
        console.print(f"  → {pending.FIX}:\n    {_escaped(shlex.join(['aifeedback', *sys.argv[1:]]))}", highlight=False)
        sys.exit(pending.exit_code)
    except AIFeedbackError as error:
        from rich.console import Console

        mark = "✗" if isinstance(error, GateClosed) else "error:"
        Console(stderr=True, soft_wrap=True).print(f"[bold red]{mark}[/] {_escaped(str(error))}", highlight=False)
        sys.exit(error.exit_code)
    except SystemExit as ended:  # typer prints nothing after Ctrl-C
        if ended.code == STOPPED:
            sys.stderr.write("\nInterrupted; finished calls are saved. Rerun to resume.\n")
        raise


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    """A warning as one line for the user of a command, without the place in the code that it comes from."""
    from rich.console import Console

    text = " ".join(str(message).split())
    Console(stderr=True, soft_wrap=True).print(f"[yellow]![/] {_escaped(text)}", highlight=False)


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)
