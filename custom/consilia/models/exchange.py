"""What of a model travels: the tensors that are trained, by name, and nothing of what is frozen."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from consilia.core.errors import CheckpointError, ConfigError
from consilia.core.schema import Strict

ExchangeType = Literal["float32", "float16"]


class ModelSize(Strict):
    """Elements and bytes of all tensors of a network, frozen ones included."""

    elements: int = Field(ge=0, lt=2**63)
    bytes: int = Field(ge=0, lt=2**63)

    @classmethod
    def of(cls, model: nn.Module) -> ModelSize:
        """The size of a network that is built."""
        state = model.state_dict(keep_vars=True).values()
        return cls(elements=sum(tensor.numel() for tensor in state), bytes=sum(tensor.nbytes for tensor in state))

    @classmethod
    def of_layout(cls, layout: str) -> ModelSize:
        """The size of one tensor that a manifest describes, such as ``float32[8, 30]``.

        Raises:
            ConfigError: it is no such text.
        """
        matched = re.fullmatch(r"([a-z]+\d*)\[((?:\d+(?:, \d+)*)?)\]", layout)
        kind = getattr(torch, matched[1], None) if matched else None
        if matched is None or not isinstance(kind, torch.dtype):
            raise ConfigError(f"manifest: expected a tensor such as 'float32[8, 30]', got {layout!r}")
        elements = math.prod(map(int, re.findall(r"\d+", matched[2])))
        if elements * kind.itemsize >= 2**63:
            raise ConfigError(f"manifest: no machine has room for a tensor {layout}")
        return cls(elements=elements, bytes=elements * kind.itemsize)


def exchanged_names(model: nn.Module) -> list[str]:
    """Names of the trained parameters and of the buffers that go with them, in the model's order.

    A buffer (a batch norm's statistics, say) goes with them if parameters of its own module are trained, or if nothing
    in the model is frozen.
    """
    return list(_exchanged(model))


def exchanged_state(
    model: nn.Module, dtype: ExchangeType = "float32", names: Sequence[str] | None = None
) -> dict[str, Tensor]:
    """Copies, on the CPU, of the named tensors; by default of :func:`exchanged_names`.

    ``float16`` halves floating tensors; ``float32`` leaves every tensor as the model has it.
    """
    found = model.state_dict(keep_vars=True)
    chosen = exchanged_names(model) if names is None else names
    return {name: in_type(found[name].detach(), dtype, copy=True) for name in chosen}


def in_type(tensor: Tensor, dtype: ExchangeType, *, copy: bool = False) -> Tensor:
    """The tensor, contiguous, on the CPU, floating values in the exchange's type; itself, where it already is so."""
    wanted = torch.float16 if dtype == "float16" and tensor.is_floating_point() else tensor.dtype
    return tensor.to("cpu", wanted, copy=copy).contiguous()


ADDED = ("prompt_generator.", "lora_")
"""In names of tensors: what a frugal method adds to a model, and full fine-tuning does not have."""


def count_elements(model: nn.Module) -> int:
    """Elements that full fine-tuning of the same model would exchange: its whole state, but for what was added."""
    state = model.state_dict()
    return sum(tensor.numel() for name, tensor in state.items() if not any(part in name for part in ADDED))


def load_exchanged(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Overwrite what the model exchanges; what is frozen stays.

    Raises:
        CheckpointError: a tensor is missing, unknown or of another shape; names the first of them.
    """
    require_names(state, exchanged_names(model))
    copy_into(model, state)


def require_names(state: Mapping[str, Tensor], names: Collection[str]) -> None:
    """Raise :class:`CheckpointError` unless a state has exactly the named tensors."""
    missing, unknown = sorted(set(names) - set(state)), sorted(set(state) - set(names))
    if missing or unknown:
        raise CheckpointError(
            f"the state does not fit the model: {len(missing)} tensor(s) missing{_first(missing)}, "
            f"{len(unknown)} unknown{_first(unknown)}"
        )


def copy_into(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Overwrite the named tensors of a model; the others stay.

    Raises:
        CheckpointError: the model lacks a tensor, or has it in another shape; names the first of them.
    """
    places = model.state_dict(keep_vars=True)
    if unknown := sorted(set(state) - set(places)):
        raise CheckpointError(f"the model has no tensor {unknown[0]!r}")
    for name in state:
        place = places[name]
        if place.shape != state[name].shape:
            raise CheckpointError(
                f"tensor {name!r} has shape {tuple(state[name].shape)}, the model expects {tuple(place.shape)}"
            )
    with torch.no_grad():
        for name, tensor in state.items():
            places[name].copy_(tensor)


def _exchanged(model: nn.Module) -> dict[str, Tensor]:
    frozen = any(not parameter.requires_grad for parameter in model.parameters())
    names = set()
    for prefix, module in model.named_modules():
        own = dict(module.named_parameters(prefix, recurse=False))
        names |= {name for name, parameter in own.items() if parameter.requires_grad}
        if not frozen or any(parameter.requires_grad for parameter in own.values()):
            names |= {name for name, _ in module.named_buffers(prefix, recurse=False)}
    # Tied parameters have several names; state_dict lists them all, and so has it always been exchanged.
    return {name: value for name, value in model.state_dict(keep_vars=True).items() if name in names or not frozen}


def _first(names: list[str]) -> str:
    return f" (first: {names[0]!r})" if names else ""
