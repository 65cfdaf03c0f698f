"""A saved model at a site: built again, held against the site's data, and applied to new cases.

A model is used on inputs that are made as those it was trained on. What its card says of them is compared with the
site's site.yaml; whose fitted values are taken is the card's rule (:class:`~consilia.federation.model_card.ModelCard`).
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from consilia.core.errors import CheckpointError, ConfigError, DataError
from consilia.core.files import write_csv
from consilia.core.schema import MAX_SHOWN
from consilia.core.tensor_files import read_tensors
from consilia.data.loading import (
    NewCases,
    how_to_prepare,
    load_new_cases,
    pooled_preprocessing,
    preprocessing_file,
    saved_preprocessing,
)
from consilia.data.preprocessing import INPUTS, PREPROCESSING, Preprocessing, unlike
from consilia.data.readers import reader_for
from consilia.data.site import SiteConfig, load_site_config
from consilia.data.specs import CommonSpec
from consilia.evaluation.decisions import HALF
from consilia.federation.model_card import ModelCard, read_card
from consilia.federation.predicted_masks import predicted_masks, write_mask_files
from consilia.methods.registry import method_class, method_names
from consilia.methods.tasks import TASKS
from consilia.models.exchange import load_exchanged


@dataclass(frozen=True)
class Predicted:
    """A model's answers on new cases, in their order.

    Attributes:
        card: the model's.
        cases: the new cases; ``failed`` of them could not be read.
        probabilities: (N, C) float64 of those that could; None of another task than classification.
        masks: (N, H, W) bool at the model's size; None of another task than segmentation.
        preprocessing: whose values prepared the inputs, in words.
        log_hazards: (N,) of those that could be read; None of another task than survival.
    """

    card: ModelCard
    cases: NewCases
    probabilities: Tensor | None
    masks: Tensor | None
    preprocessing: str
    log_hazards: Tensor | None = None

    @property
    def answers(self) -> tuple[str, ...]:
        """The class of each case of a classification: of two the second one above the threshold."""
        found = [] if self.probabilities is None else decided(self.probabilities, self.card).tolist()
        return tuple(self.card.class_names[index] for index in found)

    def to_frame(self) -> pd.DataFrame:
        """A row per case: case, folder if there are any, answer, a probability per class, and why one has none.

        Of a survival the log hazard takes the place of answer and probabilities.
        """
        if self.masks is not None:
            raise ConfigError("a segmentation has masks, no table of answers: write() writes them")
        ids = pd.Index(self.cases.ids)
        if self.probabilities is None:
            hazards = [] if self.log_hazards is None else self.log_hazards.tolist()
            table = pd.DataFrame({"log_hazard": hazards}, index=ids).reindex(self.cases.order)
        else:
            names = [f"p_{name}" for name in self.card.class_names]
            found = pd.DataFrame(self.probabilities.tolist(), columns=pd.Index(names), index=ids)
            found.insert(0, "answer", self.answers)
            table = found.reindex(self.cases.order)
            table["answer"] = table["answer"].where(table["answer"].notna(), "")
        if self.cases.folders:
            table.insert(0, "folder", self.cases.folders)
        if self.cases.failed:
            table["error"] = [self.cases.failed.get(case, "") for case in self.cases.order]
        return table.rename_axis("case").reset_index()

    def write(self, out: Path) -> None:
        """A csv, or of a segmentation a folder of masks with ``masks.csv``."""
        if self.masks is not None:
            write_mask_files(self.masks, self.cases, out)
            return
        table = self.to_frame()
        write_csv(out, list(table), table.itertuples(index=False))

    def summary(self) -> str:
        """How many cases there are and what they are, in a line."""
        parts = [f"{len(self.cases.order)} case(s)"]
        if self.probabilities is not None:
            counts = Counter(self.answers)
            parts[0] += ": " + ", ".join(f"{counts[name]} {name}" for name in self.card.class_names)
            if len(self.card.class_names) == 2:
                parts.append(threshold_text(self.card))
        if self.cases.failed:
            parts.append(f"{len(self.cases.failed)} could not be read: see the column error")
        return "; ".join(parts)


@dataclass(frozen=True)
class LoadedModel:
    """A saved model, built at a site.

    Attributes:
        path: its file.
        card: what the file says of it.
        site: the site.yaml that it was built by.
        settings: the content of that.
        network: in evaluation mode.
    """

    path: Path
    card: ModelCard
    site: Path
    settings: SiteConfig
    network: nn.Module

    def predict(self, cases: Path, dataset: str | None = None, boxes: Path | None = None) -> Predicted:
        """Answers on new, unlabelled cases; a single file that cannot be read is named in the result.

        Args:
            cases: where they are, see :func:`consilia.data.loading.load_new_cases`.
            dataset: of site.yaml, whose keys say how cases are read; default: the card's.
            boxes: of a segmentation: see :func:`consilia.federation.predicted_masks.predicted_masks`.

        Raises:
            ConfigError: the model is for other classes or other inputs than the dataset's.
            DataError: the site has no preprocessing yet, or the cases do not fit.
        """
        name, _ = self.dataset(dataset)
        if boxes is not None and self.card.task != "segmentation":
            raise ConfigError(f"--boxes is for a segmentation, {self.path} is a {self.card.task}")
        values, origin = self.preprocessing(name)
        new = load_new_cases(self.site, name, cases, preprocessing=values, skip_unreadable=True)
        self.require_inputs(tuple(new.inputs.shape[1:]), name)
        with torch.no_grad():
            try:
                if self.card.task == "segmentation":
                    return Predicted(self.card, new, None, predicted_masks(self.network, new, boxes), origin)
                found = self.outputs(new.inputs)
            except (RuntimeError, ValueError, AssertionError) as error:
                raise self.not_taken(tuple(new.inputs.shape[1:]), name) from error
        if self.card.task == "survival":
            return Predicted(self.card, new, None, None, origin, found[:, 0].double())
        return Predicted(self.card, new, found.double().softmax(dim=1), None, origin)

    def outputs(self, inputs: Tensor) -> Tensor:
        """Logits (N, C) of a classification; log hazards (N, 1) of a survival."""
        task = TASKS[self.card.task]
        pieces = torch.split(inputs, task.at_once(inputs)) if len(inputs) else ()
        found = [self.network(piece).float() for piece in pieces]
        return torch.cat(found) if found else torch.zeros(0, task.outputs(len(self.card.class_names)))

    def dataset(self, name: str | None = None) -> tuple[str, CommonSpec]:
        """The dataset of site.yaml that the model is used on; by default the one of its card.

        Raises:
            ConfigError: there is none, it is another task's, or has other classes.
        """
        name = name or self.card.dataset
        spec = self.settings.dataset(name)
        where = f"dataset {name!r} of {self.site}"
        if spec.task != self.card.task:
            raise ConfigError(f"{self.path} is a {self.card.task}, {where} a {spec.task}")
        if spec.classes != self.card.class_names:
            raise ConfigError(f"{self.path} answers {list(self.card.class_names)}, {where} has {list(spec.classes)}")
        return name, spec

    def preprocessing(self, name: str) -> tuple[Preprocessing | None, str]:
        """What prepares the model's inputs, and whose values these are, in words; None: fixed values of site.yaml.

        Raises:
            ConfigError: site.yaml makes inputs otherwise than those that the model was trained on.
            DataError: the site has not fitted any values yet.
        """
        spec, card = self.settings.dataset(name), self.card.preprocessing
        reader = reader_for(spec)
        here = Preprocessing(reader.layout(), {})
        self._require_layout(here, name)
        if card is not None and card.fitted is not None and card.rule == "pooled":
            return pooled_preprocessing(self.settings, name, card.fitted), "preprocessing of the model's card"
        if card is not None and card.fitted is not None:
            return Preprocessing(here.layout, card.fitted), "preprocessing of the model's card"
        # Of an older version: a personal model's own values lie beside it.
        beside = self.path.parent / PREPROCESSING
        file = beside if card is None and beside.is_file() else preprocessing_file(self.settings, name)
        if not file.is_file() and not spec.fits_preprocessing():
            return None, "preprocessing with the fixed values of site.yaml"
        if not file.is_file():
            raise DataError(
                f"{self.path} takes inputs that are prepared with the site's own values, and {file} is not there: "
                f"{how_to_prepare(name, self.site)}"
            )
        where = f"site {self.settings.site}, dataset {name}"
        return saved_preprocessing(file, reader, where, name), f"preprocessing {file}"

    def require_inputs(self, shape: Sequence[int], name: str) -> None:
        """Raise :class:`ConfigError` where the card says that the model takes inputs of another shape."""
        expected = self._expected()
        if expected is not None and tuple(shape) != expected:
            raise self.not_taken(shape, name)

    def not_taken(self, shape: Sequence[int], name: str) -> ConfigError:
        """The error for inputs that the model does not take: what it takes, what came, what to change."""
        expected, spec = self._expected(), self.settings.dataset(name)
        takes = "other inputs" if expected is None else shape_text(expected)
        how = "size and mode" if len(shape) == 3 else "the columns of inputs"
        if len(shape) == 3 and expected is not None and len(expected) == 3:
            mode = {1: " and mode: gray", 3: " and mode: rgb"}.get(expected[0], "")
            how = (
                f"size: {list(expected[1:])}{mode}" if spec.format == "images" else f"images of {shape_text(expected)}"
            )
        return ConfigError(
            f"{self.path} takes {takes}, dataset {name!r} of {self.site} gives {shape_text(shape)}: set {how} there as "
            "the model was trained, or take a model that was trained on such inputs"
        )

    def _require_layout(self, here: Preprocessing, name: str) -> None:
        wanted = {} if self.card.preprocessing is None else self.card.preprocessing.layout
        own = here.described()
        if differing := unlike(wanted, here):
            pairs = "; ".join(f"{key}: {_both(wanted[key], own[key])}" for key in differing)
            raise ConfigError(
                f"{self.path} was trained on inputs that dataset {name!r} of {self.site} does not make: {pairs}. Set "
                "these keys as the model has them, or take a model that was trained with yours"
            )

    def _expected(self) -> tuple[int, ...] | None:
        """The shape of an input, as the card says it, or the arguments of the network."""
        said = None if self.card.preprocessing is None else self.card.preprocessing.layout.get(INPUTS)
        if said is not None:
            try:
                return tuple(int(size) for size in json.loads(said))
            except (TypeError, ValueError) as error:
                raise CheckpointError(f"{self.path}: its model card cannot be read: inputs: {said[:80]!r}") from error
        args = self.card.model.args
        if isinstance(args.get("in_features"), int):
            return (args["in_features"],)
        size, channels = args.get("image_size"), args.get("in_channels")
        return (channels, size, size) if isinstance(size, int) and isinstance(channels, int) else None


def _both(wanted: str, own: str) -> str:
    """Two values of a key, as they are; of long lists what the one has and the other lacks."""
    if len(wanted) + len(own) <= 2 * MAX_SHOWN:
        return f"the model {wanted}, site.yaml {own}"
    try:
        there, here = json.loads(wanted), json.loads(own)
    except ValueError:
        there = here = None
    if not (isinstance(there, list) and isinstance(here, list)):
        return f"the model {wanted[:MAX_SHOWN]}..., site.yaml {own[:MAX_SHOWN]}..."
    lacks, more = ([name for name in a if name not in b] for a, b in ((there, here), (here, there)))
    if not lacks and not more:
        return f"the model and site.yaml have the same {len(there)} in another order"
    return f"the model has {len(there)}, site.yaml {len(here)}: it lacks {lacks[:5]}, and has {more[:5]} beyond"


def load_model(path: Path, site: Path) -> LoadedModel:
    """A saved model, built again within what a site allows.

    Args:
        path: a global, personal, centralised or local-only model: a safetensors file with a card.
        site: a site.yaml: its model classes, foundation models and limits hold here as for a job.

    Raises:
        CheckpointError: the file is no model of Consilia's, does not fit the network that it names, or has a value that
            is no finite number.
        ConfigError: the site does not allow the network.
    """
    path, site = Path(path), Path(site)
    if not path.exists():
        raise CheckpointError(f"no model file at {path}")
    state, metadata = read_tensors(path)
    _finite(state, path)
    card = read_card(metadata, path)
    if card.method in method_names() and method_class(card.method).several_datasets:
        raise ConfigError(f"{path} has heads of several tasks, this is for one: see consilia ask")
    settings = load_site_config(site)
    network = card.model.build_at(settings, seed=0)
    try:
        load_exchanged(network, state)
    except CheckpointError as error:
        raise CheckpointError(
            f"{path} does not fit the model it names: {error}. Where a method leaves a part of the "
            "model at each site, take a site's own personal-*.safetensors"
        ) from error
    return LoadedModel(path, card, site, settings, network.eval())


def _finite(state: Mapping[str, Tensor], path: Path) -> None:
    """Refuse NaN and infinity: every case would get the first class, with no probability."""
    for name, tensor in state.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise CheckpointError(f"{path}: {name} has values that are no finite number: the file is damaged")


def decided(probabilities: Tensor, card: ModelCard) -> Tensor:
    """The class index (N,) of each case: of two classes by the card's threshold, else the likeliest."""
    if probabilities.shape[1] == 2:
        return (probabilities[:, 1] > threshold_of(card)).long()
    return probabilities.argmax(dim=1)


def threshold_of(card: ModelCard) -> float:
    """Of two classes: the card's threshold, else 0.5."""
    return HALF if card.threshold is None else card.threshold


def threshold_text(card: ModelCard) -> str:
    """The threshold and where it comes from."""
    if card.threshold is None:
        return f"threshold {HALF}, as the card has none"
    return f"threshold {card.threshold:.3f} of the model's card"


def shape_text(shape: Sequence[int]) -> str:
    """The shape of an input in words."""
    if len(shape) == 1:
        return f"{shape[0]} numbers a case"
    if len(shape) == 3:
        return f"images of {shape[1]} x {shape[2]} pixels and {shape[0]} channel(s)"
    return f"inputs of shape {tuple(shape)} ({math.prod(shape)} numbers a case)"
