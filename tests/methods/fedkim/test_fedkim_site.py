"""FedKIM at a site, and how the server checks and averages what sites with unlike tasks send."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from consilia.aggregation import mean_of_updates
from consilia.core.determinism import state_digest
from consilia.core.errors import ConfigError, UpdateRejected
from consilia.data.dataset import DatasetSplits, SiteData, Split, empty_split
from consilia.data.limits import RESEARCH_LIMITS
from consilia.evaluation.classification import classification_metrics, combined_metrics
from consilia.federation.site_evaluation import SiteEvaluation
from consilia.federation.site_store import SiteStore
from consilia.methods import Batch, ClientContext, Round, TrainingConfig, UpdateMetadata
from consilia.methods.fedkim import injected
from consilia.methods.fedkim import server as module
from consilia.methods.fedkim.client import FedKIMClient
from consilia.methods.fedkim.method import FedKIM
from consilia.methods.fedkim.owners import owners
from consilia.methods.fedkim.server import FedKIMServer
from consilia.methods.tasks.classification import LOGITS
from consilia.models.exchange import exchanged_state
from consilia.record.schema import Metrics
from tests.methods.fedkim.clinic import (
    context,
    extractor,
    language_model,
    server_cases,
    settings,
    several,
    split,
    task_definitions,
    training_cases,
)

TRAINING = TrainingConfig(local_epochs=2, batch_size=4, learning_rate=0.1, device="cpu")


def learner(site: Any, training: TrainingConfig = TRAINING, **changed: Any) -> FedKIMClient:
    return FedKIM(settings(**changed)).client(ClientContext(extractor(), site, training, 1))


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FedKIMServer:
    monkeypatch.setattr(module, "load_server_cases", lambda path, task_definitions: server_cases())
    monkeypatch.setattr(injected, "load_language_model", lambda *_, dtype, **__: language_model(dtype))
    return FedKIMServer(FedKIM(settings()), context(tmp_path))


def start() -> dict[str, torch.Tensor]:
    return exchanged_state(extractor())


def parts(names: Any) -> set[str]:
    return {".".join(name.split(".")[:2]) for name in names}


# ---- the site ------------------------------------------------------------------------------------------------------


def test_augmentation_changes_the_images_alone_and_the_log_says_which(caplog) -> None:
    site, training = several(mass=6, kidney=5), TrainingConfig(batch_size=4, device="cpu", augmentation="images")
    own = learner(site, training)
    with caplog.at_level(logging.INFO):
        own.check_model()
        learner(several(kidney=5), training).check_model()
    assert "changes images: those of mass; kidney stay as they are" in caplog.text
    assert "changes images: those of no dataset; kidney stay as they are" in caplog.text
    seen = {"kidney": 0, "mass": 0}
    for batch in own.batches(torch.Generator().manual_seed(1), own.augmentation.transform(1, 0)):
        originals = site.datasets[batch.dataset].train.inputs
        same = [any(torch.equal(case, original) for original in originals) for case in batch.inputs]
        assert same == [batch.dataset == "kidney"] * len(batch)
        seen[batch.dataset] += len(batch)
    assert seen == {"kidney": 5, "mass": 6}


def test_an_update_holds_encoders_and_heads_of_the_sites_tasks_alone() -> None:
    update = learner(several(mass=6)).train(Round(1, start()))
    assert parts(update.state) == {"encoders.image", "heads.mass"}
    assert update.cases == 6
    both = learner(several(mass=6, kidney=5)).train(Round(1, start()))
    assert parts(both.state) == {"encoders.image", "encoders.vitals", "encoders.labs", "heads.mass", "heads.kidney"}
    assert both.cases == 11
    reference = start()
    assert not [name for name, tensor in both.state.items() if tensor.shape != reference[name].shape]


def test_a_task_without_training_cases_is_not_sent(server) -> None:
    """It is tested at this site alone; the server expects nothing of it."""
    site = several(mass=6, kidney=0)
    update = learner(site).train(Round(1, start()))
    assert parts(update.state) == {"encoders.image", "heads.mass"}
    claim = UpdateMetadata(update.cases, datasets=training_cases(site))
    server.check(update.state, {}, claim, reference=start(), max_norm=None)


def test_what_other_sites_train_is_left_untouched() -> None:
    own = learner(several(mass=6))
    own.train(Round(1, start()))
    after, before = own.model.state_dict(), start()
    changed = {name for name in before if not torch.equal(after[name], before[name])}
    assert parts(changed) == {"encoders.image", "heads.mass"}
    table = extractor().state_dict()
    assert all(torch.equal(after[name], table[name]) for name in after if "table" in name)


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_the_same_round_gives_the_same_bytes(optimiser: Any) -> None:
    training = TRAINING.model_copy(update={"optimiser": optimiser})
    digests = [
        state_digest(learner(several(mass=6, kidney=5), training).train(Round(r, start())).state) for r in (1, 1, 2)
    ]
    assert digests[0] == digests[1] != digests[2]


def test_one_batch_is_cross_entropy_and_the_proximal_term() -> None:
    own = learner(several(mass=4), mu=0.5)
    own.load(start())
    own._anchor = own.copy_of_parameters()
    found = split("mass", 4)
    with torch.no_grad():
        names = [name for name, _ in own.model.named_parameters() if parts([name]) <= {"encoders.image", "heads.mass"}]
        changed = dict(own.model.named_parameters())
        for name in names:
            changed[name].add_(0.1)
        changed["heads.kidney.0.bias"].add_(100.0)  # of no task of this site
        moved = sum(changed[name].numel() for name in names) * 0.01
        own.model.eval()
        loss = own.loss(Batch(found.inputs, found.labels, "mass"))
        plain = functional.cross_entropy(own.model(found.inputs, "mass"), found.labels)
    assert float(loss - plain) == pytest.approx(0.25 * moved, rel=1e-4)


def test_class_weights_are_those_of_each_task() -> None:
    site = several(mass=4, kidney=5)
    for task, labels in (("mass", [0, 0, 0, 1]), ("kidney", [0, 1, 1, 1, 1])):
        site.datasets[task].train.labels.copy_(torch.tensor(labels))
    own = learner(site, TRAINING.model_copy(update={"class_weights": "balanced"}))
    own.model.eval()
    # n / (2 n_c): 4 / 6 and 4 / 2; 5 / 2 and 5 / 8.
    for task, weights in (("mass", [2 / 3, 2]), ("kidney", [2.5, 0.625])):
        train = site.datasets[task].train
        losses = functional.cross_entropy(own.model(train.inputs, task), train.labels, reduction="none")
        each = torch.tensor(weights)[train.labels]
        expected = float((each * losses).sum() / each.sum())
        assert float(own.loss(Batch(train.inputs, train.labels, task))) == pytest.approx(expected, rel=1e-5)


def test_the_proximal_term_pulls_towards_the_global_model() -> None:
    def moved(mu: float) -> float:
        update = learner(several(mass=8, kidney=6), mu=mu).train(Round(1, start()))
        return float(sum((t - start()[name]).square().sum() for name, t in update.state.items()))

    assert moved(5.0) < 0.5 * moved(0.0)


def test_training_learns_several_tasks_at_once() -> None:
    site = several(mass=16, size=16)
    for task in site.datasets:
        train = site.datasets[task].train
        train.inputs.add_(2.0 * (train.labels * 2 - 1)[:, None, None, None])
    own = learner(site, TRAINING.model_copy(update={"local_epochs": 25}))
    update = own.train(Round(1, start()))
    assert update.fields["train_loss"] < 0.2
    for task, dataset in site.datasets.items():
        assert (own.predict(dataset.train, task)[LOGITS].argmax(dim=1) == dataset.train.labels).all()


def test_an_epochs_loss_is_the_mean_over_cases() -> None:
    slow = TRAINING.model_copy(update={"local_epochs": 1, "learning_rate": 1e-12})
    site = several(mass=6, kidney=3)
    own = learner(site, slow)
    reported = own.train(Round(1, start())).fields["train_loss"]
    twin = extractor()
    twin.load_state_dict(start(), strict=False)
    # In training mode the series encoders have dropout: look at the image task alone, and bound the other.
    alone = learner(several(mass=6), slow).train(Round(1, start())).fields["train_loss"]
    found = split("mass", 6)
    with torch.no_grad():
        expected = float(functional.cross_entropy(twin(found.inputs, "mass"), found.labels))
    assert alone == pytest.approx(expected, rel=1e-5)
    other = (reported * 9 - alone * 6) / 3
    assert 0 < other < 5


def test_metrics_of_several_tasks(tmp_path: Path) -> None:
    site = several(mass=6, kidney=5)
    own = learner(site)
    evaluation = SiteEvaluation(own, own.method, site, SiteStore(tmp_path), RESEARCH_LIMITS)
    metrics, predictions = evaluation.metrics("global", version=1)
    shapes = {task: tuple(found[LOGITS].shape) for task, found in predictions.items()}
    assert shapes == {"mass": (3, 2), "kidney": (3, 2)}
    single = {
        task: classification_metrics(predictions[task][LOGITS], site.datasets[task].test.labels) for task in predictions
    }
    assert metrics.test == Metrics.model_validate(combined_metrics(single))
    assert metrics.test is not None
    assert (metrics.test.count, metrics.test.negative_flips) == (6, None)
    assert metrics.validation is None
    empty = site.datasets["mass"].validation
    assert tuple(own.predict(empty, "mass")[LOGITS].shape) == (0, 2)


def test_inputs_that_an_encoder_does_not_take_are_told_before_the_run() -> None:
    learner(several(mass=4, kidney=4)).check_model()
    odd = several(mass=4)
    wrong = Split(torch.zeros(4, 3, 8, 8), torch.zeros(4, dtype=torch.int64), tuple("abcd"))
    site = {"mass": DatasetSplits(("no", "yes"), wrong, empty_split(wrong.inputs), wrong)}
    with pytest.raises(ConfigError, match=r"\(1, 3, 8, 8\): images have 3 channels"):
        learner(SiteData("a", site, odd.trained_together)).check_model()


# ---- who owns what -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("encoders.image.vit.norm.weight", ("mass", "size")),
        ("encoders.labs.embed.bias", ("kidney",)),
        ("encoders.table.layers.0.weight", ()),
        ("heads.size.0.weight", ("size",)),
        ("width", ()),
    ],
)
def test_owners(name: str, expected: tuple[str, ...]) -> None:
    assert owners(name, task_definitions()) == expected


# ---- the server ----------------------------------------------------------------------------------------------------

CLAIM = UpdateMetadata(6, datasets={"mass": 6})


def sent(*wanted: str) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in start().items() if parts([name]) <= set(wanted)}


def test_an_update_must_hold_what_the_sites_tasks_train(server) -> None:
    reference = start()
    good = sent("encoders.image", "heads.mass")
    server.check(good, {}, CLAIM, reference=reference, max_norm=0.0)
    with pytest.raises(UpdateRejected, match=r"missing tensor 'heads\.mass\.0\.bias'"):
        server.check(sent("encoders.image"), {}, CLAIM, reference=reference, max_norm=None)
    with pytest.raises(UpdateRejected, match=r"extra tensor 'heads\.size"):
        server.check({**good, **sent("heads.size")}, {}, CLAIM, reference=reference, max_norm=None)
    with pytest.raises(UpdateRejected, match=r"extra tensor 'encoders\.labs"):
        server.check({**good, **sent("encoders.labs")}, {}, CLAIM, reference=reference, max_norm=None)
    moved = {**good, "heads.mass.2.bias": good["heads.mass.2.bias"] + 3.0}
    with pytest.raises(UpdateRejected, match="norm of the change"):
        server.check(moved, {}, CLAIM, reference=reference, max_norm=4.0)  # 3 sqrt 2
    with pytest.raises(UpdateRejected, match="extra tensor"):
        server.check(good, {}, UpdateMetadata(6), reference=reference, max_norm=None)


def test_each_tensor_is_weighed_by_the_cases_of_the_tasks_that_read_it(server) -> None:
    previous = start()
    claims = {
        "a": UpdateMetadata(40, datasets={"mass": 10, "size": 20, "kidney": 10}),
        "b": UpdateMetadata(20, datasets={"mass": 10, "kidney": 10}),
        "c": UpdateMetadata(90, datasets={"size": 90}),
    }
    values = {"a": 1.0, "b": 2.0, "c": 4.0}
    updates = {
        site: {
            name: torch.full_like(tensor, values[site])
            for name, tensor in previous.items()
            if set(owners(name, task_definitions())) & set(claim.datasets)
        }
        for site, claim in claims.items()
    }
    found = mean_of_updates(updates, server.weights(claims), previous)
    expected = {
        "encoders.image": (30 * 1 + 10 * 2 + 90 * 4) / 130,
        "encoders.vitals": 1.5,
        "encoders.labs": 1.5,
        "heads.mass": 1.5,
        "heads.size": (20 * 1 + 90 * 4) / 110,
        "heads.kidney": 1.5,
    }
    assert parts(found) == set(expected)
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, torch.full_like(tensor, expected[next(iter(parts([name])))]))


def test_what_no_site_of_the_round_trains_stays(server) -> None:
    previous = start()
    mass = sent("encoders.image", "heads.mass")
    update = {name: tensor + 1 for name, tensor in mass.items()}
    found = mean_of_updates({"a": update}, server.weights({"a": CLAIM}), previous)
    for name, tensor in previous.items():
        assert torch.equal(found[name], tensor + 1 if name in mass else tensor)
