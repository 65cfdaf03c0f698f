"""Consilia: federated medical learning on NVIDIA FLARE.

From Python: ``consilia.run``, ``consilia.compare``, ``consilia.evaluate`` and ``consilia.load`` (:mod:`consilia.api`),
which are loaded when they are asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from consilia.core import torchvision_hook

if TYPE_CHECKING:
    from consilia.api import Comparison, SavedModel, compare, evaluate, load, run

__all__ = ["Comparison", "SavedModel", "compare", "evaluate", "load", "run"]

__version__ = "0.1.0"

torchvision_hook.install()


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("consilia.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
