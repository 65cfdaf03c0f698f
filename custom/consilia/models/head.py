"""Which layer of a network is its head: the last linear one, which makes logits of features.

A network declares it by its attribute ``head``: the layer itself, or its name (``"classifier.3"``). Methods that treat
the head apart from the body (FedPer, FedRep, FedBABU), or that read the features that enter it (MOON), ask here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from consilia.core.errors import ConfigError


def head_name(model: nn.Module, given: str | None = None) -> str:
    """The name of a network's head, as the network declares it or as a configuration gives it.

    Args:
        model: the network.
        given: the name by the key ``method.head``; None: the network's own attribute ``head``.

    Raises:
        ConfigError: the network declares none and none is given, or that layer is not there or has nothing to train.
    """
    network = type(model).__name__
    declared: Any = getattr(model, "head", None) if given is None else given
    name = "head" if isinstance(declared, nn.Module) else declared
    if not isinstance(name, str) or not name:
        raise ConfigError(
            f"{network} does not say which layer is its head: set method.head to the name of its last linear layer"
            f"{_likely(model)}, or give the class an attribute head (docs/methods.md)"
        )
    try:
        layer = model.get_submodule(name)
    except AttributeError:
        where = "declares the head" if given is None else "has no layer of the name method.head ="
        raise ConfigError(
            f"{network} {where} {name!r}, expected the name of one of its layers{_likely(model)}"
        ) from None
    if not any(parameter.requires_grad for parameter in layer.parameters()):
        raise ConfigError(f"the head {name!r} of {network} has no parameter that is trained{_likely(model)}")
    return name


def head_tensors(model: nn.Module, name: str) -> list[str]:
    """Names of the head's parameters and buffers in the network's state."""
    return [tensor for tensor in model.state_dict() if tensor.startswith(f"{name}.")]


def logits_and_features(model: nn.Module, name: str, network: Any, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """The logits (B, C) of a network and the features (B, F) that entered its head.

    Args:
        model: the network.
        name: of its head.
        network: how the network is called on these inputs.
        inputs: (B, ...).

    Raises:
        ConfigError: the network did not call its head as a layer.
    """
    entered: list[Tensor] = []
    hook = model.get_submodule(name).register_forward_pre_hook(lambda _, given: entered.append(given[0]))
    try:
        logits: Tensor = network(inputs)
    finally:
        hook.remove()
    if not entered or not isinstance(entered[-1], torch.Tensor):
        raise ConfigError(f"{type(model).__name__} does not call its head {name!r} on features: name another layer")
    return logits, entered[-1].flatten(1)


def _likely(model: nn.Module) -> str:
    """The last linear layer there is, as a suggestion."""
    found = [name for name, layer in model.named_modules() if name and isinstance(layer, nn.Linear)]
    return f" ({found[-1]!r}, probably)" if found else ""
