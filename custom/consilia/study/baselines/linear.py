"""Logistic regression: what the labels are worth to a linear model.

The inputs are the preprocessed ones that the run's network gets. A table stays as it is; an image is averaged over a
grid of at most about 1,024 values (one channel: 32 x 32), a signal or a series over bands; see
:func:`consilia.models.linear.pooled_features`. Features are standardised on the training cases.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from consilia.data.dataset import SiteData, Split
from consilia.evaluation.linear import ITERATIONS, features
from consilia.federation.model_card import global_card, personal_card, save_model
from consilia.federation.recorder import Recorder
from consilia.methods.contract import State
from consilia.methods.tasks import Predictions
from consilia.methods.tasks.classification import LOGITS
from consilia.models.config import ModelConfig
from consilia.record.study_result import VERSIONS
from consilia.study.baselines.common import (
    Saved,
    Setting,
    final_models,
    pooled,
    shared_metrics,
    site_metrics,
    training_sites,
)

STRENGTHS = (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0)
"""Values of C, scikit-learn's inverse strength of the L2 penalty, of which validation cases choose."""
WITHOUT_VALIDATION = 0.1
TABLE_NETWORK = "consilia.models.mlp.MLP"
NETWORK = "consilia.models.linear.PooledLinear"
UNSEEN = -20.7
"""Score of a class that has no training case: since the largest of the others is at least 0, a probability of 1e-9."""


@dataclass(frozen=True)
class LinearModel:
    """A fitted logistic regression; ``regression`` None: all training cases were of one class."""

    scaler: Any
    regression: Any
    strength: float | None
    present: list[int]
    classes: int
    steps_first: bool
    table: bool
    in_features: int

    def logits(self, inputs: Tensor) -> Tensor:
        """Scores (N, C), whose softmax are the classes' probabilities."""
        found = torch.full((len(inputs), self.classes), UNSEEN, dtype=torch.float64)
        if self.regression is None:
            found[:, self.present] = 0.0
            return found.float()
        values = self.scaler.transform(features(inputs, steps_first=self.steps_first))
        decision = torch.from_numpy(self.regression.decision_function(values))
        if decision.ndim == 1:  # two classes: the log-odds of the second
            decision = torch.stack([torch.zeros_like(decision), decision], dim=1)
        found[:, self.present] = decision
        return found.float()

    def predict(self, split: Split) -> Predictions:
        """Its predictions on a split."""
        return {LOGITS: self.logits(split.inputs)}


def fit_linear(train: Split, validation: Split, classes: int, *, steps_first: bool = False) -> LinearModel:
    """The regression of :data:`STRENGTHS` with the lowest loss on validation cases.

    The strongest penalty wins a tie. Without validation cases C is :data:`WITHOUT_VALIDATION`.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    present, table = sorted(set(train.labels.tolist())), train.inputs.ndim == 2
    values = features(train.inputs, steps_first=steps_first)
    if len(present) == 1:
        return LinearModel(None, None, None, present, classes, steps_first, table, values.shape[1])
    scaler = StandardScaler().fit(values)
    scaled, labels = scaler.transform(values), train.labels.numpy()
    best: tuple[float, LinearModel] | None = None
    for strength in STRENGTHS if len(validation) else (WITHOUT_VALIDATION,):
        regression = LogisticRegression(C=strength, max_iter=ITERATIONS).fit(scaled, labels)
        model = LinearModel(scaler, regression, strength, present, classes, steps_first, table, values.shape[1])
        loss = _loss(model, validation) if len(validation) else 0.0
        if best is None or loss < best[0]:
            best = loss, model
    assert best is not None
    return best[1]


def linear(setting: Setting, sites: list[SiteData], recorder: Recorder) -> Saved:
    """The regression on all training cases is the global model, that on a site's own cases its personal one."""
    trainers, classes = training_sites(sites), sites[0].num_classes
    series = setting.sites[sites[0].site].dataset(setting.config.dataset).format == "timeseries"
    validation = pooled(trainers, "validation")
    shared = fit_linear(pooled(trainers, "train"), validation, classes, steps_first=series)
    own = {site.site: fit_linear(site.train, site.validation, classes, steps_first=series) for site in trainers}
    threshold, whole = shared_metrics(sites, shared.predict)
    personal = {site.site: site_metrics(site, own[site.site].predict) for site in trainers}
    setting.keep("global", VERSIONS, sites, shared.predict)
    for site in trainers:
        setting.keep("personal", VERSIONS, [site], own[site.site].predict)
    for key in VERSIONS:
        recorder.final[key] = final_models(0, as_network(shared)[1], whole, personal, threshold)
    recorder.sections["linear"] = {
        "pooled": shared.strength,
        "sites": {site: model.strength for site, model in own.items()},
    }
    _save(setting, sites, recorder, shared, own)
    return {}


def as_network(model: LinearModel) -> tuple[ModelConfig, State]:
    """The regression as a network: of a table an MLP without hidden layers, of other inputs a ``PooledLinear``.

    Weights W and b of standardised features (x - m) / s are W / s and b - W m / s of the features themselves.
    """
    weight = torch.zeros(model.classes, model.in_features, dtype=torch.float64)
    bias = torch.full((model.classes,), UNSEEN, dtype=torch.float64)
    bias[model.present] = 0.0
    if model.regression is not None:
        # Of two classes scikit-learn has the log-odds of the second alone.
        rows = model.present[1:] if len(model.present) == 2 else model.present
        weight[rows] = torch.from_numpy(model.regression.coef_ / model.scaler.scale_)
        bias[rows] = torch.from_numpy(model.regression.intercept_) - weight[rows] @ torch.from_numpy(model.scaler.mean_)
    own: dict[str, Any] = {"hidden": []} if model.table else {"steps_first": model.steps_first}
    args = {"in_features": model.in_features, "num_classes": model.classes, **own}
    network = ModelConfig.model_validate({"class": TABLE_NETWORK if model.table else NETWORK, "args": args})
    layer = "layers.0" if model.table else "layer"
    return network, {f"{layer}.weight": weight.float(), f"{layer}.bias": bias.float()}


def _save(
    setting: Setting, sites: list[SiteData], recorder: Recorder, shared: LinearModel, own: Mapping[str, LinearModel]
) -> None:
    """Save the regressions where a run saves its models; there are no rounds, so last is best."""
    if setting.folder is None:
        return
    config, record = setting.config, recorder.record("finished")
    for key in VERSIONS:
        network, state = as_network(shared)
        card = global_card(config, record, key).model_copy(update={"method": config.label, "model": network})
        save_model(setting.folder / f"global-{key}.safetensors", state, card)
        for site in training_sites(sites):
            network, state = as_network(own[site.site])
            metrics = record.final[key].personal[site.site]
            more = {"method": config.label, "model": network, "rounds": 0}
            card = personal_card(config, site, f"personal-{key}", metrics).model_copy(update=more)
            save_model(setting.site_folder(site.site) / f"personal-{key}.safetensors", state, card, private=True)


def _loss(model: LinearModel, split: Split) -> float:
    return float(torch.nn.functional.cross_entropy(model.logits(split.inputs).double(), split.labels))
