"""Baselines: the linear one against scikit-learn by hand, and what the trained ones leave at server and sites."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.preprocessing import StandardScaler
from torch.nn import functional

from consilia.core.determinism import derive_seed, state_digest
from consilia.core.errors import ConfigError
from consilia.core.events import Event
from consilia.core.tensor_files import read_tensors
from consilia.data.allowed import DEFAULT_ALLOWED
from consilia.data.dataset import Split
from consilia.data.loading import load_site
from consilia.evaluation.linear import features
from consilia.federation.config import RunConfig
from consilia.federation.model_card import read_card
from consilia.federation.model_evaluation import evaluate_model
from consilia.models.mlp import MLP
from consilia.record.schema import Metrics
from consilia.simulation.federation import load_federation
from consilia.study.baselines import run_baseline
from consilia.study.baselines.linear import STRENGTHS, UNSEEN, as_network, fit_linear
from consilia.study.study import Study, baselines_of, study_config


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return load_federation("wisconsin", tmp_path_factory.mktemp("wisconsin"))


def wanted(sites: dict[str, Path], label: str) -> RunConfig:
    return study_config(Study(run={"rounds": 2}), label, 0, sites)


def by_hand(train: list[Split], validation: list[Split], test: Split) -> tuple[float, np.ndarray]:
    """C and the probabilities of class 1 on test cases, without Consilia's code."""
    inputs, labels = (np.concatenate([getattr(split, key).numpy() for split in train]) for key in ("inputs", "labels"))
    mean, sd = inputs.astype(float).mean(axis=0), inputs.astype(float).std(axis=0)
    losses = {}
    for strength in STRENGTHS:
        model = LogisticRegression(C=strength, max_iter=5000).fit((inputs - mean) / sd, labels)
        values = np.concatenate([split.inputs.numpy() for split in validation])
        truth = np.concatenate([split.labels.numpy() for split in validation])
        found = model.predict_proba((values - mean) / sd)
        losses[strength] = log_loss(truth, found, labels=[0, 1]), model
    best = min(losses, key=lambda strength: losses[strength][0])
    probability: np.ndarray = losses[best][1].predict_proba((test.inputs.numpy() - mean) / sd)[:, 1]
    return best, probability


def test_the_linear_baseline_is_scikit_learns_pooled_and_of_each_site(sites) -> None:
    record = run_baseline("linear", wanted(sites, "linear"), sites)
    data = {name: load_site(path, "diagnosis") for name, path in sites.items()}
    chosen: Any = record.sections["linear"]
    pooled = [one.train for one in data.values()], [one.validation for one in data.values()]
    for name, one in data.items():
        for (train, validation), found, strength in (
            (pooled, record.final["last"].global_[name].test, chosen["pooled"]),
            (([one.train], [one.validation]), record.final["last"].personal[name].test, chosen["sites"][name]),
        ):
            best, probability = by_hand(train, validation, one.test)
            truth = one.test.labels.numpy()
            assert isinstance(found, Metrics)
            assert strength == best
            assert found.correct == int(((probability > 0.5) == truth).sum())
            assert found.auroc == pytest.approx(roc_auc_score(truth, probability), abs=1e-3)
            assert found.loss == pytest.approx(log_loss(truth, probability), abs=1e-3)


def test_thresholds_are_the_mean_of_the_sites_and_each_sites_own(sites) -> None:
    last = run_baseline("linear", wanted(sites, "linear"), sites).final["last"]
    chosen = [
        (part.count, part.threshold) for one in last.global_.values() if isinstance(part := one.validation, Metrics)
    ]
    defined = [(count, threshold) for count, threshold in chosen if threshold is not None]
    mean = sum(count * threshold for count, threshold in defined) / sum(count for count, _ in defined)
    assert last.threshold == pytest.approx(mean)
    for name, path in sites.items():
        data = load_site(path, "diagnosis")
        probability = by_hand([data.train], [data.validation], data.test)[1]
        shared, own = last.global_[name].test, last.personal[name].test
        validation = last.personal[name].validation
        assert isinstance(shared, Metrics)
        assert shared.operating is not None
        assert isinstance(own, Metrics)
        assert own.operating is not None
        assert isinstance(validation, Metrics)
        assert shared.operating.threshold == pytest.approx(mean)
        assert own.operating.threshold == pytest.approx(0.5 if validation.threshold is None else validation.threshold)
        truth = data.test.labels.numpy() == 1
        found = probability >= (own.operating.threshold or 0)
        assert own.operating.sensitivity == pytest.approx((found & truth).sum() / truth.sum())
        assert own.positives == truth.sum()


