"""The site's filter with NVFlare's own results and contexts: what passes, what does not, and what is written down."""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import stat
from pathlib import Path
from typing import Any

import pytest
import torch
from nvflare.apis.dxo import DataKind
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FilterKey, FLContextKey, ReturnCode
from nvflare.apis.shareable import ReservedHeaderKey, Shareable, make_reply
from nvflare.apis.signal import Signal
from nvflare.app_common.utils.fl_model_utils import FLModelUtils
from nvflare.app_common.widgets.job_stats_reporter import JobStatsReporter
from nvflare.private.privacy_manager import Scope

import consilia
from consilia.core.errors import ConfigError, ReleaseRefused
from consilia.data.site import load_site_config
from consilia.deploy.release_filter import AUDIT, CODES, ReleaseFilter, approve, approved, withdraw
from consilia.federation.config import RunConfig
from consilia.federation.messages import Broadcast, Reply, Request
from consilia.federation.release_manifest import Manifest, manifest_of
from consilia.flare.executor import ConsiliaExecutor
from consilia.flare.messages import CONTENT, ERROR, broadcast_to_model, model_to_reply, reply_to_dxo
from consilia.models.exchange import ModelSize
from tests.federation.support import initial_state, model_of, small, write_job
from tests.flare.support import participant

NAME = "hospital-1"
CONFIG = small()
STATE = initial_state(CONFIG)
MANIFEST = manifest_of(CONFIG, model_of(CONFIG))
GOOD = Reply(json.dumps({"round": 0, "cases": 9, "weight": 0.5, "fields": {"train_loss": 1.5}}), STATE)


class Place:
    """A site with a kit, a deployed job in it, and the filter as NVFlare calls it."""

    def __init__(self, root: Path, manifest: Manifest = MANIFEST, config: RunConfig = CONFIG) -> None:
        self.kit, self.context = participant(root, NAME)
        (self.kit / "startup" / "fed_server.json").unlink()
        server = {"service": {"target": "localhost:8002"}}
        content = {"servers": [server], "client": {"fqsn": NAME}}
        (self.kit / "startup" / "fed_client.json").write_text(json.dumps(content))
        self.job = write_job(self.kit / "job", manifest.to_json(), f"app_{NAME}", config)
        self.filter = ReleaseFilter()

    def arguments(self) -> dict[str, Any]:
        """What NVFlare makes the job's executor with."""
        path = self.job / f"app_{NAME}" / "config" / "config_fed_client.json"
        found: dict[str, Any] = json.loads(path.read_text())["executors"][0]["executor"]["args"]
        return found

    def ask(self) -> str:
        """Why the job may not work, as the executor is told before each task; empty: it may."""
        arguments = self.arguments()
        try:
            self.filter.require_approved(arguments["config"], arguments["release_manifest"], self.context)
        except ReleaseRefused as error:
            return str(error)
        return ""

    def process(self, result: Shareable, task: str = "train") -> Shareable:
        self.ask()
        return self.filtered(result, task)

    def filtered(self, result: Shareable, task: str) -> Shareable:
        """What leaves of a result."""
        self.context.set_prop(FLContextKey.TASK_NAME, task, private=True, sticky=False)
        return self.filter.process(result, self.context)

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.kit / AUDIT).read_text().splitlines()]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    found = Place(tmp_path)
    approve(found.kit, found.job)
    return found


def result_of(reply: Reply = GOOD) -> Shareable:
    return reply_to_dxo(reply).to_shareable()


def is_refusal(result: Shareable) -> bool:
    """Whether a result is exactly the error that stands for a refused one."""
    assert result == result_of(Reply(error="ReleaseRefused"))
    return model_to_reply(FLModelUtils.from_shareable(result)) == Reply(error="ReleaseRefused")


def test_what_is_approved_passes_untouched_and_is_written_down(place: Place) -> None:
    result = result_of()
    assert place.process(result) is result
    (line,) = place.lines()
    at = line.pop("at")
    assert at.endswith("+00:00")
    size = len(GOOD.content) + 4 * (8 * 30 + 8 + 2 * 8 + 2)
    assert line == {
        "job": "job",
        "task": "train",
        "sent": True,
        "manifest": MANIFEST.digest,
        "bytes": size,
        "tensors": 4,
        "fields": ["cases", "fields", "round", "weight"],
    }
    assert (place.kit / AUDIT).stat().st_mode & 0o777 == 0o600
    assert is_refusal(place.process(result_of(), task="evaluate"))
    assert [line["sent"] for line in place.lines()] == [True, False]


