"""Who may send messages to a site, and what NVFlare's server may forward.

NVFlare 2.9 handles a message whoever sent it: its server forwards messages from one site's processes to another's, and
asks for rights only where the message itself says so. By that a site obeyed any other hospital, shell commands
included. The guard stands in ``local/resources.json`` and looks at every message that arrives, before NVFlare does:

- a site listens to its own server, to the jobs of that server, and to its own jobs; what came over a connection of
  somebody else than it says is refused, and so are shell commands and folders that are no job's;
- the server forwards nothing from one participant to another, and nothing in the name of somebody else.

A refused message is written to the log, and NVFlare sends no reply to it. So is who connects to the port for the
processes of jobs, which is on the loopback interface, without the certificate of the kit.
"""

from __future__ import annotations

import pwd
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_context import FLContext
from nvflare.fuel.f3.cellnet.defs import MessageHeaderKey, MessagePropKey, ReturnCode
from nvflare.fuel.f3.cellnet.fqcn import FQCN
from nvflare.fuel.f3.cellnet.utils import make_reply
from nvflare.fuel.f3.message import Message
from nvflare.widgets.widget import Widget

from consilia.core.plain import plain
from consilia.flare.nvflare_internals import (
    COMMANDS,
    JOB_STATUS,
    SHELL,
    command_of,
    refused_command_reply,
    shake_hands_apart,
)

SERVER = FQCN.ROOT_SERVER
DENIED = frozenset({SHELL})
"""Commands that no server may give."""

SHOWN = 100
"""Longest name of a stranger's in the log."""

_JOB_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True)
class Sender:
    """Where a message comes from and where it goes, by NVFlare's names of processes.

    A participant's own process is called as the participant, that of a job ``participant.job``.

    Attributes:
        origin: who made the message, as it says itself.
        endpoint: the process at the other end of the connection that it came over.
        destination: whom it is for.
    """

    origin: str
    endpoint: str
    destination: str


def sender_of(message: Message) -> Sender:
    """By the headers of a message, and the connection that it came over."""
    return Sender(
        origin=str(message.get_header(MessageHeaderKey.ORIGIN)),
        endpoint=str(getattr(message.get_prop(MessagePropKey.ENDPOINT), "name", "")),
        destination=str(message.get_header(MessageHeaderKey.DESTINATION)),
    )


def participant(process: str) -> str:
    """Whose process it is."""
    return process.partition(".")[0]


def refused_at_site(me: str, sender: Sender) -> str | None:
    """Why the process ``me`` of a site does not take a message; None: it does."""
    site = participant(me)
    if participant(sender.origin) == SERVER:
        # A site's own process hands on to its jobs what the server sends them.
        came_straight = participant(sender.endpoint) == SERVER or (me != site and sender.endpoint == site)
    elif participant(sender.origin) == site:
        came_straight = sender.endpoint == sender.origin or (me != site and sender.endpoint in (site, SERVER))
    else:
        return "it is neither of this site's server nor of this site"
    return None if came_straight else "it came over another connection than it says"


def refused_command(me: str, origin: str, topic: str, job: str | None) -> str | None:
    """Why a site's process ``me`` does not carry out a command; None: it does.

    Args:
        me: the process.
        origin: who gives it.
        topic: the command.
        job: the job that it names, if it does.
    """
    if topic in DENIED:
        return "this command is never carried out"
    if origin != SERVER and not (topic == JOB_STATUS and origin.startswith(f"{participant(me)}.")):
        return "commands come from the server itself"
    if job is not None and not _JOB_ID.fullmatch(job):
        return "what it calls a job is none"
    return None


def refused_at_server(sender: Sender) -> str | None:
    """Why the server does not take, or forward, a message; None: it does."""
    if participant(sender.origin) != participant(sender.endpoint):
        return "it came over another connection than it says"
    if SERVER not in (participant(sender.origin), participant(sender.destination)):
        return "participants send each other nothing"
    return None


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
        # NVFlare builds its components before it opens a port.
        shake_hands_apart(self._note_stranger)

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Stand at the door before the process is known to anybody: NVFlare's first event of it."""
        if event_type not in (EventType.SYSTEM_BOOTSTRAP, EventType.ABOUT_TO_START_RUN):
            return
        cell = fl_ctx.get_engine().get_cell().core_cell
        me = cell.get_fqcn()
        # The registries take the most specific entry alone: one for a channel would put NVFlare's authentication, which
        # is at (*, *), out of force.
        cell.add_incoming_filter("*", "*", self._check_sender, me)
        if participant(me) != SERVER:
            cell.add_incoming_request_filter("*", "*", self._check_command, me)
        self.log_info(fl_ctx, f"the guard of messages stands before {me}")

    def _check_sender(self, message: Message, me: str) -> Message | None:
        sender = sender_of(message)
        reason = refused_at_server(sender) if participant(me) == SERVER else refused_at_site(me, sender)
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
        reason = refused_command(me, sender_of(message).origin, topic, job)
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
        sender = sender_of(message)
        channel, topic = (message.get_header(name) for name in (MessageHeaderKey.CHANNEL, MessageHeaderKey.TOPIC))
        self.logger.error(
            f"refused: {plain(channel, SHOWN)} {plain(topic, SHOWN)}{plain(command, SHOWN)} of "
            f"{plain(sender.origin, SHOWN)}, by {plain(sender.endpoint, SHOWN)}, for "
            f"{plain(sender.destination, SHOWN)}: {reason}"
        )
