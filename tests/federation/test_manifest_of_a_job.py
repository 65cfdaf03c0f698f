"""The manifest of a job: what it binds, how it is read, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from consilia.core.errors import ConfigError
from consilia.federation.config import RunConfig, run_config
from consilia.federation.release_fields import asked_of
from consilia.federation.release_manifest import Manifest, checked_job, manifest_of, read_manifest
from consilia.methods.config import TrainingConfig
from consilia.models.exchange import ModelSize
from tests.federation.clinics import clinics_config
from tests.federation.support import model_of, small, write_job


def test_the_digest_is_of_the_content_and_not_of_its_order() -> None:
    config = small()
    model = model_of(config)
    manifest = manifest_of(config, model)
    written = manifest.to_json()
    assert written["tensors"][0] == "layers.0.bias: float32[8]"
    assert "fields.train_loss: number" in written["fields"]["train"]
    fields = {task: lines[::-1] for task, lines in reversed(written["fields"].items())}
    asked = written["asked"][::-1]
    turned = {**written, "asked": asked, "tensors": written["tensors"][::-1], "fields": fields}
    assert manifest.digest == Manifest.model_validate(turned).digest
    assert manifest.digest != manifest_of(small(exchange_dtype="float16"), model).digest
    assert manifest.digest != manifest_of(small(dataset="prognosis"), model).digest
    assert len(manifest.digest) == len("sha256:") + 64


def changed(settings: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A configuration with another value at a path."""
    first, _, rest = path.partition(".")
    return {**settings, first: changed(settings[first], rest, value) if rest else value}


OTHER_VALUES = {
    "training.learning_rate": 1e9,
    "training.batch_size": 1,
    "training.local_epochs": 10**12,
    "training.personalise_epochs": 9,
    "training.threads": 8,
    "method.temperature": 2.0,
    "model.class": "consilia.models.cnn.FourLayerCNN",
    "model.args.hidden": [9],
    "rounds": 10**12,
    "evaluate_every": 1000,
    "round_timeout": 10**9,
    "participation": 0.5,
    "exchange_dtype": "float16",
    "dataset": "psychiatry",
    "min_sites": 1,
}


@pytest.mark.parametrize("path", OTHER_VALUES)
def test_an_approval_binds_what_is_asked(tmp_path: Path, path: str) -> None:
    approved, value = manifest_of(small(), model_of(small())), OTHER_VALUES[path]
    assert path in approved.asked
    other = run_config(changed(small().to_json(), path, value))
    assert asked_of(other) == {**approved.asked, path: json.dumps(value)}
    with pytest.raises(ConfigError, match=re.escape(f"{path}: its manifest says {approved.asked[path]}, its conf")):
        read_manifest(write_job(tmp_path / "job", approved.to_json(), config=other))


def test_name_and_seed_of_a_run_are_not_bound(tmp_path: Path) -> None:
    manifest = manifest_of(small(), model_of(small()))
    renamed = small(label="another", seed=99)
    assert manifest.digest == manifest_of(renamed, model_of(renamed)).digest
    assert read_manifest(write_job(tmp_path / "job", manifest.to_json(), config=renamed))[1] == manifest


def test_every_setting_is_bound_but_name_and_seed() -> None:
    paths = set(asked_of(small()))
    for name in RunConfig.model_fields:
        there = any(path == name or path.startswith(f"{name}.") for path in paths)
        assert there == (name not in ("label", "seed")), name
    assert {f"training.{name}" for name in TrainingConfig.model_fields} <= paths


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_could_not_be_shown_is_refused(tmp_path: Path, value: float) -> None:
    shown = small(model={"class": "a.B", "args": {"x": None}})
    manifest = manifest_of(shown, nn.Linear(1, 1)).to_json()
    job = write_job(tmp_path / "job", manifest, config=shown)
    path = job / "app" / "config" / "config_fed_client.json"
    path.write_text(path.read_text().replace('"x": null', f'"x": {json.dumps(value)}'))
    with pytest.raises(ConfigError, match="is no number"):
        read_manifest(job)
    # As the executor has it.
    settings = {**shown.to_json(), "model": {"class": "a.B", "args": {"x": value}}}
    with pytest.raises(ConfigError, match="holds NaN or infinity"):
        checked_job(settings, manifest, "this job")


def test_a_key_with_a_dot_cannot_pass_for_two() -> None:
    def settings(arguments: Any) -> dict[str, str]:
        return asked_of(small(model={"class": "a.B", "args": arguments}))

    assert settings({"a.b": 1})["model.args"] == '{"a.b": 1}'
    assert settings({"a": {"b": 1}})["model.args.a.b"] == "1"
    assert settings({})["model.args"] == "{}"


def test_the_size_of_the_model_is_of_all_its_tensors() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    model[0].weight.requires_grad_(False)
    # 6 + 2 + 4 x 2 numbers of four bytes, and the counter of eight bytes.
    assert manifest_of(small(), model).model_size == ModelSize(elements=17, bytes=72)


def test_the_size_of_a_tensor_is_read_from_its_layout() -> None:
    assert ModelSize.of_layout("float32[8, 30]") == ModelSize(elements=240, bytes=960)
    assert ModelSize.of_layout("float16[3]") == ModelSize(elements=3, bytes=6)
    assert ModelSize.of_layout("int64[]") == ModelSize(elements=1, bytes=8)
    for unread in ("float32", "float32[8,]", "float32[-1]", "nn[2]", f"float32[{2**40}, {2**40}]"):
        with pytest.raises(ConfigError, match="manifest: "):
            ModelSize.of_layout(unread)


