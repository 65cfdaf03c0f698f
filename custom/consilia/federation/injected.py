"""An injected model read back from the folder that a finished run leaves at the server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from consilia.core.errors import CheckpointError, ConfigError
from consilia.data.site import SiteConfig
from consilia.federation.config import RunConfig, run_config
from consilia.methods.fedkim.config import FedKIMConfig
from consilia.methods.fedkim.injected import InjectedModel
from consilia.methods.fedkim.injection import PRECISION
from consilia.methods.server import CARD
from consilia.models.extractor import KnowledgeExtractor
from consilia.models.language import load_language_model

ADAPTER, TRAINED = "adapter_model.safetensors", "injected.safetensors"


class Saved(NamedTuple):
    """The model, and the run that made it."""

    model: InjectedModel
    config: RunConfig


def load_injected(folder: Path, settings: SiteConfig) -> Saved:
    """The injected model in a folder.

    Args:
        folder: ``injected`` of a run's outputs.
        settings: of the participant that asks: its list of model classes, its foundation models.

    Raises:
        CheckpointError: no such model, or its files do not fit together.
        ConfigError: a class or a language model that this participant does not have.
    """
    config = _card(folder / CARD)
    method = config.method
    assert isinstance(method, FedKIMConfig)  # _card has looked
    asked = method.language_model
    dtype = PRECISION.get(method.injection.precision, torch.float32)
    language = load_language_model(asked.model, asked.digest, settings.foundation_models, dtype=dtype)
    extractor = config.model.build(seed=config.seed, allowed=settings.allow_models, folders=settings.foundation_models)
    if not isinstance(extractor, KnowledgeExtractor):
        raise ConfigError(f"{folder / CARD}: model.class is {config.model.class_}, expected a KnowledgeExtractor")
    model = InjectedModel(language, extractor, method, config.seed)
    try:
        if method.adapter == "m3oe":
            from peft import set_peft_model_state_dict

            set_peft_model_state_dict(model.language, load_file(folder / ADAPTER))
        own = load_file(folder / TRAINED)
        trained = {name: value for name, value in model.trained().items() if not name.startswith("language.")}
        if set(own) != set(trained):
            odd = sorted(set(own) ^ set(trained))
            raise CheckpointError(f"{folder / TRAINED}: does not fit the model of {CARD}: {odd[0]!r}")
        with torch.no_grad():
            for name, parameter in trained.items():
                parameter.copy_(own[name])
    except (OSError, SafetensorError, RuntimeError) as error:
        raise CheckpointError(f"{folder}: cannot be read as an injected model: {error}") from error
    return Saved(model.eval(), config)


def _card(path: Path) -> RunConfig:
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; an injected model is the folder injected of a run's outputs")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path}: expected JSON: {error}") from error
    config = run_config(values, source=str(path))
    if not isinstance(config.method, FedKIMConfig):
        raise CheckpointError(f"{path}: expected a run of method fedkim, got {config.method.method}")
    return config
