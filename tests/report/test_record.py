"""The record's schema: what is written is what is read, and what does not fit is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from consilia.core.errors import ConfigError
from consilia.report.record import Metrics, Record, load_record, save_record
from tests.report.factory import make_record


@pytest.fixture
def content() -> dict[str, Any]:
    return make_record(rounds=2).plain()


def refuse(content: Any, folder: Path) -> str:
    path = folder / "result.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_record(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    return message


def test_round_trip_keeps_everything_and_uses_the_json_names(tmp_path: Path) -> None:
    record = make_record()
    save_record(record, tmp_path / "result.json")
    assert load_record(tmp_path / "result.json") == record
    written = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    assert written["schema"] == "consilia.result/1"
    assert "global" in written["final"]["last"]
    assert json.loads(record.model_dump_json()) == written


def test_missing_file_and_no_json_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.json: cannot read the record of a run \(No such file"):
        load_record(tmp_path / "none.json")
    (tmp_path / "half.json").write_text('{"schema": ')
    with pytest.raises(ConfigError, match=r"half\.json: expected a result\.json, but it is not JSON"):
        load_record(tmp_path / "half.json")


@pytest.mark.parametrize("schema", ["consilia.result/2", None])
def test_another_schema_is_refused(content: dict[str, Any], tmp_path: Path, schema: str | None) -> None:
    message = refuse({**content, "schema": schema}, tmp_path)
    assert f"key schema: expected 'consilia.result/1', got {schema!r}" in message


def test_a_list_is_no_record(tmp_path: Path) -> None:
    assert "key schema" in refuse([], tmp_path)


def test_a_wrong_value_is_named_with_its_key(content: dict[str, Any], tmp_path: Path) -> None:
    content["rounds"][1]["contributions"]["Ashford"] = {
        "weight": -0.5, "score": None, "samples": 3, "train_loss": None, "train_accuracy": None,
    }  # fmt: skip
    message = refuse(content, tmp_path)
    assert "key rounds.1.contributions.Ashford.weight" in message
    assert "got -0.5" in message


def test_unknown_and_missing_keys_are_named(content: dict[str, Any], tmp_path: Path) -> None:
    content["run"]["patient"] = "x"
    del content["run"]["seed"]
    message = refuse(content, tmp_path)
    assert "key run.seed: Field required" in message
    assert "(and 1 more)" in message


def test_a_site_that_is_not_listed_is_refused(content: dict[str, Any], tmp_path: Path) -> None:
    content["rounds"][0]["missing"] = ["Nowhere"]
    assert "sites must list every site that is used, but lacks Nowhere" in refuse(content, tmp_path)


def test_nan_cannot_get_in() -> None:
    values = make_record().plain()["final"]["last"]["global"]["Ashford"]["test"]
    with pytest.raises(ValidationError, match="finite number"):
        Metrics.model_validate({**values, "loss": float("nan")})


def test_fields_can_be_given_by_their_python_names() -> None:
    record = make_record()
    last = record.final["last"]
    same = type(last)(version=last.version, sha256=last.sha256, global_=last.global_, personal=last.personal)
    assert same == last
    assert Record.model_validate(record.plain()) == record
