"""One tiny model for all training tests."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import save_llama

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("llama"))
