"""serve: a judge, a reward model or a Python function as HTTP reward for trainers that run elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aifeedback.cli.terminal import console


def add_to(app: typer.Typer) -> None:
    app.command()(serve)


def serve(
    reward: Annotated[str, typer.Argument(help="rm:DIR, python:FILE.py:FUNCTION, or judge:MODEL.")],
    prompt: Annotated[str, typer.Option(help="Rating prompt of a judge.")] = "rating",
    rationale: Annotated[bool, typer.Option("--rationale", "--cot", help="The judge thinks first.")] = False,
    host: Annotated[str, typer.Option(help="Any address but loopback needs --token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = 8300,
    token: Annotated[str | None, typer.Option(help="First part of every path.", envvar="AIFEEDBACK_TOKEN")] = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="Where the journal of calls goes.")] = Path("runs/serve"),
) -> None:
    """POST /score (verl, anything), POST /get_reward (OpenRLHF), GET /health; listens on this machine only."""
    from aifeedback.cli.single import require
    from aifeedback.cli.train import reward_spec
    from aifeedback.config import parse
    from aifeedback.errors import MissingExtra
    from aifeedback.integrations.serve import ServeConfig, create_app, require_token
    from aifeedback.storage import make_folder
    from aifeedback.stages import Job
    from aifeedback.stages.rewards import reward_function

    try:
        import uvicorn
    except ModuleNotFoundError as missing:
        raise MissingExtra("uvicorn", "web") from missing
    from aifeedback.rating.serve import listening

    config = parse(ServeConfig, {"host": host, "port": port, "token": token}, prefix="--")
    require_token(config)
    spec = reward_spec(reward, prompt, rationale)
    require(spec.inputs())
    make_folder(out)
    with listening(host, port) as door:
        function = reward_function(spec, Job(out, out / "journal.sqlite", out))
        app = create_app(function, config)
        shown, open_port = f"[{host}]" if ":" in host else host, door.getsockname()[1]
        told = f"serving {reward} on http://{shown}:{open_port}{f'/{token}' if token else ''}/score"
        console.print(told, markup=False, soft_wrap=True)
        uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[door])