def test_nothing_leaves_before_the_site_has_approved_it_and_after_it_took_that_back(tmp_path: Path, caplog) -> None:
    place = Place(tmp_path)
    caplog.set_level(logging.ERROR)
    assert is_refusal(place.process(result_of()))
    assert "is not approved here" in caplog.text
    assert place.lines()[0]["reason"].startswith(f"the manifest of this job ({MANIFEST.digest}) is not approved here")
    path = approve(place.kit, place.job)
    assert path == place.kit / "local" / "approved" / f"heart-job-{MANIFEST.digest[7:19]}.json"
    assert approve(place.kit, place.job) == path
    assert Manifest.model_validate_json(path.read_text()) == MANIFEST
    assert place.process(result_of()).get(ReservedHeaderKey.HEADERS) == {"__content_type__": "DXO"}
    # In the middle of a job, as it may be needed.
    copy = path.with_name("another-name.json")
    copy.write_text(path.read_text())
    assert withdraw(place.kit, place.job) == (copy, path)
    assert list(path.parent.iterdir()) == []
    assert is_refusal(place.process(result_of()))
    with pytest.raises(ConfigError, match="is not approved at hospital-1"):
        withdraw(place.kit, place.job)


def test_no_approval_is_written_through_a_link(tmp_path: Path) -> None:
    place, outside = Place(tmp_path), tmp_path / "outside"
    outside.mkdir(mode=0o700)
    (place.kit / "local" / "approved").symlink_to(outside)
    with pytest.raises(ConfigError, match="approved is a symbolic link"):
        approve(place.kit, place.job)
    assert list(outside.iterdir()) == []
    assert outside.stat().st_mode & 0o777 == 0o700


def test_an_approval_can_be_read_by_the_user_who_runs_nvflare_whoever_has_given_it(tmp_path: Path) -> None:
    place = Place(tmp_path)
    local = place.kit / "local"
    before = os.umask(0o077)
    try:
        path = approve(place.kit, place.job)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700 | stat.S_IMODE(local.stat().st_mode)


def test_another_jobs_approval_is_none(tmp_path: Path) -> None:
    config = small("fedavg")
    place = Place(tmp_path / "a", manifest_of(config, model_of(CONFIG)), config)
    approve(place.kit, write_job(tmp_path / "job", MANIFEST.to_json()))
    assert is_refusal(place.process(result_of()))
    assert "is not approved here" in place.lines()[0]["reason"]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"rounds": 300}, "rounds: its manifest says 3, its configuration 300"),
        ({"training": {**CONFIG.to_json()["training"], "learning_rate": 1e9}}, "training.learning_rate: its manifest"),
        ({"dataset": "psychiatry"}, 'dataset: its manifest says "diagnosis", its configuration "psychiatry"'),
    ],
)
def test_an_approved_manifest_is_no_approval_of_another_configuration(place: Place, changed, words: str) -> None:
    path = place.job / f"app_{NAME}" / "config" / "config_fed_client.json"
    content = json.loads(path.read_text())
    content["executors"][0]["executor"]["args"]["config"] |= changed
    path.write_text(json.dumps(content))
    assert words in place.ask()
    assert is_refusal(place.process(result_of()))
    assert words in place.lines()[0]["reason"]


def test_a_job_whose_executor_does_not_ask_sends_nothing(place: Place) -> None:
    place.context.set_prop(FLContextKey.TASK_NAME, "train", private=True, sticky=False)
    assert is_refusal(place.filter.process(result_of(), place.context))
    assert place.lines()[0]["reason"] == "the job's executor has not asked for the site's approval"


def test_a_second_executor_with_another_configuration_is_refused(place: Place) -> None:
    assert place.ask() == ""
    other = {**CONFIG.to_json(), "rounds": 300}
    with pytest.raises(ReleaseRefused, match="a second executor of this job has another configuration"):
        place.filter.require_approved(other, MANIFEST.to_json(), place.context)
    assert place.ask() == ""


def test_what_cannot_be_checked_is_not_done(place: Place) -> None:
    deep: Any = {}
    for _ in range(100_000):
        deep = {"a": deep}
    settings = {**CONFIG.to_json(), "model": {"class": "a.B", "args": deep}}
    for config, manifest in ((settings, MANIFEST.to_json()), (CONFIG.to_json(), {}), ("{x}", MANIFEST.to_json())):
        with pytest.raises(ReleaseRefused):
            place.filter.require_approved(config, manifest, place.context)


def test_a_damaged_approval_stops_everything_and_is_named(place: Place) -> None:
    (place.kit / "local" / "approved" / "half.json").write_text('{"tensors": {}, ')
    assert is_refusal(place.process(result_of()))
    assert "half.json: expected JSON" in place.lines()[0]["reason"]
    with pytest.raises(ConfigError, match=r"half\.json"):
        approved(place.kit / "local")


