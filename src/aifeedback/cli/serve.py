"""serve: a judge, a reward model or a Python function as HTTP reward for trainers that run elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from aifeedback.cli.options import with_server_options
from aifeedback.cli.terminal import console

app = typer.Typer()


@app.command()
@with_server_options
def serve(
    reward: Annotated[
        list[str], typer.Argument(help="rm:DIR, python:FILE.py:FUNCTION, or judge:MODEL. Several are added.")
    ],
    prompt: Annotated[str, typer.Option(help="Rating prompt of a judge.")] = "rating",
    rationale: Annotated[
        bool, typer.Option("--rationale", "--cot", help="Let the judge reason before it scores.")
    ] = False,
    reward_weight: Annotated[
        list[float] | None, typer.Option(metavar="W", help="Weight of each reward, in their order (default: 1 each).")
    ] = None,
    host: Annotated[str, typer.Option(help="Any address other than loopback needs --token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 picks a free port.")] = 8300,
    token: Annotated[
        str | None, typer.Option(help="Secret first part of every path.", envvar="AIFEEDBACK_TOKEN")
    ] = None,
    template: Annotated[
        str | None, typer.Option(help="Model folder whose chat template rendered the prompts of /get_reward.")
    ] = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the journal of calls.")] = Path("runs/serve"),
    *,
    served: dict[str, Any],
) -> None:
    """Serve a reward over HTTP for verl, OpenRLHF, TRL and others: POST /score, POST /get_reward, GET /health.

    A judge or a reward model also answers typed questions about responses: POST /v1/systemone, POST /v1/decisions.
    """
    from aifeedback.config import parse
    from aifeedback.pipeline.checks import require_modules, require_refs

    require_modules(("fastapi", "uvicorn"))
    import uvicorn

    from aifeedback.annotation.app import listening
    from aifeedback.integrations.serve import ServeConfig, create_app, require_token
    from aifeedback.refs import refs_in
    from aifeedback.steps.rewards import RewardSpec, decider_of, reward_from_options, reward_function
    from aifeedback.steps.step import Context
    from aifeedback.storage import make_folder

    config = parse(ServeConfig, {"host": host, "port": port, "token": token, "template": template}, prefix="--")
    require_token(config)
    named = reward_from_options(reward, reward_weight or (), {"prompt": prompt, "rationale": rationale}, served)
    spec = parse(RewardSpec, named if isinstance(named, dict) else {"source": named}, prefix="REWARD ")
    require_refs(list(refs_in(spec)))
    make_folder(out)
    with listening(host, port) as listener:
        context = Context(out, out)
        function = reward_function(spec, context)
        app = create_app(function, config, decider=decider_of(spec, function, context))
        shown, open_port = f"[{host}]" if ":" in host else host, listener.getsockname()[1]
        message = f"serving {' + '.join(reward)} on http://{shown}:{open_port}{f'/{token}' if token else ''}/score"
        console.print(message, markup=False, soft_wrap=True)
        uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])
