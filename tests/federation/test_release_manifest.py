"""The manifest against what real sites answer, with every method; and that nothing else passes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from consilia.core.errors import ReleaseRefused
from consilia.data.site import load_site_config
from consilia.federation.config import RunConfig
from consilia.federation.coordinator import Coordinator
from consilia.federation.initial import initial_state as start
from consilia.federation.messages import Broadcast, Reply, Request
from consilia.federation.release_manifest import Manifest, manifest_of
from consilia.federation.server_settings import own_server
from consilia.federation.site import Site
from consilia.simulation.federation import load_federation
from consilia.study.study import load_study, study_config
from tests.federation.clinics import clinics_config, write_clinics
from tests.federation.support import model_of, small

Sent = list[tuple[str, Reply]]


def run_all(config: RunConfig, files: Mapping[str, Path], folder: Path) -> tuple[Manifest, Sent]:
    """A whole run, in-process: its manifest, and all that its sites answered."""
    server = own_server(config, files)
    model = config.model.build(seed=config.seed, allowed=server.allow_models, folders=server.foundation_models)
    state, sent = start(config, model), []
    sites = {name: Site(config, load_site_config(path)) for name, path in files.items()}
    coordinator = Coordinator(config, sorted(sites), state, folder, all_parameters=1, server=server)

    def deliver(tasks: list[Broadcast]) -> None:
        for task in tasks:
            for name in task.targets:
                reply = sites[name].answer(task.request, task.tensors)
                sent.append((task.request.kind, reply))
                coordinator.receive(name, reply)

    coordinator.run(deliver)
    # What an external test site gets when the rounds are over.
    info = Request(kind="evaluate", round=config.rounds, final=True)
    sent.append(("evaluate", next(iter(sites.values())).answer(info, coordinator.state)))
    return manifest_of(config, model), sent


def filled(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Paths of what a JSON value holds, written without the code under test."""
    if isinstance(value, dict):
        for key, part in value.items():
            # A dot in a key is a stroke in the manifest's paths.
            yield from filled(part, (*path, key.replace(".", "/")))
    elif isinstance(value, list):
        for part in value:
            yield from filled(part, (*path[:-1], f"{path[-1]}[]"))
    elif value is not None:
        yield path


def listed(manifest: Manifest, task: str) -> set[tuple[str, ...]]:
    """Paths that a manifest lets carry something, alternatives written out."""
    found = set()
    for path in manifest.fields[task]:
        places = [()]
        for part in path.split("."):
            places = [(*place, choice) for place in places for choice in part.split("|")]
        found |= set(places)
    return found


@pytest.fixture
def case(request, wisconsin, phantoms, tmp_path: Path) -> tuple[RunConfig, Mapping[str, Path]]:
    name = request.param
    if name == "fedkim":
        pytest.importorskip("peft")
        config = clinics_config(("rounds=1", "method.evaluation.few_shot=[]", "method.injection.cases=8"))
        return config, write_clinics(tmp_path / "clinics")
    if name.startswith("fedgpl"):
        data = {"fedgpl-classification": "phantom-ultrasound", "fedgpl-segmentation": "phantom-polyp"}[name]
        files = phantoms(data, tmp_path / "phantoms", train_cases=8)
        files = dict(list(files.items())[:2])
        settings = ["rounds=1", "training.local_epochs=1", "exchange_dtype=float16"]
        return study_config(load_study(name), "fedgpl", 0, files, settings), files
    method: Any = {"method": name.partition(" ")[0]}
    if name == "fedkper validation":
        method["reliability"] = "validation"
    if name == "fedkper samples":
        method["weighting"] = "samples"
    return small(method, rounds=1), wisconsin