def test_an_approval_of_an_older_consilia_is_named_and_is_to_be_given_anew(place: Place) -> None:
    old = {name: part for name, part in MANIFEST.to_json().items() if name in ("datasets", "tensors", "fields")}
    (place.kit / "local" / "approved" / "old.json").write_text(json.dumps(old))
    assert is_refusal(place.process(result_of()))
    assert "old.json: the manifest does not say what the job asks of a site" in place.lines()[0]["reason"]
    assert "approve the job anew" in place.lines()[0]["reason"]


def bent(**changes: Any) -> Shareable:
    """A good result with something of its DXO replaced."""
    result = result_of()
    result["DXO"] |= changes
    return result


def with_header(key: str, value: Any) -> Shareable:
    result = result_of()
    result.set_header(key, value)
    return result


def with_part(key: str, value: Any) -> Shareable:
    result = result_of()
    result[key] = value
    return result


META = {CONTENT: GOOD.content, ERROR: ""}


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (bent(meta={**META, "label_counts": [3, 4]}), "the DXO's meta must have the keys"),
        (bent(meta={CONTENT: GOOD.content}), "unlike are ['consilia_error']"),
        (bent(meta={**META, CONTENT: b"id-1"}), "must be texts"),
        (bent(meta=None), "the DXO's meta is a NoneType"),
        (bent(kind=DataKind.METRICS), "does not hold weights"),
        (bent(kind=DataKind.COLLECTION), "does not hold weights"),
        (bent(data=[1, 2]), "does not hold weights"),
        (bent(data={**STATE, "cases": torch.zeros(3)}), "tensor 'cases' is not in the manifest"),
        (bent(data={**STATE, 5: torch.zeros(3)}), "tensor '5' is not in the manifest"),
        (bent(more="id-1"), "unlike are ['more']"),
        (with_part("extra", "id-1"), "unlike are ['extra']"),
        (with_header("x-note", "id-1"), "unlike are ['x-note']"),
        (with_header(ReservedHeaderKey.CONTENT_TYPE, "id-1"), "content type is not DXO"),
        (with_header(ReservedHeaderKey.RC, "id-1"), "unlike are ['__rc__']"),
        (Shareable(), "the result must have the keys"),
        (Shareable({"rows": [1]}), "unlike are ['DXO', 'rows']"),
        (make_reply("id-1"), "the result must have the keys"),
        (make_reply(ReturnCode.OK, headers={"x-note": "id-1"}), "the result must have the keys"),
        ({"__headers__": None}, "cannot be checked (TypeError)"),
    ],
)
def test_what_is_not_made_like_ours_is_refused_without_a_word_of_it(place: Place, caplog, result, words: str) -> None:
    caplog.set_level(logging.DEBUG)
    assert is_refusal(place.process(result))
    (line,) = place.lines()
    assert line["sent"] is False
    assert words in line["reason"]
    assert "id-1" not in caplog.text + json.dumps(line)


def test_nvflares_codes_pass_since_they_carry_nothing(tmp_path: Path) -> None:
    place = Place(tmp_path)
    assert {ReturnCode.TASK_ABORTED, ReturnCode.TASK_UNKNOWN, ReturnCode.EXECUTION_EXCEPTION} <= CODES
    for code in (ReturnCode.TASK_ABORTED, ReturnCode.TASK_UNKNOWN):
        result = make_reply(code)
        assert place.process(result) is result
    assert [line["code"] for line in place.lines()] == ["TASK_ABORTED", "TASK_UNKNOWN"]


def test_an_error_of_the_site_leaves_by_its_name(place: Place) -> None:
    result = result_of(Reply(error="DataError"))
    assert place.process(result) is result
    line = place.lines()[0]
    assert (line["error"], line["bytes"], line["fields"]) == ("DataError", len("DataError"), [])
    assert is_refusal(place.process(result_of(Reply(error="row 3 of patient id-1"))))


def test_what_cannot_be_written_down_is_not_sent(place: Place, caplog) -> None:
    caplog.set_level(logging.ERROR)
    # A folder stands where the file should: also root cannot write to it.
    (place.kit / AUDIT).mkdir()
    assert is_refusal(place.process(result_of()))
    assert "what is not written down is not sent" in caplog.text
    (place.kit / AUDIT).rmdir()
    assert place.process(result_of())["DXO"]["meta"][ERROR] == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_sends_nothing(place: Place, caplog) -> None:
    caplog.set_level(logging.ERROR)
    (place.kit / AUDIT).symlink_to("/dev/full")
    assert is_refusal(place.process(result_of()))
    assert "No space left on device" in caplog.text


