"""``consilia predict`` for a segmentation: masks in the geometry of the files, boxes that say where to look."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from consilia.cli.app import app
from consilia.data.allowed import FoundationFolder
from consilia.data.loading import load_site
from consilia.federation.config import RunConfig, run_config
from consilia.federation.model_card import run_card, save_model
from consilia.models.exchange import exchanged_state
from consilia.models.foundation import foundation_digest
from consilia.models.sam_segmenter import MaskPrompts
from tests.models.support import SMALL_SAM, small_sam

ROWS, COLUMNS = 50, 80


@pytest.fixture
def hospital(tmp_path: Path) -> tuple[Path, Path, RunConfig]:
    """A site with twelve small scans and their masks, a saved model, and the run it came from."""
    rng = np.random.default_rng(0)
    for folder in ("images", "masks", "sam"):
        (tmp_path / folder).mkdir()
    lines = ["image,patient"]
    for number in range(12):
        mask = np.zeros((ROWS, COLUMNS), dtype=np.uint8)
        mask[10:30, 20 + number : 50] = 255
        Image.fromarray(mask).save(tmp_path / "masks" / f"{number}.png")
        noise = rng.integers(0, 60, size=mask.shape).astype(np.uint8)
        Image.fromarray(noise + mask // 2).save(tmp_path / "images" / f"{number}.png")
        lines.append(f"{number},p{number}")
    (tmp_path / "cases.csv").write_text("\n".join(lines) + "\n")
    torch.manual_seed(0)
    save_file({n: t.clone() for n, t in small_sam().state_dict().items()}, tmp_path / "sam" / "model.safetensors")
    (tmp_path / "sam" / "config.json").write_text(json.dumps(SMALL_SAM))
    digest = foundation_digest(tmp_path / "sam")
    site = {
        "site": "a",
        "foundation_models": {"small": {"folder": "sam", "digest": digest}},
        "datasets": {
            "structure": {
                "format": "images",
                "task": "segmentation",
                "file": "cases.csv",
                "folder": "images",
                "image": "{image}.png",
                "mask": {"folder": "masks", "name": "{image}.png"},
                "patient": "patient",
                "classes": ["background", "lesion"],
                "size": [64, 64],
                "spacing": [0.5, 0.25],
                "normalise": "half",
            }
        },
    }
    path = tmp_path / "site.yaml"
    path.write_text(yaml.safe_dump(site))
    load_site(path, "structure")
    config = run_config(
        {
            "method": "fedgpl",
            "task": "segmentation",
            "dataset": "structure",
            "model": {
                "class": "consilia.models.prompted_sam.PromptedSam",
                "foundation": {"model": "small", "digest": digest},
            },
        }
    )
    model = build(config, tmp_path)
    saved = tmp_path / "global-last.safetensors"
    save_model(saved, exchanged_state(model), run_card(config, ("background", "lesion"), "global-last"))
    return path, saved, config


def build(config: RunConfig, folder: Path):
    place = FoundationFolder(folder=folder / "sam", digest=foundation_digest(folder / "sam"))
    return config.model.build(seed=0, allowed=(config.model.class_,), folders={"small": place}).eval()


def consilia(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return " ".join(result.output.split())


def test_masks_are_the_models_in_the_files_geometry(hospital, tmp_path: Path) -> None:
    site, saved, config = hospital
    (tmp_path / "boxes.csv").write_text("case,x1,y1,x2,y2\n" + "".join(f"{n},20,10,49,29\n" for n in range(12)))
    out = tmp_path / "out"
    arguments = ["predict", saved, "--site", site, "--cases", tmp_path / "images", "--out", out]
    consilia(*arguments, "--boxes", tmp_path / "boxes.csv")
    # The same by hand: resize as Pillow does, scale the box about pixel centres, ask the model, enlarge by centres.
    model = build(config, tmp_path)
    with (out / "masks.csv").open() as file:
        rows = {row["case"]: row for row in csv.DictReader(file)}
    for number in range(12):
        image = Image.open(tmp_path / "images" / f"{number}.png").resize((64, 64), Image.Resampling.BILINEAR)
        inputs = (torch.tensor(np.asarray(image)).float() / 255 - 0.5) / 0.5
        box = [20.5 * 64 / 80 - 0.5, 10.5 * 64 / 50 - 0.5, 49.5 * 64 / 80 - 0.5, 29.5 * 64 / 50 - 0.5]
        with torch.no_grad():
            small = (model(inputs[None, None], MaskPrompts(torch.tensor([box])))[0] > 0).numpy()
        down = [int((row + 0.5) * 64 / ROWS) for row in range(ROWS)]
        across = [int((column + 0.5) * 64 / COLUMNS) for column in range(COLUMNS)]
        written = np.asarray(Image.open(out / f"{number}_mask.png"))
        assert written.shape == (ROWS, COLUMNS)
        assert set(np.unique(written)) <= {0, 255}
        assert np.array_equal(written > 0, small[np.ix_(down, across)])
        pixels = int(small[np.ix_(down, across)].sum())
        assert int(rows[str(number)]["foreground_pixels"]) == pixels
        assert float(rows[str(number)]["foreground_mm2"]) == pytest.approx(pixels * 0.5 * 0.25, abs=0.006)


def test_without_boxes_the_whole_image_is_shown(hospital, tmp_path: Path) -> None:
    site, saved, _ = hospital
    everything = "".join(f"{n},0,0,{COLUMNS - 1},{ROWS - 1}\n" for n in range(12))
    (tmp_path / "boxes.csv").write_text("case,x1,y1,x2,y2\n" + everything)
    arguments = ["predict", saved, "--site", site, "--cases", tmp_path / "images"]
    consilia(*arguments, "--out", tmp_path / "none")
    consilia(*arguments, "--out", tmp_path / "all", "--boxes", tmp_path / "boxes.csv")
    # Corner pixels of both sizes have other centres, so boxes differ by a fraction of a pixel: nearly the same masks.
    for number in range(12):
        first, second = (np.asarray(Image.open(tmp_path / f / f"{number}_mask.png")) > 0 for f in ("none", "all"))
        assert (first != second).mean() < 0.02


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("case,x1,y1,x2,y2\n0,1,1,5,5\n", "11 case(s) have no box, e.g. '1'"),
        ("case,x1,y1,x2\n0,1,1,5\n", "column(s) ['y2'] missing"),
        ("ALL,5,5,1,1\n", "row 1: expected 0 <= x1 <= x2 < 80 and 0 <= y1 <= y2 < 50, got [5.0, 5.0, 1.0, 1.0]"),
        ("ALL,1,1,80,5\n", "row 1: expected 0 <= x1 <= x2 < 80"),
        ("ALL,a,1,5,5\n", "row 1: expected four numbers x1, y1, x2, y2"),
    ],
)
def test_bad_boxes_are_named_and_nothing_is_written(hospital, tmp_path: Path, text: str, message: str) -> None:
    site, saved, _ = hospital
    if text.startswith("ALL"):
        text = "case,x1,y1,x2,y2\n" + "".join(text.replace("ALL", str(number)) for number in range(12))
    (tmp_path / "boxes.csv").write_text(text)
    arguments = ["predict", saved, "--site", site, "--cases", tmp_path / "images", "--out", tmp_path / "out"]
    assert message in consilia(*arguments, "--boxes", tmp_path / "boxes.csv", code=1)
    assert not (tmp_path / "out").exists()


def test_a_case_has_one_box(hospital, tmp_path: Path) -> None:
    site, saved, _ = hospital
    (tmp_path / "boxes.csv").write_text("case,x1,y1,x2,y2\n0,1,1,5,5\n0,1,1,9,9\n")
    arguments = ["predict", saved, "--site", site, "--cases", tmp_path / "images", "--out", tmp_path / "out"]
    message = consilia(*arguments, "--boxes", tmp_path / "boxes.csv", code=1)
    assert "row 2: case '0' has a box already, in row 1" in message


@pytest.mark.parametrize("card", ["no json", "[1]", '{"model": 3}', '{"model": {"class": "os.system()"}}'])
def test_a_damaged_card_is_named(hospital, tmp_path: Path, card: str) -> None:
    site, _, _ = hospital
    if card.startswith("{"):
        card = json.dumps({"dataset": "structure", "class_names": [], "method": "m", "kind": "k", **json.loads(card)})
    save_file({"x": torch.zeros(1)}, tmp_path / "damaged.safetensors", {"consilia": card})
    message = consilia(
        "predict", tmp_path / "damaged.safetensors", "--site", site, "--cases", tmp_path / "images", code=1
    )
    assert "damaged.safetensors: its model card cannot be read" in message


def test_the_lines_for_a_foundation_model(hospital, tmp_path: Path) -> None:
    printed = consilia("site", "foundation", tmp_path / "sam")
    place = yaml.safe_load(printed.replace("foundation_models: ", ""))["sam"]
    assert place["digest"] == foundation_digest(tmp_path / "sam")
    assert "no such file" in consilia("site", "foundation", tmp_path / "nowhere", code=1)


def test_evaluate_judges_masks_by_hand(hospital, tmp_path: Path) -> None:
    site, saved, config = hospital
    printed = consilia("evaluate", saved, "--site", site, "--split", "all", "--out", tmp_path / "out")
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())["metrics"]
    data, model = load_site(site, "structure"), build(config, tmp_path)
    dices = []
    for split in (data.train, data.validation, data.test):
        for image, truth in zip(split.inputs, split.labels.bool(), strict=True):
            down, across = truth.nonzero(as_tuple=True)
            box = torch.stack([across.min(), down.min(), across.max(), down.max()]).float()
            with torch.no_grad():
                mask = model(image[None], MaskPrompts(box[None]))[0] > 0
            dices.append(float(2 * (mask & truth).sum() / (mask.sum() + truth.sum())))
    assert found["count"] == len(dices) == 12
    assert found["prompts"]["box"]["dice"] == pytest.approx(sum(dices) / 12, abs=1e-6)
    assert set(found["prompts"]) == {"box", "image", "jitter"}
    assert "hd95" in found["prompts"]["box"] or found["prompts"]["box"]["missed"] == 12
    assert (tmp_path / "out" / "report.html").is_file()
    ends = found["intervals"]["box.dice"]
    assert re.search(rf"Dice, true box +{sum(dices) / 12:.3f} +{ends['low']:.3f} to {ends['high']:.3f}", printed)
    missed = found["prompts"]["box"]["missed"] / 12
    assert re.search(rf"share missed, true box +{missed:.3f} +\d", printed)
    report = (tmp_path / "out" / "report.html").read_text()
    assert f"{ends['low']:.3f} to {ends['high']:.3f}" in report
    assert f"In repeated samples {ends['low']:.2f} to {ends['high']:.2f}." in report
