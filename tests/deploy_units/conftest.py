"""Startup kits as they were provisioned, of one site and of the server; and a site that has approved a job."""

from __future__ import annotations

from pathlib import Path

import pytest

from consilia.deploy.kit import Kit
from consilia.deploy.release_filter import approve
from tests.deploy_units.filtered import Place
from tests.deploy_units.kits import kit_of


@pytest.fixture
def site(tmp_path: Path) -> Kit:
    return kit_of("hospital-1", tmp_path)


@pytest.fixture
def server(tmp_path: Path) -> Kit:
    return kit_of("localhost", tmp_path)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    found = Place(tmp_path)
    approve(found.kit, found.job)
    return found