def test_the_regression_of_a_table_is_saved_as_a_network(sites, tmp_path: Path) -> None:
    record = run_baseline("linear", wanted(sites, "linear"), sites, tmp_path)
    path = next(iter(sites.values()))
    data = load_site(path, "diagnosis")
    alone = path.parent / "state" / "runs" / record.run.id / "personal-last.safetensors"
    pooled = [load_site(one, "diagnosis") for one in sites.values()]
    for place, train, validation in (
        (tmp_path / "global-best.safetensors", [one.train for one in pooled], [one.validation for one in pooled]),
        (alone, [data.train], [data.validation]),
    ):
        state, metadata = read_tensors(place)
        card = json.loads(metadata["consilia"])
        assert (card["method"], card["model"]["class"]) == ("linear", "consilia.models.mlp.MLP")
        network = MLP(**card["model"]["args"])
        network.load_state_dict(state)
        found = network(data.test.inputs).softmax(dim=1)[:, 1].detach().numpy()
        np.testing.assert_allclose(found, by_hand(train, validation, data.test)[1], atol=2e-3)
    assert state_digest(read_tensors(tmp_path / "global-best.safetensors")[0]) == record.final["best"].sha256


def test_the_regression_of_images_is_saved_and_gives_its_own_metrics(tmp_path: Path) -> None:
    sites = load_federation("digits", tmp_path)
    config = study_config(Study(data="digits", run={"rounds": 1}), "linear", 0, sites)
    record = run_baseline("linear", config, sites, tmp_path / "linear")
    name, path = next(iter(sites.items()))
    alone = path.parent / "state" / "runs" / record.run.id / "personal-best.safetensors"
    final = record.final["best"]
    for place, by_site in ((tmp_path / "linear" / "global-best.safetensors", final.global_), (alone, final.personal)):
        card = read_card(read_tensors(place)[1], place)
        assert (card.method, card.model.class_) == ("linear", "consilia.models.linear.PooledLinear")
        found, wanted_metrics = evaluate_model(place, path).metrics, by_site[name].test
        assert isinstance(wanted_metrics, Metrics)
        assert (found["count"], found["correct"]) == (wanted_metrics.count, wanted_metrics.correct)
        assert found["loss"] == pytest.approx(wanted_metrics.loss, abs=1e-4)
    assert state_digest(read_tensors(tmp_path / "linear" / "global-best.safetensors")[0]) == final.sha256


@pytest.mark.parametrize(
    ("shape", "steps_first"), [((90, 2, 200), False), ((90, 30, 4), True), ((90, 3, 40, 40), False)]
)
def test_a_saved_regression_answers_as_scikit_learns(shape: tuple[int, ...], steps_first: bool) -> None:
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(0)) + 3
    labels = torch.arange(90) % 3
    train = Split(inputs, labels, tuple(map(str, range(90))))
    fitted = fit_linear(train, Split(inputs[:0], labels[:0], ()), 3, steps_first=steps_first)
    saved = as_network(fitted)
    network = saved[0].build(seed=0, allowed=DEFAULT_ALLOWED, folders={})
    network.load_state_dict(saved[1])
    chances = fitted.regression.predict_proba(fitted.scaler.transform(features(inputs, steps_first=steps_first)))
    np.testing.assert_allclose(network(inputs).softmax(dim=1).detach().numpy(), chances, atol=1e-4)


def test_a_class_without_training_cases_is_nearly_impossible() -> None:
    inputs = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 2] * 10)
    train = Split(inputs, labels, tuple(map(str, range(20))))
    empty = Split(inputs[:0], labels[:0], ())
    model = fit_linear(train, empty, 3)
    chances = model.logits(inputs).softmax(dim=1)
    assert (chances[:, 1] < 1.1e-9).all()
    network, state = as_network(model)
    linear = MLP(**network.args)
    linear.load_state_dict(state)
    assert torch.allclose(linear(inputs), model.logits(inputs), atol=1e-5)
    alone = LogisticRegression(C=0.1).fit(StandardScaler().fit_transform(inputs.numpy()), labels.numpy())
    expected = alone.predict_proba(StandardScaler().fit_transform(inputs.numpy()))
    np.testing.assert_allclose(chances[:, [0, 2]].numpy(), expected, atol=1e-3)
    single = fit_linear(Split(inputs[:3], labels[:1].expand(3), ("a", "b", "c")), empty, 3)
    assert single.logits(inputs)[0].tolist() == pytest.approx([0, UNSEEN, UNSEEN])


