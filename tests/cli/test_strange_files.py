"""Every command that reads a file of somebody else's, with files that mean harm: an error that names it, and soon."""

from __future__ import annotations

import json
import resource
import time
from pathlib import Path

import pytest
import torch
import yaml
from typer.testing import CliRunner

from consilia.cli.app import app
from consilia.core.tensor_files import write_tensors
from consilia.federation.release_manifest import manifest_of
from tests.federation.support import MLP, model_of, small, write_job
from tests.strange_files import JSON, TENSORS, YAML

SECONDS, MEGABYTES = 10, 300
"""At most, for one command: none of these files is worth more."""

CLIENT, META = "app/config/config_fed_client.json", "meta.json"
JOB_COMMANDS = {
    "manifest": ["site", "manifest", "{job}"],
    "approve": ["site", "approve", "{job}", "--kit", "{kit}"],
    "doctor": ["site", "doctor", "--kit", "{kit}", "--job", "{job}"],
    "submit": ["submit", "{job}", "--kit", "{kit}"],
}


def refused(command: list[str], file: str = "") -> str:
    """What a command says that fails with a message, and no traceback, in time and without taking memory."""
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    result = CliRunner().invoke(app, command, env={"COLUMNS": "500"})
    assert time.monotonic() - began < SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEGABYTES * 1024
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 1, result.output
    assert file in result.output
    assert not {"\x1b", "\x07", "\r", "\u202e"} & set(result.output)
    return result.output


@pytest.fixture
def places(tmp_path: Path) -> dict[str, Path]:
    kit = tmp_path / "hospital-1"
    for part in ("startup", "local"):
        (kit / part).mkdir(parents=True)
    content = {"servers": [{"service": {"target": "localhost:8002"}}], "client": {"fqsn": "hospital-1"}}
    (kit / "startup" / "fed_client.json").write_text(json.dumps(content))
    job = write_job(tmp_path / "job", manifest_of(small(), model_of(small())).to_json())
    return {"kit": kit, "job": job}


@pytest.mark.parametrize("kind", JSON)
@pytest.mark.parametrize("command", ["manifest", "approve", "doctor"])
def test_a_jobs_configuration(places: dict[str, Path], command: str, kind: str) -> None:
    path = places["job"] / CLIENT
    path.unlink()
    JSON[kind](path)
    refused([part.format(**places) for part in JOB_COMMANDS[command]], "config_fed_client.json")


@pytest.mark.parametrize("kind", [kind for kind in JSON if kind not in ("no object", "escapes")])
@pytest.mark.parametrize("command", ["manifest", "approve", "doctor"])
def test_a_jobs_meta_file(places: dict[str, Path], command: str, kind: str) -> None:
    (places["job"] / META).unlink()
    JSON[kind](places["job"] / META)
    refused([part.format(**places) for part in JOB_COMMANDS[command]], "meta.json")


@pytest.mark.parametrize("kind", JSON)
def test_submit_reads_a_jobs_meta_file(places: dict[str, Path], kind: str) -> None:
    (places["job"] / META).unlink()
    JSON[kind](places["job"] / META)
    refused([part.format(**places) for part in JOB_COMMANDS["submit"]], "meta.json")


@pytest.mark.parametrize("kind", [kind for kind in JSON if kind != "a folder"])
@pytest.mark.parametrize("command", ["report", "approvals"])
def test_records_and_approvals(places: dict[str, Path], tmp_path: Path, command: str, kind: str) -> None:
    if command == "report":
        path = tmp_path / "run" / "result.json"
        arguments = ["report", str(path.parent), "--out", str(tmp_path / "report.html")]
    else:
        path = places["kit"] / "local" / "approved" / "strange.json"
        arguments = [part.format(**places) for part in JOB_COMMANDS["approve"]]
    path.parent.mkdir()
    JSON[kind](path)
    refused(arguments, path.name)


@pytest.mark.parametrize("kind", TENSORS)
def test_predict_reads_a_model(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "model.safetensors"
    TENSORS[kind](path)
    refused(["predict", str(path), "--site", "site.yaml", "--cases", "cases.csv"], "model.safetensors")


@pytest.mark.parametrize("card", ["{", '{"a":' * 5000 + "1" + "}" * 5000, "[1]", '{"model": 1e999}', "\x1b[2J"])
def test_predict_reads_a_model_card(tmp_path: Path, card: str) -> None:
    path = tmp_path / "model.safetensors"
    write_tensors(path, {"a": torch.zeros(1)}, {"consilia": card})
    refused(["predict", str(path), "--site", "site.yaml", "--cases", "cases.csv"], "model.safetensors")


def test_predict_builds_no_model_beyond_the_sites_limit(tmp_path: Path, wisconsin: dict[str, Path]) -> None:
    model = {"class": MLP, "args": {"in_features": 10**6, "num_classes": 2, "hidden": [10**6]}}
    card = {"model": model, "dataset": "diagnosis", "class_names": ["a", "b"], "method": "fedavg", "kind": "global"}
    path = tmp_path / "model.safetensors"
    write_tensors(path, {"a": torch.zeros(1)}, {"consilia": json.dumps(card)})
    site = tmp_path / "site.yaml"
    content = yaml.safe_load(wisconsin["hospital-1"].read_text())
    site.write_text(yaml.safe_dump({**content, "limits": {}}))
    text = refused(["predict", str(path), "--site", str(site), "--cases", "cases.csv"])
    assert "limits.max_model_bytes" in text


@pytest.mark.parametrize("kind", YAML)
@pytest.mark.parametrize("command", ["check", "run", "compare"])
def test_yaml_files(tmp_path: Path, command: str, kind: str) -> None:
    path = tmp_path / "strange.yaml"
    YAML[kind](path)
    commands = {
        "check": ["site", "check", str(path)],
        "run": ["run", "fedavg", "--study", str(path), "--out", str(tmp_path / "out")],
        "compare": ["compare", str(path), "--out", str(tmp_path / "out")],
    }
    refused(commands[command], "strange.yaml")
