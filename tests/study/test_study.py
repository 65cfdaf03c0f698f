"""Studies: what their data keys do everywhere, and when a kept record is this run's."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from consilia.cli.app import app
from consilia.core.errors import ConfigError, UpdateRejected
from consilia.data.loading import load_site
from consilia.data.site import load_site_config
from consilia.federation.inprocess import run_inprocess
from consilia.federation.sampling import draws
from consilia.federation.server_settings import own_server
from consilia.federation.update_validation import _check_prompts
from consilia.record.schema import SiteMetrics
from consilia.simulation import digits
from consilia.study.folder import finished
from consilia.study.study import Study, advice, embedded_studies, load_study, study_config, study_sites
from tests.conftest import REPOSITORY
from tests.federation.support import small


@pytest.fixture
def study_file(tmp_path: Path) -> Path:
    path = tmp_path / "study.yaml"
    content = {"data": "wisconsin", "leave_out": "hospital-2", "train_cases": 10, "run": {"rounds": 1}}
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.slow
def test_leave_out_and_train_cases_hold_for_every_command(study_file: Path, tmp_path: Path) -> None:
    study = load_study(study_file)
    sites = study_sites(study, tmp_path / "sites")
    assert [len(load_site(path, "diagnosis").train) for path in sites.values()] == [10, 0, 10, 10]
    assert study_config(study, "fedavg", 0, sites).test_only_sites == ("hospital-2",)
    result = CliRunner().invoke(
        app, ["run", "fedavg", "--study", str(study_file), "--engine", "inprocess", "--out", str(tmp_path / "run")]
    )
    assert result.exit_code == 0, result.output
    assert load_site_config(tmp_path / "run" / "sites" / "hospital-2" / "site.yaml").dataset("diagnosis").test_only
    result = CliRunner().invoke(app, ["export", "fedavg", "--study", str(study_file), "--out", str(tmp_path / "jobs")])
    assert result.exit_code == 0, result.output
    exported = (tmp_path / "jobs" / "fedavg" / "app" / "config" / "config_fed_server.json").read_text()
    assert '"hospital-2"' in exported


@pytest.mark.slow
def test_an_external_test_site_and_the_left_out_one_are_both_test_only(wisconsin, tmp_path: Path) -> None:
    specs = {
        name: load_site_config(path).dataset("diagnosis").model_dump(mode="json", exclude_defaults=True)
        for name, path in wisconsin.items()
    }
    federation = tmp_path / "federation.yaml"
    test_only = specs.pop("hospital-4")
    federation.write_text(yaml.safe_dump({"dataset": "diagnosis", "sites": specs, "test_only": test_only}))
    study = Study(data=str(federation), leave_out="hospital-2", run={"rounds": 1})
    sites = study_sites(study, tmp_path / "mixed")
    config = study_config(study, "fedavg", 0, sites)
    assert sorted(config.test_only_sites) == ["evaluator", "hospital-2"]
    record = run_inprocess(config, sites, tmp_path / "run", server=own_server(config, sites))
    assert record.absent == {}
    assert [name for name, site in sorted(record.sites.items()) if site.test_only] == ["evaluator", "hospital-2"]
    by_name = {"dataset": "diagnosis", "model": config.model.model_dump(mode="json", by_alias=True)}
    unread = study.model_copy(update={"run": {**study.run, **by_name}})
    assert study_config(unread, "fedavg", 0, {}).test_only_sites == (
        "hospital-2",
    )  # no site file says who else there is


def test_a_site_left_out_of_a_run_of_several_tasks_is_test_only(tmp_path: Path) -> None:
    files = {}
    for site, test_only in (("a", False), ("b", True)):
        spec = {"format": "medmnist", "file": "x.npz", "classes": ["no", "yes"], "test_only": test_only}
        files[site] = tmp_path / f"{site}.yaml"
        files[site].write_text(yaml.safe_dump({"site": site, "datasets": {"one": spec, "two": spec}}))
    study = load_study("fedkim").model_copy(update={"leave_out": "b"})
    assert study_config(study, "fedkim", 0, files).test_only_sites == ("b",)
    assert study_config(study, "fedkim", 0, {}).test_only_sites == ("b",)  # as a job


@pytest.mark.parametrize("entry", [{"method": {"mu": 0.1}}, {"rounds": 2}])
def test_an_entry_that_names_no_method_is_told_so(entry: dict[str, object]) -> None:
    study = Study(methods={"odd": entry})
    assert advice(study, ["odd"]) is not None
    with pytest.raises(ConfigError, match="method"):
        study_config(study, "odd", 0, {})


@pytest.mark.slow
def test_a_record_of_other_sites_is_not_this_runs(wisconsin, tmp_path: Path) -> None:
    config = small(rounds=1)
    two = {name: wisconsin[name] for name in ("hospital-1", "hospital-2")}
    run_inprocess(config, two, tmp_path / "run", server=own_server(config, two))
    assert finished(tmp_path / "run", config, two) is not None
    with pytest.raises(ConfigError, match=r"is of the sites \['hospital-1', 'hospital-2'\], now there are"):
        finished(tmp_path / "run", config, wisconsin)


@pytest.mark.slow
def test_an_absent_site_is_in_the_record(wisconsin, tmp_path: Path) -> None:
    """Sites that could not take part are named, and the record is still this run's."""
    config = small(rounds=1, test_only_sites=["hospital-3"])  # which has training cases, so it is left out
    record = run_inprocess(config, wisconsin, tmp_path / "run", server=own_server(config, wisconsin))
    assert list(record.absent) == ["hospital-3"]
    assert "names it as a test-only site" in record.absent["hospital-3"]
    assert finished(tmp_path / "run", config, wisconsin) is not None


