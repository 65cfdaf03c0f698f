"""A saved model judged on a site's own labelled cases: metrics with intervals, a page, and every case's answer.

Nothing of it leaves the site. The site may have trained the model or never have seen it; what its inputs are made with
is the model card's rule (:mod:`consilia.federation.saved_model`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch

from consilia.core.errors import ConfigError, DataError
from consilia.core.files import write_json
from consilia.data.dataset import SPLITS, DatasetSplits, SiteData, Split
from consilia.data.loading import load_dataset
from consilia.data.site import RUNS
from consilia.evaluation.frames import flat
from consilia.evaluation.rounds import FEWEST_PATIENTS
from consilia.federation.model_card import ModelCard
from consilia.federation.saved_model import LoadedModel, load_model, threshold_of, threshold_text
from consilia.methods.local_report import write_local_report
from consilia.methods.tasks import TASKS, Predictions, network_of
from consilia.record.schema import SiteMetrics

Part = Literal["test", "all"]
PARTS: dict[str, Part] = {"test": "test", "all": "all"}

PAGE, METRICS = "report.html", "metrics.json"


@dataclass(frozen=True)
class Evaluated:
    """How good a saved model is on a site's labelled cases.

    Attributes:
        model: its file.
        card: what that says of it.
        data: the site's, the cases that were judged as its test split.
        part: which these are.
        predictions: on them, as the task has them.
        metrics: as in the record, all of them; None without cases.
        preprocessing: whose values prepared the inputs, in words.
        notes: what whoever reads the metrics must know.
    """

    model: Path
    card: ModelCard
    data: SiteData
    part: Part
    predictions: Predictions
    metrics: dict[str, Any]
    preprocessing: str
    notes: tuple[str, ...]

    @property
    def threshold(self) -> float | None:
        """Of a classification in two classes: the probability of the second above which it is the answer."""
        two = self.card.task == "classification" and len(self.card.class_names) == 2
        return threshold_of(self.card) if two else None

    def to_frame(self) -> pd.DataFrame:
        """A row per metric: value, and the interval's ends and standard error where there is one."""
        found = flat(self.metrics)
        ends = ("low", "high", "se")
        intervals = {f"{name}.{end}" for name in found for end in ends}
        rows = [
            [name, value, *(found.get(f"{name}.{end}") for end in ends)]
            for name, value in found.items()
            if name not in intervals
        ]
        return pd.DataFrame(rows, columns=["metric", "value", *ends])

    def to_json(self) -> dict[str, Any]:
        """Everything but single cases, in plain JSON types."""
        named = {"kind", "method", "run_id", "licence", "version"}
        return {
            "model": {"file": self.model.name, **self.card.model_dump(mode="json", include=named)},
            "site": self.data.site,
            "dataset": self.data.name,
            "cases": self.part,
            "preprocessing": self.preprocessing,
            "threshold": self.threshold,
            "notes": list(self.notes),
            "metrics": self.metrics,
        }

    def write(self, folder: Path) -> None:
        """The page, the metrics and a table of all cases, for their owner alone to read.

        Raises:
            ConfigError: the folder is there.
        """
        if folder.exists():
            raise ConfigError(f"{folder} exists: choose another --out")
        alone = self.card.method in ("centralised", "local-only")
        kind = self.card.method if alone else self.card.kind.partition("-")[0]
        thresholds = {kind: self.card.threshold}
        about = " ".join((f"{ABOUT[self.part]} The model is {self.model.name}.", *self.notes))
        write_local_report(folder / PAGE, self.data, {kind: self.predictions}, thresholds=thresholds, about=about)
        write_json(folder / METRICS, self.to_json(), private=True)


ABOUT = {
    "test": "Test cases of this site, by its own split.",
    "all": "All labelled cases of this site.",
}


