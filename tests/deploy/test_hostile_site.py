"""A hostile site, with real processes: nothing that it sends touches the model, and its name is in the record.

Its administrator uses what NVFlare gives every site: a filter of his own behind ours, see :mod:`tests.deploy.hostile`.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from consilia.deploy.session import open_session
from consilia.federation.config import RunConfig
from consilia.federation.run_folder import RESULT
from poc.local import LEAD, LocalFederation
from poc.processes import processes_of
from tests.deploy import hostile
from tests.deploy.support import (
    Run,
    approve_everywhere,
    assert_same,
    clone,
    export,
    in_process,
    personal_models,
    state_of,
    submit,
    three_sites,
    until,
    with_the_same_replies,
)
from tests.federation.attacks import ATTACKS, CULPRIT
from tests.federation.support import small

pytestmark = pytest.mark.deploy

HONEST_SITES = ("hospital-1", "hospital-2")
UNSENDABLE = {"surrogate", "sparse", "meta"}
"""NVFlare cannot send these: the site's own process ends."""

MALFORMED, NO_MODEL = "failed with MalformedReply", "missing tensor 'layers.0.bias'"
REFUSED = {
    "oversized": "extra tensor 'ballast'",
    "metrics for tensors": NO_MODEL,
    "a list for tensors": MALFORMED,
    "tensors within tensors": NO_MODEL,
    "a number for content": MALFORMED,
    "no content": "does not fit its schema",
    "no model": MALFORMED,
    "a round that is none": MALFORMED,
    "a return code": "failed with EXECUTION_EXCEPTION",
    "the first round's bytes": "the reply is to round 0, the request was about round",
    **{name: reason for name, (_, reason) in ATTACKS.items() if name not in UNSENDABLE},
}
IN_VAIN = ["another's name", "another's name in the header", "the last message again"]
"""What the server does not even look at."""


def config_of(seed: int, rounds: int, **settings: object) -> RunConfig:
    """Every test has a seed, and so a run folder at the sites, of its own."""
    training = {"local_epochs": 1, "batch_size": 16, "learning_rate": 0.05, "device": "cpu"}
    return small(seed=seed, rounds=rounds, max_update_norm=1000.0, training=training, **settings)


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    folder = tmp_path_factory.mktemp("hostile")
    federation = LocalFederation(folder / "federation", three_sites(folder / "sites"))
    # His filter takes the malformed updates from the tests of the server's gate.
    federation.environment[CULPRIT] = {"PYTHONPATH": str(Path(__file__).parents[2])}
    try:
        federation.provision()
        federation.install()
        custom = federation.kit(CULPRIT) / "local" / "custom"
        custom.mkdir(exist_ok=True)
        shutil.copy(hostile.__file__, custom)
        federation.start()
        yield federation
    finally:
        federation.stop()
    assert processes_of(federation.folder) == []


@pytest.fixture
def attacked(federation: LocalFederation, tmp_path: Path) -> Callable[..., Run]:
    """Submit a job in which the trainings of one site are answered by these attacks."""

    def submitted(config: RunConfig, attacks: list[str], *, leak: bool = False) -> Run:
        arm(federation, attacks, leak)
        job = export(config, tmp_path / config.run_id)
        approve_everywhere(federation, job)
        return submit(federation, job)

    return submitted


def arm(federation: LocalFederation, attacks: list[str], leak: bool = False) -> None:
    """Every job's process reads the site's policy when it starts."""
    path = federation.kit(CULPRIT) / "local" / "privacy.json"
    policy = json.loads(path.read_text())
    for scope in policy["scopes"]:
        ours = scope["task_result_filters"][0]
        own = {"path": "hostile.Bent", "args": {"attacks": attacks, "leak": leak}}
        scope["task_result_filters"] = [ours, own] if attacks else [ours]
    path.write_text(json.dumps(policy))


def test_whatever_it_sends_is_refused_by_name_and_the_model_is_untouched(federation, attacked, tmp_path) -> None:
    """Attack after attack is refused, one a round; the last one ends the job, and the run goes on without it."""
    attacks = [hostile.HONEST, *IN_VAIN, *REFUSED]
    config = config_of(1, len(attacks) + 1)
    run = attacked(config, [*attacks, "parameter"])
    events = ended_by("failed to decode streamed submit_update", run, tmp_path / "download")
    assert [event["round"] for event in events if event["event"] == "round"] == list(range(1, len(attacks) + 1))
    again = goes_on_without_him(federation, run, leak=True)
    record = again.record()
    assert next(event["round"] for event in again.events() if event["event"] == "round") == len(attacks) + 1
    for attack, item in zip(attacks, record.rounds, strict=False):
        assert set(item.contributions) - {CULPRIT} == set(HONEST_SITES)
        assert item.missing == []
        assert list(item.refused) == ([CULPRIT] if attack in REFUSED else []), attack
        assert (CULPRIT in item.contributions) == (attack not in REFUSED), attack
        if attack in REFUSED:
            assert re.search(REFUSED[attack], item.refused[CULPRIT]), attack
    assert set(record.rounds[-1].contributions) == {CULPRIT, *HONEST_SITES}
    reasons = [event["reason"] for event in events if event["event"] == "refused" and event["request"] == "train"]
    assert reasons == [item.refused[CULPRIT] for item in record.rounds if item.refused]
    # Tensors that go with other answers are refused, too.
    assert set(record.final["last"].global_) == set(HONEST_SITES)
    copies = three_sites(tmp_path / "sites")
    assert_same(record, with_the_same_replies(record, config, copies, tmp_path / "loop"))
    assert personal_models(federation.sites, config) == personal_models(copies, config)
    assert again.comes_to_its_end()