CASES = [
    "fedavg",
    "fedprox",
    "fedkper",
    "fedkper validation",
    "fedkper samples",
    pytest.param("fedkim", marks=pytest.mark.slow),
    pytest.param("fedgpl-classification", marks=pytest.mark.slow),
    pytest.param("fedgpl-segmentation", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("case", CASES, indirect=True)
def test_every_message_of_a_run_passes_and_every_listed_field_is_sent(case, tmp_path: Path) -> None:
    config, files = case
    manifest, sent = run_all(config, files, tmp_path / "run")
    told: dict[str, set[tuple[str, ...]]] = {task: set() for task in manifest.fields}
    for task, reply in sent:
        assert reply.error is None
        content = json.loads(reply.content)
        top = manifest.check(task, reply.content, reply.tensors, "")
        assert set(top) == {path[0].removesuffix("[]") for path in filled(content)}
        told[task] |= set(filled(content))
    for task, paths in told.items():
        may = listed(manifest, task)
        assert paths <= may
        # Where a model gives one answer to all of a few cases, a predictive value is undefined.
        assert {path[-2 if path[-1] in ("se", "low", "high") else -1].rpartition("/")[2] for path in may - paths} <= {
            "ppv",
            "npv",
        }
    trained = set().union(*(reply.tensors for task, reply in sent if task == "train"))
    assert trained == set(manifest.tensors)


@pytest.fixture(scope="module")
def answered(tmp_path_factory) -> tuple[Manifest, dict[str, Reply]]:
    """The manifest of a FedKPer run, and the first reply to each task."""
    folder = tmp_path_factory.mktemp("fedkper")
    files = load_federation("wisconsin", folder / "sites")
    manifest, sent = run_all(small(rounds=1), files, folder / "run")
    return manifest, dict(reversed(sent))


def refused(answered, task: str, change: Callable[[dict[str, Any], dict[str, Any]], None]) -> str:
    manifest, replies = answered
    reply = replies[task]
    content, tensors = json.loads(reply.content), dict(reply.tensors)
    change(content, tensors)
    with pytest.raises(ReleaseRefused) as caught:
        manifest.check(task, json.dumps(content), tensors, "")
    return str(caught.value)


def put(*keys: Any) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    """A change: the last of ``keys`` is the value, the others say where in the content."""
    *parents, last, value = keys

    def change(content: dict[str, Any], tensors: dict[str, Any]) -> None:
        for key in parents:
            content = content[key]
        content[last] = value

    return change


def tensor(name: str, make: Callable[[torch.Tensor], Any]) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    def change(content: dict[str, Any], tensors: dict[str, Any]) -> None:
        tensors[name] = make(tensors.get(name, torch.zeros(2)))

    return change


@pytest.mark.parametrize(
    ("task", "change", "words"),
    [
        ("train", put("label_histogram", [3, 4]), "train: field 'label_histogram' is not in the manifest"),
        ("prepare", put("labels", {"benign": 3}), "prepare: field 'labels' is not in the manifest"),
        ("prepare", put("datasets", {"biopsy": 3}), "prepare: field 'datasets' is not in the manifest"),
        ("train", put("received", "test", "cases", ["id-1"]), "train.received.test: field 'cases' is not"),
        ("train", put("received", "test", "tasks", {"x": 1}), "train.received.test: field 'tasks' is not in"),
        ("train", put("fields", "prompt_diversity", 0.5), "train.fields: field 'prompt_diversity' is not in the manif"),
        ("evaluate", put("received", "validation", "negative_flips", 1), "field 'negative_flips' is not in the manif"),
        ("train", put("cases", "id-1"), "train.cases is a text of 4 characters, approved is integer"),
        ("train", put("cases", 3.5), "train.cases is a number, approved is integer"),
        ("train", put("cases", True), "train.cases is true or false, approved is integer"),
        ("train", put("cases", 10**30), "train.cases is an integer beyond 2**53, approved is integer"),
        ("train", put("weight", float("nan")), "train.weight is not a finite number, approved is number"),
        ("train", put("fields", [1, 2]), "train.fields is a list of 2, approved is an object"),
        ("prepare", put("class_names", ["a", "x" * 201]), "prepare.class_names[] is a text of 201 characters"),
        ("prepare", put("class_names", [{"a": 1}]), "prepare.class_names[] is an object of 1, approved is text"),
        ("prepare", put("fingerprint", "/data/patients"), "prepare.fingerprint is a text of 14 characters, approved i"),
        ("train", put("seconds", {"a": {"b": 1}}), "train.seconds is an object of 1, approved is number"),
        ("train", put("x" * 300_000, 1), "the content has 3"),
        ("train", tensor("case", lambda _: torch.zeros(2)), "train: tensor 'case' is not in the manifest"),
        (
            "train",
            tensor("layers.0.bias", lambda value: value.double()),
            "tensor 'layers.0.bias' is float64[8], approved is float32[8]",
        ),
        (
            "train",
            tensor("layers.0.bias", lambda value: value[:4]),
            "tensor 'layers.0.bias' is float32[4], approved is float32[8]",
        ),
        ("train", tensor("layers.0.bias", torch.nn.Parameter), "tensor 'layers.0.bias' is a Parameter"),
        ("train", tensor("layers.0.bias", str), "tensor 'layers.0.bias' is a str, approved is float32[8]"),
        ("evaluate", tensor("layers.0.bias", lambda _: torch.zeros(8)), "evaluate: 1 tensor(s), approved are none"),
        ("prepare", tensor("layers.0.bias", lambda _: torch.zeros(8)), "prepare: 1 tensor(s), approved are none"),
        ("personalize", tensor("layers.0.bias", lambda _: torch.zeros(8)), "personalize: 1 tensor(s), approved are"),
    ],
)
def test_what_is_not_listed_is_refused_by_name(answered, task: str, change, words: str) -> None:
    message = refused(answered, task, change)
    assert words in message
    for secret in ("id-1", "/data/patients", "0.5", "benign"):
        assert secret not in message


def test_a_subset_of_the_tensors_and_arrays_of_the_same_layout_pass(answered) -> None:
    manifest, replies = answered
    reply = replies["train"]
    some = {name: value.numpy() for name, value in reply.tensors.items() if name.startswith("layers.2")}
    assert len(some) == 2
    assert "weight" in manifest.check("train", reply.content, some, "")
    some["layers.2.bias"] = np.array(["a", "b"], dtype=object)
    with pytest.raises(ReleaseRefused, match=r"layers\.2\.bias' is object\[2\]"):
        manifest.check("train", reply.content, some, "")


def test_an_error_is_a_class_name_with_nothing_beside_it(answered) -> None:
    manifest, replies = answered
    assert manifest.check("train", "", {}, "DataError") == ()
    for error in ("case id-1 is damaged", "E" * 81, "Data.Error", "DataError\n"):
        with pytest.raises(ReleaseRefused, match="approved is a class name"):
            manifest.check("train", "", {}, error)
    with pytest.raises(ReleaseRefused, match="an error with"):
        manifest.check("train", replies["train"].content, {}, "DataError")
    with pytest.raises(ReleaseRefused, match="not plain JSON"):
        manifest.check("train", "", {}, "")


def test_text_that_a_reader_would_not_see_is_refused(answered) -> None:
    manifest, replies = answered
    content = replies["train"].content
    assert content.startswith('{"round":0,')
    for hidden in ('{"round":"id-1",' + content[1:], content + " []", "[1]", "[" * 5000):
        with pytest.raises(ReleaseRefused, match=r"not plain JSON|approved is an object"):
            manifest.check("train", hidden, {}, "")


def test_a_task_that_the_job_does_not_have_is_refused() -> None:
    config = clinics_config()
    manifest = manifest_of(config, model_of(config))
    # FedKIM makes no personal models.
    with pytest.raises(ReleaseRefused, match="task 'personalize' is not in the manifest"):
        manifest.check("personalize", "{}", {}, "")
    with pytest.raises(ReleaseRefused, match=r"prepare\.datasets: field 'death' is not in the manifest"):
        manifest.check("prepare", '{"datasets": {"death": 3}}', {}, "")
    assert manifest.check("prepare", '{"datasets": {"sepsis": 3}}', {}, "") == ("datasets",)


def test_only_what_a_method_reports_is_listed() -> None:
    def listed_of(method: Any) -> set[str]:
        config = small(method)
        fields = manifest_of(config, model_of(config)).fields["train"]
        return {path for path in fields if path == "weight" or path.startswith("fields.")}

    loss = "fields.train_loss"
    assert listed_of("fedavg") == {loss}
    assert listed_of("fedkper") == {loss, "weight", "fields.train_accuracy"}
    validation = {"method": "fedkper", "reliability": "validation"}
    assert listed_of(validation) == {loss, "weight", "fields.validation_accuracy"}
    assert listed_of({"method": "fedkper", "weighting": "samples"}) == {loss}
