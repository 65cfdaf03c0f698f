"""Every private name of NVFlare's that Consilia uses: names below ``nvflare.private``, and names that begin with ``_``.

NVFlare promises nothing of these. They are those of NVFlare 2.9 (``nvflare>=2.9,<2.10``); whoever raises that bound
reads this file. Each use says why no public name will do. tests/test_nvflare_internals.py finds a use elsewhere.
"""

from __future__ import annotations

import re
import sys
import threading
from abc import abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nvflare.apis.client import Client
from nvflare.apis.controller_spec import ClientTask
from nvflare.apis.fl_constant import ConfigVarName, ReturnCode, RunProcessKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.wf_comm_spec import WFCommSpec
from nvflare.apis.workspace import Workspace
from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.app_common.widgets.component_path_authorizer import ComponentPathAuthorizer
from nvflare.app_common.workflows.model_controller import ModelController
from nvflare.fuel.f3.cellnet.core_cell import CoreCell
from nvflare.fuel.f3.cellnet.defs import MessageHeaderKey
from nvflare.fuel.f3.cellnet.net_agent import _CHANNEL
from nvflare.fuel.f3.drivers import tcp_driver
from nvflare.fuel.f3.message import Message
from nvflare.fuel.f3.streaming.stream_const import STREAM_DATA_TOPIC, StreamDataType, StreamHeaderKey
from nvflare.private.admin_defs import Message as Command
from nvflare.private.admin_defs import error_reply
from nvflare.private.defs import (
    CellChannel,
    CellMessageHeaderKeys,
    RequestHeader,
    SysCommandTopic,
    TrainingTopic,
    new_cell_message,
)
from nvflare.private.fed.app.fl_conf import create_privacy_manager
from nvflare.private.fed.client.client_status import ClientStatus
from nvflare.private.fed.server.server_commands import ServerCommandNames
from nvflare.private.fed.utils.site_config import project_site_config

PARTICIPANT = "nvflare.private.fed.app."
"""How the name of the module begins that a participant's process runs. By it, and the kit in the same command line, the
process is found: the kit's ``pid.fl`` stays when a participant is killed."""


class EveryAnswerController(ModelController):  # type: ignore[misc]
    """A model controller that hears of every answer of a site.

    ``ModelController`` of NVFlare 2.9 calls a task's callback only for a result that is a model; one that is none, or
    only a return code, is written to the log and lost, and a round would wait for that site until its time is up. There
    is no public hook after the callback, so ``_process_result`` is extended.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # Results are processed in several threads.
        self._here = threading.local()

    @abstractmethod
    def hear(self, site: str, model: FLModel) -> None:
        """A site's answer that is a model."""

    @abstractmethod
    def hear_nothing(self, site: str, error: str) -> None:
        """A site's answer that is none; ``error`` says what it is, as a word."""

    @abstractmethod
    def hear_late(self, site: str) -> None:
        """A site has an answer to a task that has ended."""

    def set_communicator(self, communicator: WFCommSpec) -> None:
        """NVFlare's, before the run begins: whoever distributes the tasks.

        A site asks before it sends a result, and sends none where the task has ended; nobody tells the controller.
        """
        super().set_communicator(communicator)
        stands = communicator.process_task_check

        def look(task_id: str, fl_ctx: FLContext) -> ClientTask | None:
            task: ClientTask | None = stands(task_id, fl_ctx)
            if task is None:
                self.hear_late(fl_ctx.get_peer_context().get_identity_name())
            return task

        communicator.process_task_check = look

    def process_result_of_unknown_task(
        self, client: Client, task_name: str, client_task_id: str, result: Shareable, fl_ctx: FLContext
    ) -> None:
        """NVFlare's, for a result whose task has ended after its site had asked."""
        self.hear_late(client.name)

    def receive(self, model: FLModel) -> None:
        """The callback of every task."""
        self._here.heard = True
        # The name is NVFlare's, of the site that the task was given to; one among the site's own meta is overwritten.
        self.hear(model.meta["client_name"], model)

    def _process_result(self, client_task: ClientTask, fl_ctx: FLContext) -> None:
        self._here.heard, code = False, client_task.result.get_return_code()
        super()._process_result(client_task, fl_ctx)
        # Of a job that is being aborted every site says so.
        if not self._here.heard and not self.abort_signal.triggered:
            self.hear_nothing(client_task.client.name, "MalformedReply" if code == ReturnCode.OK else str(code))


def watch_arrivals(engine: Any, note: Callable[[str], None]) -> None:
    """At the server's job process: call ``note`` with the site's name whenever a site's result has arrived whole.

    Where a result cannot be read, NVFlare 2.9 ends the process in the reading and does not say whose it was; its public
    events come after. Topic and header of a result are in ``nvflare.private``.
    """

    def look(message: Message) -> None:
        if message.get_header(MessageHeaderKey.TOPIC) != STREAM_DATA_TOPIC:
            return
        ends = message.get_header(StreamHeaderKey.DATA_TYPE) == StreamDataType.FINAL
        if ends and message.get_header(StreamHeaderKey.TOPIC) == ServerCommandNames.SUBMIT_UPDATE:
            note(str(message.get_header(CellMessageHeaderKeys.CLIENT_NAME)))

    # Of the filters only the most specific entry counts: one for this topic would put others out of force for it.
    engine.get_cell().core_cell.add_incoming_filter("*", "*", look)


