"""Installing into really provisioned kits; NVFlare's own parsers say what the result means."""

from __future__ import annotations

import json
import os
import re
import stat
from pathlib import Path

import pytest
import yaml

from consilia.core.errors import ConfigError
from consilia.data.limits import SiteLimits
from consilia.data.site import load_site_config
from consilia.deploy.install import plan as install_module
from consilia.deploy.install.plan import RECORD, install, plan_installation, uninstall
from consilia.deploy.kit import Kit
from tests.deploy_units.kits import EXAMPLE, contents, done, kit_of, read, site_yaml, write

POLICIES = ("resources.json", "privacy.json", "authorization.json", "comm_config.json")


def test_a_second_installation_changes_nothing(site: Kit, tmp_path: Path) -> None:
    config = site_yaml(tmp_path / "data")
    done(site, config)
    before = contents(site)
    assert plan_installation(site, config).changes == ()
    done(site, config)
    assert contents(site) == before


def test_undo_gives_back_the_same_bytes_and_modes(site: Kit, tmp_path: Path) -> None:
    own = write(site, "authorization.json", json.loads((site.local / "authorization.json.default").read_text()))
    own.chmod(0o640)
    before = contents(site)
    done(site, site_yaml(tmp_path / "data"))
    assert stat.S_IMODE(own.stat().st_mode) == 0o640
    assert stat.S_IMODE((site.local / RECORD).stat().st_mode) == 0o600
    undone = uninstall(site)
    assert contents(site) == before
    assert not (site.local / RECORD).parent.exists()
    assert [path.name for path in undone.restored] == ["authorization.json"]
    assert sorted(path.name for path in undone.removed) == [
        "comm_config.json",
        "privacy.json",
        "resources.json",
        "site.yaml",
    ]
    with pytest.raises(ConfigError, match="nothing to undo"):
        uninstall(site)


def test_undo_keeps_what_was_edited_by_hand_also_before_a_second_installation(site: Kit, tmp_path: Path) -> None:
    done(site, site_yaml(tmp_path / "data"))
    edited = site.local / "site.yaml"
    edited.write_text(edited.read_text() + "# by hand\n")
    resources = read(site, "resources.json")
    write(site, "resources.json", {**resources, "allow_log_streaming": True})
    done(site)  # writes resources.json again
    undone = uninstall(site)
    assert sorted(path.name for path in undone.edited) == ["resources.json", "site.yaml"]
    assert edited.read_text().endswith("# by hand\n")
    assert read(site, "resources.json")["allow_log_streaming"] is False


def test_an_installation_that_was_cut_short_can_be_undone(site: Kit) -> None:
    # A folder in the place of the second file: it cannot be written, the first one is.
    (site.local / "privacy.json").mkdir()
    before = contents(site)
    with pytest.raises(OSError, match=r"privacy\.json"):
        done(site)
    assert (site.local / "resources.json").is_file()
    assert [path.name for path in uninstall(site).removed] == ["resources.json"]
    assert contents(site) == before


def test_one_that_was_cut_short_and_done_again_can_be_undone_to_what_was_there_first(site: Kit) -> None:
    own = {"scopes": [{"name": "ours"}], "default_scope": "ours"}
    write(site, "privacy.json", own)
    before = contents(site)
    plan = plan_installation(site)
    with pytest.MonkeyPatch.context() as patch:
        whole = install_module._write

        def full(path: Path, content: bytes, mode: int) -> None:
            if path.name == "privacy.json":
                raise OSError(28, "No space left on device", str(path))
            whole(path, content, mode)

        patch.setattr(install_module, "_write", full)
        with pytest.raises(OSError, match="No space left"):
            install(plan)
    done(site)
    assert read(site, "privacy.json") != own
    assert uninstall(site).edited == ()
    assert contents(site) == before


