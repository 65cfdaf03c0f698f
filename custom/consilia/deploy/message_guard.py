"""Who may send messages to a site, and what NVFlare's server may forward.

NVFlare 2.9 handles a message whoever sent it: its server forwards messages from one site's processes to another's, and
asks for rights only where the message itself says so. By that a site obeyed any other hospital, shell commands
included. The guard stands in ``local/resources.json`` and looks at every message that arrives, before NVFlare does:

- a site listens to its own server, to the jobs of that server, and to its own jobs; what came over a connection of
  somebody else than it says is refused, and so are shell commands and folders that are no job's;
- the server forwards nothing from one participant to another, and nothing in the name of somebody else; of what it
  does for whoever is logged in, it does for them only what a job and a console need;
- nobody takes commands to NVFlare's network, by which any process could be stopped, or messages of another job.

The rules themselves are in :mod:`consilia.deploy.message_rules`.

A refused message is written to the log, and NVFlare sends no reply to it. So is who connects to the port for the
processes of jobs, which is on the loopback interface, without the certificate of the kit.
"""

from __future__ import annotations

import pwd
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from weakref import WeakSet

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_context import FLContext
from nvflare.fuel.f3.cellnet.defs import MessageHeaderKey, ReturnCode
from nvflare.fuel.f3.cellnet.utils import make_reply
from nvflare.fuel.f3.message import Message
from nvflare.widgets.widget import Widget

from consilia.core.plain import plain
from consilia.deploy.message_rules import (
    SERVER,
    envelope_of,
    participant,
    refused_anywhere,
    refused_at_server,
    refused_at_site,
    refused_command,
)
from consilia.flare.nvflare_internals import (
    COMMANDS,
    command_of,
    is_participant,
    refused_command_reply,
    shake_hands_apart,
    watch_connections,
)

_guarded: WeakSet[Any] = WeakSet()
"""Cells before which a guard stands: a site's job builds one by resources.json and one by privacy.json."""

SHOWN = 100
"""Longest name of a stranger's in the log."""


def user_at(address: tuple[str, int]) -> str | None:
    """The user of this machine whose connection comes from this address; None: it is of another machine, or gone."""
    end = f":{address[1]:04X}"
    for fields in _connections():
        # Of one that is closed the system no longer knows the user, and it has no inode.
        if fields[1].endswith(end) and fields[9] != "0":
            with suppress(KeyError):
                return pwd.getpwuid(int(fields[7])).pw_name
            return fields[7]
    return None


def _connections() -> Iterator[list[str]]:
    """Linux's tables of TCP connections: local address, ..., number of the user, ..., inode."""
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        with suppress(OSError):
            yield from (line.split() for line in table.read_text().splitlines()[1:])


class MessageGuard(Widget):  # type: ignore[misc]
    """Refuses, in every process of a site and in the server's own, the messages that nobody may send there."""

    def __init__(self) -> None:
        super().__init__()
        # Others build components, too, the doctor for one.
        if is_participant():
            shake_hands_apart(self._note_stranger)
            watch_connections(self._stand)

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """A second look, for a cell that was there before the guard: in NVFlare 2.9 there is none."""
        if event_type in (EventType.SYSTEM_BOOTSTRAP, EventType.ABOUT_TO_START_RUN):
            self._stand(fl_ctx.get_engine().get_cell().core_cell)

    def _stand(self, cell: Any) -> None:
        if cell in _guarded:
            return
        _guarded.add(cell)
        me = cell.get_fqcn()
        # The registries take the most specific entry alone: one for a channel would put NVFlare's authentication, which
        # is at (*, *), out of force.
        cell.add_incoming_filter("*", "*", self._check_sender, me)
        if participant(me) != SERVER:
            cell.add_incoming_request_filter("*", "*", self._check_command, me)
        self.logger.info(f"the guard of messages stands before {me}")

    def _check_sender(self, message: Message, me: str) -> Message | None:
        envelope = envelope_of(message)
        reason = refused_anywhere(envelope) or (
            refused_at_server(me, envelope) if participant(me) == SERVER else refused_at_site(me, envelope)
        )
        if reason is None:
            return None
        self._note(message, reason)
        # Whatever is returned ends the message here; NVFlare sends no reply at this place.
        return make_reply(ReturnCode.UNAUTHENTICATED, reason)

    def _check_command(self, message: Message, me: str) -> Message | None:
        """The topic that counts is the command's own, in the payload: NVFlare goes by it, not by the header's."""
        if message.get_header(MessageHeaderKey.CHANNEL) != COMMANDS:
            return None
        topic, job = command_of(message.payload)
        reason = refused_command(me, envelope_of(message).origin, topic, job)
        if reason is None:
            return None
        self._note(message, reason, f"/{topic}")
        return refused_command_reply(f"refused by the site's guard of messages: {reason}")

    def _note_stranger(self, address: tuple[str, int], error: OSError) -> None:
        user = user_at(address)
        who = f"{plain(address[0])}:{address[1]}{'' if user is None else f', user {plain(user)}'}"
        self.logger.error(
            f"refused: a connection of {who}: it showed no certificate of this federation ({type(error).__name__})"
        )

    def _note(self, message: Message, reason: str, command: str = "") -> None:
        sent = envelope_of(message)
        names = (sent.channel, sent.topic, command, sent.origin, sent.endpoint, sent.destination)
        channel, topic, command, origin, endpoint, destination = (plain(name, SHOWN) for name in names)
        self.logger.error(
            f"refused: {channel} {topic}{command} of {origin}, by {endpoint}, for {destination}: {reason}"
        )
