"""Build a model from a dotted path and arguments, if the place that builds it lists the path.

A dotted path in a job is code by another door: each participant keeps its own list of what may be built there.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from consilia.core.determinism import plainly_seeded, seeded
from consilia.core.errors import ConfigError, LimitReached
from consilia.data.allowed import DEFAULT_ALLOWED
from consilia.data.limits import reached, show_bytes
from consilia.models.exchange import ModelSize
from consilia.models.size import LIMIT, at_most


def is_allowed(path: str, allowed: Sequence[str]) -> bool:
    """Whether ``path`` is listed exactly, or lies directly in a module listed as ``package.module.*``."""
    return any(path == entry or (entry.endswith(".*") and path.rpartition(".")[0] == entry[:-2]) for entry in allowed)


def build_model(
    path: str,
    arguments: Mapping[str, Any],
    *,
    seed: int,
    plain_seed: bool = False,
    allowed: Sequence[str] = DEFAULT_ALLOWED,
    foundation: nn.Module | None = None,
    max_bytes: int | None = None,
) -> nn.Module:
    """Import the class or function at ``path`` and call it with ``arguments`` under a seed of its own.

    Args:
        path: e.g. ``consilia.models.mlp.MLP``, ``monai.networks.nets.DenseNet121`` or ``timm.create_model``.
        arguments: keyword arguments; ``pretrained=True`` is refused because it would download at run time.
        seed: run seed; every participant that builds the same model with it gets the same initial weights.
        plain_seed: build after ``torch.manual_seed(seed)``, as a script does, and not with a seed derived from it.
        allowed: dotted paths that may be built here.
        foundation: a foundation model, given to the class as its first argument.
        max_bytes: of the model and its buffers.

    Raises:
        LimitReached: the model is larger; found out before its memory is taken.
        ConfigError: the path is not listed, cannot be imported, or the arguments do not fit.
    """
    if not is_allowed(path, allowed):
        raise ConfigError(
            f"model class {path!r} is not listed here: allow_models in this participant's site.yaml (at the server: "
            f"server.yaml) has {sorted(allowed)}"
        )
    _refuse_weights(arguments)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    module_name, _, attribute = path.rpartition(".")
    try:
        factory = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"cannot import model class {path!r}: {error}") from error
    try:
        with plainly_seeded(seed) if plain_seed else seeded(seed, "initial-model"), at_most(max_bytes):
            model = factory(**arguments) if foundation is None else factory(foundation, **arguments)
    except LimitReached:
        raise
    # A factory from another library may raise anything; the arguments came with the job.
    except Exception as error:
        raise ConfigError(f"cannot build {path}({dict(arguments)}): {error}") from error
    if not isinstance(model, nn.Module):
        raise ConfigError(f"{path} built a {type(model).__name__}, expected a torch.nn.Module")
    # With what the foundation model brings along.
    if max_bytes is not None and (size := ModelSize.of(model).bytes) > max_bytes:
        raise reached(LIMIT, f"a model of {show_bytes(size)}", show_bytes(max_bytes))
    return model


def _refuse_weights(arguments: Mapping[str, Any]) -> None:
    """Refuse arguments by which a job would have weights downloaded, or a local pickle read."""
    for name, value in arguments.items():
        remote = isinstance(value, str) and value.startswith(("hf-hub:", "hf_hub:", "local-dir:"))
        if remote or (value and name in ("pretrained", "checkpoint_path")):
            raise ConfigError(
                f"model argument {name}={value!r} would download weights or read a local file by a job's word"
            )
