"""Of very many sites only a few are open at a time; the run is the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from consilia.federation import sites_here
from consilia.federation.inprocess import run_inprocess
from consilia.federation.server_settings import ServerSettings
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
