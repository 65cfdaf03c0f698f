"""An injected model read back from the folder that a finished run leaves at the server."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from consilia.core.errors import CheckpointError, ConfigError
from consilia.core.reading import read_json
from consilia.core.schema import explain
from consilia.data.site import SiteConfig
from consilia.methods.fedkim.config import FedKIMConfig
from consilia.methods.fedkim.injected import InjectedModel, frozen_language
from consilia.methods.server import MODEL_CARD
from consilia.models.config import ModelConfig
from consilia.models.extractor import KnowledgeExtractor


class Saved(NamedTuple):
    """The model, and of the run that made it the method and the network that the sites trained."""

    model: InjectedModel
    method: FedKIMConfig
    network: ModelConfig


def load_injected(folder: Path, settings: SiteConfig) -> Saved:
    """The injected model in a folder.

    Args:
        folder: ``injected`` of a run's outputs.
        settings: of the participant that asks: its list of model classes, its foundation models.

    Raises:
        CheckpointError: no such model, or its files do not fit together.
        ConfigError: a class or a language model that this participant does not have.
    """
    place = folder / MODEL_CARD
    card = _card(place)
    try:
        method, network = FedKIMConfig.model_validate(card["method"]), ModelConfig.model_validate(card["model"])
        seed = int(card["seed"])
    except ValidationError as error:
        raise CheckpointError(explain(error, place)) from error
    language = frozen_language(method, settings.foundation_models)
    extractor = network.build_at(settings, seed=seed)
    if not isinstance(extractor, KnowledgeExtractor):
        raise ConfigError(f"{place}: model.class is {network.class_}, expected a KnowledgeExtractor")
    model = InjectedModel(language, extractor, method, seed)
    model.load_saved(folder)
    return Saved(model.eval(), method, network)


def _card(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; an injected model is the folder injected of a run's outputs")
    values = read_json(path, error=CheckpointError)
    method = values.get("method") if isinstance(values, dict) else None
    name = method.get("method") if isinstance(method, dict) else None
    if name != "fedkim" or not {"model", "seed"} <= set(values):
        raise CheckpointError(f"{path}: expected the configuration of a run of method fedkim, got method {name!r}")
    return dict(values)