def test_a_trained_baseline_saves_its_models_as_a_run_does(sites, tmp_path: Path) -> None:
    whole = run_baseline("centralised", wanted(sites, "centralised"), sites, tmp_path / "whole")
    for key, chosen in whole.final.items():
        state, card = read_tensors(tmp_path / "whole" / f"global-{key}.safetensors")
        assert state_digest(state) == chosen.sha256
        assert f'"kind": "global-{key}"' in card["consilia"]
    said: list[Event] = []
    alone = run_baseline("local-only", wanted(sites, "local-only"), sites, tmp_path / "alone", progress=said.append)
    assert [str(event) for event in said] == [
        f"{name}: trained alone, site {number} of 4" for number, name in enumerate(sorted(sites), start=1)
    ]
    for key, chosen in alone.final.items():
        states = {}
        for name, path in sites.items():
            place = path.parent / "state" / "runs" / alone.run.id / f"personal-{key}.safetensors"
            page = place.with_name(f"report-{key}.html")
            assert (place.stat().st_mode | page.stat().st_mode) & 0o077 == 0
            assert "local-only" in page.read_text(encoding="utf-8").lower()
            own, metadata = read_tensors(place)
            card = read_card(metadata, place)
            assert (card.method, list(card.training_sites)) == ("local-only", [name])
            assert len(card.preprocessing.fitted["mean"]) == 30
            states |= {f"{name}/{key}": tensor for key, tensor in own.items()}
        assert state_digest(states) == chosen.sha256


def test_centralised_is_a_plain_loop_over_all_training_cases(sites, tmp_path: Path) -> None:
    """Plain torch, with nothing of Consilia's training but the documented order of batches."""
    training = {"local_epochs": 2, "batch_size": 32, "learning_rate": 0.1, "momentum": 0.9, "weight_decay": 0.01}
    run = {"rounds": 5, "training": {**training, "learning_rate_decay": 0.5}}
    config = study_config(Study(run=run), "centralised", 3, sites)
    record = run_baseline("centralised", config, sites, tmp_path)
    data = [load_site(path, "diagnosis") for _, path in sorted(sites.items())]
    inputs, labels = (torch.cat([getattr(site.train, key) for site in data]) for key in ("inputs", "labels"))
    tried, truth = (torch.cat([getattr(site.validation, key) for site in data]) for key in ("inputs", "labels"))
    model = config.model.build(seed=3, allowed=DEFAULT_ALLOWED, folders={})
    losses = []
    for number in range(1, 6):
        rate = 0.1 * 0.5 ** (number - 1)
        optimiser = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, weight_decay=0.01)
        order = torch.Generator().manual_seed(derive_seed(3, "batches", "pooled", number))
        for batch in [part for _ in range(2) for part in torch.randperm(len(labels), generator=order).split(32)]:
            optimiser.zero_grad()
            functional.cross_entropy(model(inputs[batch]), labels[batch]).backward()
            optimiser.step()
        with torch.no_grad():
            losses.append(float(functional.cross_entropy(model(tried).double(), truth)))
    trained, _ = read_tensors(tmp_path / "global-last.safetensors")
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(trained[name], tensor, rtol=1e-4, atol=1e-6)
    # The best round is the one of lowest validation loss over the cases of all sites.
    assert record.final["best"].version == 1 + int(np.argmin(losses))


def test_a_baseline_of_another_task_is_refused(sites) -> None:
    with pytest.raises(ConfigError, match="baseline ellipse is for segmentation, the run is a classification"):
        run_baseline("ellipse", wanted(sites, "ellipse"), sites)
    segmented = wanted(sites, "linear").model_copy(update={"task": "segmentation"})
    with pytest.raises(ConfigError, match="baseline linear is for classification, the run is a segmentation"):
        run_baseline("linear", segmented, sites)


def test_a_study_that_names_no_baselines_has_those_of_its_task(sites) -> None:
    assert baselines_of(Study(), sites) == ("centralised", "local-only", "linear", "majority")
    segmented = Study(run={"dataset": "diagnosis", "task": "segmentation"})
    assert baselines_of(segmented, sites) == ("centralised", "local-only", "filled-box", "ellipse")
    assert baselines_of(Study(baselines=("majority",)), sites) == ("majority",)
