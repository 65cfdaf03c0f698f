"""The task_definitions of tasks and FedKIM's settings: what they refuse, and that the embedded ones hold together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from consilia.core.errors import ConfigError
from consilia.methods.fedkim.config import FedKIMConfig
from consilia.methods.fedkim.method import FedKIM
from consilia.methods.fedkim.task_definitions import TaskDefinitions, load_task_definitions
from tests.methods.fedkim.clinic import task_definitions, tokenizer


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"modalities": ["image", "sound"]}, r"task mass has modalities \['sound'\], described are \['image'"),
        ({"modalities": ["image", "image"]}, r"task mass: modalities must differ"),
        ({"modalities": []}, "modalities"),
        ({"modalities": ["text"]}, "task mass is text alone, for which sites have no encoder"),
        ({"question": None}, "task mass is trained by sites, so one question must go for all"),
        ({"answers": ["yes", "yes"]}, "task mass: answers must differ"),
        ({"answers": ["yes"]}, "answers"),
        ({"answers": ["no", "Yes"]}, r"compared in lower case.*\['Yes'\]"),
        ({"answers": ["no", ""]}, r"compared in lower case.*\[''\]"),
        ({"description": ""}, "description"),
        ({"anwers": ["no", "yes"]}, "anwers"),
    ],
)
def test_a_task_that_does_not_hold_together(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        task_definitions(mass=changed)


@pytest.mark.parametrize("name", ["Mass", "a.b", "a b", "-a", ""])
def test_names_become_tensors_and_folders(name: str) -> None:
    task = {"modalities": ["image"], "description": "d", "question": "q", "answers": ["no", "yes"], "trained": True}
    with pytest.raises(ValidationError, match="lower-case letters, digits"):
        TaskDefinitions.model_validate({"modalities": {"image": "i"}, "tasks": {name: task}})


def test_without_a_seen_task() -> None:
    with pytest.raises(ValidationError, match="no task is trained by the sites"):
        task_definitions(**{name: {"trained": False} for name in ("mass", "size", "kidney")})


def test_seen_unseen_and_who_reads_what() -> None:
    found = task_definitions()
    assert found.seen == ("kidney", "mass", "size")
    assert found.unseen == ("ask-image", "heart", "paper", "side")
    assert found.trained_on("image") == ("mass", "size")
    assert found.trained_on("table") == ()
    assert found.tasks["ask-image"].encoded == ("image",)
    assert found.modality_text("kidney") == "What vitals tell. What labs tell."


def test_an_unknown_task_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match="no task 'x'; there are ask-image, heart"):
        task_definitions().task("x")


@pytest.mark.parametrize(("name", "seen", "tasks"), [("medical", 4, 12), ("phantom", 4, None)])
def test_the_embedded_catalogues(name: str, seen: int, tasks: int | None) -> None:
    found = load_task_definitions(name)
    assert len(found.seen) == seen
    assert tasks in (None, len(found.tasks))
    assert {modality for task in found.tasks.values() for modality in task.modalities} == set(found.modalities)
    for task in found.tasks.values():
        # One token each: their likelihoods are compared without regard to length.
        lengths = [len(tokenizer()(f" {answer}", add_special_tokens=False).input_ids) for answer in task.answers]
        assert lengths == [1] * len(task.answers)


def test_a_file_that_is_no_catalogue(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        load_task_definitions(tmp_path / "nowhere.yaml")
    (tmp_path / "odd.yaml").write_text("modalities: {image: i}\ntasks: {x: {modalities: [image]}}\n")
    with pytest.raises(ConfigError, match=r"(?s)odd\.yaml.*tasks\.x"):
        load_task_definitions(tmp_path / "odd.yaml")


def test_settings_by_name_and_the_arguments_of_the_model() -> None:
    config = FedKIMConfig.model_validate({"method": "fedkim", "task_definitions": "phantom"})
    assert config.task_definitions == load_task_definitions("phantom")
    own = FedKIM(FedKIMConfig(method="fedkim", task_definitions=task_definitions()))
    assert own.datasets() == {"kidney": 2, "mass": 2, "size": 2}
    assert own.model_arguments()["heads"]["kidney"] == {"modalities": ["vitals", "labs"], "answers": 2}
    assert FedKIMConfig.model_validate(own.config.model_dump(mode="json")) == own.config


@pytest.mark.parametrize(
    "wrong",
    [
        {"experts": 0},
        {"mu": -1.0},
        {"router": "none"},
        {"evaluation": {"few_shot": [0]}},
        {"evaluation": {"few_shot": [-3]}},
        {"evaluation": {"few_shot": ["some"]}},
        {"injection": {"warmup": 1.0}},
        {"injection": {"learning_rate": 0}},
        {"injection": {"precision": "float8"}},
    ],
)
def test_settings_out_of_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        FedKIMConfig.model_validate(wrong)
