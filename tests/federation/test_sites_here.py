"""Of very many sites only a few are open at a time; the run is the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from consilia.federation import sites_here
from consilia.federation.inprocess import run_inprocess
from consilia.federation.server_settings import ServerSettings
from consilia.simulation.federation import load_federation
from tests.federation.support import MLP, small, without_clocks


def test_sites_that_are_closed_and_opened_again_give_the_same_bytes(
    wisconsin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, server = small("fedkper", participation=0.5), ServerSettings(allow_models=(MLP,))
    found = []
    for many in (sites_here.MANY, 2):
        monkeypatch.setattr(sites_here, "MANY", many)
        monkeypatch.setattr(sites_here, "OPEN", 1)
        place = tmp_path / str(many)
        record = run_inprocess(config, wisconsin, place, server=server, pages=False)
        found.append((without_clocks(record), (place / "global-last.safetensors").read_bytes()))
    assert found[0] == found[1]


def test_no_more_than_so_many_are_open(wisconsin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sites_here, "MANY", 2)
    monkeypatch.setattr(sites_here, "OPEN", 2)
    sites = sites_here.SitesHere(small(), wisconsin)
    first = sites.site("hospital-1")
    sites.site("hospital-2")
    assert sites.site("hospital-1") is first
    sites.site("hospital-3")
    assert sites.site("hospital-1") is first
    assert sorted(sites._sites) == ["hospital-1", "hospital-3"]


def test_sampled_sites_alone_evaluate_while_the_rounds_go_on(tmp_path: Path) -> None:
    wisconsin = load_federation("wisconsin", tmp_path / "sites", leave_out="hospital-4")
    settings: dict[str, Any] = {"participation": 0.5, "min_sites": 1, "rounds": 4, "test_only_sites": ["hospital-4"]}
    server, found = ServerSettings(allow_models=(MLP,)), {}
    for who in ("all", "sampled"):
        chosen = small("fedavg", evaluate_at=who, **settings)
        found[who] = run_inprocess(chosen, wisconsin, tmp_path / who, server=server, pages=False)
    for everybody, some in zip(found["all"].rounds, found["sampled"].rounds, strict=True):
        assert some.participants == everybody.participants
        assert some.sha256 == everybody.sha256
    # The model before round n is evaluated in it; the one after the last round by everybody.
    asked = [{*done.participants, "hospital-4"} for done in found["all"].rounds]
    for who, during in (("all", [set(wisconsin)] * 4), ("sampled", asked)):
        evaluations = [one for one in found[who].evaluations if one.model == "global"]
        assert [set(one.sites) for one in evaluations] == [*during, set(wisconsin)]
    assert set(found["sampled"].final["last"].global_) == set(wisconsin)
