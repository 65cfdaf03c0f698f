"""The card of a saved model: in the file's metadata for programs, and as Markdown beside it for people.

It says what the model is, what its inputs are made with, what it was trained on and how good it was there: enough to
use and to judge it at a hospital that has only the file. A card of a personal model is made at its site and stays
there with the model.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

import consilia
from consilia.core.errors import CheckpointError
from consilia.core.files import write_bytes
from consilia.core.reading import parse_json
from consilia.core.schema import explain
from consilia.core.task import Task
from consilia.core.tensor_files import write_tensors
from consilia.data import preprocessing as layouts
from consilia.data.dataset import SiteData
from consilia.data.preprocessing import Preprocessing
from consilia.federation.card_page import card_page
from consilia.federation.config import RunConfig
from consilia.methods.contract import State
from consilia.models.config import ModelConfig
from consilia.record.schema import Record, SiteInfo, SiteMetrics

CARD = "consilia"
"""The key of the metadata."""

NEEDED = ("model", "dataset", "class_names", "method", "kind")


class Card(BaseModel):
    """Base of a card's parts: frozen; what a later version adds is passed over."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False, populate_by_name=True)


class CardPreprocessing(Card):
    """What the model's inputs are made with.

    ``rule``: whose values: ``each site's own``, fitted anew wherever the model is used; ``pooled`` over the training
    sites; ``the site's own`` of the one site that the model belongs to. ``layout``: keys of site.yaml and the shape of
    an input (``inputs``), as :meth:`consilia.data.preprocessing.Preprocessing.described` has them; keys in which the
    training sites differed are missing. ``fitted``: the values, null where each site has its own; of ``pooled`` the
    mean and deviation of raw values, else what the reader of the data fits.
    """

    rule: Literal["each site's own", "pooled", "the site's own"]
    layout: dict[str, str] = Field(default_factory=dict)
    fitted: dict[str, list[float]] | None = None


class TrainingSite(Card):
    """What a site trained with: cases, and the fingerprint of its data."""

    cases: int
    fingerprint: str


class ModelCard(Card):
    """What a saved model is; see docs/models.md.

    ``kind``: ``global-best``, ``personal-last``, ... ``threshold``: probability of class 1 of two above which a case
    counts as class 1; null: none was chosen, 0.5 stands for it. ``metrics``: by split and site, as in the record.
    ``rounds``: of training behind it. ``version``: of Consilia.
    """

    model: ModelConfig
    task: Task = "classification"
    dataset: str
    class_names: tuple[str, ...]
    method: str
    kind: str
    run_id: str = ""
    rounds: int | None = None
    seed: int | None = None
    version: str = ""
    licence: str = "not stated"
    preprocessing: CardPreprocessing | None = None
    threshold: float | None = Field(None, ge=0, le=1)
    training_sites: dict[str, TrainingSite] = Field(default_factory=dict)
    metrics: dict[str, dict[str, Any]] = Field(default_factory=dict)

    def metadata(self) -> dict[str, str]:
        """For a safetensors file."""
        content = self.model_dump(mode="json", by_alias=True)
        return {CARD: json.dumps(content, sort_keys=True, allow_nan=False)}

    def lacking(self) -> list[str]:
        """What the card of an older version does not say."""
        wanted = ("preprocessing", "threshold", "training_sites", "metrics", "licence", "seed", "version")
        return [name for name in wanted if name not in self.model_fields_set]


def run_card(config: RunConfig, class_names: Iterable[str], kind: str, **more: Any) -> ModelCard:
    """The card of a model of a run; ``more`` are further fields of :class:`ModelCard`."""
    values: dict[str, Any] = {
        "model": config.model,
        "task": config.task,
        "dataset": config.dataset,
        "class_names": tuple(class_names),
        "method": config.method.method,
        "kind": kind,
        "run_id": config.run_id,
        "seed": config.seed,
        "version": consilia.__version__,
        "licence": config.licence or "not stated",
        "threshold": None,
    }
    return ModelCard(**{**values, **more})


