"""site.yaml: what is accepted, what is refused, and whether the message names file, key, expectation and value."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from consilia.core.errors import ConfigError
from consilia.data.site import load_site_config
from consilia.data.specs import pattern_columns
from consilia.data.yaml_file import read_yaml
from tests.strange_files import YAML

GOOD = """
site: cleveland
datasets:
  diagnosis:
    format: tabular
    file: cases.csv
    classes: [absent, present]
    label: {column: num, mapping: {0: absent, 1: present}}
    numeric: [age]
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "site.yaml"
    path.write_text(text)
    return path


def test_paths_count_from_the_yaml_and_defaults_apply(tmp_path: Path) -> None:
    config = load_site_config(write(tmp_path, GOOD))
    spec = config.dataset("diagnosis")
    assert spec.file == tmp_path / "cases.csv"
    assert config.state_dir == tmp_path / "state"
    assert config.dataset_dir("diagnosis") == tmp_path / "state" / "diagnosis"
    assert spec.label.mapping == {"0": "absent", "1": "present"}  # YAML numbers are text in a data file
    assert spec.splits.fractions() == pytest.approx({"train": 0.7, "validation": 0.1, "test": 0.2})


def test_unknown_dataset_lists_the_datasets(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no dataset 'x'; its site.yaml has \['diagnosis'\]"):
        load_site_config(write(tmp_path, GOOD)).dataset("x")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("site: cleveland", "sight: cleveland", r"sight: unknown key; did you mean 'site'"),
        ("site: cleveland", "site: ../etc", r"not '../etc'"),
        ("format: tabular", "format: xlsx", r"datasets.diagnosis: Input tag 'xlsx'"),
        ("numeric: [age]", "numeric: [num]", r"the label column 'num' cannot be a feature"),
        ("classes: [absent, present]", "classes: [absent, ill]", r"label gives \['present'\]"),
        ("classes: [absent, present]", "classes: [absent]", r"classes: Tuple should have at least 2 items"),
        (
            "numeric: [age]",
            "numeric: [age]\n    task: segmentation",
            r"task: this format holds classification or survival; got",
        ),
        ("numeric: [age]", "numeric: [age]\n    official_splits: true", r"this format has no splits of its own"),
        ("numeric: [age]", "numeric: [age]\n    splits: {test: 0.95}", r"train \+ validation \+ test must be 1"),
        ("numeric: [age]", "numeric: [age]\n    select: {column: a}", r"give column and values, or file"),
        ("numeric: [age]", "numeric: [age]\n    exclude_patients: [a]", r"exclude_patients needs the patient column"),
        (
            "numeric: [age]",
            "numeric: [age]\n    patient: p\n    splits: {scheme: class_balanced}",
            r"divides single cases: it needs patient: null",
        ),
        ("site: cleveland", "site: cleveland\nallow_models: ['*']", r"expected dotted paths"),
        ("  diagnosis:", "  runs:", r"no dataset can be called 'runs'"),
    ],
)
def test_a_wrong_value_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = write(tmp_path, GOOD.replace(old, new))
    with pytest.raises(ConfigError, match=message) as caught:
        load_site_config(path)
    assert str(path) in str(caught.value)


def test_every_problem_is_told_at_once(tmp_path: Path) -> None:
    text = GOOD.replace("file: cases.csv", "fil: cases.csv").replace("numeric: [age]", "numeric: 3")
    with pytest.raises(ConfigError) as caught:
        load_site_config(write(tmp_path, text))
    message = str(caught.value)
    assert "diagnosis.tabular.file: Field required; got nothing" in message
    assert "diagnosis.tabular.fil: unknown key; did you mean 'file'" in message
    assert "diagnosis.tabular.numeric: Input should be a valid tuple; got 3" in message


def test_unreadable_and_broken_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_site_config(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_site_config(write(tmp_path, "a: [1"))
    with pytest.raises(ConfigError, match="expected a mapping of keys to values at the top, got list"):
        load_site_config(write(tmp_path, "- a"))


def test_environment_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, GOOD.replace("file: cases.csv", "file: ${HOSPITAL_DATA}/cases.csv"))
    monkeypatch.setenv("HOSPITAL_DATA", str(tmp_path / "d"))
    assert load_site_config(path).dataset("diagnosis").file == tmp_path / "d" / "cases.csv"
    monkeypatch.delenv("HOSPITAL_DATA")
    with pytest.raises(ConfigError, match=r"diagnosis.file: the environment variable HOSPITAL_DATA is not set"):
        load_site_config(path)


@pytest.mark.parametrize("content", ["dataset: mass\nsites: {}\n", "dataset: mass\npooled: {}\npartition: {}\n"])
def test_a_federation_file_is_recognised(tmp_path: Path, content: str) -> None:
    with pytest.raises(ConfigError, match=r"is a federation file.* run METHOD --data .*sites/NAME/site.yaml: name one"):
        load_site_config(write(tmp_path, content))


def test_allowed_models(tmp_path: Path) -> None:
    shipped = {
        "consilia.models.mlp.MLP",
        "consilia.models.linear.LogisticRegression",
        "consilia.models.linear.PooledLinear",
        "consilia.models.cnn.FourLayerCNN",
        "consilia.models.extractor.KnowledgeExtractor",
        "consilia.models.prompted_sam.PromptedSam",
        "consilia.models.prompted_vit.PromptedViT",
        "consilia.models.resnet.SmallResNet",
        "consilia.models.sequences.SeriesGRU",
        "consilia.models.sequences.SignalCNN",
        "consilia.models.tuned.TunedSam",
        "consilia.models.tuned.TunedViT",
    }
    assert set(load_site_config(write(tmp_path, GOOD)).allow_models) == shipped
    config = load_site_config(write(tmp_path, GOOD + "allow_models: [hospital.models.*]\n"))
    assert config.allow_models == ("hospital.models.*",)  # in place of the defaults, not beside them


def test_file_name_patterns_are_plain() -> None:
    assert pattern_columns("{patient}/{image_id}.png") == ["patient", "image_id"]
    for pattern in ("{a.__class__}.png", "{a[0]}.png", "{}.png", "{a!r}.png"):
        with pytest.raises(ValueError, match="plain"):
            pattern_columns(pattern)


def test_the_examples_of_the_guide_are_valid(tmp_path: Path) -> None:
    guide = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```yaml\n(.*?)```", guide, flags=re.DOTALL)
    specs = [spec for block in blocks for spec in load_site_config(write(tmp_path, block)).datasets.values()]
    assert {spec.format for spec in specs} == {"tabular", "images", "medmnist", "signals", "timeseries", "questions"}
    assert sum(getattr(spec, "task", None) == "segmentation" for spec in specs) == 2


@pytest.mark.parametrize("kind", YAML)
def test_strange_yaml_is_refused_by_the_files_name(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "site.yaml"
    YAML[kind](path)
    began = time.process_time()
    with pytest.raises(
        ConfigError, match=r"site\.yaml: (cannot be read|not valid YAML|expected a mapping|3 values do not fit)"
    ):
        load_site_config(path)
    assert time.process_time() - began < 5, "of this process: the machine may do other work"


def test_aliases_that_stand_for_little_are_read(tmp_path: Path) -> None:
    path = tmp_path / "some.yaml"
    path.write_text("a: &a {x: [1, 2]}\nb: *a\nc: {<<: *a, y: 3}\n")
    assert read_yaml(path) == {"a": {"x": [1, 2]}, "b": {"x": [1, 2]}, "c": {"x": [1, 2], "y": 3}}
