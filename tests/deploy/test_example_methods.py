"""Methods of an installed package in a provisioned federation: listed by every administrator, the bytes of the loop."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from consilia.methods import registry
from poc.local import SERVER, LocalFederation
from poc.processes import processes_of
from tests.conftest import REPOSITORY
from tests.deploy.support import approve_everywhere, assert_same, export, in_process, submit, two_sites
from tests.federation.support import MLP
from tests.methods.plugins import EXAMPLE_METHODS, EXAMPLES
from tests.methods.runs import NETWORK, kept_at, list_network, run_of

# What a site or server lists is shown without processes (tests/methods/test_registry.py); the way of a method into the
# simulator's, by a file, is in make test.
pytestmark = [pytest.mark.deploy, pytest.mark.long]

LISTED = f"allow_methods: [{', '.join(EXAMPLE_METHODS)}]\n"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The package of examples, installed in a folder of its own, which this process finds."""
    folder = tmp_path_factory.mktemp("package")
    source = shutil.copytree(EXAMPLES, folder / "source")
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--target", str(folder / "installed")]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(source)], check=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder / "installed")
        registry._installed.cache_clear()
        yield folder / "installed"
    registry._installed.cache_clear()


@pytest.fixture(scope="module")
def federation(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    folder = tmp_path_factory.mktemp("examples")
    sites = list_network(two_sites(folder / "sites"), LISTED)
    server = {"allow_methods": list(EXAMPLE_METHODS), "allow_models": [NETWORK, MLP]}
    federation = LocalFederation(folder / "federation", sites, server=server)
    # The network is the tests' own.
    path = {"PYTHONPATH": f"{package}{os.pathsep}{REPOSITORY}"}
    federation.environment = dict.fromkeys((SERVER, *sites), path)
    with federation:
        federation.provision()
        federation.install()
        federation.start()
        yield federation
    assert processes_of(federation.folder) == []


@pytest.mark.parametrize("method", EXAMPLE_METHODS)
def test_a_method_of_another_package_gives_the_bytes_of_the_loop(
    method: str, federation: LocalFederation, tmp_path: Path
) -> None:
    config = run_of(method, rounds=3, participation=1.0)
    job = export(config, tmp_path / "jobs")
    approve_everywhere(federation, job)
    run = submit(federation, job)
    record = run.record()
    assert run.comes_to_its_end()
    copies = list_network(two_sites(tmp_path / "sites"), LISTED)
    assert_same(record, in_process(config, copies, tmp_path / "loop"))
    kept = kept_at(federation.sites, config.run_id)
    assert kept == kept_at(copies, config.run_id)
    assert len(kept) >= 2 * 2
