"""Preprocessing pooled over the training sites: sums leave them, one mean and deviation comes back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from consilia.core.errors import ConfigError, DataError, RunFailed
from consilia.data.loading import load_site
from consilia.data.moments import Moments, pooled_values, require_values
from consilia.data.site import load_site_config
from consilia.federation.config import RunConfig, run_config
from consilia.federation.inprocess import run_inprocess
from consilia.federation.messages import Request
from consilia.federation.release_manifest import manifest_of
from consilia.federation.saved_model import load_model
from consilia.federation.server_settings import own_server
from consilia.federation.site import Site
from consilia.record.files import load_record
from tests.cli.clinic import CNN, SIZE, training_values, write_clinic
from tests.federation.support import Federation, model_of, small, stop_in, without_clocks

NAMES = ("east", "north", "west")


def clinics(folder: Path, **changes: object) -> dict[str, Path]:
    return {name: write_clinic(folder / name, 24 + 8 * i, **changes) for i, name in enumerate(NAMES)}


def config(**changes: object) -> RunConfig:
    args = {"num_classes": 2, "in_channels": 1, "image_size": SIZE}
    values = {
        "method": "fedkper",
        "dataset": "mass",
        "model": {"class": CNN, "args": args},
        "rounds": 2,
        "training": {"local_epochs": 1, "batch_size": 8, "device": "cpu"},
        "preprocessing": "pooled",
    }
    return run_config({**values, **changes})


def pixels_of(site: Path) -> np.ndarray:
    """The site's training pixels from the files on."""
    cases = load_site(site, "mass").train.case_ids
    images = (Image.open(site.parent / "images" / f"{case}.png") for case in cases)
    return np.stack([np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BILINEAR)) for image in images])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Path]]:
    folder = tmp_path_factory.mktemp("pooled")
    files = clinics(folder)
    run = config()
    run_inprocess(run, files, folder / "run", server=own_server(run, files))
    return folder / "run", files


def test_the_values_are_those_of_all_training_pixels_together(finished) -> None:
    run, files = finished
    every = np.concatenate([pixels_of(path).ravel() for path in files.values()]).astype(np.float64)
    found = load_record(run / "result.json").preprocessing
    assert found["mean"] == pytest.approx([every.mean()], rel=1e-12)
    assert found["std"] == pytest.approx([every.std()], rel=1e-12)
    # No site's own, that is.
    assert abs(found["mean"][0] / 255 - training_values(files["east"])[0]) > 1e-6


def test_an_unseen_hospital_needs_the_card_alone(finished, tmp_path: Path) -> None:
    run, _ = finished
    site = write_clinic(tmp_path / "south", 40)
    model = load_model(run / "global-best.safetensors", site)
    predicted = model.predict(site.parent / "images")
    assert len(predicted.answers) == 40
    assert predicted.preprocessing == "preprocessing of the model's card"
    assert not (site.parent / "state" / "mass" / "preprocessing.json").exists()
    mean, std = (model.card.preprocessing.fitted[key][0] / 255 for key in ("mean", "std"))
    image = np.asarray(Image.open(site.parent / "images" / "us-3.png").resize((SIZE, SIZE), Image.Resampling.BILINEAR))
    shown = predicted.cases.inputs[predicted.cases.ids.index("us-3"), 0].numpy()
    assert shown == pytest.approx((image / 255 - mean) / std, abs=1e-5)


def test_a_personal_model_says_whose_values_it_takes(finished) -> None:
    run, files = finished
    (path,) = (files["west"].parent / "state" / "runs").glob("*/personal-last.safetensors")
    card = load_model(path, files["west"]).card.preprocessing
    assert card.rule == "pooled"
    assert card.fitted == load_record(run / "result.json").preprocessing


def test_a_resumed_run_ends_with_the_same_bytes(tmp_path: Path) -> None:
    files = clinics(tmp_path)
    whole = Federation(config(), files, tmp_path / "whole").run()
    again = clinics(tmp_path / "again")
    killed = Federation(config(), again, tmp_path / "part")
    stop_in(killed, 1, 2)
    with pytest.raises(KeyboardInterrupt):
        killed.run()
    resumed = Federation(config(), again, tmp_path / "part").run()
    assert without_clocks(resumed) == without_clocks(whole)


