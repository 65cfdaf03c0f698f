"""The site's filter: what passes, what does not, and what is written down."""

from __future__ import annotations

import json
import logging
import resource
import signal
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
from consilia.data.site import load_site_config
from consilia.deploy.release_filter import AUDIT, CODES, approve
from consilia.federation.messages import Broadcast, Reply, Request
from consilia.flare.executor import ConsiliaExecutor
from consilia.flare.messages import CONTENT, ERROR, broadcast_to_model
from consilia.models.exchange import ModelSize
from tests.deploy_units.filtered import CONFIG, GOOD, MANIFEST, NAME, STATE, Place, is_refusal, result_of


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
