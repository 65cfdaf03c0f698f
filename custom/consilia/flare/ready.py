"""Tell waiting sites that a task is ready, so that no round is spent between two polls.

A site that asks for a task too early is sent away: in the simulator it then sleeps half a second whatever the job's
polling interval, as long as a whole small round. Here a site that has finished a task waits for the server's word
before it asks again. The word is a hint: if it is lost, the site asks after ``PATIENCE_SECONDS`` as it always would.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable, make_reply

TOPIC = "consilia.task_ready"
PATIENCE_SECONDS = 2.0


def announce(sites: Sequence[str], fl_ctx: FLContext) -> None:
    """At the server: tell sites to ask for a task now."""
    fl_ctx.get_engine().send_aux_request(
        targets=list(sites), topic=TOPIC, request=Shareable(), timeout=0.0, fl_ctx=fl_ctx, optional=True
    )


class ReadySignal:
    """At a site: waits for the server's word between two tasks."""

    def __init__(self) -> None:
        self._ready = threading.Event()
        # The first request is made at once: what starts a run is no reply to a task.
        self._ready.set()

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Pass the executor's events here."""
        if event_type == EventType.START_RUN:
            fl_ctx.get_engine().register_aux_message_handler(TOPIC, self._received)
        elif event_type == EventType.BEFORE_PULL_TASK:
            self._ready.wait(PATIENCE_SECONDS)

    def task_began(self) -> None:
        """From now on the next task is news again."""
        self._ready.clear()

    def _received(self, topic: str, request: Shareable, fl_ctx: FLContext) -> Shareable:
        self._ready.set()
        return make_reply(ReturnCode.OK)