def test_metrics_under_other_prompts_are_refused() -> None:
    whole = {"dice": 0.9, "iou": 0.82, "hd95": None, "missed": 0}
    metrics = {"count": 3, "empty": 0, "unit": "px", "prompts": {"image": whole}}
    with pytest.raises(
        UpdateRejected, match=r"received.test.prompts has \['image'\], expected \['box', 'image', 'jitter'\]"
    ):
        _check_prompts("received", SiteMetrics.model_validate({"validation": None, "test": metrics}))
    full = {**metrics, "prompts": dict.fromkeys(("box", "image", "jitter"), whole)}
    _check_prompts("received", SiteMetrics.model_validate({"validation": None, "test": full}))


@pytest.mark.parametrize("name", ["hospitals", "fedkim-7b"])
def test_every_method_of_the_studies_with_real_hospitals_is_a_valid_run(name: str) -> None:
    study = load_study(Path(__file__).parents[2] / "configs" / "studies" / f"{name}.yaml")
    for label in study.methods:
        config = study_config(study, label, 0, {})
        heads = config.model.args["heads"]
        assert heads["kidney-injury"] == {"modalities": ["vitals", "labs", "fluids"], "answers": 2}
        assert sorted(heads) == ["abnormal-ecg", "breast-malignancy", "kidney-injury", "pneumonia"]


def test_the_demo_samples_two_of_eight_sites_with_the_paper_s_local_training() -> None:
    study = load_study("label-skew")
    for label in ("fedavg", "fedprox", "fedkper"):
        config = study_config(study, label, 0, {})
        assert draws(list(digits.PARTITION.site_names()), config.participation) == 2
        training = config.training
        assert (training.local_epochs, training.batch_size, training.learning_rate) == (5, 12, 0.01)
    assert digits.PARTITION.alpha == 0.1


STUDIES = [*embedded_studies(), *map(str, sorted((REPOSITORY / "configs" / "studies").glob("*.yaml")))]


@pytest.mark.parametrize("source", STUDIES, ids=lambda source: Path(source).stem)
def test_every_method_of_a_shipped_study_has_a_valid_configuration(source: str) -> None:
    study = load_study(source)
    # Where the study leaves the model to the data, any will do for this.
    model = {"class": "consilia.models.mlp.MLP", "args": {"in_features": 4, "num_classes": 2}}
    # A study that leaves sites out in turn has one of them out in each of its federations.
    left_out = "hospital" if study.in_turn else study.leave_out
    named = study.model_copy(update={"run": {"model": model, **study.run}, "leave_out": left_out})
    for label in study.methods:
        assert study_config(named, label, 0, {}).label == label


def test_sites_left_out_in_turn_are_for_a_comparison() -> None:
    study = Study(leave_out=("hospital-1", "hospital-2", "hospital-1"))
    assert (study.leave_out, study.in_turn) == (("hospital-1", "hospital-2"), True)
    assert Study(leave_out=("hospital-1",)) == Study(leave_out="hospital-1")
    with pytest.raises(ConfigError, match="consilia compare leaves them out in turn"):
        study_config(study, "fedavg", 0, {})
    with pytest.raises(ConfigError, match="leave_out: expected a site, several sites, or all"):
        Study().changed(leave_out=["all", "hospital-1"])


@pytest.mark.parametrize(
    ("labels", "advised"),
    [(["fedkper"], True), (["fedkper", "plain"], False), (["fedavg", "fedkper"], False), (["majority"], False)],
)
def test_a_personal_method_without_fedavg_is_advised(labels: list[str], advised: bool) -> None:
    study = Study(methods={"plain": {"method": "fedavg"}, "fedkper": {"method": "fedkper"}})
    assert (advice(study, labels) is not None) == advised
