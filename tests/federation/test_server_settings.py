"""server.yaml."""

from __future__ import annotations

import pytest

from consilia.core.errors import ConfigError
from consilia.data.check import check_site
from consilia.federation.server_settings import load_server_settings
from tests.conftest import REPOSITORY

EXAMPLE = REPOSITORY / "site_configs" / "example"


def test_only_the_jobs_number_can_stand_in_the_folders_name(tmp_path) -> None:
    (tmp_path / "server.yaml").write_text("state_dir: runs/{job_id}\n")
    folder = load_server_settings(tmp_path / "server.yaml").run_folder("j1", tmp_path)
    assert folder == tmp_path / "runs" / "j1"
    (tmp_path / "server.yaml").write_text("state_dir: runs/{run_id}\n")
    with pytest.raises(ConfigError, match=r"server.yaml(?s:.*)state_dir(?s:.*)knows \{job_id\} only"):
        load_server_settings(tmp_path / "server.yaml")


def test_a_misspelt_key_is_named(tmp_path) -> None:
    (tmp_path / "server.yaml").write_text("allow_model: [x.Y]\n")
    with pytest.raises(ConfigError, match=r"server.yaml(?s:.*)allow_model"):
        load_server_settings(tmp_path / "server.yaml")


def test_the_shipped_examples_are_valid() -> None:
    assert "consilia.models.mlp.MLP" in load_server_settings(EXAMPLE / "server.yaml").allow_models
    before = sorted(EXAMPLE.rglob("*"))
    (report,) = check_site(EXAMPLE / "site.yaml")
    assert (report.errors, report.cases, report.patients) == ([], 40, 36)
    assert sorted(EXAMPLE.rglob("*")) == before
