from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from nvflare.app_common.aggregators.weighted_aggregation_helper import WeightedAggregationHelper

from benchmarks.aggregation import FEW, MANY, layout, main, random_update, spool, time_both, weights_of, write_updates
from consilia.aggregation.mean import weighted_mean

SMALL = layout(width=8, depth=1, classes=3)


def test_the_layout_is_that_of_vit_small() -> None:
    # timm's vit_small_patch16_224 has 22 050 664 parameters in 152 tensors, its biases included.
    shapes = layout()
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) == 22_050_664
    assert len(shapes) == 152


def test_updates_on_disk_are_few_files_under_many_names(tmp_path: Path) -> None:
    write_updates(tmp_path, SMALL)
    files = sorted(tmp_path.iterdir())
    assert len(files) == MANY
    assert len({path.stat().st_ino for path in files}) == FEW
    found = spool(tmp_path, MANY)
    wanted = random_update(SMALL, "site-1")
    assert all(torch.equal(found["site-9"][name], wanted[name]) for name in wanted)


def test_both_sides_compute_the_same_mean(tmp_path: Path) -> None:
    write_updates(tmp_path, SMALL)
    updates, weights = spool(tmp_path, FEW), weights_of(FEW)
    helper = WeightedAggregationHelper()
    for site, update in updates.items():
        helper.add({name: tensor.numpy() for name, tensor in update.items()}, weights[site], site, 0)
    theirs = helper.get_result()
    for name, tensor in weighted_mean(updates, weights).items():
        torch.testing.assert_close(tensor, torch.from_numpy(theirs[name]), rtol=1e-5, atol=1e-6)


def test_timing_leaves_the_first_pair_out(tmp_path: Path) -> None:
    write_updates(tmp_path, SMALL)
    seconds = time_both(tmp_path, 2)
    assert {name: len(values) for name, values in seconds.items()} == {"consilia": 2, "nvflare": 2}


def test_a_full_disk_is_noticed_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 10

    monkeypatch.setattr("benchmarks.aggregation.shutil.disk_usage", lambda path: Usage)
    with pytest.raises(SystemExit, match="has 10 bytes free"):
        write_updates(tmp_path, SMALL)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_command_writes_json(tmp_path: Path) -> None:
    out = tmp_path / "aggregation.json"
    main(["--depth", "1", "--repeats", "1", "--dir", str(tmp_path / "work"), "--out", str(out)])
    content = json.loads(out.read_text())
    named = {measurement["name"]: measurement["value"] for measurement in content["measurements"]}
    assert named["Consilia / NVFlare"] > 0
    # The peak holds the result at least, and far less than all updates at once.
    assert named["size of one update"] < named[f"peak memory, {MANY} updates"] < FEW * named["size of one update"]
    assert not list((tmp_path / "work").iterdir())
