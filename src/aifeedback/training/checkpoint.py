"""Checkpoints of a run: one safetensors file each, written whole or not at all, enough to resume bit for bit.

Held: trained parameters, optimizer state, random states of every process, the objective's own state, and the identity
of data and settings. Works for plain, DDP and FSDP2 models: sharded tensors are gathered on writing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from aifeedback.errors import TrainingError


class Snapshot(NamedTuple):
    """What one file holds: tensors by name, and small facts as JSON."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any]


def gather(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    rank_states: list[Mapping[str, Tensor]],
    facts: Mapping[str, Any],
) -> Snapshot:
    """A snapshot on every process (sharded tensors are collected, so all processes must call it together)."""
    tensors: dict[str, Tensor] = {}
    scalars: dict[str, float] = {}
    for name, parameter in trained_parameters(model).items():
        tensors[f"param/{name}"] = whole(parameter.detach())
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"optim/{name}/{key}"] = whole(value)
            else:
                scalars[f"{name}/{key}"] = value
    for rank, state in enumerate(rank_states):
        tensors.update({f"rank/{rank}/{key}": value for key, value in state.items()})
    return Snapshot(tensors, {**facts, "optim": scalars})


def restore(snapshot: Snapshot, model: nn.Module, optimizer: torch.optim.Optimizer, *, rank: int) -> dict[str, Tensor]:
    """Puts parameters and optimizer state back in place; returns this process's own state."""
    scalars = snapshot.facts["optim"]
    with torch.no_grad():
        for name, parameter in restore_parameters(snapshot, model).items():
            prefix = f"optim/{name}/"
            state = {k.removeprefix(prefix): v for k, v in snapshot.tensors.items() if k.startswith(prefix)}
            state = {k: _laid_out(v, parameter) for k, v in state.items()}
            state |= {k.rsplit("/", 1)[1]: v for k, v in scalars.items() if k.rsplit("/", 1)[0] == name}
            if state:
                optimizer.state[parameter] = state
    mine = f"rank/{rank}/"
    return {k.removeprefix(mine): v for k, v in snapshot.tensors.items() if k.startswith(mine)}


def restore_parameters(snapshot: Snapshot, model: nn.Module) -> dict[str, nn.Parameter]:
    """Puts parameters back in place and returns them by name; raises TrainingError for those of another model."""
    parameters = trained_parameters(model)
    held = {name.removeprefix("param/") for name in snapshot.tensors if name.startswith("param/")}
    if held != set(parameters):
        raise TrainingError(
            f"the checkpoint holds other parameters than the model: {sorted(held ^ set(parameters))[:3]}"
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(_laid_out(snapshot.tensors[f"param/{name}"], parameter))
    return parameters


def write(snapshot: Snapshot, file: Path) -> None:
    """Write to a temporary file and rename it, so that a file under the final name is always complete."""
    from safetensors.torch import save_file

    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    tensors = {name: tensor.cpu().contiguous().clone() for name, tensor in snapshot.tensors.items()}
    save_file(tensors, str(partial), metadata={"facts": json.dumps(snapshot.facts)})
    with partial.open("rb") as stream:
        os.fsync(stream.fileno())
    partial.replace(file)


def read(file: Path) -> Snapshot:
    """Raises TrainingError where the file is not a whole checkpoint."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(file), framework="pt") as stream:
            facts = json.loads((stream.metadata() or {})["facts"])
            return Snapshot({name: stream.get_tensor(name) for name in stream.keys()}, facts)  # noqa: SIM118
    except (SafetensorError, KeyError, ValueError, OSError) as cause:
        raise TrainingError(
            f"{file}: not a readable checkpoint ({cause})\n  → delete it to resume from an earlier one"
        ) from cause


def path(folder: Path, step: int) -> Path:
    return folder / f"step-{step:08d}.safetensors"


def latest(folder: Path) -> Path | None:
    """The newest checkpoint of a folder, None where there is none."""
    return max(folder.glob("step-*.safetensors"), default=None)


def prune(folder: Path, *, keep: int) -> None:
    """Deletes all but the newest ``keep`` checkpoints."""
    for file in sorted(folder.glob("step-*.safetensors"))[: -keep or None]:
        file.unlink()


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that training moves, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def whole(tensor: Tensor) -> Tensor:
    """A sharded tensor collected into a plain one; a plain one as it is."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor  # type: ignore[attr-defined]


def _laid_out(value: Tensor, parameter: nn.Parameter) -> Tensor:
    """``value`` on the parameter's device, and sharded like it where it is sharded (replicated if of another shape)."""
    data = parameter.data
    if not hasattr(data, "device_mesh"):
        return value.to(data.device) if value.ndim else value
    from torch.distributed.tensor import Replicate, distribute_tensor

    if value.ndim == 0:
        return value
    mesh = data.device_mesh  # type: ignore[attr-defined]
    placements = data.placements if value.shape == data.shape else [Replicate()] * mesh.ndim  # type: ignore[attr-defined]
    return distribute_tensor(value.to(data.device), mesh, placements, src_data_rank=None)
