"""After the rounds: every site evaluates a global model once more, and makes a personal model of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel

from consilia.federation.contributions import variants
from consilia.federation.messages import EvaluateReply, PersonalizeReply
from consilia.federation.participants import Participants
from consilia.federation.update_validation import Deliver, UpdateValidation
from consilia.methods.contract import State
from consilia.methods.server import Server
from consilia.record.schema import FinalModels

Keep = Literal["last", "best"]


def personalizing(server: Server[Any], participants: Participants) -> list[str]:
    """The sites that make a personal model."""
    return participants.trainers() if server.method.personal else []


def ask_for_final(
    deliver: Deliver,
    keep: Keep,
    version: int,
    state: State,
    payload: State,
    *,
    threshold: float | None,
    server: Server[Any],
    participants: Participants,
    validation: UpdateValidation,
) -> dict[str, BaseModel]:
    """Every site's metrics of a global model, and of the personal model that it makes of it; sampled before or not.

    Args:
        deliver: the engine.
        keep: which global model this is.
        version: its number of rounds.
        state: the model.
        payload: what the method sends beside it to who trains.
        threshold: of the model, at which the sites evaluate it.
        server: the method's half at the server.
        participants: the run's sites.
        validation: checks every reply.
    """
    trainers = personalizing(server, participants)
    others = [site for site in participants.present() if site not in trainers]
    about: dict[str, Any] = {"of_best": keep == "best", "round": version, "keep": keep, "final": True}
    about["threshold"] = threshold
    broadcasts = [
        *participants.requests("personalize", trainers, {**state, **payload}, **about),
        *participants.requests("evaluate", others, state, **about),
    ]
    return validation.ask(deliver, broadcasts, reference=state, known=participants.recorder.sites)


def final_models(
    version: int, sha256: str, threshold: float | None, replies: Mapping[str, BaseModel], *, has_global: bool = True
) -> FinalModels:
    """What the record holds of a final global model, if the method ``has_global`` ones, and of the personal ones."""
    judged = {site: reply for site, reply in replies.items() if isinstance(reply, EvaluateReply | PersonalizeReply)}
    return FinalModels.model_validate(
        {
            "version": version,
            "sha256": sha256,
            "threshold": threshold if has_global else None,
            "global": {s: reply.received for s, reply in judged.items() if has_global and reply.received is not None},
            "personal": {s: reply.personal for s, reply in judged.items() if isinstance(reply, PersonalizeReply)},
            "variants": variants(replies),
        }
    )
