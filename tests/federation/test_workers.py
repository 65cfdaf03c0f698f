"""Sites in worker processes: the same bytes, the same errors, and no process that outlives its run."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from consilia.core.errors import ConfigError, DataError, RunFailed
from consilia.core.events import Event, Failed, Prepared, RoundDone
from consilia.data.site import load_site_config
from consilia.federation.inprocess import run_inprocess
from consilia.federation.server_settings import ServerSettings
from consilia.record.schema import Record
from tests.federation.support import MLP, small, without_clocks

SERVER = ServerSettings(allow_models=(MLP,))
MODELS = ("global-last.safetensors", "global-best.safetensors")


def run(config, sites, folder: Path, workers: int = 2, progress: Callable[[Event], None] = lambda _: None) -> Record:
    return run_inprocess(config, sites, folder, server=SERVER, progress=progress, pages=False, workers=workers)


def children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "consilia.federation.worker" in " ".join(child.cmdline())]


def test_the_same_bytes_and_record_with_any_number_of_workers(wisconsin, tmp_path: Path) -> None:
    config = small("fedkper", rounds=2)
    site = load_site_config(wisconsin["hospital-2"]).state_dir / "runs" / config.run_id
    found = []
    for workers in (1, 2):
        record = run(config, wisconsin, tmp_path / str(workers), workers)
        models = [(tmp_path / str(workers) / name).read_bytes() for name in MODELS]
        found.append((without_clocks(record), models, (site / "personal-last.safetensors").read_bytes()))
    assert found[1] == found[0]
    assert not (tmp_path / "2" / "errors.log").exists()
    assert not children()


def test_a_killed_worker_is_explained_and_the_run_goes_on_after_it(wisconsin, tmp_path: Path) -> None:
    config, events = small(rounds=3), []
    whole = run(config, wisconsin, tmp_path / "whole", 1)

    def kill(event: Event) -> None:
        events.append(event)
        if isinstance(event, RoundDone) and event.round == 1:
            os.kill(children()[0].pid, signal.SIGKILL)

    with pytest.raises(RunFailed, match=r"process of hospital-1, hospital-3 was killed \(SIGKILL\).*the same command"):
        run(config, wisconsin, tmp_path / "run", progress=kill)
    assert isinstance(events[-1], Failed)
    assert not children()
    events.clear()
    assert without_clocks(run(config, wisconsin, tmp_path / "run", progress=events.append)) == without_clocks(whole)
    assert [event.done for event in events if isinstance(event, Prepared)] == [1]


def test_ctrl_c_leaves_no_process(wisconsin, tmp_path: Path) -> None:
    def interrupt(event: Event) -> None:
        if isinstance(event, RoundDone):
            assert len(children()) == 2
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(small(rounds=3), wisconsin, tmp_path / "run", progress=interrupt)
    assert not children()


def test_a_site_that_cannot_be_opened_says_why_as_it_does_without_workers(wisconsin, tmp_path: Path) -> None:
    sites = dict(wisconsin)
    sites["hospital-2"] = tmp_path / "site.yaml"
    sites["hospital-2"].write_text("site: hospital-2\n")
    told = []
    for workers in (1, 2):
        with pytest.raises((ConfigError, DataError)) as caught:
            run(small(rounds=1), sites, tmp_path / "run", workers)
        told.append((caught.type, str(caught.value)))
    assert told[0] == told[1]
    assert not children()


def test_a_site_that_fails_is_named_with_its_error(wisconsin, tmp_path: Path) -> None:
    config = small(rounds=1, min_sites=4)
    place = load_site_config(wisconsin["hospital-1"]).state_dir / "runs" / config.run_id / "personal-round.safetensors"
    place.mkdir(parents=True)
    told = []
    for workers in (1, 2):
        with pytest.raises(RunFailed) as caught:
            run(config, wisconsin, tmp_path / str(workers), workers)
        told.append(str(caught.value))
    assert "hospital-1: IsADirectoryError" in told[1]
    assert told[0] == told[1]


def test_how_many_workers_there_can_be(wisconsin, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="workers is 0, expected at least 1"):
        run(small(rounds=1), wisconsin, tmp_path / "run", 0)
