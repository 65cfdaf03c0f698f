"""A number that a method declares in one line arrives in manifest, record, TensorBoard and report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from consilia.federation.config import RunConfig
from consilia.federation.inprocess import run_inprocess
from consilia.federation.release_manifest import manifest_of
from consilia.federation.server_settings import own_server
from consilia.record.files import load_record
from consilia.record.schema import Record
from consilia.report.tensorboard import scalars
from tests.federation.support import model_of, small
from tests.methods.plugins import plugin

WATCHED = """
from consilia.methods import Client, Method, ReplyField


class WatchedClient(Client):
    def train(self, round_):
        self.load(round_.state)
        return self.update(self.fit(round_), fields={"warmth": round_.number / 8})


class Watched(Method):
    name = "watched"

    def fields(self):
        return (ReplyField("warmth", "how warm it is", 0.0, 1.0, "Warmth of the site"),)

    def client(self, context):
        return WatchedClient(self, context)
"""


def run(config: RunConfig, sites: Mapping[str, Path], folder: Path) -> Record:
    return run_inprocess(config, sites, folder, server=own_server(config, sites))


def test_a_declared_number_arrives_everywhere(wisconsin: dict[str, Path], tmp_path: Path) -> None:
    file = tmp_path / "watched.py"
    file.write_text(WATCHED)
    with plugin(file):
        config = small("watched", rounds=2)
        manifest = manifest_of(config, model_of(config))
        run(config, wisconsin, tmp_path / "run")
    assert manifest.fields["train"]["fields.warmth"] == "number"
    record = load_record(tmp_path / "run" / "result.json")
    assert record.fields["warmth"].model_dump() == {"heading": "Warmth of the site", "meaning": "how warm it is"}
    assert [{part.fields["warmth"] for part in one.contributions.values()} for one in record.rounds] == [
        {0.125},
        {0.25},
    ]
    site = min(wisconsin)
    assert [one[1:] for one in scalars(record) if one[0] == f"fields/warmth/{site}"] == [(1, 0.125), (2, 0.25)]
    assert "Warmth of the site" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.slow
def test_the_accuracy_on_validation_cases_that_fedkper_weighs_by_arrives(
    wisconsin: dict[str, Path], tmp_path: Path
) -> None:
    config = small({"method": "fedkper", "reliability": "validation"}, rounds=1)
    (part,) = run(config, wisconsin, tmp_path / "run").rounds
    for site, contribution in part.contributions.items():
        assert set(contribution.fields) == {"train_loss", "validation_accuracy", "weight"}, site
        # s_k = a_k (d_k + 1e-6), with an evenness d_k of the labels between 0 and 1.
        assert 0 < contribution.fields["weight"] <= contribution.fields["validation_accuracy"] * (1 + 1e-6)


@pytest.mark.slow
def test_every_site_has_its_metrics_of_every_round(wisconsin: dict[str, Path], tmp_path: Path) -> None:
    run(small("fedavg", rounds=3), wisconsin, tmp_path / "run")
    record = load_record(tmp_path / "run" / "result.json")
    found = {(one.version, one.model): set(one.sites) for one in record.evaluations}
    versions = [*((version, "global") for version in range(4)), *((version, "personal") for version in (1, 2, 3))]
    assert found == {key: set(wisconsin) for key in versions}
