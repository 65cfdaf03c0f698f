"""One of five sites sends poison: what the robust rules save, what they cost, and that every method can have them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks.poisoning import CULPRIT, NOISE, POISONS, RULES, Poison, outcome, settings, shown, write_sites
from consilia.aggregation.norm import change_norm
from consilia.core.errors import ConfigError
from consilia.federation.config import run_config
from consilia.federation.messages import Broadcast, Reply
from consilia.record.schema import Record
from tests.federation.support import Federation, initial_state, small

GUARDS = [rule for rule in RULES if rule != "mean"]


@pytest.fixture(scope="module")
def alike(tmp_path_factory) -> dict[bool, dict[str, Path]]:
    """Five sites of nearly alike patients; under True the culprit's labels are flipped."""
    folder = tmp_path_factory.mktemp("sites")
    return {
        flipped: write_sites(folder / str(flipped), alpha=100.0, seed=0, flipped=flipped) for flipped in (False, True)
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    "attack",
    ["none", "sign flip", *(pytest.param(name, marks=pytest.mark.long) for name in ("scaled noise", "label flip"))],
)
def test_a_guarded_run_keeps_its_accuracy(alike, tmp_path, attack) -> None:
    poison = POISONS[attack]
    found = {
        (method, rule): outcome(
            settings(method, rule, seed=0, rounds=4), alike[poison.flipped], tmp_path / method / rule, poison
        )
        for method, rule in [*(("fedavg", rule) for rule in RULES), ("fedkper", "mean"), ("fedkper", "trimmed mean")]
    }
    guarded = [accuracy for (_, rule), accuracy in found.items() if rule != "mean"]
    assert None not in guarded
    assert min(guarded) > 0.9
    plain = [found["fedavg", "mean"], found["fedkper", "mean"]]
    if attack == "sign flip":
        # What has failed has saved nothing either.
        assert all(accuracy is None or accuracy < 0.75 for accuracy in plain)
    if attack == "none":
        # What the guards cost where sites are alike.
        assert max(*guarded, *plain) - min(guarded) < 0.05


class OneRound:
    """The first round of a run with a poisoned site: its record, the global model before and after, honest updates."""

    def __init__(self, method: str, rule: str, sites: dict[str, Path], folder: Path, poison: Poison) -> None:
        config = settings(method, rule, seed=0, rounds=1)
        self.before = initial_state(config)
        self.honest: dict[str, dict[str, torch.Tensor]] = {}
        federation = Federation(config, sites, folder)

        def bend(site: str, task: Broadcast, reply: Reply) -> Reply:
            if site == CULPRIT:
                return poison.bend(task, reply)
            if task.request.kind == "train":
                self.honest[site] = dict(reply.tensors)
            return reply

        federation.bend = bend
        self.record: Record = federation.rounds()
        self.after = dict(federation.coordinator.state)

    def beyond_the_honest(self) -> int:
        """How many elements of the new model lie outside the honest updates' range."""
        count = 0
        for name, value in self.after.items():
            stack = torch.stack([update[name] for update in self.honest.values()])
            count += int(((value < stack.amin(dim=0)) | (value > stack.amax(dim=0))).sum())
        return count


def test_noise_moves_the_mean_far_and_no_guarded_model_further_than_the_honest(alike, tmp_path) -> None:
    found = {
        rule: OneRound("fedavg", rule, alike[False], tmp_path / rule, POISONS["scaled noise"])
        for rule in ("mean", *GUARDS)
    }
    moved = {rule: change_norm(run.after, run.before) for rule, run in found.items()}
    honest = sorted(change_norm(update, found["mean"].before) for update in found["mean"].honest.values())
    # About a fifth of the noise, in a direction of its own.
    assert moved["mean"] > 0.15 * NOISE
    assert honest[-1] < 0.05 * NOISE
    assert found["mean"].beyond_the_honest() > 100
    assert found["median"].beyond_the_honest() == found["trimmed mean"].beyond_the_honest() == 0
    # With the culprit's the largest of five norms, their median is the third of the honest four.
    assert moved["clipped mean"] <= honest[2]
    told = found["clipped mean"].record.rounds[0].contributions
    clipped = {site: contribution.clipped for site, contribution in told.items() if contribution.clipped is not None}
    assert len(clipped) == 2
    assert clipped[CULPRIT] == pytest.approx(honest[2] / NOISE, rel=1e-5)
    assert all(part.clipped is None for part in found["mean"].record.rounds[0].contributions.values())


def test_a_lying_score_is_bounded_by_the_trimmed_mean(alike, tmp_path) -> None:
    found = {
        rule: OneRound("fedkper", rule, alike[False], tmp_path / rule, POISONS["sign flip, score 1"])
        for rule in ("mean", "trimmed mean")
    }
    for run in found.values():
        told = run.record.rounds[0].contributions
        assert told[CULPRIT].fields["weight"] == 1.0
        assert max(told, key=lambda site: told[site].weight) == CULPRIT
    assert found["mean"].beyond_the_honest() > 100
    assert found["trimmed mean"].beyond_the_honest() == 0


def test_a_run_is_named_by_what_differs_from_the_defaults() -> None:
    assert small(robust={"rule": "mean", "clip_norm": None}).run_id == small().run_id
    guarded = small(robust={"rule": "trimmed_mean", "trim": 0.25, "clip_norm": "median"})
    assert guarded.to_json()["robust"] == {"rule": "trimmed_mean", "trim": 0.25, "clip_norm": "median"}
    again = run_config(json.loads(json.dumps(guarded.to_json())))
    assert (again.robust, again.run_id) == (guarded.robust, guarded.run_id)
    assert len({guarded.run_id, small().run_id, small(robust={"rule": "median"}).run_id}) == 3


@pytest.mark.parametrize(
    ("robust", "message"),
    [
        ({"trim": 0.1}, "trim is of rule trimmed_mean, the rule is mean"),
        ({"rule": "trimmed_mean", "trim": 0.5}, "robust.trim: .*less than 0.5; got 0.5"),
        ({"rule": "krum"}, "robust.rule: .*got 'krum'"),
        ({"clip_norm": 0}, "robust.clip_norm.* greater than 0; got 0"),
        ({"clip_norm": "mean"}, "robust.clip_norm.*got 'mean'"),
        ({"clip": 3}, "robust.clip: "),
    ],
)
def test_a_bad_setting_is_named(robust, message) -> None:
    with pytest.raises(ConfigError, match=message):
        small(robust=robust)


def test_a_cell_of_the_table_hides_no_failed_run() -> None:
    assert shown([0.9]) == "90.0"
    assert shown([0.5, 0.7]) == "60.0 ± 14.1"  # 0.1 sqrt 2
    assert shown([0.9, None, None]) == "2 of 3 fail"