def _module_run() -> str:
    """The module that this process was started with, ``python -m``; empty for any other start."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return "" if spec is None else str(spec.name)


def is_participant() -> bool:
    """Whether this process is one of NVFlare's: a site's, the server's, or that of a job."""
    return _module_run().startswith(PARTICIPANT)


def watch_connections(stand: Callable[[Any], None]) -> None:
    """Call ``stand`` with each cell, NVFlare's end of all connections of a process, before it connects or listens.

    NVFlare 2.9 builds its components before its cell, but fires its first event after the cell has connected; until
    then a message would be taken that a component is there to refuse. There is no public hook in between.
    """
    start = CoreCell.start

    def stand_and_start(cell: Any) -> None:
        stand(cell)
        start(cell)

    CoreCell.start = stand_and_start


HANDSHAKE_SECONDS = 10.0


def shake_hands_apart(note: Callable[[tuple[str, int], OSError], None]) -> None:
    """TLS handshakes of the TCP listeners that this process opens from now on: each in a thread, and not for ever.

    NVFlare 2.9 shakes hands before it accepts the next connection, so one that says nothing keeps all others out, and
    it writes no word of a handshake that fails. Its driver opens a listener by the name that is replaced here.

    Args:
        note: hears the address of whoever shows no certificate of the federation, and the error.
    """

    class Listener(tcp_driver.TcpStreamServer):  # type: ignore[misc]
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            if self.ssl_context is not None:
                self.socket.do_handshake_on_connect = False

        def finish_request(self, request: Any, client_address: tuple[str, int]) -> None:
            if self.ssl_context is not None:
                try:
                    request.settimeout(HANDSHAKE_SECONDS)
                    request.do_handshake()
                    request.settimeout(None)
                except OSError as error:
                    note(client_address, error)
                    return
            super().finish_request(request, client_address)

    tcp_driver.TcpStreamServer = Listener


def enforces_allow_list(resources: Mapping[str, Any]) -> bool:
    """Whether NVFlare refuses classes that ``class_allow_list`` of a resources.json lacks, or only warns.

    Read by NVFlare's own parser, so that what is reported is what a participant does; 2.9 has no public one.

    Raises:
        Exception: of a class of NVFlare's, for what it refuses to read.
    """
    _, mode, _ = ComponentPathAuthorizer()._get_policy_from_resources(resources)
    return bool(mode.value == "enforce")


def advertised_keys(resources: Mapping[str, Any]) -> set[str]:
    """Top-level keys of a resources.json that a site sends to the server when it registers; 2.9 alone knows which."""
    return set(project_site_config(resources))


def has_default_scope(folder: Path, name: str) -> bool:
    """Whether the privacy.json of a kit names a default scope, after all its filters have been built as NVFlare does.

    Raises:
        Exception: of any class; a filter of the site's own that cannot be built may raise anything.
    """
    return create_privacy_manager(Workspace(str(folder), name), names_only=False).default_scope is not None


JOB_NUMBER = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
"""What NVFlare calls a job: a UUID. Participants name folders by it."""

COMMANDS = CellChannel.CLIENT_MAIN
"""The channel of the commands that a site's own process carries out."""

NETWORK_COMMANDS = _CHANNEL
"""The channel by which a process is asked to stop, to tell of its connections and settings, or to send on messages."""

TASK_COMMANDS = frozenset({ServerCommandNames.GET_TASK, ServerCommandNames.SUBMIT_UPDATE})
"""Of the commands that NVFlare's server carries out in a job, those of a site; its others are for the server alone."""

SHELL, JOB_STATUS = SysCommandTopic.SHELL, TrainingTopic.NOTIFY_JOB_STATUS
"""A command of the operating system; and the one that a site's own job gives: how it is."""


PIECE_TIMEOUT = f"NVFLARE_TENSOR_{ConfigVarName.STREAMING_PER_REQUEST_TIMEOUT}".upper()
"""The variable of the environment that says how many seconds a process waits for a piece of a large model."""


def command_of(payload: object) -> tuple[str, str | None]:
    """A command's topic, and the job that it names; an empty topic for what is no command."""
    if not isinstance(payload, Command):
        return "", None
    job = payload.get_header(RequestHeader.JOB_ID)
    return str(payload.topic), None if job is None else str(job)


def refused_command_reply(reason: str) -> Message:
    """What the person who gave a command reads."""
    reply: Message = new_cell_message({}, error_reply(reason))
    return reply


def site_run_is_over(engine: Any, job: str) -> bool:
    """At a site's own process: whether a job's process has said that its run has ended; it may live on for a moment."""
    return bool(engine.client_executor.get_status(job) == ClientStatus.STOPPED)


def server_run_is_over(engine: Any, job: str) -> bool:
    """The same at the server's own process."""
    return bool(engine.run_processes.get(job, {}).get(RunProcessKey.PROCESS_FINISHED, False))


def in_server_job() -> bool:
    """Whether this is the server's process of a job: NVFlare tells a component of resources.json nothing of that."""
    return _module_run() == f"{PARTICIPANT}server.runner_process"


def set_outcome_wait(engine: Any, seconds: float) -> None:
    """At the server's own process: how long a job that is over stays open for sites that do not say how it ended there.

    NVFlare 2.9 takes it once, in making its runner of jobs, from the environment of the server's process alone.
    """
    engine.job_runner.client_outcome_wait_timeout = seconds
