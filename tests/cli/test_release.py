"""``consilia site manifest`` and ``consilia site approve`` as a security officer uses them, on the exported jobs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from torch import nn
from typer.testing import CliRunner

from consilia.cli.app import app
from consilia.cli.release import MEANING
from consilia.deploy.release_filter import approved
from consilia.federation.release_manifest import manifest_of
from consilia.methods.contract import TRAIN_LOSS
from consilia.methods.registry import make_method
from tests.federation.clinics import clinics_config
from tests.federation.support import model_of, small, write_job

SEGMENTATION = {"task": "segmentation", "model": {"class": "consilia.models.prompted_sam.PromptedSam"}}


def consilia(*arguments: str | Path, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["site", *(str(argument) for argument in arguments)], env={"COLUMNS": "200"})
    assert result.exit_code == code, result.output
    return " ".join(result.output.split())


@pytest.fixture
def kit(tmp_path: Path) -> Path:
    folder = tmp_path / "hospital-1"
    for part in ("startup", "local"):
        (folder / part).mkdir(parents=True)
    content = {"servers": [{"service": {"target": "localhost:8002"}}], "client": {"fqsn": "hospital-1"}}
    (folder / "startup" / "fed_client.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def job(tmp_path: Path) -> Path:
    config = small()
    return write_job(tmp_path / "job", manifest_of(config, model_of(config)).to_json())


def test_it_says_what_is_sent_and_what_is_not(job: Path) -> None:
    text = consilia("manifest", job)
    manifest = manifest_of(small(), model_of(small()))
    assert manifest.digest in text
    assert "It reads the data of dataset diagnosis; no other dataset's." in text
    # 30 x 8 + 8 + 8 x 2 + 2 numbers of four bytes in four tensors.
    assert "layers 4 266 1,064" in text
    for name in ("train_accuracy", "cases", "negative_flips"):
        assert f"{name} " in text
    assert "the global model on test cases" in text
    sent, _, kept = text.partition("Not sent:")
    assert "it gets single training cases and label counts out of what is sent" in kept
    for words in ("label counts", "file names, paths", "single cases", "the personal model that the site makes"):
        assert words in kept
    assert "prompt_diversity" not in sent


def several_tasks(folder: Path) -> Path:
    config = clinics_config()
    return write_job(folder / "job", manifest_of(config, model_of(config)).to_json(), config=config)


def test_several_tasks_are_told_by_their_names(tmp_path: Path) -> None:
    text = consilia("manifest", several_tasks(tmp_path))
    assert "reads the data of dataset anaemia, sepsis, as far as the site has them; no other dataset's." in text
    assert "training cases of each dataset that the site has for each of anaemia, sepsis" in text
    assert "personalize:" not in text
    assert "a personal model: this method makes none" in text
    assert "encoders" in text
    assert "together" in text


@pytest.mark.parametrize(
    "config",
    [small("fedavg"), small("fedkper"), small("fedgpl"), small("fedgpl", **SEGMENTATION), clinics_config()],
    ids=["fedavg", "fedkper", "fedgpl", "segmentation", "fedkim"],
)
def test_every_field_has_a_meaning(config, tmp_path: Path) -> None:
    model = nn.Linear(1, 1)
    manifest, method = manifest_of(config, model), make_method(config.method)
    own = {field.name for field in (TRAIN_LOSS, *method.fields(), *filter(None, [method.weight()]))}
    for fields in manifest.fields.values():
        for path in fields:
            name = path.split(".")[-1].removesuffix("[]")
            assert name in MEANING or name in own or path.startswith("datasets.")
    assert "unknown to this version" not in consilia(
        "manifest", write_job(tmp_path / "job", manifest.to_json(), config=config)
    )


def with_fields(*lines: str) -> dict[str, Any]:
    """The manifest of a small job with other fields of the training's reply."""
    return {**manifest_of(small(), model_of(small())).to_json(), "fields": {"train": list(lines)}}


def test_what_is_asked_is_told_value_by_value(job: Path) -> None:
    text = consilia("manifest", job)
    for words in ("rounds 3", "training.learning_rate 0.05", 'method.method "fedkper"', "training.local_epochs 2"):
        assert words in text
    # 30 x 8 + 8 + 8 x 2 + 2 numbers of four bytes.
    assert "size of the model 266 elements, 1,064 bytes" in text


