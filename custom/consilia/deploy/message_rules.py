"""The rules of the guard of messages, on names alone: who may send what to a process of a site, or of the server."""

from __future__ import annotations

from dataclasses import dataclass

from nvflare.fuel.f3.cellnet.defs import CellChannel, CellChannelTopic, MessageHeaderKey, MessagePropKey
from nvflare.fuel.f3.cellnet.fqcn import FQCN
from nvflare.fuel.f3.message import Message
from nvflare.fuel.f3.streaming.stream_const import STREAM_CHANNEL, StreamHeaderKey

from consilia.flare.nvflare_internals import JOB_NUMBER, JOB_STATUS, NETWORK_COMMANDS, SHELL, TASK_COMMANDS

SERVER = FQCN.ROOT_SERVER
DENIED = frozenset({SHELL})
"""Commands that no server may give."""


@dataclass(frozen=True)
class Envelope:
    """Where a message comes from and where it goes, by NVFlare's names of processes, and what it is about.

    A participant's own process is called as the participant, that of a job ``participant.job``.

    Attributes:
        origin: who made the message, as it says itself.
        endpoint: the process at the other end of the connection that it came over.
        destination: whom it is for.
        channel: NVFlare's name of the part that it is for; of a stream, that of what is streamed.
        topic: likewise.
    """

    origin: str
    endpoint: str
    destination: str
    channel: str = ""
    topic: str = ""


def envelope_of(message: Message) -> Envelope:
    """By the headers of a message, and the connection that it came over."""
    channel, topic = (message.get_header(key) for key in (MessageHeaderKey.CHANNEL, MessageHeaderKey.TOPIC))
    if channel == STREAM_CHANNEL:
        channel, topic = (message.get_header(key) for key in (StreamHeaderKey.CHANNEL, StreamHeaderKey.TOPIC))
    return Envelope(
        origin=str(message.get_header(MessageHeaderKey.ORIGIN)),
        endpoint=str(getattr(message.get_prop(MessagePropKey.ENDPOINT), "name", "")),
        destination=str(message.get_header(MessageHeaderKey.DESTINATION)),
        channel=str(channel),
        topic=str(topic),
    )


def participant(process: str) -> str:
    """Whose process it is."""
    return process.partition(".")[0]


def job_of(process: str) -> str:
    """The job whose process it is; empty for a participant's own."""
    return process.partition(".")[2].partition(".")[0]


def refused_anywhere(message: Envelope) -> str | None:
    """Why no process takes a message, whoever sent it."""
    if message.channel == NETWORK_COMMANDS:
        return "commands to NVFlare's network are never carried out"
    jobs = {job_of(message.origin), job_of(message.destination)} - {""}
    return "it is of another job" if len(jobs) > 1 else None


def refused_at_site(me: str, message: Envelope) -> str | None:
    """Why the process ``me`` of a site does not take a message; None: it does."""
    site = participant(me)
    if participant(message.origin) == SERVER:
        # A site's own process hands on to its jobs what the server sends them.
        came_straight = participant(message.endpoint) == SERVER or (me != site and message.endpoint == site)
    elif participant(message.origin) == site:
        came_straight = message.endpoint == message.origin or (me != site and message.endpoint in (site, SERVER))
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
    if job is not None and not JOB_NUMBER.fullmatch(job):
        return "what it calls a job is none"
    return None


def refused_at_server(me: str, message: Envelope) -> str | None:
    """Why the process ``me`` of the server does not take, or forward, a message; None: it does."""
    # The server's own process hands on to its jobs what sites send them, and has looked at it.
    handed_on = me != SERVER and message.endpoint == SERVER
    if participant(message.origin) != participant(message.endpoint) and not handed_on:
        return "it came over another connection than it says"
    if SERVER not in (participant(message.origin), participant(message.destination)):
        return "participants send each other nothing"
    return None if participant(message.origin) == SERVER else _refused_from_outside(message)


def _refused_from_outside(message: Envelope) -> str | None:
    """NVFlare's server and its jobs carry these out for whoever is logged in: end a job, tell of all sites' logins."""
    if message.channel == CellChannel.SERVER_PARENT_LISTENER:
        return "only the server's own jobs say this"
    if message.channel == CellChannel.SERVER_COMMAND and message.topic not in TASK_COMMANDS:
        return "who is not the server asks for tasks and hands in results, and gives it no other command"
    if message.channel == CellChannel.CELLNET and message.topic != CellChannelTopic.Bye:
        return "messages within a message are the server's alone"
    return None