DATASETS = {"asked": {}, "model_size": {"elements": 1, "bytes": 4}, "datasets": ["diagnosis"]}


def test_a_manifest_is_read_from_a_job_and_what_is_none_is_told(tmp_path: Path) -> None:
    manifest = manifest_of(small(), model_of(small()))
    job = write_job(tmp_path / "job", manifest.to_json())
    assert read_manifest(job)[:2] == ("heart-job", manifest)
    with pytest.raises(ConfigError, match="is no job"):
        read_manifest(tmp_path)
    # Of a name only what any file system and terminal can show.
    (job / "meta.json").write_text(json.dumps({"name": "hе\u202e/../\x1b" + "x" * 99}))
    assert read_manifest(job)[0] == "h---..--" + "x" * 56
    other = small("fedavg")
    write_job(job, manifest_of(other, model_of(other)).to_json(), "app_other", other)
    with pytest.raises(ConfigError, match="unlike manifests"):
        read_manifest(job)


def test_the_manifest_names_the_datasets_that_the_job_reads(tmp_path: Path) -> None:
    assert manifest_of(small(dataset="prognosis"), model_of(small())).datasets == ("prognosis",)
    assert manifest_of(clinics_config(), model_of(clinics_config())).datasets == ("anaemia", "sepsis")
    approved = manifest_of(small(), model_of(small()))
    assert approved.datasets == ("diagnosis",)
    switched = write_job(tmp_path / "switched", approved.to_json(), config=small(dataset="psychiatry"))
    with pytest.raises(ConfigError, match=r'dataset: its manifest says "diagnosis", its configuration "psychiatry"'):
        read_manifest(switched)
    asked = asked_of(clinics_config())
    several = write_job(tmp_path / "several", {**approved.to_json(), "asked": asked}, config=clinics_config())
    with pytest.raises(ConfigError, match=r"reads the datasets \['anaemia', 'sepsis'\]"):
        read_manifest(several)


def test_a_second_executor_or_a_configuration_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    job = write_job(tmp_path / "job", manifest_of(small(), model_of(small())).to_json())
    path = job / "app" / "config" / "config_fed_client.json"
    good = json.loads(path.read_text())
    # It would answer train with another dataset's data, while the first one shows the manifest.
    second = {"tasks": ["train"], "executor": {"path": "x", "args": {"config": small(dataset="psychiatry").to_json()}}}
    path.write_text(json.dumps({"executors": [*good["executors"], second]}))
    with pytest.raises(ConfigError, match="expected one executor, with a manifest"):
        read_manifest(job)
    for config in (None, "{config}", {**small().to_json(), "dataset": 5}, {"method": "unknown"}):
        good["executors"][0]["executor"]["args"]["config"] = config
        path.write_text(json.dumps(good))
        with pytest.raises(ConfigError, match="config_fed_client"):
            read_manifest(job)


@pytest.mark.parametrize(
    ("manifest", "words"),
    [
        ({**DATASETS, "tensors": {}}, "fields"),
        ({"tensors": {}, "fields": {}}, "datasets"),
        ({**DATASETS, "datasets": ["diagnosis\x1b[2K"], "tensors": {}, "fields": {}}, "datasets"),
        ({"datasets": ["diagnosis"], "tensors": {}, "fields": {}}, "does not say what the job asks of a site"),
        ({**DATASETS, "asked": ["rounds 3"], "tensors": {}, "fields": {}}, "'setting: value'"),
        ({**DATASETS, "asked": ["rounds: 3", "rounds: 4"], "tensors": {}, "fields": {}}, "'setting: value'"),
        ({**DATASETS, "asked": {"rounds": "3\x1b[1A"}, "tensors": {}, "fields": {}}, "asked.rounds"),
        ({**DATASETS, "asked": {"roun\u202eds": "3"}, "tensors": {}, "fields": {}}, "asked"),
        ({**DATASETS, "model_size": {"elements": -1, "bytes": 4}, "tensors": {}, "fields": {}}, "model_size.elements"),
        (
            {**DATASETS, "model_size": {"elements": 4, "bytes": 2**63}, "tensors": {}, "fields": {}},
            "model_size.bytes",
        ),
        ({**DATASETS, "tensors": {"w": f"float32[{'9' * 5000}]"}, "fields": {}}, "tensors.w"),
        ({**DATASETS, "tensors": {}, "fields": {"train": ["weight: number", "weight: text"]}}, "one line"),
        ({**DATASETS, "tensors": ["bias float32[8]"], "fields": {}}, "one line 'name: layout'"),
        ({**DATASETS, "tensors": ["bias: float32[8]", "bias: float32[9]"], "fields": {}}, "one line 'name: layout'"),
        ({**DATASETS, "tensors": {}, "fields": {"steal": {}}}, "fields.steal"),
        ({**DATASETS, "tensors": {}, "fields": {"train": {"round": "anything"}}}, "fields.train.round"),
        ({**DATASETS, "tensors": {"w": "float32"}, "fields": {}}, "tensors.w"),
        # What a terminal would not show must not be approved unseen.
        ({**DATASETS, "tensors": {"w\x1b[2K": "float32[1]"}, "fields": {}}, "tensors"),
        ({**DATASETS, "tensors": {}, "fields": {"train": {"id\rversion": "text"}}}, "fields.train"),
    ],
)
def test_a_malformed_manifest_is_refused_by_its_key(tmp_path: Path, manifest: Any, words: str) -> None:
    with pytest.raises(ConfigError, match="the manifest ") as caught:
        read_manifest(write_job(tmp_path / "job", manifest))
    assert words in str(caught.value)