def ended_by(words: str, run: Run, folder: Path) -> list[dict[str, Any]]:
    """Wait until the culprit has ended the job: the run's events. The job's log has these words, and whose it was."""
    assert run.wait_end() == "FINISHED:EXECUTION_EXCEPTION"
    assert not (run.folder / RESULT).exists()
    log = server_log(run, folder)
    at = next(number for number, line in enumerate(log) if words in line)
    asked = max(number for number, line in enumerate(log[:at]) if "Sending task train" in line)
    # Others that arrived at the same moment may be unread as well.
    assert CULPRIT in words or CULPRIT in unread(log[asked:at])
    return run.events()


def goes_on_without_him(federation: LocalFederation, run: Run, *, leak: bool = False) -> Run:
    """The run as it goes on when the culprit trains honestly."""
    arm(federation, [hostile.HONEST] if leak else [], leak)
    until(lambda: not any(run.processes(site) for site in federation.sites), "the end of the sites' processes")
    return clone(run)


@pytest.mark.long
def test_a_lying_score_within_its_bounds_is_not_seen_but_limited_by_a_trimmed_mean(federation, attacked) -> None:
    robust = {"rule": "trimmed_mean", "trim": 0.34}
    configs = {"mean": config_of(2, 1), "trimmed mean": config_of(3, 1, robust=robust)}
    runs = {name: attacked(config, ["poison"]) for name, config in configs.items()}
    outside = {}
    for name, run in runs.items():
        (item,) = run.record().rounds
        assert item.refused == {}
        assert item.contributions[CULPRIT].fields["weight"] == 1.0
        honest = [sent_by(federation, site, configs[name]) for site in HONEST_SITES]
        outside[name] = share_outside(load_file(run.folder / "global-last.safetensors"), honest)
    assert outside["trimmed mean"] == 0.0
    assert outside["mean"] > 0.5


def sent_by(federation: LocalFederation, site: str, config: RunConfig) -> dict[str, Tensor]:
    """What an honest site has sent in the last round: under FedKPer it is also its personal model."""
    return load_file(state_of(federation, site) / "runs" / config.run_id / "personal-round.safetensors")


def share_outside(model: dict[str, Tensor], honest: list[dict[str, Tensor]]) -> float:
    """Which part of a model's numbers lies outside the range of the honest sites' ones."""
    low = torch.cat([torch.stack([own[name] for own in honest]).amin(0).flatten() for name in model])
    high = torch.cat([torch.stack([own[name] for own in honest]).amax(0).flatten() for name in model])
    values = torch.cat([tensor.flatten() for tensor in model.values()])
    return float(((values < low) | (values > high)).double().mean())


@pytest.mark.long
def test_a_fatal_return_code_names_the_culprit_and_the_run_goes_on_without_him(federation, attacked, tmp_path) -> None:
    config = config_of(5, 4)
    copies = three_sites(tmp_path / "sites")
    expected = in_process(config, copies, tmp_path / "loop")
    run = attacked(config, [hostile.HONEST, hostile.HONEST, "fatal code"])
    words = f"due to fatal return code TASK_UNKNOWN from client {CULPRIT}"
    events = ended_by(words, run, tmp_path / "download")
    assert [event["round"] for event in events if event["event"] == "round"] == [1, 2]
    again = goes_on_without_him(federation, run)
    record = again.record()
    assert next(event["round"] for event in again.events() if event["event"] == "round") == 3
    assert_same(record, expected)
    assert personal_models(federation.sites, config) == personal_models(copies, config)


def server_log(run: Run, folder: Path) -> list[str]:
    """The log of the job's process at the server, as an administrator downloads it."""
    with open_session(run.federation.kit(LEAD)) as session:
        session.download(run.job_id, folder)
    return next(folder.rglob("workspace/log.txt")).read_text().splitlines()


def unread(log: list[str]) -> set[str]:
    """The sites of which a result has arrived that the server has not got out of its message."""
    waiting: set[str] = set()
    for line in log:
        if arrived := re.search(r"a result of (\S+) has arrived", line):
            waiting.add(arrived[1])
        elif got := re.search(r"got result from client (\S+) for task", line):
            waiting.discard(got[1])
    return waiting