def test_a_field_of_another_version_is_told_as_unknown(tmp_path: Path) -> None:
    manifest = with_fields("histogram: text")
    assert "histogram text unknown to this version" in consilia("manifest", write_job(tmp_path / "job", manifest))


def test_no_name_of_a_field_can_hide_itself(tmp_path: Path) -> None:
    hidden = "received.[black on black]notes: text"
    manifest = with_fields(hidden)
    assert "black on black" in consilia("manifest", write_job(tmp_path / "job", manifest))


def test_approve_and_take_back(job: Path, kit: Path) -> None:
    assert "Not approved at hospital-1. To approve it: consilia site approve" in consilia("manifest", job, "--kit", kit)
    text = consilia("approve", job, "--kit", kit)
    (path,) = approved(kit / "local").values()
    assert f"hospital-1 does and sends in job heart-job what {path} names, and nothing else" in text
    assert f"Approved at hospital-1 by {path}" in consilia("manifest", job, "--kit", kit)
    assert f"{path} is removed" in consilia("approve", job, "--kit", kit, "--withdraw")
    assert "is not approved at hospital-1" in consilia("approve", job, "--kit", kit, "--withdraw", code=1)
    assert approved(kit / "local") == {}


def test_an_approved_job_that_was_changed_since_is_not_called_approved(job: Path, kit: Path) -> None:
    consilia("approve", job, "--kit", kit)
    path = job / "app" / "config" / "config_fed_client.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "components": [{"id": "log", "path": "nvflare.x.Y", "args": {}}]}))
    text = consilia("manifest", job, "--kit", kit)
    assert "Not as consilia export writes it: app/config/config_fed_client.json: key components" in text
    assert "Cannot be approved at hospital-1" in text
    assert "Approved at" not in text


def test_who_approves_a_job_with_code_reads_that_no_approval_binds_it(job: Path, kit: Path) -> None:
    assert "brings code" not in consilia("approve", job, "--kit", kit)
    code = job / "app" / "custom" / "consilia"
    code.mkdir(parents=True)
    (code / "__init__.py").touch()
    said = "The job brings code: 1 files. No approval binds what code does."
    assert all(said in consilia(command, job, "--kit", kit) for command in ("manifest", "approve"))


def test_what_is_no_job_or_no_kit_is_told(job: Path, kit: Path, tmp_path: Path) -> None:
    assert "is no job: expected */config/config_fed_client.json" in consilia("manifest", tmp_path / "local", code=1)
    assert "is no startup kit" in consilia("approve", job, "--kit", tmp_path, code=1)
    shutil.rmtree(job / "app")
    assert "is no job" in consilia("approve", job, "--kit", kit, code=1)


def test_the_jobs_values_stand_beside_the_sites_limits(job: Path, kit: Path, wisconsin: dict[str, Path]) -> None:
    assert "this site's limits" not in consilia("manifest", job)
    content = yaml.safe_load(wisconsin["hospital-1"].read_text())
    content["limits"] = {"max_rounds": 2, "max_learning_rate": 0.5}
    (kit / "local" / "site.yaml").write_text(yaml.safe_dump(content))
    text = consilia("manifest", job, "--kit", kit)
    assert "this site's limits" in text
    assert "max_rounds 3 2 REFUSED" in text
    assert "max_local_epochs 2 20 max_learning_rate" in text
    assert "max_model_bytes 1.064 kB 2 GB" in text
    assert "max_batch_fraction see site doctor 0.5 min_training_cases see site doctor 50" in text
    assert "max_hours seen while it runs 24" in text
    refused = "limits.max_rounds: the job asks 3, this site allows 2: it will be refused; ask for another job, or"
    assert refused in consilia("approve", job, "--kit", kit)


def test_the_difference_to_the_nearest_approval_is_told(job: Path, kit: Path, tmp_path: Path) -> None:
    consilia("approve", job, "--kit", kit)
    for name, settings in {"other": {"method": "fedavg"}, "more": {"rounds": 300, "exchange_dtype": "float16"}}.items():
        config = small(**settings)
        path = write_job(tmp_path / name, manifest_of(config, model_of(config)).to_json(), config=config)
        text = consilia("manifest", path, "--kit", kit)
        assert ("The nearest approval" in text) == (name == "more")
    assert 'differs in 2 setting(s): - exchange_dtype: approved "float32", asked "float16" - rounds: appr' in text
    assert "- rounds: approved 3, asked 300" in text
