"""Fed-GPL over whole runs on phantoms: what travels, what is watched, what a site keeps, and what goes wrong well."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from consilia.core.errors import CheckpointError, ConfigError
from consilia.data.loading import load_site
from consilia.data.site import load_site_config
from consilia.evaluation.summary import summarise
from consilia.federation.config import RunConfig
from consilia.federation.inprocess import run_inprocess
from consilia.federation.messages import Request
from consilia.federation.server_settings import ServerSettings, own_server
from consilia.federation.site import Site
from consilia.models.exchange import exchanged_state
from consilia.models.foundation import EMBEDDED_FOLDER, foundation_digest
from consilia.record.schema import Record
from consilia.study.baselines import run_baseline
from consilia.study.study import load_study, study_config

pytestmark = pytest.mark.slow
FEW = 8


@pytest.fixture(scope="module")
def sites(phantoms, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Path]]:
    folder = tmp_path_factory.mktemp("phantoms")
    return {
        "classification": phantoms("phantom-ultrasound", folder / "c", train_cases=FEW),
        "segmentation": phantoms("phantom-polyp", folder / "s", train_cases=FEW),
    }


def config(task: str, sites: dict[str, Path], label: str = "fedgpl", *settings: str) -> RunConfig:
    study = load_study(f"fedgpl-{task}")
    return study_config(study, label, 0, sites, ["rounds=2", "training.local_epochs=1", *settings])


def run(task: str, sites: dict[str, Path], folder: Path, label: str = "fedgpl", *settings: str) -> Record:
    wanted = config(task, sites, label, *settings)
    return run_inprocess(wanted, sites, folder, server=own_server(wanted, sites))


Done = tuple[Record, Path]


@pytest.fixture(scope="module")
def done(sites, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Done]:
    """A Fed-GPL run of each task at two of the sites: its record and its folder."""
    folders = {task: tmp_path_factory.mktemp(task) for task in sites}
    return {task: (run(task, two(sites[task]), folder), folder) for task, folder in folders.items()}


def two(sites: dict[str, Path]) -> dict[str, Path]:
    """The first sites, where more would only cost time."""
    return dict(list(sites.items())[:2])


@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_only_what_is_trained_travels_and_everything_is_watched(task: str, sites, done) -> None:
    record, place = done[task]
    model = config(task, sites[task]).model.build(
        seed=0, allowed=own_server(config(task, sites[task]), sites[task]).allow_models, folders={}
    )
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert record.exchange is not None
    assert record.exchange.parameters == trained
    for part in record.rounds:
        for size in (*part.bytes_up.values(), *part.bytes_down.values()):
            assert 4 * trained < size <= 1.01 * 4 * trained + 64_000
        for contribution in part.contributions.values():
            assert contribution.fields["prompt_diversity"] > 0
    final = record.final["last"]
    assert set(final.variants["mean_prompt"]) == set(two(sites[task]))
    # Acceptance (e): the sites hold what the server holds, and the backbone is no part of it.
    state = load_file(place / "global-last.safetensors")
    assert set(state) == set(exchanged_state(model))
    for path in two(sites[task]).values():
        folder = next((path.parent / "state" / "runs").glob("fedgpl-*"))
        assert set(load_file(folder / "personal-last.safetensors")) == set(state)
        report = (folder / "report-last.html").read_text()
        assert "data:image/png;base64," in report
        assert (folder / "report-last.html").stat().st_mode & 0o077 == 0
    shown = (place / "report.html").read_text()
    assert "Prompt diversity per round and site" in shown
    assert "replaced by" in shown


def test_half_precision_halves_the_bytes(sites, done, tmp_path: Path) -> None:
    whole, _ = done["classification"]
    some = two(sites["classification"])
    half = run("classification", some, tmp_path / "half", "fedgpl", "exchange_dtype=float16")
    assert half.exchange is not None
    assert half.exchange.dtype == "float16"
    sent = [next(iter(record.rounds[-1].bytes_up.values())) for record in (whole, half)]
    assert sent[1] / sent[0] == pytest.approx(0.5, abs=0.01)
    assert {tensor.dtype for tensor in load_file(tmp_path / "half" / "global-last.safetensors").values()} == {
        torch.float16
    }
    # What a site keeps for itself is not rounded.
    state = sites["classification"]["phantom-hospital-1"].parent / "state" / "runs" / half.run.id
    assert {tensor.dtype for tensor in load_file(state / "personal-last.safetensors").values()} == {torch.float32}


@pytest.mark.parametrize(
    ("task", "label"),
    [("classification", "head"), pytest.param("segmentation", "decoder", marks=pytest.mark.long)],
)
def test_baselines_run_from_the_same_study(task: str, label: str, sites, tmp_path: Path) -> None:
    record = run(task, two(sites[task]), tmp_path, label)
    assert record.exchange is not None
    assert record.exchange.parameters < record.exchange.all_parameters
    assert record.final["last"].variants == {}


def test_a_filled_box_is_worth_what_numpy_says(sites, tmp_path: Path) -> None:
    """The baseline that answers with its prompt: Dice of the tight box and of the whole image, written out."""
    wanted = config("segmentation", sites["segmentation"], "fedgpl")
    record = run_baseline("filled-box", wanted, sites["segmentation"])
    for name, path in sites["segmentation"].items():
        masks = load_site(path, "structure").test.labels.numpy()
        boxed, imaged = [], []
        for mask in masks:
            rows, columns = mask.any(axis=1).nonzero()[0], mask.any(axis=0).nonzero()[0]
            area = (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
            boxed.append(2 * mask.sum() / (area + mask.sum()))
            imaged.append(2 * mask.sum() / (mask.size + mask.sum()))
        test: Any = record.final["last"].global_[name].test
        assert test.prompts["box"].dice == pytest.approx(sum(boxed) / len(boxed))
        assert test.prompts["image"].dice == pytest.approx(sum(imaged) / len(imaged))


def test_an_ellipse_is_worth_what_a_plain_loop_says(sites, tmp_path: Path) -> None:
    """Dice of the ellipse in the tight box, pixel by pixel."""
    record = run_baseline("ellipse", config("segmentation", sites["segmentation"], "fedgpl"), sites["segmentation"])
    name, path = next(iter(sites["segmentation"].items()))
    dice = []
    for mask in load_site(path, "structure").test.labels.numpy():
        rows, columns = mask.any(axis=1).nonzero()[0], mask.any(axis=0).nonzero()[0]
        middle, half = (rows[0] + rows[-1]) / 2, (rows[-1] - rows[0] + 1) / 2
        centre, wide = (columns[0] + columns[-1]) / 2, (columns[-1] - columns[0] + 1) / 2
        inside = {
            (y, x)
            for y in range(rows[0], rows[-1] + 1)
            for x in range(columns[0], columns[-1] + 1)
            if ((y - middle) / half) ** 2 + ((x - centre) / wide) ** 2 <= 1
        }
        both = sum(int(mask[place]) for place in inside)
        dice.append(2 * both / (len(inside) + int(mask.sum())))
    test: Any = record.final["last"].global_[name].test
    assert test.prompts["box"].dice == pytest.approx(sum(dice) / len(dice))
    assert test.prompts["box"].missed == 0


def test_another_copy_of_the_foundation_model_is_refused(sites, tmp_path: Path) -> None:
    wanted = config("classification", sites["classification"], "head")
    files = dict(sites["classification"])
    content = yaml.safe_load(files["phantom-hospital-2"].read_text())
    folder = tmp_path / "other-vit"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_bytes(b"{}")
    digest = wanted.model.foundation.digest if wanted.model.foundation else None
    content["foundation_models"] = {"shared-vit": {"folder": str(folder), "digest": digest}}
    changed = wanted.to_json()
    changed["model"]["foundation"] = {"model": "shared-vit", "digest": digest}
    other = tmp_path / "site.yaml"
    other.write_text(yaml.safe_dump(content))
    with pytest.raises(CheckpointError, match=r"other-vit: expected sha256:"):
        Site(RunConfig.model_validate(changed), load_site_config(other))


def test_the_task_of_the_run_and_of_the_site_must_agree(sites, tmp_path: Path) -> None:
    wanted = config("segmentation", sites["segmentation"]).to_json()
    with pytest.raises(ConfigError, match=r"the run is a segmentation, dataset 'diagnosis' of .* a classification"):
        Site(
            RunConfig.model_validate({**wanted, "dataset": "diagnosis"}),
            load_site_config(sites["classification"]["phantom-hospital-1"]),
        )


def test_images_of_another_size_are_refused_by_name(sites, tmp_path: Path) -> None:
    content = yaml.safe_load(sites["classification"]["phantom-hospital-1"].read_text())
    content["datasets"]["diagnosis"]["size"] = [96, 96]
    content["state_dir"] = str(tmp_path / "state")
    path = tmp_path / "site.yaml"
    path.write_text(yaml.safe_dump(content))
    site = Site(config("classification", sites["classification"]), load_site_config(path))
    assert site.answer(Request(kind="prepare"), None).error == "ConfigError"
    assert "does not take inputs of shape (1, 1, 96, 96)" in (tmp_path / "state" / "errors.log").read_text()


def test_the_server_without_the_class_refuses(sites, tmp_path: Path) -> None:
    wanted = config("classification", sites["classification"])
    with pytest.raises(ConfigError, match="not listed here"):
        run_inprocess(wanted, sites["classification"], tmp_path, server=ServerSettings(allow_models=("a.b",)))


def test_summary_has_the_ablation_and_the_bytes(done) -> None:
    record, _ = done["segmentation"]
    summary = summarise(record)
    assert summary.numbers(("variant", "mean_prompt"))["dice_box"] is not None
    assert (summary.last_reports["prompt_diversity"] or 0) > 0
    assert summary.costs.exchange is not None
    assert summary.costs.exchange.floor == 4 * summary.costs.exchange.parameters
    assert summary.numbers("last")["global_hd95_box"] is not None


def test_final_evaluations_alone_have_intervals_by_patient(done) -> None:
    record, _ = done["segmentation"]
    last = record.final["last"]
    for found in (*last.global_.values(), *last.personal.values()):
        assert found.test is not None
        dice, ends = found.test.prompts["box"].dice, found.test.intervals["box.dice"]
        assert ends.low <= dice <= ends.high
        assert 1 < (found.test.patients or 0) < found.test.count  # some patients have several images
        assert found.validation is None or found.validation.intervals == {}
    for evaluation in record.evaluations:
        assert all(found.test is None or found.test.intervals == {} for found in evaluation.sites.values())


def test_a_site_that_lacks_the_foundation_model_is_absent_and_the_others_go_on(sites, tmp_path: Path) -> None:
    """The run pins a model that three hospitals have; the fourth has other weights under its name."""
    source = EMBEDDED_FOLDER / "consilia-vit"
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "config.json").write_bytes((source / "config.json").read_bytes())
    (damaged / "model.safetensors").write_bytes((source / "model.safetensors").read_bytes()[:-4] + bytes(4))
    files = {}
    for name, path in sites["classification"].items():
        folder = damaged if name == "phantom-hospital-4" else source
        content = yaml.safe_load(path.read_text())
        content["state_dir"] = str(tmp_path / name)
        content["foundation_models"] = {"shared": {"folder": str(folder), "digest": foundation_digest(source)}}
        files[name] = tmp_path / f"{name}.yaml"
        files[name].write_text(yaml.safe_dump(content))
    changed = config("classification", sites["classification"], "head").to_json()
    changed["model"]["foundation"] = {"model": "shared", "digest": foundation_digest(source)}
    wanted = RunConfig.model_validate(changed)
    with pytest.raises(CheckpointError, match=r"damaged: expected sha256:"):
        Site(wanted, load_site_config(files.pop("phantom-hospital-4")))
    record = run_inprocess(wanted, files, tmp_path / "run", server=own_server(wanted, files))
    assert sorted(record.sites) == ["phantom-hospital-1", "phantom-hospital-2", "phantom-hospital-3"]
