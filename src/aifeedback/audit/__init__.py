"""The audit of judges. Called as a function, this package is the public ``aifeedback.audit``.

Importing it binds its name in ``aifeedback``, where users find the function of the same name.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    def __call__(self, *args: Any, **settings: Any) -> Any:
        return import_module("aifeedback.api").audit(*args, **settings)


sys.modules[__name__].__class__ = _Callable