def test_paths_in_site_yaml_mean_the_same_place(site: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", "visits.csv")
    source = site_yaml(tmp_path / "da ta")
    source.write_text(
        source.read_text().replace("file: visits.csv", "file: ${HERE}").replace("state_dir: state  ", "#")
    )
    assert "state_dir" not in yaml.safe_load(source.read_text())
    done(site, source)
    installed = site.local / "site.yaml"
    assert load_site_config(installed) == load_site_config(source)
    assert load_site_config(installed).state_dir == tmp_path / "da ta" / "state"
    text = installed.read_text()
    assert f'"{tmp_path}/da ta/${{HERE}}"' in text, "a variable stays a variable"
    assert "# all visits of a patient go to the same split" in text
    assert str(tmp_path) not in yaml.safe_load(text)["site"]


def test_a_config_for_another_site_or_over_somebodys_own_is_refused(site: Kit, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is for site 'other', the kit .* is of 'hospital-1'"):
        plan_installation(site, site_yaml(tmp_path / "other", "other"))
    mine = site.local / "site.yaml"
    mine.write_text("site: hospital-1\n")
    with pytest.raises(ConfigError, match=r"is there already and differs"):
        plan_installation(site, site_yaml(tmp_path / "data"))
    mine.unlink()
    done(site, site_yaml(tmp_path / "data"))
    # What an installation wrote may be replaced by the next one.
    done(site, site_yaml(tmp_path / "data", more="\n# changed\n"))
    assert "# changed" in mine.read_text()


def test_damaged_policies_and_other_kits_are_named(site: Kit, tmp_path: Path) -> None:
    path = site.local / "privacy.json"
    path.write_text('{"scopes": [')
    with pytest.raises(ConfigError, match=r"privacy\.json: cannot be read as JSON"):
        plan_installation(site)
    path.write_text('{"scopes": {"name": "x"}}')
    with pytest.raises(ConfigError, match=r"privacy\.json: key 'scopes': expected a list of objects"):
        plan_installation(site)
    with pytest.raises(ConfigError, match="administrator's kit"):
        plan_installation(kit_of("admin@consortium.org", tmp_path))


def test_server_yaml_is_installed(server: Kit, tmp_path: Path) -> None:
    source = tmp_path / "server.yaml"
    source.write_text("# kept\nstate_dir: runs/{job_id}\n")
    done(server, source)
    assert (server.local / "server.yaml").read_text() == f'# kept\nstate_dir: "{tmp_path}/runs/{{job_id}}"\n'


def test_the_shipped_example_is_what_install_writes(tmp_path: Path) -> None:
    kit = kit_of("example-hospital", tmp_path)
    done(kit, EXAMPLE / "site.yaml")
    for name in POLICIES:
        made, shipped = kit.local / name, EXAMPLE / "local" / name
        assert made.read_text() == shipped.read_text(), f"stale: cp {made} {shipped}"
    assert sorted(path.name for path in (EXAMPLE / "local").iterdir()) == sorted(POLICIES)


@pytest.mark.skipif(os.geteuid() != 0, reason="of root only")
def test_a_site_yaml_without_limits_is_installed_with_the_defaults_in_sight(site: Kit, tmp_path: Path) -> None:
    source = site_yaml(tmp_path / "data")
    text = re.sub(r"(?m)^limits:\n(  .*\n)+", "", source.read_text())
    assert "limits:" not in text
    source.write_text(text)
    done(site, source)
    installed = site.local / "site.yaml"
    assert "\nlimits:\n  max_rounds: 200\n" in installed.read_text()
    assert "  max_model_bytes: 2 GB\n" in installed.read_text()
    assert load_site_config(installed).limits == SiteLimits()


@pytest.mark.parametrize("name", ["site.yaml", "resources.json", ".consilia"])
def test_root_does_not_follow_a_link_out_of_local(site: Kit, tmp_path: Path, name: str) -> None:
    config, target = site_yaml(tmp_path / "data"), tmp_path / "elsewhere"
    (site.local / name).symlink_to(target)
    plan = plan_installation(site, config)
    with pytest.raises(ConfigError, match=rf"{name}.* leads to {target}.*, outside .*: root does not write there"):
        install(plan)
    assert not target.exists()
    assert not (site.local / "privacy.json").exists()
    (site.local / name).unlink()
    install(plan)
    (site.local / "privacy.json").unlink()
    target.write_text("of somebody else")
    (site.local / "privacy.json").symlink_to(target)
    with pytest.raises(ConfigError, match="root does not write there"):
        uninstall(site)
    assert target.read_text() == "of somebody else"
    assert (site.local / "site.yaml").is_file()


def test_a_link_within_local_is_followed(site: Kit, tmp_path: Path) -> None:
    target = site.local / "site-of-this-year.yaml"
    config = site_yaml(tmp_path / "data")
    (site.local / "site.yaml").symlink_to(target)
    done(site, config)
    assert (site.local / "site.yaml").is_symlink()
    assert load_site_config(target).site == "hospital-1"
