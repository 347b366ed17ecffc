"""Packages that are called like the function they are named for.

``offchip.sweep(...)`` is a function of the Python interface and ``offchip.sweep`` the package that does the work: once
anything of the package is imported, Python binds its name to the package, whatever stood there before. Such a package
is therefore callable, and a call of it is a call of the function.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any, ClassVar

__all__ = ["called_as"]


class _CallablePackage(ModuleType):
    location: ClassVar[str]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function."""
        return self._function(*args, **kwargs)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self._function)

    @property
    def _function(self) -> Callable[..., Any]:
        module, _, name = self.location.partition(":")
        found: Callable[..., Any] = getattr(import_module(module), name)
        return found


def called_as(package: str, location: str) -> None:
    """Make a package callable as the function at ``module:name``, which is imported when it is first called."""
    kind = type("CallablePackage", (_CallablePackage,), {"location": location})
    sys.modules[package].__class__ = kind
