"""The manifest against what real sites answer, with every method; and that nothing else passes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from consilia.core.errors import ConfigError, ReleaseRefused
from consilia.data.site import load_site_config
from consilia.federation.config import RunConfig, run_config
from consilia.federation.coordinator import Coordinator
from consilia.federation.initial import initial_state as start
from consilia.federation.messages import Broadcast, Reply, Request
from consilia.federation.release_fields import asked_of
from consilia.federation.release_manifest import Manifest, checked_job, manifest_of, read_manifest
from consilia.federation.server_settings import own_server
from consilia.federation.site import Site
from consilia.methods.config import TrainingConfig
from consilia.models.exchange import ModelSize
from consilia.simulation.federation import load_federation
from consilia.study.study import load_study, study_config
from tests.federation.clinics import clinics_config, write_clinics
from tests.federation.support import model_of, small, write_job

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
            yield from filled(part, (*path, key))
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
        assert paths == listed(manifest, task)
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
        ("train", put("x" * 70_000, 1), "the content has 7"),
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