def global_card(config: RunConfig, record: Record, which: Literal["last", "best"]) -> ModelCard:
    """The card of a run's (or a baseline's) last or best global model, from its record."""
    final = record.final[which]
    trainers = {name: site for name, site in record.sites.items() if not site.test_only}
    return run_card(
        config,
        record.class_names,
        f"global-{which}",
        method=record.run.method,
        rounds=final.version,
        threshold=final.threshold,
        preprocessing=CardPreprocessing(
            rule="pooled" if record.preprocessing else "each site's own",
            layout=layouts.common(site.layout for site in trainers.values()),
            fitted=record.preprocessing,
        ),
        training_sites={name: _trained_with(site) for name, site in trainers.items()},
        metrics=card_metrics(final.global_),
    )


def personal_card(
    config: RunConfig,
    data: SiteData,
    kind: str,
    metrics: SiteMetrics | None = None,
    pooled: Mapping[str, Sequence[float]] | None = None,
    **more: Any,
) -> ModelCard:
    """The card of a model that one site has trained for itself.

    Args:
        config: the run.
        data: the site's.
        kind: ``personal-best``, say.
        metrics: of the model at the site.
        pooled: mean and deviation of all training sites, where the run pooled them.
        more: further fields of :class:`ModelCard`.
    """
    own = None if data.trained_together else data.dataset().preprocessing
    made = None if own is None else site_preprocessing(own)
    if made is not None and pooled is not None:
        made = CardPreprocessing(rule="pooled", layout=made.layout, fitted={k: list(v) for k, v in pooled.items()})
    return run_card(
        config,
        data.class_names,
        kind,
        preprocessing=made,
        training_sites={data.site: TrainingSite(cases=data.cases("train"), fingerprint=data.fingerprint())},
        metrics={} if metrics is None else card_metrics({data.site: metrics}),
        threshold=None if metrics is None else getattr(metrics.validation, "threshold", None),
        **more,
    )


def site_preprocessing(own: Preprocessing) -> CardPreprocessing:
    """A site's own preprocessing, for the card of a model that stays there."""
    fitted = {key: list(values) for key, values in own.fitted.items()}
    return CardPreprocessing(rule="the site's own", layout=own.described(), fitted=fitted)


def card_metrics(by_site: Mapping[str, SiteMetrics]) -> dict[str, dict[str, Any]]:
    """Metrics by split and site, without curves."""
    found: dict[str, dict[str, Any]] = {"validation": {}, "test": {}}
    for site, metrics in sorted(by_site.items()):
        for part, of_split in (("validation", metrics.validation), ("test", metrics.test)):
            if of_split is not None:
                found[part][site] = of_split.model_dump(
                    mode="json", by_alias=True, exclude_none=True, exclude={"curves"}
                )
    return found


def save_model(path: Path, state: State, card: ModelCard, *, private: bool = False) -> None:
    """Write a model with its card in the metadata, and the card as Markdown beside it; ``private``: for the owner."""
    write_tensors(path, state, card.metadata(), private=private)
    write_bytes(path.with_suffix(".md"), card_page(card.model_dump(by_alias=True)).encode(), private=private)


def read_card(metadata: Mapping[str, str], path: Path) -> ModelCard:
    """The card in a file's metadata.

    Raises:
        CheckpointError: there is none, or it cannot be read.
    """
    if CARD not in metadata:
        raise CheckpointError(f"{path} was not saved by Consilia: its metadata names no model")
    content = parse_json(metadata[CARD], f"{path}: its model card cannot be read", CheckpointError)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: its model card cannot be read: expected an object")
    if lacking := sorted(set(NEEDED) - set(content)):
        raise CheckpointError(f"{path}: its model card lacks {lacking}")
    try:
        return ModelCard.model_validate(content)
    except ValidationError as error:
        raise CheckpointError(explain(error, f"{path}: its model card cannot be read")) from error


def _trained_with(site: SiteInfo) -> TrainingSite:
    return TrainingSite(cases=site.train, fingerprint=site.fingerprint)
