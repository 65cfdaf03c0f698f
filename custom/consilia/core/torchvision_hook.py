"""Make torchvision, and with it timm, peft and transformers, importable beside a CPU-only torch.

PyPI's torchvision for x86 is a CUDA build. Beside a CPU-only torch its compiled part does not load, yet its Python part
registers fake kernels for two operators that then do not exist, and the import dies; timm dies with it, and so does
every library that probes for torchvision. Declaring the two operators' schemas first is enough for the pure-Python
parts (transforms, models, datasets). Where torchvision fits its torch nothing is changed.

``import consilia`` calls :func:`install`. Neither loads torch or torchvision: the repair happens when torchvision is
first imported, whoever imports it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType
from typing import Any

NAME = "torchvision"
_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_library: Any = None


def install() -> None:
    """Repair the first import of torchvision in this process, if it needs that. A second call does nothing."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds torchvision where Python finds it, and gives it a loader that repairs the import."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != NAME:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        # Anything but a plain installation is left to the other finders.
        if spec is None or type(spec.loader) is not SourceFileLoader:
            return None
        spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


class _Loader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        try:
            super().exec_module(module)
        except RuntimeError as error:
            if f"{NAME}::nms" not in str(error):
                raise
        else:
            return
        for name in [name for name in sys.modules if name.startswith(f"{NAME}.")]:
            del sys.modules[name]
        _declare_operators()
        super().exec_module(module)


def _declare_operators() -> None:
    global _library
    import torch

    # The schemas live as long as this object.
    _library = torch.library.Library(NAME, "DEF")  # type: ignore[no-untyped-call]
    for operator in ("nms", "qnms"):
        _library.define(operator + _SCHEMA)