def test_the_manifest_names_the_sums_where_the_run_pools_them(tmp_path: Path) -> None:
    pooled, own = (manifest_of(run, model_of(run)) for run in (config(), config(preprocessing="site")))
    added = set(pooled.fields["prepare"]) - set(own.fields["prepare"])
    assert added == {"moments.values[]", "moments.total[]", "moments.squares[]"}
    site = Site(config(), load_site_config(write_clinic(tmp_path / "east")))
    content = site.answer(Request(kind="prepare"), None).content
    assert pooled.check("prepare", content, {}, "")
    sent = json.loads(content)["moments"]
    pixels = pixels_of(tmp_path / "east" / "site.yaml").astype(np.int64)
    assert sent == {"values": [pixels.size], "total": [pixels.sum()], "squares": [(pixels**2).sum()]}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (None, "the run's preprocessing is pooled, the request's is not"),
        ({"mean": [1.0, 2.0], "std": [1.0, 1.0]}, "expected mean and std of 1 columns or channels, got"),
        ({"mean": [1.0], "std": [0.0]}, "deviations above 0"),
        ({"mean": [1e300], "std": [1.0]}, "expected finite means"),
        ({"mean": [1.0]}, "expected mean and std"),
    ],
)
def test_values_that_are_none_are_refused_at_the_site(tmp_path: Path, values, words: str) -> None:
    site = Site(config(), load_site_config(write_clinic(tmp_path / "east")))
    site.answer(Request(kind="prepare"), None)
    reply = site.answer(Request(kind="evaluate", preprocessing=values), {})
    assert reply.error in ("ConfigError", "DataError")
    assert words in str(site.error)


def test_what_does_not_add_up_is_refused_by_name(tmp_path: Path, wisconsin: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match="format tabular imputes medians, which do not add up over sites"):
        Site(small("fedavg", preprocessing="pooled"), load_site_config(wisconsin["hospital-1"]))
    with pytest.raises(ConfigError, match="normalise: train, this one has half"):
        Site(config(), load_site_config(write_clinic(tmp_path / "east", normalise="half")))


def test_tables_without_missing_values_are_pooled(wisconsin: dict[str, Path], tmp_path: Path) -> None:
    for path in wisconsin.values():
        path.write_text(path.read_text().replace("format: tabular", "format: tabular\n    numeric_missing: error"))
    run = Federation(small("fedavg", preprocessing="pooled", rounds=1), wisconsin, tmp_path / "run")
    record = run.rounds()
    inputs = np.concatenate([site.data.train.inputs.double().numpy() for site in run.sites.values()])
    assert inputs.mean(axis=0) == pytest.approx(np.zeros(30), abs=1e-5)
    assert inputs.std(axis=0) == pytest.approx(np.ones(30), abs=1e-5)
    assert len(record.preprocessing["mean"]) == 30


def test_sums_by_hand() -> None:
    first = Moments(values=(2, 1), total=(4.0, 5.0), squares=(10.0, 25.0))  # 1, 3 and 5
    second = Moments(values=(1, 0), total=(5.0, 0.0), squares=(25.0, 0.0))  # 5 and nothing
    found = pooled_values([first, second])
    assert found["mean"] == [3.0, 5.0]
    assert found["std"] == pytest.approx([np.std([1, 3, 5]), 1.0])
    with pytest.raises(DataError, match=r"are of \[1, 2\] columns or channels"):
        pooled_values([first, Moments(values=(1,), total=(1.0,), squares=(1.0,))])
    require_values(found, 2)


def test_a_run_of_which_no_site_can_pool_fails_and_says_so(tmp_path: Path) -> None:
    files = clinics(tmp_path)
    federation = Federation(config(), files, tmp_path / "run")
    federation.bend = lambda site, task, reply: (
        reply
        if task.request.kind != "prepare"
        else type(reply)(json.dumps({k: v for k, v in json.loads(reply.content).items() if k != "moments"}))
    )
    with pytest.raises(RunFailed, match="no training site has sent sums"):
        federation.run()
