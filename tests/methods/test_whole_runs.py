"""Runs of every method that trains any network: broken and resumed, late, checked against the manifest, sampled."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from consilia.core.determinism import state_digest
from consilia.data.site import load_site_config
from consilia.federation.messages import Broadcast, Reply
from consilia.federation.release_manifest import manifest_of
from consilia.federation.site import Site
from consilia.methods.registry import BUILT_IN, method_class
from tests.federation.support import Federation, model_of, stop_in
from tests.methods.plugins import EXAMPLE_METHODS, with_method
from tests.methods.runs import list_network, run_of

METHODS = [*(name for name in BUILT_IN if method_class(name).any_model), *EXAMPLE_METHODS]
NOTHING_AT_SITES = ("fedavg", "fedprox", "fedadam", "fedyogi", "fedadagrad", "fedkper", "qfedavg")
NOTHING_AT_ALL = ("fedavg", "fedprox", "fedkper", "qfedavg")
"""What keeps nothing of its own is broken and late in make test-long alone: FedAvg's way is tested elsewhere."""
LEFT_OUT = "hospital-4"
"""Trains nothing and is tested on."""

pytestmark = pytest.mark.slow


def each(rare: tuple[str, ...]) -> pytest.MarkDecorator:
    """Every method; some in make test-long alone."""
    found = [pytest.param(name, marks=[pytest.mark.long] if name in rare else []) for name in METHODS]
    return pytest.mark.parametrize("method", found, indirect=True)


@pytest.fixture
def method(request: pytest.FixtureRequest) -> Iterator[str]:
    with with_method(request.param):
        yield request.param


@pytest.fixture
def sites(wisconsin: dict[str, Path]) -> dict[str, Path]:
    """Three that train, and one that only tests."""
    path = wisconsin[LEFT_OUT]
    path.write_text(path.read_text().replace("format: tabular", "format: tabular\n    test_only: true"))
    return list_network(wisconsin)


def config_of(method: str, **settings: Any) -> Any:
    """Two of the three sites in a round, evaluated at the end."""
    return run_of(method, **{"test_only_sites": [LEFT_OUT], "participation": 0.67, "evaluate_every": 2, **settings})


def models(federation: Federation) -> dict[str, str]:
    """Digests of the global models, and of the client state at every site, of which its personal model is made."""
    found = {
        "last": state_digest(federation.coordinator.state),
        "best": state_digest(federation.coordinator.best.state),
    }
    for name, site in federation.sites.items():
        last, _ = federation.coordinator.participants.accepted.of(name)
        for path in site.folder.glob(f"client-{last:05d}.safetensors"):
            found[f"{name}/client"] = state_digest(load_file(path))
    return found


@each(NOTHING_AT_ALL)
# With nothing kept from before, and with states of several rounds; round 2 adds neither.
@pytest.mark.parametrize(
    "stop_after", [pytest.param(1, marks=pytest.mark.long), pytest.param(2, marks=pytest.mark.long), 3]
)
def test_killed_and_resumed_it_ends_in_the_same_bytes(
    method: str, sites: dict[str, Path], tmp_path: Path, stop_after: int
) -> None:
    config = config_of(method)
    unbroken = Federation(config, sites, tmp_path / "unbroken")
    record = unbroken.rounds()
    expected = models(unbroken)
    assert sum(name.endswith("/client") for name in expected) >= 2 * unbroken.sites["hospital-1"].client.has_state
    assert LEFT_OUT not in {site for item in record.rounds for site in item.participants}
    broken = Federation(config, sites, tmp_path / "broken")
    # One site has trained and kept its new state, which no global model will know of.
    stop_in(broken, stop_after, trained=2)
    with pytest.raises(KeyboardInterrupt):
        broken.rounds()
    again = Federation(config, sites, tmp_path / "broken")
    again.rounds()
    assert models(again) == expected


@each(NOTHING_AT_SITES)
def test_a_reply_too_late_leaves_no_trace_in_what_the_site_keeps(
    method: str, sites: dict[str, Path], tmp_path: Path
) -> None:
    """A late site's state counts as if it had not trained: equal to a run in which its reply was lost before."""

    def run(folder: Path, *, relaunched: bool) -> dict[str, str]:
        federation = Federation(config_of(method, participation=1.0), sites, folder)

        def lose(site: str, item: Broadcast, reply: Reply) -> Reply | None:
            late = item.request.kind == "train" and item.request.round == 1 and site == "hospital-1"
            if late and relaunched:
                federation.sites[site] = Site(federation.config, load_site_config(sites[site]))
            return None if late else reply

        federation.bend = lose  # type: ignore[method-assign]
        federation.rounds()
        assert federation.coordinator.recorder.rounds[1].missing == ["hospital-1"]
        return models(federation)

    assert run(tmp_path / "late", relaunched=False) == run(tmp_path / "relaunched", relaunched=True)


@each(())
def test_manifest_and_wire_are_the_same(method: str, sites: dict[str, Path], tmp_path: Path) -> None:
    config = config_of(method, rounds=1)
    federation = Federation(config, sites, tmp_path / "run")
    manifest = manifest_of(config, model_of(config))
    sent: set[str] = set()

    def look(site: str, item: Broadcast, reply: Reply) -> Reply:
        manifest.check(item.request.kind, reply.content, reply.tensors, "")
        sent.update(reply.tensors)
        return reply

    federation.bend = look  # type: ignore[method-assign]
    federation.rounds()
    assert sent == set(manifest.tensors)
