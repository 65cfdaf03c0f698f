from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.round_time import Alternation, RoundClock, byte_measurements, main, measurements
from benchmarks.workload import MODEL, Workload, per_round, plain_rounds, write_sites
from consilia.core.determinism import single_threaded
from consilia.core.events import Finished, Notice, Prepared, RoundDone
from consilia.federation.inprocess import run_inprocess
from consilia.federation.server_settings import ServerSettings

TINY = Workload(sites=2, steps=2, batch=10, rounds=2, channels=(2, 3), hidden=4)


def test_the_model_has_the_stated_size() -> None:
    convolutions = (25 + 1) * 16 + (25 * 16 + 1) * 32
    linear = (32 * 7 * 7 + 1) * 128 + (128 + 1) * 10
    assert Workload().parameters() == convolutions + linear == 215_370


def test_the_sites_hold_one_epoch_of_the_stated_steps(tmp_path: Path) -> None:
    from consilia.data.loading import load_site

    for name, path in write_sites(TINY, tmp_path).items():
        data = load_site(path, "diagnosis")
        assert data.site == name
        assert data.train.inputs.shape == (20, 1, 28, 28)
        assert (len(data.validation), len(data.test), data.num_classes) == (10, 10, 10)


@pytest.mark.slow
def test_the_baseline_takes_the_same_steps_as_our_engine(tmp_path: Path) -> None:
    sites = write_sites(TINY, tmp_path / "sites")
    *_, state = plain_rounds(TINY, sites)
    run_inprocess(TINY.config(), sites, tmp_path / "run", server=ServerSettings(allow_models=(MODEL,)))
    ours = load_file(tmp_path / "run" / "global-last.safetensors")
    start = TINY.model().state_dict()
    for name, tensor in state.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-5, atol=1e-6)
        assert not torch.equal(tensor, start[name])


PREPARED, NOTICE = Prepared(sites=["a"], rounds=2), Notice(reason="on we go")
ROUND, FINISHED = RoundDone(round=1, of=2), Finished(rounds=2, seconds=1.0)


def test_the_first_round_is_left_out() -> None:
    assert per_round([100.0, 101.0, 104.0]) == 2.0


def test_the_clock_notes_rounds_only() -> None:
    clock = RoundClock()
    for event in (PREPARED, NOTICE, ROUND, ROUND, FINISHED):
        clock(event)
    assert len(clock.times) == len(clock.loopback) == 2


def test_every_round_is_followed_by_a_plain_one_without_the_engine_s_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def rounds() -> Iterator[None]:
        while True:
            seen.append(torch.are_deterministic_algorithms_enabled())
            yield

    # Start, prepared; then per round: end of the engine's, start and end of the plain one, start of the engine's next.
    clock = iter([0.0, 10.0, 13.0, 13.5, 15.0, 15.0, 19.0, 19.0, 20.0, 20.0])
    monkeypatch.setattr("benchmarks.round_time.time.perf_counter", lambda: next(clock))
    with single_threaded():
        both = Alternation(rounds())
        for event in (PREPARED, NOTICE, ROUND, NOTICE, ROUND, FINISHED):
            both(event)
        assert torch.are_deterministic_algorithms_enabled()
    assert seen == [False, False]
    assert both.seconds == {"inprocess": [3.0, 4.0], "plain": [1.5, 1.0]}


def test_ratios_are_medians_of_ratios_within_a_repeat() -> None:
    runs = {
        "plain": [{"seconds": 1.0}, {"seconds": 2.0}, {"seconds": 4.0}],
        "inprocess": [{"seconds": 1.1}, {"seconds": 2.0}, {"seconds": 3.6}],
    }
    found = {measurement.name: measurement for measurement in measurements(TINY, runs)}
    # Ratios 1.1, 1.0 and 0.9; the medians alone would give 2.0 / 2.0 as well, so the values are checked, too.
    assert found["inprocess / plain"].value == pytest.approx(1.0)
    assert found["inprocess / plain"].holds
    assert found["plain: time per round"].value == 2.0
    assert found["inprocess: time per round"].value == 2.0


def test_bytes_are_held_to_the_bound() -> None:
    # 1000 parameters: 4000 bytes each way, the bound 1.01 * 4000 + 64 000 = 68 040.
    run = {"down": 4100, "up": 4200, "loopback_per_round_and_site": 78_300}
    found = {measurement.name: measurement for measurement in byte_measurements(1000, [run])}
    assert found["content down (result.json)"].bound == 68_040
    # The whole overhead, 70 000 bytes, is charged to each direction in turn.
    assert found["loopback, up at most"].value == 74_200
    assert found["loopback, up at most"].holds is False
    assert found["loopback, down and up together"].holds is True


@pytest.mark.slow
def test_the_command_writes_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "round_time.json"
    main(["--rounds", "2", "--steps", "1", "--repeats", "1", "--no-simulator", "--out", str(out)])
    content = json.loads(out.read_text())
    named = {measurement["name"]: measurement for measurement in content["measurements"]}
    ratio = content["runs"]["inprocess"][0]["seconds"] / content["runs"]["plain"][0]["seconds"]
    assert named["inprocess / plain"]["value"] == pytest.approx(ratio)
    assert named["inprocess / plain"]["bound"] == 1.05
    assert content["machine"]["cores"] >= 1
    assert "inprocess / plain" in capsys.readouterr().out


@pytest.mark.sim
@pytest.mark.long
def test_simulator_and_stock_recipe_run(tmp_path: Path) -> None:
    out = tmp_path / "round_time.json"
    main(["--rounds", "10", "--steps", "1", "--repeats", "1", "--stock", "--out", str(out)])
    content = json.loads(out.read_text())
    named = {measurement["name"]: measurement["value"] for measurement in content["measurements"]}
    assert named["stock: time per round"] > 0
    # The model must really have gone over the wire, once down and once up.
    # The counters are read when the first and the last round end, give or take a poll: hence not all of it.
    assert named["loopback, down and up together"] > 1.5 * 4 * 215_370