def test_a_line_that_half_fits_leaves_no_half_behind(place: Place) -> None:
    """A file that may grow by ten bytes more, by the system's own limit."""
    place.process(result_of())
    before = (place.kit / AUDIT).read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, hard))
        result = place.process(result_of())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert is_refusal(result)
    assert (place.kit / AUDIT).read_bytes() == before


def test_headers_that_a_component_of_the_job_adds_are_refused(place: Place) -> None:
    """NVFlare's job statistics ride on the result's header, put there before the filters run."""
    reporter, result = JobStatsReporter(collect_resources=False), result_of()
    context = place.context
    for key, value in ((FLContextKey.TASK_ID, "t"), (FLContextKey.TASK_RESULT, result)):
        context.set_prop(key, value, private=True, sticky=False)
    reporter._is_client = True
    reporter.handle_event(EventType.AFTER_TASK_EXECUTION, context)
    assert set(result[ReservedHeaderKey.HEADERS]) != {"__content_type__"}
    assert is_refusal(place.process(result))


def test_a_real_executors_answers_pass(place: Place, wisconsin) -> None:
    site = load_site_config(wisconsin[NAME]).model_dump_json(by_alias=True)
    (place.kit / "local" / "site.yaml").write_text(site)
    executor = ConsiliaExecutor(CONFIG.to_json(), version=consilia.__version__, release_manifest=MANIFEST.to_json())
    set_filter(place)
    tasks = (
        (Request(kind="prepare"), None),
        (Request(kind="train", evaluate=True), STATE),
        (Request(kind="personalize", round=1, final=True), STATE),
    )
    for info, tensors in tasks:
        task = FLModelUtils.to_shareable(broadcast_to_model(Broadcast(info, [NAME], tensors)))
        result = executor.execute(info.kind, task, place.context, Signal())
        # All that is there when the filters run; NVFlare's client runner adds names and ids of task and job later.
        assert result[ReservedHeaderKey.HEADERS] == {"__content_type__": "DXO"}
        assert place.filtered(result, info.kind) is result
    unknown = executor.execute("dump_data", task, place.context, Signal())
    assert place.filtered(unknown, "dump_data") is unknown
    assert [line["sent"] for line in place.lines()] == [True] * 4
    assert place.lines()[1]["tensors"] == 4


def set_filter(place: Place) -> None:
    """Put the filter where NVFlare's client runner finds a site's filters."""
    scope = Scope()
    scope.add_task_result_filter(place.filter, FilterKey.OUT)
    place.context.set_prop(FLContextKey.SCOPE_OBJECT, scope, private=True, sticky=True)


def train(place: Place, executor: ConsiliaExecutor) -> Shareable:
    task = FLModelUtils.to_shareable(broadcast_to_model(Broadcast(Request(kind="train"), [NAME], STATE)))
    return place.filtered(executor.execute("train", task, place.context, Signal()), "train")


def test_an_unapproved_job_is_refused_before_it_does_anything(tmp_path: Path, caplog) -> None:
    place = Place(tmp_path)
    set_filter(place)
    executor = ConsiliaExecutor(CONFIG.to_json(), version=consilia.__version__, release_manifest=MANIFEST.to_json())
    caplog.set_level(logging.ERROR)
    assert is_refusal(train(place, executor))
    # It has not even looked for site.yaml, which is not there.
    assert "task train failed with ReleaseRefused: the manifest of this job" in caplog.text
    assert "site.yaml" not in caplog.text
    assert "is not approved here" in place.lines()[0]["reason"]
    approve(place.kit, place.job)
    assert train(place, executor)["DXO"]["meta"][ERROR] == "ConfigError"
    assert "site.yaml" in caplog.text


def test_a_model_of_another_size_than_approved_does_not_train(tmp_path: Path, wisconsin) -> None:
    understated = MANIFEST.model_copy(update={"model_size": ModelSize(elements=1, bytes=4)})
    place = Place(tmp_path, understated)
    set_filter(place)
    approve(place.kit, place.job)
    site = load_site_config(wisconsin[NAME]).model_dump_json(by_alias=True)
    (place.kit / "local" / "site.yaml").write_text(site)
    executor = ConsiliaExecutor(CONFIG.to_json(), version=consilia.__version__, release_manifest=understated.to_json())
    for _ in range(2):
        assert train(place, executor)["DXO"]["meta"][ERROR] == "ReleaseRefused"


def test_only_a_sites_kit_approves(tmp_path: Path) -> None:
    kit = tmp_path / "server"
    (kit / "startup").mkdir(parents=True)
    server = {"servers": [{"service": {"target": "localhost:8002"}, "identity": "localhost"}]}
    (kit / "startup" / "fed_server.json").write_text(json.dumps(server))
    with pytest.raises(ConfigError, match="is the kit of a server"):
        approve(kit, write_job(tmp_path / "job", MANIFEST.to_json()))
