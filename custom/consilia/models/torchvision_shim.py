"""Make timm, peft and transformers importable beside a CPU-only torch.

PyPI's torchvision for x86 is a CUDA build. Beside a CPU-only torch its compiled part does not load, yet its Python part
registers fake kernels for two operators that then do not exist, and the import dies; timm dies with it, and so does
every library that probes for torchvision. Declaring the two operators' schemas first is enough for the pure-Python
parts (transforms, models, datasets). On a machine whose torchvision fits its torch this does nothing.
"""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_library: Any = None


def ensure_torchvision() -> bool:
    """Import torchvision, repaired if need be. Returns False where it is not installed. Call before timm or peft."""
    global _library
    if "torchvision" in sys.modules:
        return True
    if importlib.util.find_spec("torchvision") is None:
        return False
    import torch

    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    else:
        return True
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    _library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]  # the schemas live as long as this object
    for operator in ("nms", "qnms"):
        _library.define(operator + _SCHEMA)
    import torchvision  # noqa: F401

    return True
