"""The server's gate: every reply is checked here before anything else sees it, and nothing a site sends raises."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ValidationError
from torch import Tensor

from consilia.aggregation.norm import allowed_change
from consilia.aggregation.store import UpdateSpool
from consilia.core.errors import RunFailed, UpdateRejected
from consilia.core.events import Progress, Refused, Replied
from consilia.core.plain import error_kind, one_line
from consilia.core.schema import explain
from consilia.federation.attendance import Attendance
from consilia.federation.messages import REPLIES, Broadcast, Reply, Request, TrainReply, payload_bytes
from consilia.methods.server import Server, UpdateMetadata
from consilia.methods.tasks.segmentation import PROMPTS
from consilia.record.schema import SegmentationMetrics, SiteInfo, SiteMetrics

log = logging.getLogger(__name__)

MAX_CONTENT_BYTES = 256_000
"""Longest JSON of a reply; an honest one has at most about five thousand bytes for each model and task."""

MAX_REASON = 300
"""Longest reason of a refusal."""

Deliver = Callable[[Sequence[Broadcast]], None]


class UpdateValidation:
    """Takes the replies to the requests that are open, one per site, and spools the accepted updates.

    Args:
        server: the method's half, which checks an update's tensors and numbers.
        spool: where accepted updates wait.
        max_update_norm: as a run's configuration has it.
        progress: told about every reply.
        task: of the run; metrics of another are refused.
        attendance: watches who answers.
    """

    def __init__(
        self,
        server: Server[Any],
        spool: UpdateSpool,
        max_update_norm: float | Literal["auto"] | None,
        progress: Progress,
        task: str,
        attendance: Attendance,
    ) -> None:
        self.refused: dict[str, str] = {}
        self.bytes_up: dict[str, int] = {}
        self.max_norm: float | None = None
        """Largest L2 norm of an update's change that is accepted in the round under way."""
        self._server, self.spool, self._progress = server, spool, progress
        self._max_update_norm = max_update_norm
        self._task, self._attendance = task, attendance
        self._lock = threading.Lock()
        self._open: dict[str, Request] = {}
        self._reference: Mapping[str, Tensor] = {}
        self._known: Mapping[str, SiteInfo] = {}
        self._replies: dict[str, BaseModel] = {}
        self._failure: OSError | None = None

    def ask(
        self,
        deliver: Deliver,
        broadcasts: Sequence[Broadcast],
        *,
        reference: Mapping[str, Tensor],
        known: Mapping[str, SiteInfo],
    ) -> dict[str, BaseModel]:
        """Deliver requests and return the accepted replies by site.

        Args:
            deliver: the engine; hands every reply to :meth:`receive` before it returns.
            broadcasts: at most one request for each site.
            reference: the global state that updates are compared with.
            known: what the sites said of themselves when the run began.

        Raises:
            RunFailed: the server could not keep what was sent.
        """
        with self._lock:
            self._open = {site: item.request for item in broadcasts for site in item.targets}
            self._reference, self._known = reference, known
            self._replies, self.refused, self.bytes_up = {}, {}, {}
            if any(request.kind == "train" for request in self._open.values()):
                self.max_norm = allowed_change(self._max_update_norm, reference)
            self.spool.clear()
        self._attendance.open({site: request.kind for site, request in self._open.items()})
        try:
            deliver([item for item in broadcasts if item.targets])
        finally:
            # Also of a run that is aborted: what comes later answers nothing.
            with self._lock:
                self._open = {}
        self._attendance.close()
        with self._lock:
            if self._failure is not None:
                raise RunFailed(f"the server cannot keep an update: {self._failure}") from self._failure
            return dict(sorted(self._replies.items()))

    def receive(self, site: str, reply: Reply) -> None:
        """Take one site's reply to the request that is open for it. Never raises for what a site sends."""
        with self._lock:
            self._attendance.heard(site, failed=reply.error is not None)
            request = self._open.get(site)
            if request is None:
                log.warning("site %s answered although no request is open for it; the reply is ignored", site)
                return
            self.bytes_up.setdefault(site, 0)
            try:
                self._accept(site, request, reply)
            except UpdateRejected as error:
                self._refuse(site, request, str(error))
            # Whatever else a strange reply brings about is that reply's fault, and must not stop the round.
            except Exception as error:
                self._refuse(site, request, f"the reply cannot be read ({type(error).__name__})")

    def why_absent(self, site: str) -> str:
        """The reason why a site's reply is not among the accepted ones."""
        return self.refused.get(site, "no answer in time")

    def _refuse(self, site: str, request: Request, reason: str) -> None:
        # It quotes what the site has sent; a schema's findings stand on lines of their own.
        reason = one_line(reason, MAX_REASON)
        self.refused[site] = reason
        log.warning("%s from site %s is refused: %s", request.kind, site, reason)
        self._progress(Refused(site=site, request=request.kind, reason=reason))

    def _accept(self, site: str, request: Request, reply: Reply) -> None:
        if site in self._replies:
            raise UpdateRejected("the site has already answered")
        if reply.error is not None:
            raise UpdateRejected(
                f"the site failed with {error_kind(reply.error)}; the reason is in that site's own log"
            )
        if len(reply.content) > MAX_CONTENT_BYTES:
            raise UpdateRejected(
                f"the reply's text has {len(reply.content)} bytes, at most {MAX_CONTENT_BYTES} expected"
            )
        self.bytes_up[site] = payload_bytes(reply.tensors, reply.content)
        try:
            content = REPLIES[request.kind].model_validate_json(reply.content)
        except ValidationError as error:
            raise UpdateRejected(explain(error, "the reply does not fit its schema")) from error
        answered = getattr(content, "round", request.round)
        if answered != request.round:
            raise UpdateRejected(f"the reply is to round {answered}, the request was about round {request.round}")
        for part, metrics in self._metrics(content):
            if metrics.task not in (None, self._task):
                raise UpdateRejected(f"{part} is of a {metrics.task}, the run is a {self._task}")
            _check_counts(part, metrics, self._known[site])
            _check_prompts(part, metrics)
            _check_tasks(part, metrics, self._known[site])
        if isinstance(content, TrainReply):
            self._check_update(site, content, reply)
            try:
                self.spool.add(site, reply.tensors)
            # The server's own trouble, a full disk say, is no fault of the site whose update came just then.
            except OSError as error:
                self._failure = error
                return
        elif reply.tensors:
            raise UpdateRejected(f"a reply to {request.kind} carries no tensors, got {sorted(reply.tensors)[:3]}")
        self._replies[site] = content
        self._progress(Replied(site=site, request=request.kind, version=request.round))

    def _check_update(self, site: str, content: TrainReply, reply: Reply) -> None:
        extras = {name: tensor for name, tensor in reply.tensors.items() if name in self._server.extras}
        self._server.check(
            {name: tensor for name, tensor in reply.tensors.items() if name not in extras},
            extras,
            metadata(content, self._known[site]),
            reference=self._reference,
            max_norm=self.max_norm,
        )
        declared = self._known[site].train
        if content.cases != declared:
            raise UpdateRejected(f"weight is {content.cases} cases, the site declared {declared} when the run began")

    def _metrics(self, content: BaseModel) -> list[tuple[str, SiteMetrics]]:
        """All metrics of a reply, by the place where they stand."""
        variants = getattr(content, "variants", {})
        if unknown := sorted(set(variants) - set(self._server.method.variants())):
            raise UpdateRejected(f"variants has {unknown[0]!r}, expected {list(self._server.method.variants())}")
        found = {part: getattr(content, part, None) for part in ("received", "trained", "personal")}
        found |= {f"variants.{name}": metrics for name, metrics in variants.items()}
        return [(part, metrics) for part, metrics in found.items() if isinstance(metrics, SiteMetrics)]


