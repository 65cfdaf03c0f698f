"""Phantoms: reproducible bytes, signs that follow the class, scanners that differ, and sites that load."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.ndimage import binary_erosion
from sklearn.metrics import roc_auc_score

from consilia.core.errors import ConfigError
from consilia.data.problems import Problems
from consilia.data.readers import reader_for
from consilia.simulation.synthetic import HOSPITALS, KINDS, draw_phantoms, phantom_sites


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_shapes_masks_and_bytes(kind: str) -> None:
    drawn, again = draw_phantoms(kind, 4, seed=3), draw_phantoms(kind, 6, seed=3)
    channels = (3,) if KINDS[kind].mode == "rgb" else ()
    assert drawn.images.shape == (4, 128, 128, *channels)
    assert (drawn.images.dtype, drawn.masks.dtype, drawn.labels.dtype) == (np.uint8, np.uint8, np.int64)
    assert set(np.unique(drawn.masks)) == {0, 255}
    inside = (drawn.masks > 0).mean(axis=(1, 2))
    assert inside.min() > 0.003
    assert inside.max() < 0.6
    assert drawn.images.std(axis=(1, 2)).min() > 5  # no flat images
    # Case i does not depend on how many are drawn.
    assert drawn.images.tobytes() == again.images[:4].tobytes()
    assert drawn.masks.tobytes() == again.masks[:4].tobytes()
    assert drawn.images.tobytes() != draw_phantoms(kind, 4, seed=4).images.tobytes()


def test_another_scanner_sees_the_same_anatomy_otherwise() -> None:
    here, there = (draw_phantoms("skin", 3, seed=1, scanner=scanner) for scanner in (0, 1))
    assert (here.masks == there.masks).all()
    assert (here.labels == there.labels).all()
    # The colour cast of the first case differs by more than noise (a few gray values over 128 x 128 pixels).
    assert np.abs(here.images[0].mean(axis=(0, 1)) - there.images[0].mean(axis=(0, 1))).max() > 5


def roughness(mask: np.ndarray) -> float:
    """Edge pixels over those of a disc of the same area: 1 for a disc, more for what is long or spiculated."""
    inside = mask > 0
    edge = inside & ~binary_erosion(inside)
    return float(edge.sum() / (2 * np.sqrt(np.pi * inside.sum())))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["skin", "ultrasound"])
def test_the_outline_tells_the_classes_apart_but_not_perfectly(kind: str) -> None:
    drawn = draw_phantoms(kind, 80, seed=8)
    auroc = roc_auc_score(drawn.labels, [roughness(mask) for mask in drawn.masks])
    assert 0.7 < auroc < 0.99


def test_more_lesions_with_the_grade() -> None:
    # Difference between neighbouring pixels in green (lesions are small and dark or bright), same seed and anatomy.
    detail = []
    for grade in (0, 2, 4):
        drawn = draw_phantoms("fundus", 6, seed=2, class_weights=np.eye(5)[grade].tolist())
        assert (drawn.labels == grade).all()
        green = drawn.images[:, 30:98, 30:98, 1].astype(float)
        detail.append(np.abs(np.diff(green, axis=1)).mean())
    assert detail[0] < detail[1] < detail[2]


def test_class_weights_and_size() -> None:
    drawn = draw_phantoms("polyp", 40, seed=5, class_weights=[1, 3], size=32)
    assert drawn.images.shape == (40, 32, 32, 3)
    assert 20 <= drawn.labels.sum() <= 39  # 30 expected, standard deviation 2.7


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ConfigError, match="phantom kind must be one of"):
        draw_phantoms("heart", 1, seed=0)
    with pytest.raises(ConfigError, match=r"expected 2 numbers >= 0 for \['nevus', 'melanoma'\]"):
        draw_phantoms("skin", 1, seed=0, class_weights=[1, 2, 3])
    with pytest.raises(ConfigError, match="phantom kind must be one of"):
        phantom_sites("heart", "classification", Path())


@pytest.fixture(scope="module")
def ultrasound_sites(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("phantoms")
    phantom_sites("ultrasound", "classification", out)
    return out


@pytest.mark.slow
def test_the_sites_are_read_as_written(ultrasound_sites: Path) -> None:
    specs = phantom_sites("ultrasound", "classification", ultrasound_sites)
    assert {name: len(pd.read_csv(spec.file)) for name, spec in specs.items()} == HOSPITALS  # type: ignore[union-attr]
    shares = []
    for spec in specs.values():
        problems = Problems()
        reader = reader_for(spec)
        cases = reader.index(problems)
        raw = reader.read(cases, problems)
        problems.raise_if_any("phantoms")
        assert raw.shape == (len(cases.ids), 1, 128, 128)
        assert len(set(cases.patients)) < len(cases.ids)
        shares.append(cases.labels.mean())
    assert max(shares) - min(shares) > 0.1  # the hospitals' mixes differ


@pytest.mark.slow
def test_the_masks_are_the_truth_of_a_segmentation(ultrasound_sites: Path) -> None:
    before = (ultrasound_sites / "phantom-hospital-1" / "cases.csv").stat().st_mtime_ns
    spec = phantom_sites("ultrasound", "segmentation", ultrasound_sites)["phantom-hospital-1"]
    assert (ultrasound_sites / "phantom-hospital-1" / "cases.csv").stat().st_mtime_ns == before  # written once
    assert spec.classes == ("background", "lesion")
    assert (spec.task, spec.label) == ("segmentation", None)  # type: ignore[union-attr]
    problems = Problems()
    cases = reader_for(spec).index(problems)
    reader_for(spec).read(cases, problems)
    problems.raise_if_any("phantoms")
    paths = reader_for(spec).mask_paths(cases)  # type: ignore[attr-defined]
    assert len(paths) == 64
    assert all(np.asarray(Image.open(path)).any() for path in paths)
