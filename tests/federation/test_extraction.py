"""What a server that chooses weights and training gets out of a site, with its limits and without."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from benchmarks.extraction import ATTACKS, TARGETS, Attack, Server, evaluated_counts, label_counts
from consilia.core.errors import LimitReached
from consilia.simulation.federation import load_federation

ONE_BATCH, *WITHIN, HONEST = ATTACKS
ONCE = [attack for attack in WITHIN if attack.updates == 1]


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """Each target's site.yaml files."""
    folder = tmp_path_factory.mktemp("sites")
    return {name: list(load_federation(target.data, folder / name).values()) for name, target in TARGETS.items()}


def server(sites: dict[str, list[Path]], attack: Attack, name: str = "mlp") -> Server:
    return Server(TARGETS[name], attack, sites[name])


@pytest.mark.parametrize("name", TARGETS)
def test_without_limits_trap_weights_get_cases_out_of_one_update(sites: dict[str, list[Path]], name: str) -> None:
    attacked, honest = (len(server(sites, attack, name).extract()) for attack in (ONE_BATCH, HONEST))
    assert attacked >= 10
    # The measure counts next to nothing where nobody attacks: a unit that one case alone has activated tells it.
    assert honest <= (2 if name == "cnn" else 0)


def test_a_site_with_the_default_limits_refuses_that_job_by_name(sites: dict[str, list[Path]]) -> None:
    training = {**ONE_BATCH.training, "batch_size": 0.5}
    with pytest.raises(LimitReached, match=r"limits\.max_learning_rate"):
        server(sites, dataclasses.replace(ONE_BATCH, training=training, limits=True)).extract()
    with pytest.raises(LimitReached, match=r"limits\.max_batch_fraction"):
        server(sites, Attack("one batch", {"batch_size": 124, "learning_rate": 1.0})).extract()
    with pytest.raises(LimitReached, match=r"limits\.max_rounds"):
        server(sites, dataclasses.replace(WITHIN[1], updates=201)).extract()


@pytest.mark.parametrize("attack", ONCE, ids=lambda attack: attack.label)
def test_what_the_limits_leave_of_trap_weights(sites: dict[str, list[Path]], attack: Attack) -> None:
    """Limits on training do not stop them, docs/limits.md says so: when this fails, the page is to be changed."""
    assert attack.limits
    assert len(server(sites, attack).extract()) >= 3


def test_the_input_of_a_networks_first_linear_layer_comes_out_as_well(sites: dict[str, list[Path]]) -> None:
    assert len(server(sites, WITHIN[1], "cnn").extract()) >= 10


def test_what_ten_updates_leave_untold(sites: dict[str, list[Path]]) -> None:
    attacked = server(sites, next(attack for attack in WITHIN if attack.updates == 10))
    assert len(attacked.extract()) > len(attacked.truth) / 2


def test_a_chosen_model_tells_the_label_counts(sites: dict[str, list[Path]]) -> None:
    for limits in (False, True):
        attacked = server(sites, Attack("labels", {"batch_size": 0.5, "learning_rate": 1e-3}, limits=limits))
        truth = attacked.site.data.train.labels.bincount(minlength=2).tolist()
        # Out of the update, whatever is said of metrics.
        assert label_counts(attacked) == pytest.approx(truth, abs=0.05)


def test_metrics_that_tell_label_counts_are_withheld_where_a_class_has_few_cases(sites: dict[str, list[Path]]) -> None:
    first, _, third, _ = sites["mlp"]
    gentle = Attack("constant", {"batch_size": 16, "learning_rate": 0.01}, updates=2)
    for limits, place, known in ((False, first, True), (True, first, False), (True, third, True)):
        attacked = Server(TARGETS["mlp"], dataclasses.replace(gentle, limits=limits), [place, first])
        truth = attacked.site.data.test.labels.bincount(minlength=2).tolist()
        assert (min(truth) < 10) == (place is first)
        assert evaluated_counts(attacked) == (truth if known else [-1, -1])
