"""The audit of a judge: bias probes over one design of pairs, and the findings they return."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    def __call__(self, *args: Any, **settings: Any) -> Any:
        return import_module("aifeedback.api").audit(*args, **settings)


sys.modules[__name__].__class__ = _Callable
