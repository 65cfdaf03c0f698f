from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from benchmarks import same_bytes
from benchmarks.same_bytes import differences, main, model_digests, resumed_differs


def write(path: Path, value: float) -> str:
    """A model of one float32 in a file whose bytes hold more than the model; its digest, put together by hand."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"w": torch.tensor([float(value)])}, path, metadata={"round": str(value)})
    return hashlib.sha256(b"w\x1ftorch.float32\x1f(1,)\x1f" + struct.pack("<f", value)).hexdigest()


def test_global_personal_and_injected_models_are_found_wherever_a_site_keeps_them(tmp_path: Path) -> None:
    expected = {
        "global-best": write(tmp_path / "global-best.safetensors", 1),
        "global-last": write(tmp_path / "global-last.safetensors", 2),
        "injected/adapter_model": write(tmp_path / "injected" / "adapter_model.safetensors", 3),
        "north/personal-best": write(tmp_path / "sites/north/state/runs/x-1/personal-best.safetensors", 4),
        "north/personal-last": write(tmp_path / "sites/north/state/runs/x-1/personal-last.safetensors", 5),
        "south/personal-last": write(tmp_path / "sites/south/personal-last.safetensors", 5),
    }
    write(tmp_path / "sites/north/state/runs/x-1/personal-round.safetensors", 6)
    write(tmp_path / "checkpoint" / "state-00001.safetensors", 7)
    assert model_digests(tmp_path) == expected
    assert len(set(expected.values())) == 5


def test_a_run_without_a_global_model_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "sites/north/personal-last.safetensors", 1)
    with pytest.raises(SystemExit, match="no global-last"):
        model_digests(tmp_path)


def test_every_difference_is_a_line() -> None:
    before = {"a": {"same": "1" * 64, "other": "2" * 64, "gone": "3" * 64}, "not run": {"x": "4" * 64}}
    now = {"a": {"same": "1" * 64, "other": "5" * 64, "new": "6" * 64}, "b": {"x": "7" * 64}}
    assert differences(before, now) == [
        "a: gone: 3333333333333333 before, no such model now",
        "a: new: no such model before, 6666666666666666 now",
        "a: other: 2222222222222222 before, 5555555555555555 now",
        "b: not in the record",
    ]
    assert differences(now, now) == []


def test_the_resumed_run_is_held_to_the_unbroken_one() -> None:
    now = {"fedkper-sampled": {"global-last": "1" * 64}, "fedkper-resumed": {"global-last": "2" * 64}}
    assert resumed_differs(now) == [
        "unbroken and resumed: fedkper-resumed: global-last: 1111111111111111 before, 2222222222222222 now"
    ]
    assert resumed_differs({**now, "fedkper-resumed": now["fedkper-sampled"]}) == []
    assert resumed_differs({"fedkper-resumed": {"global-last": "2" * 64}}) == []


def test_the_resumed_run_is_the_unbroken_run_s_command() -> None:
    assert same_bytes.CASES[same_bytes.RESUMED] == same_bytes.CASES[same_bytes.UNBROKEN]


def test_recorded_digests_are_compared_and_a_difference_ends_with_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    digests = {name: {"global-last": name[0] * 64} for name in same_bytes.CASES}
    monkeypatch.setattr(same_bytes, "RESUMED", "none")

    def collect(names: Sequence[str]) -> same_bytes.Digests:
        return {name: digests[name] for name in names}

    monkeypatch.setattr(same_bytes, "collect", collect)
    file = str(tmp_path / "before.json")
    main(["--record", file])
    main(["--against", file])
    assert f"All {len(digests)} models are the same." in capsys.readouterr().out
    digests["fedprox"] = {"global-last": "0" * 64}
    main(["--against", file, "--only", "fedavg"])
    with pytest.raises(SystemExit) as stop:
        main(["--against", file])
    assert stop.value.code == 1
    assert "fedprox: global-last: ffffffffffffffff before, 0000000000000000 now" in capsys.readouterr().out
