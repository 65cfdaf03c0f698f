"""A run that draws no pages is the same run; what a checkpoint says of it is what a fresh look would."""

from __future__ import annotations

from pathlib import Path

import pytest

from consilia.data.site import load_site_config
from consilia.federation.inprocess import run_inprocess
from consilia.federation.outputs import EVENTS, REPORT
from consilia.federation.recorder import Recorder
from consilia.federation.server_settings import ServerSettings
from consilia.record.schema import RoundRecord, SiteMetrics
from tests.federation.support import MLP, small, without_clocks


@pytest.mark.parametrize("pages", [True, False])
def test_pages_are_drawn_or_not_and_nothing_else_changes(wisconsin, tmp_path: Path, pages: bool) -> None:
    config, server = small(rounds=2), ServerSettings(allow_models=(MLP,))
    drawn = run_inprocess(config, wisconsin, tmp_path / "drawn", server=server)
    record = run_inprocess(config, wisconsin, tmp_path / "run", server=server, pages=pages)
    assert without_clocks(record) == without_clocks(drawn)
    assert (tmp_path / "run" / REPORT).is_file() == (tmp_path / "run" / EVENTS).is_dir() == pages
    for name in ("global-last.safetensors", "global-best.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "drawn" / name).read_bytes()
    site = load_site_config(next(iter(wisconsin.values())))
    place = site.state_dir / "runs" / config.run_id
    assert (place / "report-last_predictions.csv").is_file()


def test_a_site_keeps_its_table_of_cases_without_the_page(wisconsin, tmp_path: Path) -> None:
    config = small(rounds=1, seed=77)
    run_inprocess(config, wisconsin, tmp_path / "run", server=ServerSettings(allow_models=(MLP,)), pages=False)
    place = load_site_config(wisconsin["hospital-1"]).state_dir / "runs" / config.run_id
    assert (place / "report-last_predictions.csv").is_file()
    assert not (place / "report-last.html").exists()


def test_the_state_for_a_checkpoint_follows_every_change_of_the_record() -> None:
    def metrics(correct: int) -> SiteMetrics:
        part = {"count": 4, "correct": correct, "accuracy": correct / 4}
        return SiteMetrics.model_validate(
            {"validation": None, "test": {**part, "balanced_accuracy": 0.5, "auroc": None, "loss": None}}
        )

    def fresh(recorder: Recorder) -> list[dict]:
        return [item.model_dump(mode="json", by_alias=True) for item in recorder.evaluations()]

    recorder = Recorder(small(), "inprocess")
    recorder.add_evaluation(1, "global", "b", metrics(1))
    recorder.rounds.append(a_round(1))
    assert recorder.state()["evaluations"] == fresh(recorder)
    recorder.add_evaluation(1, "global", "a", metrics(2))
    recorder.add_evaluation(0, "global", "a", metrics(3))
    recorder.amend_round(2.5, "f" * 64)
    recorder.rounds.append(a_round(2))
    state = recorder.state()
    assert state["evaluations"] == fresh(recorder)
    assert [item["version"] for item in state["evaluations"]] == [0, 1]
    assert state["rounds"] == [item.model_dump(mode="json", by_alias=True) for item in recorder.rounds]
    assert state["rounds"][0]["sha256"] == "f" * 64


def a_round(number: int) -> RoundRecord:
    return RoundRecord.model_validate(
        {
            "round": number,
            "participants": ["a"],
            "contributions": {},
            "refused": {},
            "max_update_norm": None,
            "missing": ["a"],
            "bytes_down": {},
            "bytes_up": {},
            "seconds": {},
            "sha256": "0" * 64,
        }
    )
