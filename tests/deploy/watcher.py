"""A component for every participant of a test federation: it writes down which messages NVFlare's processes take.

A line of ``messages-PID.txt`` in the kit for each kind of message: process, channel, topic, sender; and in
``filters-PID.txt`` where NVFlare's filters of messages are registered.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.fuel.f3.cellnet.defs import MessageHeaderKey
from nvflare.fuel.f3.streaming.stream_const import STREAM_CHANNEL, StreamHeaderKey
from nvflare.widgets.widget import Widget

MESSAGES, FILTERS = "messages", "filters"
REGISTRIES = ("in_filter_reg", "in_req_filter_reg", "in_reply_filter_reg", "out_req_filter_reg", "out_reply_filter_reg")


class Watcher(Widget):
    """Stands behind the guard: what that refuses is not seen here."""

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        if event_type in (EventType.SYSTEM_BOOTSTRAP, EventType.ABOUT_TO_START_RUN):
            self.cell = fl_ctx.get_engine().get_cell().core_cell
            self.kit = Path(fl_ctx.get_prop(FLContextKey.WORKSPACE_OBJECT).get_root_dir())
            self.seen: set[str] = set()
            self.cell.add_incoming_filter("*", "*", self._note)
        if event_type in (EventType.SYSTEM_START, EventType.START_RUN):
            keys = {f"{name} {key}" for name in REGISTRIES for key in getattr(self.cell, name).reg}
            self._write(FILTERS, sorted(f"{kind(self.cell.get_fqcn())} {key}" for key in keys))

    def _note(self, message: Any) -> None:
        me, channel, topic = self.cell.get_fqcn(), *(message.get_header(key) for key in HEADERS)
        if channel == STREAM_CHANNEL:
            inner = (message.get_header(StreamHeaderKey.CHANNEL), message.get_header(StreamHeaderKey.TOPIC))
            channel, topic = f"{channel}/{inner[0] or ''}", f"{topic}/{inner[1] or ''}"
        origin, destination = (message.get_header(key) for key in ENDS)
        process = kind(me) if destination == me else f"{kind(me)} hands on"
        line = f"{process} | {channel} | {topic} | {sender(me, origin)}"
        if line not in self.seen:
            self.seen.add(line)
            self._write(MESSAGES, [line])

    def _write(self, what: str, lines: list[str]) -> None:
        name = self.cell.get_fqcn().replace(".", "-")
        with (self.kit / f"{what}-{name}.txt").open("a") as file:
            file.writelines(f"{line}\n" for line in lines)


HEADERS = (MessageHeaderKey.CHANNEL, MessageHeaderKey.TOPIC)
ENDS = (MessageHeaderKey.ORIGIN, MessageHeaderKey.DESTINATION)


def kind(process: str) -> str:
    """server, site, administrator, or a job of the first two."""
    who, _, job = process.partition(".")
    whose = "administrator" if who.startswith("_") else "server" if who == "server" else "site"
    return f"{whose}'s job" if job else whose


def sender(me: str, origin: str) -> str:
    """The sender's kind, as the process ``me`` sees it."""
    mine = me.partition(".")[0] == origin.partition(".")[0]
    return f"own {kind(origin)}" if mine else kind(origin)


def lines(kits: Path, what: str) -> set[str]:
    """What the watchers of all participants have written."""
    return {line for file in kits.glob(f"*/{what}-*.txt") for line in file.read_text().splitlines()}
