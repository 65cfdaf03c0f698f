"""An injected model read back from the folder that a finished run leaves at the server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from consilia.core.errors import CheckpointError, ConfigError
from consilia.data.site import SiteConfig
from consilia.federation.config import RunConfig, run_config
from consilia.methods.fedkim.config import FedKIMConfig
from consilia.methods.fedkim.injected import InjectedModel, frozen_language
from consilia.methods.server import MODEL_CARD
from consilia.models.extractor import KnowledgeExtractor


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
    config = _card(folder / MODEL_CARD)
    method = config.method
    assert isinstance(method, FedKIMConfig)  # _card has looked
    language = frozen_language(method, settings.foundation_models)
    extractor = config.model.build(seed=config.seed, allowed=settings.allow_models, folders=settings.foundation_models)
    if not isinstance(extractor, KnowledgeExtractor):
        raise ConfigError(f"{folder / MODEL_CARD}: model.class is {config.model.class_}, expected a KnowledgeExtractor")
    model = InjectedModel(language, extractor, method, config.seed)
    model.load_saved(folder)
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
