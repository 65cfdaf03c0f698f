"""The foundation models that ship: they load, they are small, and they have seen no case that a site holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from consilia.data.problems import Problems
from consilia.data.public_pool import image_digest, load_pool
from consilia.data.readers import reader_for
from consilia.data.site import load_site_config
from consilia.data.specs import MedMnistSpec
from consilia.models.foundation import EMBEDDED, EMBEDDED_FOLDER, empty_foundation, load_foundation
from consilia.simulation.federation import load_federation
from consilia.simulation.synthetic import KINDS, draw_phantoms

REPOSITORY = Path(__file__).parents[2]
NAMES = sorted(set(EMBEDDED) - {"consilia-lm"})  # which is in test_language.py


def training_data(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((EMBEDDED_FOLDER / name / "training_data.json").read_text(encoding="utf-8"))
    return content


@pytest.mark.parametrize("name", NAMES)
def test_the_folder_is_complete_small_and_fits_its_config(name: str) -> None:
    pytest.importorskip("timm" if name == "consilia-vit" else "transformers")
    folder = EMBEDDED_FOLDER / name
    assert (folder / "README.md").is_file()
    assert (folder / "model.safetensors").stat().st_size <= 6_000_000
    model = empty_foundation(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    state = load_file(folder / "model.safetensors")
    assert all(bool(torch.isfinite(tensor).all()) for tensor in state.values())
    missing, unexpected = model.load_state_dict(state, strict=True)
    assert not missing
    assert not unexpected


def test_the_vit_sees_another_feature_in_another_image() -> None:
    pytest.importorskip("timm")
    drawn = draw_phantoms("ultrasound", 4, seed=0)
    images = torch.from_numpy(drawn.images).float().div(127.5).sub(1)[:, None].expand(-1, 3, -1, -1)
    model = load_foundation("consilia-vit", None, {})
    with torch.no_grad():
        tokens = model.forward_features(images)  # type: ignore[operator]
    assert tokens.shape == (4, 65, 128)  # cls and 8 x 8 patches
    distances = torch.cdist(tokens[:, 0], tokens[:, 0]) + torch.eye(4) * 100
    assert distances.min() > 0.5


@pytest.mark.parametrize(("kind", "expected"), [("prostate", 0.87), ("ultrasound", 0.75)])
def test_the_sam_finds_a_new_phantom_in_its_box(kind: str, expected: float) -> None:
    pytest.importorskip("transformers")
    drawn = draw_phantoms(kind, 8, seed=77, scanner=3)
    images = torch.from_numpy(drawn.images).float().div(127.5).sub(1)[:, None].expand(-1, 3, -1, -1)
    boxes = []
    for mask in drawn.masks > 0:
        (rows,), (columns,) = np.nonzero(mask.any(1)), np.nonzero(mask.any(0))
        boxes.append([float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)])
    truth = drawn.masks > 0
    model = load_foundation("consilia-sam", None, {})
    dice = {}
    for prompt, asked in (("box", torch.tensor(boxes)), ("whole", torch.tensor([[0.0, 0.0, 128.0, 128.0]] * 8))):
        with torch.no_grad():
            out = model(pixel_values=images, input_boxes=asked[:, None], multimask_output=False)
        logits = torch.nn.functional.interpolate(out.pred_masks[:, 0], (128, 128), mode="bilinear")[:, 0]
        found = logits.numpy() > 0
        each = 2 * (found & truth).sum((1, 2)) / (found.sum((1, 2)) + truth.sum((1, 2)))
        assert abs(float(out.iou_scores.mean()) - float((each / (2 - each)).mean())) < 0.15
        dice[prompt] = float(each.mean())
    assert dice["box"] > expected
    assert dice["box"] > dice["whole"]  # it does look at the box


@pytest.mark.parametrize("name", NAMES)
def test_every_real_case_is_of_the_public_pools(name: str) -> None:
    used = training_data(name)
    pool = load_pool("busbra")
    assert used["busbra"]["images"]
    assert pool.case_ids.issuperset(used["busbra"]["images"])
    assert pool.patients.issuperset(used["busbra"]["patients"])
    if name == "consilia-vit":
        assert used["pneumoniamnist"]["sha256_of_pixels"]
        assert load_pool("pneumoniamnist").digests.issuperset(used["pneumoniamnist"]["sha256_of_pixels"])
    # The invented hospitals' scanners are 1 to 4.
    assert set(used["phantoms"]) <= set(KINDS)
    assert min(entry["scanners"][0] for entry in used["phantoms"].values()) > 4


def test_no_image_of_the_test_part_of_vqa_rad(data_root: Path) -> None:
    folder = data_root / "vqa_rad"
    if not folder.exists():
        pytest.skip(f"{folder} is not there")
    tested = {row["image_name"] for row in json.loads((folder / "testset.json").read_text())}
    used = set(training_data("consilia-vit")["vqa_rad"]["images"])
    assert used
    assert not used & tested
    assert all((folder / "images" / name).is_file() for name in used)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_no_case_of_a_shipped_site(name: str, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONSILIA_DATA", str(data_root))
    used = training_data(name)
    seen = {
        "busbra": set(used["busbra"]["images"]),
        "pneumoniamnist": set(used.get("pneumoniamnist", {}).get("sha256_of_pixels", ())),
    }
    for config, cases in seen.items():
        if not (data_root / config).exists():
            pytest.skip(f"{data_root / config} is not there")
        held = held_cases(config, tmp_path)
        assert len(held) > 1000
        assert not cases & held


def held_cases(config: str, out: Path) -> set[str]:
    """What the sites of a shipped federation load: case ids (busbra), digests of pixels (pneumoniamnist)."""
    held: set[str] = set()
    for path in load_federation(str(REPOSITORY / "configs" / f"{config}.yaml"), out / config).values():
        spec = load_site_config(path).datasets["diagnosis"]
        cases = reader_for(spec).index(Problems())
        if isinstance(spec, MedMnistSpec):
            with np.load(spec.file) as arrays:
                images = {part: arrays[f"{part}_images"] for part in spec.parts}
            places = (case.split("-") for case in cases.ids)
            held.update(image_digest(images[part][int(number)]) for part, number in places)
        else:
            held.update(cases.ids)
    return held