def evaluate_model(
    model: Path | LoadedModel, site: Path, *, dataset: str | None = None, part: Part = "test"
) -> Evaluated:
    """Judge a saved model on a site's labelled cases.

    Args:
        model: a global, personal, centralised or local-only one, or its file.
        site: the site.yaml that says where the cases are.
        dataset: its name there; default: the card's.
        part: the test split, or all cases of a site that has not trained the model.

    Raises:
        ConfigError: the model is for other classes or other inputs; or it was trained on cases that are asked for.
        DataError: the data do not fit site.yaml, or the site has no preprocessing yet.
    """
    loaded = model if isinstance(model, LoadedModel) else load_model(model, site)
    name, spec = loaded.dataset(dataset)
    values, origin = loaded.preprocessing(name)
    found = load_dataset(loaded.settings, name, values)
    loaded.require_inputs(tuple(found.test.inputs.shape[1:]), name)
    if part == "all":
        _refuse_its_own(loaded, found)
        found = _all_as_test(found)
    data = SiteData(loaded.settings.site, {name: found})
    predictions = _predictions(loaded, found.test, name)
    return Evaluated(
        model=loaded.path,
        card=loaded.card,
        data=data,
        part=part,
        predictions=predictions,
        metrics=_metrics(loaded, predictions, found.test),
        preprocessing=origin,
        notes=tuple(_notes(loaded, found.test, fitted_here=values is not None and spec.fitted_on_test())),
    )


@torch.no_grad()
def _predictions(loaded: LoadedModel, split: Split, name: str) -> Predictions:
    task, network = TASKS[loaded.card.task], network_of(loaded.network)
    size = task.at_once(split.inputs)
    pieces = [split.take(piece) for piece in torch.arange(len(split)).split(size)] if len(split) else []
    try:
        found = [task.predict(network, piece.inputs, piece.labels, piece.case_ids) for piece in pieces]
    except (RuntimeError, ValueError, AssertionError) as error:
        raise loaded.not_taken(tuple(split.inputs.shape[1:]), name) from error
    if not found:
        raise DataError(f"site {loaded.settings.site}, dataset {name}: no case to judge {loaded.path} on")
    return {key: torch.cat([piece[key] for piece in found]) for key in found[0]}


def _metrics(loaded: LoadedModel, predictions: Predictions, split: Split) -> dict[str, Any]:
    two = loaded.card.task == "classification" and len(loaded.card.class_names) == 2
    threshold = threshold_of(loaded.card) if two else None
    found = TASKS[loaded.card.task].metrics(predictions, split, slow=True, threshold=threshold)
    checked = SiteMetrics.model_validate({"validation": None, "test": found}).test
    assert checked is not None  # there are cases
    return checked.model_dump(mode="json", by_alias=True, exclude_none=True)


def _refuse_its_own(loaded: LoadedModel, found: DatasetSplits[Split]) -> None:
    """A site's training cases are no test of a model that it has trained."""
    settings, card = loaded.settings, loaded.card
    # A personal model's card names its own site alone, but it goes back to the global one.
    own_part = bool(card.run_id) and (settings.state_dir / RUNS / card.run_id).is_dir()
    took_part = own_part or settings.site in card.training_sites
    if took_part and not found.is_test_only:
        raise ConfigError(
            f"{loaded.path} comes of a run that site {settings.site} has trained in: its test split alone says how "
            "good the model is there; leave --split all out"
        )


def _all_as_test(found: DatasetSplits[Split]) -> DatasetSplits[Split]:
    parts = [split for split in map(found.split, SPLITS) if len(split)]
    none = parts[0].take(torch.arange(0))
    return DatasetSplits(found.class_names, none, none, _joined(parts), found.task, found.preprocessing)


def _joined(parts: Sequence[Split]) -> Split:
    spacing = [part.spacing for part in parts if part.spacing is not None]
    return Split(
        torch.cat([part.inputs for part in parts]),
        torch.cat([part.labels for part in parts]),
        tuple(case for part in parts for case in part.case_ids),
        torch.cat(spacing) if len(spacing) == len(parts) else None,
        tuple(patient for part in parts for patient in part.patients),
    )


def _notes(loaded: LoadedModel, split: Split, *, fitted_here: bool) -> list[str]:
    card = loaded.card
    notes = []
    if card.task == "classification" and len(card.class_names) == 2:
        text = threshold_text(card)
        notes.append(f"{text[0].upper()}{text[1:]}.")
    if fitted_here:
        notes.append("Preprocessing was fitted on these cases' inputs, as the site is a test-only one.")
    patients = len(set(split.patients)) or len(split)
    if patients < FEWEST_PATIENTS:
        notes.append(f"{patients} patient(s) are too few to judge a model by.")
    if lacking := card.lacking():
        notes.append(f"The card is an older version's and says nothing of {', '.join(lacking)}.")
    return notes
