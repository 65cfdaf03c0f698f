from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.guard_cost import main, measurements, shares, time_limits
from benchmarks.workload import Workload

TINY = Workload(sites=2, steps=2, batch=10, rounds=2, channels=(2, 3), hidden=4)


def test_the_servers_looks_count_twice_beside_the_busiest_sites() -> None:
    looks = {"server": [0.001] * 8, "a.job": [0.002] * 2, "b.job": [0.002] * 4}
    # Of two rounds in 4 s: 4 ms at the server, 4 ms at b, 14 looks of 20 ms in all; and 3 ms for the limits.
    found = {item.name: item.value for item in measurements(shares(looks, 4.0, 2), 0.003)}
    assert found["round"] == pytest.approx(2)
    assert found["messages looked at in a round, all processes"] == pytest.approx(7)
    assert found["guard, per message"] == pytest.approx(1e6 * 0.020 / 14)
    assert found["guard at the server, per round, two looks"] == pytest.approx(8)
    assert found["guard at the busiest site, per round"] == pytest.approx(4)
    assert found["guard and limits / round"] == pytest.approx(0.015 / 2)


def test_the_limits_of_a_round_are_timed(tmp_path: Path) -> None:
    assert 0 < time_limits(TINY, tmp_path, repeats=3) < 1
    (entry,) = tmp_path.rglob("ledger/*/*.json")
    assert json.loads(entry.read_text())["spent"]["rounds"] == 3


@pytest.mark.sim
@pytest.mark.slow
def test_the_command_times_the_guard_in_a_real_run(tmp_path: Path) -> None:
    out = tmp_path / "guard_cost.json"
    main(["--rounds", "2", "--steps", "1", "--repeats", "2", "--out", str(out)])
    content = json.loads(out.read_text())
    # Of four sites each asks for its task and sends a result, in a round.
    assert content["guard"]["looks"] > 4 * 2 * 2
    assert 0 < content["guard"]["site"] < content["guard"]["round"]
    assert 0 < content["guard"]["server"] < content["guard"]["round"]
