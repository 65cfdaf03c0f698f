"""The size of a model, bounded while it is built: a job's arguments decide it, and no memory is taken beyond the bound.

A tensor's size is looked at before torch allocates it, and parameters and buffers are summed as modules register them.
Not seen before they are there are tensors made of NumPy's arrays: sites list the classes that may be built.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as registry
from torch.overrides import TorchFunctionMode

from consilia.data.limits import reached, show_bytes

LIMIT = "max_model_bytes"
MAX_PARTS = 100_000
"""Modules and tensors of one model: each is a Python object of about a kilobyte, whatever it holds."""


@contextmanager
def at_most(limit: int | None) -> Iterator[None]:
    """Inside the block no model can be built that is larger than ``limit`` bytes.

    Raises:
        LimitReached: before a tensor is allocated that is larger, or as soon as those of the model are together.
    """
    if limit is None:
        yield
        return
    counter = _Counter(limit)
    with ExitStack() as hooks:
        for register in (
            registry.register_module_parameter_registration_hook,
            registry.register_module_buffer_registration_hook,
            registry.register_module_module_registration_hook,
        ):
            hooks.callback(register(counter.add).remove)
        hooks.enter_context(_SizeCheck(limit))
        yield


class _Counter:
    """Sums up what modules register."""

    def __init__(self, limit: int) -> None:
        self.limit, self.total, self.parts = limit, 0, 0

    def add(self, _module: nn.Module, _name: str, part: Any) -> None:
        self.parts += 1
        self.total += part.nbytes if isinstance(part, Tensor) else 0
        if self.parts > MAX_PARTS:
            raise reached(LIMIT, f"a model of more than {MAX_PARTS:,} parts", show_bytes(self.limit))
        if self.total > self.limit:
            raise reached(LIMIT, f"a model of {show_bytes(self.total)} or more", show_bytes(self.limit))


_FACTORIES = {torch.empty, torch.zeros, torch.ones, torch.rand, torch.randn, torch.arange, torch.linspace, torch.eye}
_FACTORIES |= {Tensor.new_empty, Tensor.new_zeros, Tensor.new_ones, Tensor.repeat}
"""Functions whose plain integers are sizes."""


class _SizeCheck(TorchFunctionMode):
    """Refuses a function of torch whose arguments ask for a tensor beyond the limit."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit

    def __torch_function__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        dtype = kwargs.get("dtype")
        width = dtype.itemsize if isinstance(dtype, torch.dtype) else torch.get_default_dtype().itemsize
        values = (*args, *kwargs.values())
        shapes = [value for value in values if isinstance(value, list | tuple)]
        if function in _FACTORIES:
            shapes.append([value for value in values if type(value) is int])
        for shape in shapes:
            if all(type(size) is int for size in shape) and (asked := math.prod(shape) * width) > self.limit:
                raise reached(LIMIT, f"a model of {show_bytes(asked)} or more", show_bytes(self.limit))
        return function(*args, **kwargs)
