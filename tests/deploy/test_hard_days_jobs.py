"""Jobs that are broken by a site and gone on with, and jobs that want the same folder, with real processes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from consilia.core.determinism import single_threaded
from consilia.core.lock import WAITING
from consilia.deploy.session import open_session
from consilia.evaluation.forgetting import flips
from consilia.federation.run_folder import LOCK, RESULT
from consilia.federation.site_store import HISTORY, SiteStore
from poc.local import LEAD, SERVER
from tests.deploy.support import (
    Run,
    assert_same,
    clone,
    in_process,
    paused,
    personal_models,
    slow_config,
    state_of,
    three_sites,
    until,
    with_the_same_replies,
)
from tests.federation.support import Federation

pytestmark = pytest.mark.deploy

ONE, TWO = "hospital-1", "hospital-2"


def broken_off(run: Run, version: int) -> int:
    """Have an administrator abort a job in a round, and wait until NVFlare has ended it; its last full round."""
    run.wait_for("reply", request="train", version=version)
    with open_session(run.federation.kit(LEAD)) as session:
        session.abort(run.job_id)
    until(lambda: not any(map(run.processes, (SERVER, *run.federation.sites))), "the end of the job's processes", 60)
    assert run.wait_end() == "FINISHED:ABORTED"
    assert not (run.folder / RESULT).exists()
    return run.last_round()


@pytest.mark.long
def test_a_site_with_stale_personal_state_counts_its_flips_from_what_it_remembers(hard_days, begin, tmp_path) -> None:
    config = slow_config(5)
    copies = three_sites(tmp_path / "sites")
    remembered = {}

    class Noting(SiteStore):
        """Notes which test cases every version had right; the history itself keeps the last three."""

        def __init__(self, site: str, folder: Path) -> None:
            super().__init__(folder)
            self.site = site

        def count_flips(self, kind, version, correct):
            remembered[self.site, kind, version] = correct
            return super().count_flips(kind, version, correct)

    loop = Federation(config, copies, tmp_path / "loop")
    for name, site in loop.sites.items():
        site.store = site.evaluation.store = Noting(name, site.folder)
    with single_threaded():
        expected = loop.run()
    run = begin(config)
    run.wait_for("prepared")
    processes = run.running(TWO)
    own = state_of(hard_days, TWO) / "runs" / config.run_id
    until((own / "personal-round.safetensors").is_file, "the first training", pause=0.0005)
    with paused(processes):
        shutil.copytree(own, tmp_path / "old", ignore=shutil.ignore_patterns(LOCK, ".*"))
    kept = load_file(tmp_path / "old" / HISTORY)
    last = broken_off(run, version=3)
    shutil.rmtree(own)
    shutil.copytree(tmp_path / "old", own)
    record = clone(run).record()
    assert_same(record, expected)
    assert personal_models(hard_days.sites, config) == personal_models(copies, config)
    # All metrics are those of the unbroken run but the flips of its first evaluations after the gap.
    gap = {(TWO, "global", last), (TWO, "personal", last + 1)}
    after_gap = {}
    for here, there in zip(record.evaluations, expected.evaluations, strict=True):
        assert (here.version, here.model) == (there.version, there.model)
        for site, metrics in here.sites.items():
            if (site, here.model, here.version) in gap:
                after_gap[site, here.model, here.version] = metrics.test
            else:
                assert metrics == there.sites[site]
    assert set(after_gap) == gap
    for (site, model, version), test in after_gap.items():
        now = remembered[site, model, version]
        then = [int(key.partition("/")[2]) for key in kept if key.startswith(f"{model}/")]
        before = remembered[site, model, max(then)] if then else torch.zeros_like(now)
        assert (test.negative_flips, test.positive_flips) == flips(before, now)


@pytest.mark.long
def test_a_site_with_other_splits_cannot_go_on_with_a_run(hard_days, begin, tmp_path) -> None:
    config = slow_config(6)
    run = begin(config)
    broken_off(run, version=3)
    splits = state_of(hard_days, TWO) / "diagnosis" / "splits.csv"
    kept = splits.read_text()
    first = next(line for line in kept.splitlines() if line.endswith(",test"))
    splits.write_text(kept.replace(first, first.removesuffix("test") + "train"))
    try:
        again = clone(run)
        record = again.record()
    finally:
        splits.write_text(kept)
    assert record.absent == {TWO: "it has other data than when the run began"}
    assert TWO in record.rounds[2].contributions
    assert TWO not in record.rounds[-1].participants
    assert_same(record, with_the_same_replies(record, config, three_sites(tmp_path / "sites"), tmp_path / "loop"))


def waits_at(run: Run, site: str) -> bool:
    """Whether the site's job process says that it waits for the lock of its run folder."""
    log = run.federation.kit(site) / run.job_id / "log.txt"
    return log.is_file() and WAITING in log.read_text(errors="replace")


def test_two_jobs_at_once_and_the_same_job_twice(hard_days, begin, tmp_path) -> None:
    configs = [slow_config(7, "rounds=4", method=method) for method in ("fedkper", "fedavg")]
    first, other = begin(configs[0], "first"), begin(configs[1], "other")
    first.wait_for("prepared")
    # The first is held up until the second stands before the folders that the first has locked.
    with paused(first.running(ONE)):
        second = begin(configs[0], "second")
        until(lambda: all(waits_at(second, site) for site in hard_days.sites), "the second job's sites")
        assert not second.events()
        assert not (first.folder / RESULT).exists()
    expected = {}
    for config in configs:
        copies = three_sites(tmp_path / f"sites-{config.label}")
        expected[config.label] = in_process(config, copies, tmp_path / config.label), personal_models(copies, config)
    assert_same(other.record(), expected["fedavg"][0])
    assert personal_models(hard_days.sites, configs[1]) == expected["fedavg"][1]
    assert_same(first.record(), expected["fedkper"][0])
    # The second has had its turn when the first was over: the same run anew, all the way.
    record = second.record()
    assert_same(record, expected["fedkper"][0])
    assert record.evaluations == expected["fedkper"][0].evaluations
    assert personal_models(hard_days.sites, configs[0]) == expected["fedkper"][1]
