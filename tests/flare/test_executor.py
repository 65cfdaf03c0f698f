"""The executor with real contexts: where it finds its data, and that nothing escapes it."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import yaml
from nvflare.apis.dxo import from_shareable
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from nvflare.app_common.utils.fl_model_utils import FLModelUtils

import consilia
from consilia.data.site import load_site_config
from consilia.federation.config import RunConfig
from consilia.federation.messages import Broadcast, PrepareReply, Request, TrainReply
from consilia.flare import executor as executor_module
from consilia.flare import ready
from consilia.flare.executor import ConsiliaExecutor
from consilia.flare.messages import CONTENT, ERROR, broadcast_to_model
from tests.federation.support import initial_state, small
from tests.flare.support import participant, start

NAME = "hospital-1"


def executor_of(config: RunConfig, version: str = consilia.__version__) -> ConsiliaExecutor:
    return ConsiliaExecutor(config.to_json(), version, release_manifest={})


def kit(tmp_path: Path, wisconsin: dict[str, Path], place: str = "site.yaml", **changes):
    folder, context = participant(tmp_path / "kits", NAME)
    content = load_site_config(wisconsin[NAME]).model_dump(mode="json", by_alias=True)
    (folder / "local" / place).parent.mkdir(exist_ok=True)
    (folder / "local" / place).write_text(yaml.safe_dump({**content, **changes}))
    return folder, context


def ask(executor: ConsiliaExecutor, context, info: Request, tensors=None, name: str | None = None, abort=None):
    shareable = FLModelUtils.to_shareable(broadcast_to_model(Broadcast(info, [NAME], tensors)))
    reply = executor.execute(name or info.kind, shareable, context, abort or Signal())
    return reply, (from_shareable(reply) if reply.get_return_code() == ReturnCode.OK else None)


@pytest.mark.parametrize("place", ["site.yaml", f"sites/{NAME}.yaml"])
def test_prepares_and_trains(tmp_path, wisconsin, place) -> None:
    _, context = kit(tmp_path, wisconsin, place)
    config = small()
    executor = start(executor_of(config), context)
    _, dxo = ask(executor, context, Request(kind="prepare"))
    kept = (wisconsin[NAME].parent / "state" / "diagnosis" / "splits.csv").read_text()
    assert PrepareReply.model_validate_json(dxo.meta[CONTENT]).train == kept.count(",train\n") > 0
    state = initial_state(config)
    _, dxo = ask(executor, context, Request(kind="train", round=0, evaluate=True), state)
    assert set(dxo.data) == set(state)
    content = TrainReply.model_validate_json(dxo.meta[CONTENT])
    assert content.cases == kept.count(",train\n")
    # A site has one way out, its replies: nothing is sent by events.
    assert context.get_engine().events == []


def test_a_site_without_a_site_file_answers_with_the_error_and_logs_the_reason(tmp_path, caplog) -> None:
    _, context = participant(tmp_path, NAME)
    executor = start(executor_of(small()), context)
    with caplog.at_level(logging.ERROR):
        _, dxo = ask(executor, context, Request(kind="prepare"))
    assert (dxo.meta[ERROR], dxo.meta[CONTENT]) == ("ConfigError", "")
    assert "site.yaml: write one" in caplog.text


def test_another_sites_file_is_refused(tmp_path, wisconsin, caplog) -> None:
    _, context = kit(tmp_path, wisconsin, site="elsewhere")
    _, dxo = ask(start(executor_of(small()), context), context, Request(kind="prepare"))
    assert dxo.meta[ERROR] == "ConfigError"
    assert "is for site 'elsewhere'" in caplog.text


def test_a_model_class_that_the_site_does_not_list_is_refused(tmp_path, wisconsin, caplog) -> None:
    _, context = kit(tmp_path, wisconsin, allow_models=["consilia.models.cnn.FourLayerCNN"])
    _, dxo = ask(start(executor_of(small()), context), context, Request(kind="prepare"))
    assert dxo.meta[ERROR] == "ConfigError"
    assert "'consilia.models.mlp.MLP' is not listed here" in caplog.text


def test_lost_data_do_not_take_the_process_down(tmp_path, wisconsin, caplog) -> None:
    _, context = kit(tmp_path, wisconsin)
    for table in wisconsin[NAME].parent.glob("*.csv"):
        table.unlink()
    caplog.set_level(logging.DEBUG)
    _, dxo = ask(start(executor_of(small()), context), context, Request(kind="prepare"))
    assert dxo.meta[ERROR] == "DataError"
    # NVFlare may stream its logs to the server: the reason is in a file of the site's own.
    assert "failed with DataError; see" in caplog.text
    assert ".csv" not in caplog.text
    noted = wisconsin[NAME].parent / "state" / "errors.log"
    assert ".csv" in noted.read_text()
    assert noted.stat().st_mode & 0o077 == 0


def test_unknown_and_mislabelled_tasks(tmp_path, wisconsin) -> None:
    _, context = kit(tmp_path, wisconsin)
    executor = start(executor_of(small()), context)
    reply, _ = ask(executor, context, Request(kind="prepare"), name="dump_data")
    assert reply.get_return_code() == ReturnCode.TASK_UNKNOWN
    _, dxo = ask(executor, context, Request(kind="prepare"), name="train")
    assert dxo.meta[ERROR] == "ConfigError"
    assert from_shareable(executor.execute("train", Shareable(), context, Signal())).meta[ERROR] != ""


def test_abort_is_heard_during_training(tmp_path, wisconsin) -> None:
    _, context = kit(tmp_path, wisconsin)
    config = small()
    executor = start(executor_of(config), context)
    signal = Signal()
    signal.trigger(True)
    reply, _ = ask(executor, context, Request(kind="train"), initial_state(config), abort=signal)
    assert reply.get_return_code() == ReturnCode.TASK_ABORTED


def test_between_two_tasks_a_site_waits_for_the_servers_word(tmp_path, monkeypatch) -> None:
    _, context = participant(tmp_path, NAME)
    waits: list[float] = []
    signal = ready.ReadySignal()
    signal.handle_event(EventType.START_RUN, context)
    monkeypatch.setattr(signal._ready, "wait", lambda seconds: waits.append(seconds) or signal._ready.is_set())
    signal.handle_event(EventType.BEFORE_PULL_TASK, context)
    assert signal._ready.is_set()  # the first question is asked at once
    signal.task_began()
    assert not signal._ready.is_set()
    signal.handle_event(EventType.BEFORE_PULL_TASK, context)
    assert waits == [ready.PATIENCE_SECONDS] * 2
    context.get_engine().aux[ready.TOPIC](ready.TOPIC, Shareable(), context)
    assert signal._ready.is_set()


def test_a_job_of_another_version_is_refused(tmp_path, wisconsin, caplog) -> None:
    _, context = kit(tmp_path, wisconsin)
    _, dxo = ask(start(executor_of(small(), "0.0.1"), context), context, Request(kind="prepare"))
    assert dxo.meta[ERROR] == "ConfigError"
    assert f"the job was made by Consilia 0.0.1, here is {consilia.__version__}" in caplog.text


def test_the_same_run_twice_at_a_time_is_refused_until_the_first_has_ended(tmp_path, wisconsin, monkeypatch) -> None:
    monkeypatch.setattr(executor_module, "ORPHAN_SECONDS", 0.1)
    _, context = kit(tmp_path, wisconsin)
    first, second = start(executor_of(small()), context), start(executor_of(small()), context)
    assert ask(first, context, Request(kind="prepare"))[1].meta[ERROR] == ""
    assert ask(second, context, Request(kind="prepare"))[1].meta[ERROR] == "RunFailed"
    other = start(executor_of(small(seed=1)), context)
    assert ask(other, context, Request(kind="prepare"))[1].meta[ERROR] == ""
    first.handle_event(EventType.END_RUN, context)
    third = start(executor_of(small()), context)
    assert ask(third, context, Request(kind="prepare"))[1].meta[ERROR] == ""
