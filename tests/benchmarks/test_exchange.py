from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks.exchange import Watch, main, measurements, time_gate
from benchmarks.workload import LargeWorkload, VisionTransformer, width_of
from consilia.deploy.release_filter import AUDIT

TINY = LargeWorkload(sites=2, rounds=2, width=64)

CHILD = """
import time
held = bytearray(b"x") * 200_000_000
del held
while time.process_time() < 0.3: pass
print("ready", flush=True)
input()
"""


def test_the_transformer_is_of_vit_base_s_size() -> None:
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in VisionTransformer().state_dict().items()}
    # timm's vit_base_patch16_224 has 85 798 656 parameters before its head, in 150 tensors.
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) == 85_798_656 + 768 * 10 + 10
    assert len(shapes) == 152
    assert shapes["blocks.11.attn.qkv.weight"] == (2304, 768)
    assert shapes["patch_embed.proj.weight"] == (768, 3, 16, 16)


def test_the_width_comes_from_the_number_of_parameters() -> None:
    # timm's vit_base has width 768, vit_small (22 million) 384.
    assert [width_of(count) for count in (1, 22_000_000, 86_000_000)] == [64, 384, 768]


def test_a_child_s_peak_and_its_processor_time_are_seen() -> None:
    command = [sys.executable, "-c", CHILD, "simulator_worker"]
    with Watch() as watch:
        started = time.time()
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            time.sleep(0.3)
            ended = time.time()
            time.sleep(0.3)
            child.communicate("\n")
    # What has been given back since counts, too.
    assert 200e6 < watch.peaks["site"] < 260e6
    assert watch.peaks["server"] == 0
    # What it had used before the first look at it is counted as used within a tenth of a second.
    assert 0.15 < watch.processor_seconds(started, ended) < 0.6


def test_ratios_are_taken_within_a_repeat_and_the_gate_s_share_is_that_of_a_round() -> None:
    def run(seconds: float, server: int) -> dict[str, float]:
        return {"seconds": seconds, "processor": 2 * seconds, "server": server, "site": 10**9}

    found = {
        "runs": {
            "consilia": [run(9.0, 3_000_000_000), run(20.0, 4_000_000_000)],
            "nvflare": [run(10.0, 4_000_000_000), run(16.0, 4_000_000_000)],
        },
        "gate": {"round": 2.0, "messages": [0.001, 0.03, 0.002]},
    }
    named = {measurement.name: measurement for measurement in measurements(TINY, TINY, found)}
    # (0.9 + 1.25) / 2 of the ratios; the ratio of the medians would be 14.5 / 13.
    assert named["time per round, consilia / nvflare"].value == pytest.approx(1.075)
    assert named["time per round, consilia / nvflare"].holds is False
    assert named["peak memory of the server, consilia / nvflare"].value == pytest.approx(0.875)
    assert named["peak memory of the server, consilia / nvflare"].holds is True
    assert named["nvflare: peak memory of the server"].value == 4.0
    assert named["gate: time per message"].value == 2.0
    assert named["gate / round"].value == pytest.approx(0.1)
    assert named["gate / round"].holds is True


def test_the_gate_is_timed_on_updates_that_it_passes_and_writes_down(tmp_path: Path) -> None:
    assert len(time_gate(TINY, tmp_path, 2)) == 2
    lines = [json.loads(line) for line in (tmp_path / "kit" / AUDIT).read_text().splitlines()]
    assert [line["sent"] for line in lines] == [True] * 3
    assert lines[0]["bytes"] > 4 * TINY.parameters()


# Three runs in the simulator; what is made of their times and sizes is shown above.
@pytest.mark.long
@pytest.mark.sim
def test_the_command_writes_json(tmp_path: Path) -> None:
    out = tmp_path / "exchange.json"
    size = ["--parameters", "1", "--gate-parameters", "1", "--sites", "2", "--rounds", "2", "--messages", "1"]
    main([*size, "--repeats", "1", "--dir", str(tmp_path / "work"), "--out", str(out)])
    content = json.loads(out.read_text())
    named = {measurement["name"]: measurement["value"] for measurement in content["measurements"]}
    assert named["parameters"] == TINY.parameters()
    # A server and a site are Python processes that hold torch and NVFlare.
    for name in ("consilia", "nvflare"):
        assert named[f"{name}: time per round"] > 0
        assert min(named[f"{name}: peak memory of {whose}"] for whose in ("the server", "a site")) > 0.15
    assert named["gate: time per message"] > 0
    assert not list((tmp_path / "work").iterdir())
