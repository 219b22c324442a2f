"""Options of a command, made from the settings of its step: one description for recipe, command line and reference.

A field becomes an option with the same name, with its type, bounds, default and the text under it; ``Cli`` annotations say
what differs. Fields of nested settings that are flattened become options too; whatever else there is, --set reaches.
"""

from __future__ import annotations

import ast
import inspect
import re
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, wraps
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from aifeedback.config import Cli
from aifeedback.errors import RecipeError
from aifeedback.refs import PartRef

COMMON = "Running"
"""Heading of the options that every step has."""


def _writable(path: Path | None) -> Path | None:
    """Raises RecipeError, before anything is spent, where the file could not be written."""
    if path is not None:
        from aifeedback.storage import make_folder

        make_folder(path.parent)
    return path


Json = Annotated[
    Path | None,
    typer.Option(
        "--json", help="Also save the metrics here.", callback=_writable, metavar="FILE", rich_help_panel=COMMON
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Random seed.", metavar="N", rich_help_panel=COMMON)]
Limit = Annotated[int | None, typer.Option(min=1, help="Use at most N rows.", metavar="N")]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Processes that share the work of a local model, a copy of it in each.",
        metavar="N",
        rich_help_panel=COMMON,
    ),
]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", help="Any other setting, such as clamp=[0.4,0.6]. Repeat for several.", metavar="KEY=VALUE"),
]
Columns = Annotated[
    list[str] | None,
    typer.Option("--column", help="Column names of an unusual file. Repeat for several.", metavar="OURS=THEIRS"),
]


class OptionOf(NamedTuple):
    """One option and the setting that it sets."""

    parameter: str
    """Name of the Python parameter."""
    path: tuple[str, ...]
    kind: Any
    """What typer parses."""
    info: Any
    """typer.Option or typer.Argument."""
    value: Any
    """What a bare flag stands for; None for an option with a value."""


def options_of(schema: type[BaseModel], further: Sequence[type[BaseModel]] = ()) -> list[OptionOf]:
    """Every option of a step; the first to use a name keeps it. ``further``: options that are not settings of it."""
    options: dict[str, OptionOf] = {}
    names = {"--seed", "--out", "--json", "--set", "--workers", "--dry-run"}
    for one in (schema, *further):
        for option, spelled in _walk(one, ()):
            if option.parameter not in options and names.isdisjoint(spelled):
                options[option.parameter] = option
                names.update(spelled)
    # typer wants arguments first
    return sorted(options.values(), key=lambda option: not isinstance(option.info, typer.models.ArgumentInfo))


def _walk(
    schema: type[BaseModel], path: tuple[str, ...], only: Sequence[str] = (), panel: str = ""
) -> Iterator[tuple[OptionOf, list[str]]]:
    texts = descriptions(schema)
    later: list[tuple[type[BaseModel], tuple[str, ...], Cli]] = []
    for name, field in schema.model_fields.items():
        cli = next((extra for extra in field.metadata if isinstance(extra, Cli)), Cli())
        if (only and name not in only) or cli.is_hidden:
            continue
        where = (*path, name)
        if not only:  # what is picked by name is not flattened further
            later += [(nested, where, cli) for nested in cli.flatten]
        if cli.is_argument and cli.flatten:
            continue  # the flattened model itself is the argument
        if cli.flatten and cli.value is None:
            continue
        cli = cli._replace(panel=cli.panel or panel)
        if (option := _option(name, field, cli, where, texts.get(name, ""))) is not None:
            yield option
    for nested, where, outer in later:
        for option, spelled in _walk(nested, where, outer.only, outer.panel or panel):
            if outer.is_argument and option.path == (*where, "model"):
                info = typer.Argument(help=texts.get(where[-1], ""), metavar=f"{outer.metavar}...", show_default=False)
                yield option._replace(kind=list[str], info=info), spelled
            else:
                yield option, spelled


def _option(name: str, field: Any, cli: Cli, path: tuple[str, ...], text: str) -> tuple[OptionOf, list[str]] | None:
    kind = _parsed(field.annotation)
    if cli.metavar and (kind is None or get_origin(kind) is Literal):  # the settings class takes a short form of it
        kind = str
    if cli.value is not None:
        kind = bool
    elif cli.is_repeated or cli.names == ("--column",):
        kind = list[str]
    if kind is None:
        return None
    default = _shown_default(field)
    text = re.sub(r"``?", "", " ".join(text.split()))
    help_text = f"{text} (default: {default})" if default and kind is not bool else text
    if cli.is_argument:
        return OptionOf(name, path, kind, typer.Argument(help=text, metavar=cli.metavar, show_default=False), None), []
    spelled = list(cli.names) or [f"--{name.replace('_', '-')}"]
    flag = [f"{spelled[0]}/--no-{spelled[0][2:]}", *spelled[1:]] if kind is bool and field.default is True else spelled
    if kind is bool and not cli.names and field.default is not True:
        flag = [spelled[0]]
    is_required = field.is_required() and not path[:-1] and not cli.is_repeated and kind is not bool
    info = typer.Option(
        *flag,
        help=help_text,
        metavar=cli.metavar or _metavar(field.annotation, kind),
        show_default=False,
        rich_help_panel=cli.panel or None,
    )
    parsed = kind if is_required else kind | None if isinstance(kind, type) or get_origin(kind) else kind
    return OptionOf(_parameter(spelled), path, parsed, info, cli.value), spelled


def _parameter(spelled: Sequence[str]) -> str:
    return spelled[0].lstrip("-").replace("-", "_")