def metadata(reply: TrainReply, site: SiteInfo) -> UpdateMetadata:
    """What a site says of its update."""
    return UpdateMetadata(reply.cases, reply.weight, reply.fields, site.tasks)


def _check_prompts(part: str, reported: SiteMetrics) -> None:
    for split in ("validation", "test"):
        metrics = getattr(reported, split)
        if isinstance(metrics, SegmentationMetrics) and set(metrics.prompts) != set(PROMPTS):
            # With another prompt than the others' a site's Dice would join a mean in which it has no place.
            raise UpdateRejected(f"{part}.{split}.prompts has {sorted(metrics.prompts)}, expected {sorted(PROMPTS)}")


def _check_tasks(part: str, reported: SiteMetrics, declared: SiteInfo) -> None:
    for split in ("validation", "test"):
        tasks = getattr(getattr(reported, split), "tasks", {})
        if set(tasks) - set(declared.tasks) or any(own.tasks for own in tasks.values()):
            names = str(sorted(tasks))[:200]
            raise UpdateRejected(f"{part}.{split}.tasks are {names}, the site declared {sorted(declared.tasks)}")


def _check_counts(part: str, reported: SiteMetrics, declared: SiteInfo) -> None:
    for split in ("validation", "test"):
        metrics, cases = getattr(reported, split), getattr(declared, split)
        if metrics is None:
            continue
        # Of several datasets a site may withhold the metrics of some.
        fits = metrics.count <= cases if getattr(metrics, "tasks", {}) else metrics.count == cases
        if not fits:
            raise UpdateRejected(f"{part}.{split}.count is {metrics.count}, the site declared {cases} cases")