def _parsed(annotation: Any) -> Any:
    """The type that typer parses for an annotation; None for what only --set can give."""
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) in (Union, types.UnionType):
        inner = [arg for arg in get_args(annotation) if arg is not type(None)]
        return _parsed(inner[0]) if len(inner) == 1 else None
    if get_origin(annotation) is Literal:
        return annotation
    if annotation in (int, float, bool):
        return annotation
    if isinstance(annotation, type) and issubclass(annotation, str):
        return str
    if get_origin(annotation) is tuple and get_args(annotation) == (str, ...):
        return list[str]
    if get_origin(annotation) is tuple and get_args(annotation)[1:] == (...,):
        return list[str]
    return None


def _metavar(annotation: Any, kind: Any) -> str | None:
    """What a value is; for a part that may come from outside, the shipped names as a Literal lists them."""
    parts = [arg for arg in get_args(annotation) if isinstance(arg, type) and issubclass(arg, PartRef)]
    if parts:
        return f"[{'|'.join(parts[0].shipped())}|python:FILE.py:NAME]"
    return "N" if kind is int else "X" if kind is float else None


def _shown_default(field: Any) -> str:
    if field.default in (None, PydanticUndefined, "", ()) or isinstance(field.default, BaseModel | bool):
        return ""
    if isinstance(field.default, tuple):
        return ", ".join(map(str, field.default))
    return f"{field.default:g}" if isinstance(field.default, float) else str(field.default)


@cache
def descriptions(schema: type[BaseModel]) -> Mapping[str, str]:
    """The text under each field, by name: own and inherited."""
    texts: dict[str, str] = {}
    for one in reversed(schema.__mro__):
        if issubclass(one, BaseModel) and one is not BaseModel:
            texts |= _own_texts(one.__module__).get(one.__name__, {})
    return texts


@cache
def _own_texts(module: str) -> dict[str, dict[str, str]]:
    """Class → field → text, of one source file."""
    file = inspect.getsourcefile(__import__(module, fromlist=["_"]))
    tree = ast.parse(Path(file).read_text(encoding="utf-8")) if file else ast.Module([], [])
    texts: dict[str, dict[str, str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            own = texts.setdefault(node.name, {})
            for field, text in zip(node.body, node.body[1:], strict=False):
                is_field = isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
                if is_field and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                    own[field.target.id] = str(text.value.value)  # type: ignore[union-attr]
    return texts


class Chosen(NamedTuple):
    """Settings of a command, nested by name, and the keys that came by --set."""

    settings: dict[str, Any]
    chosen: tuple[str, ...]
    """As they were written."""


def chosen_settings(
    schema: type[BaseModel], options: Sequence[OptionOf], values: Mapping[str, Any], sets: Sequence[str] | None
) -> Chosen:
    """Options as nested settings, --set laid over them. Raises RecipeError for a --set that is not KEY=VALUE."""
    from aifeedback.pipeline.recipe import assign, merge, nest

    settings: dict[str, Any] = {}
    for option in options:
        value = values.get(option.parameter)
        if value is None or value == []:
            continue
        if option.value is not None:
            if not value:
                continue
            value = option.value
        if option.path[-1] == "columns":
            value = columns(value)
        settings = merge(settings, nest({".".join(option.path): value})) if not isinstance(value, Mapping) else merge(
            settings, _put(option.path, value)
        )  # fmt: skip
    written = dict(assign(text) for text in sets or ())
    nest(written)  # a key given twice is named as it was written
    full = {_full_path(schema, key): value for key, value in written.items()}
    return Chosen(merge(settings, nest(full)), tuple(written))


def _put(path: Sequence[str], value: Any) -> dict[str, Any]:
    for name in reversed(path):
        value = {name: value}
    return value


def _full_path(schema: type[BaseModel], key: str) -> str:
    """The path of a --set key: a setting of the step, else of the nested settings that its options come from."""
    first = key.partition(".")[0]
    if any(first in one.model_fields for one in (schema, *getattr(schema, "further", ()))):
        return key
    for name, field in schema.model_fields.items():
        cli = next((extra for extra in field.metadata if isinstance(extra, Cli)), Cli())
        if any(first in nested.model_fields for nested in cli.flatten):
            return f"{name}.{key}"
    nested_first = next(
        (name for name, field in schema.model_fields.items() for extra in field.metadata
         if isinstance(extra, Cli) and extra.flatten and not extra.only),
        None,
    )  # fmt: skip
    return f"{nested_first}.{key}" if nested_first else key


def columns(pairs: Sequence[str] | None) -> dict[str, str] | None:
    """OURS=THEIRS, several times, as a mapping. Raises RecipeError for anything else."""
    mapped = {}
    for pair in pairs or []:
        ours, equals, theirs = pair.partition("=")
        if not equals:
            raise RecipeError(f"--column {pair!r} is not OURS=THEIRS", fix="for example --column prompt=question")
        mapped[ours] = theirs
    return mapped or None


def with_server_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The command with the options of a served model; its own parameter ``served`` gets them, --set included."""
    from aifeedback.judging.spec import Served

    # these commands need an answer at once
    options = [option for option in options_of(Served) if option.path != ("batch_api",)]
    own = [p for p in inspect.signature(function, eval_str=True).parameters.values() if p.name != "served"]
    own = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]

    @wraps(function)
    def run(**values: Any) -> Any:
        served = chosen_settings(Served, options, values, values.pop("sets")).settings
        return function(**{p.name: values[p.name] for p in own}, served=served)

    added = [(option.parameter, option.kind, option.info) for option in options]
    added.append(("sets", *get_args(Sets)))
    parameters = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind, info])
        for name, kind, info in added
    ]
    return with_parameters(run, [*own, *parameters])


def with_parameters(function: Callable[..., Any], parameters: Sequence[inspect.Parameter]) -> Callable[..., Any]:
    """The function with the signature that typer sees."""
    function.__signature__ = inspect.Signature(list(parameters))  # type: ignore[attr-defined]
    function.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return function
