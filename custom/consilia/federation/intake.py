"""The server's gate: every reply is checked here before anything else sees it, and nothing a site sends raises."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence

from pydantic import BaseModel, ValidationError
from torch import Tensor

from consilia.core.errors import RunFailed, UpdateRejected
from consilia.core.spool import UpdateSpool
from consilia.federation.config import explain
from consilia.federation.messages import REPLIES, Reply, Task, TaskInfo, TrainReply, payload_bytes
from consilia.federation.progress import Progress
from consilia.methods.segmentation import PROMPTS
from consilia.methods.server import Claim, Strategy
from consilia.record.schema import SegmentationMetrics, SiteInfo, SiteMetrics

log = logging.getLogger(__name__)

MAX_CONTENT_BYTES = 64_000
"""Longest JSON of a reply; an honest one has about two thousand bytes, and with several tasks a thousand for each."""

Deliver = Callable[[Sequence[Task]], None]


class Intake:
    """Takes the replies to the tasks that are open, one per site, and spools the accepted updates.

    Args:
        strategy: checks an update's tensors and claims.
        spool: where accepted updates wait.
        max_norm: largest allowed L2 norm of an update's change, or None.
        progress: told about every reply.
        task: of the run; figures of another are refused.
    """

    def __init__(
        self,
        strategy: Strategy,  # type: ignore[type-arg]
        spool: UpdateSpool,
        max_norm: float | None,
        progress: Progress,
        task: str,
    ) -> None:
        self.refused: dict[str, str] = {}
        self.bytes_up: dict[str, int] = {}
        self._strategy, self._spool, self._max_norm, self._progress = strategy, spool, max_norm, progress
        self._task = task
        self._lock = threading.Lock()
        self._open: dict[str, TaskInfo] = {}
        self._reference: Mapping[str, Tensor] = {}
        self._known: Mapping[str, SiteInfo] = {}
        self._replies: dict[str, BaseModel] = {}
        self._failure: OSError | None = None

    def ask(
        self, deliver: Deliver, tasks: Sequence[Task], *, reference: Mapping[str, Tensor], known: Mapping[str, SiteInfo]
    ) -> dict[str, BaseModel]:
        """Deliver tasks and return the accepted replies by site.

        Args:
            deliver: the engine; hands every reply to :meth:`receive` before it returns.
            tasks: at most one for each site.
            reference: the global state that updates are compared with.
            known: what the sites said of themselves when the run began.

        Raises:
            RunFailed: the server could not keep what was sent.
        """
        with self._lock:
            self._open = {site: task.info for task in tasks for site in task.targets}
            self._reference, self._known = reference, known
            self._replies, self.refused, self.bytes_up = {}, {}, {}
            self._spool.clear()
        try:
            deliver([task for task in tasks if task.targets])
        finally:
            # Also of a run that is aborted: what comes later answers nothing.
            with self._lock:
                self._open = {}
        with self._lock:
            if self._failure is not None:
                raise RunFailed(f"the server cannot keep an update: {self._failure}") from self._failure
            return dict(sorted(self._replies.items()))

    def receive(self, site: str, reply: Reply) -> None:
        """Take one site's reply to the task that is open for it. Never raises for what a site sends."""
        with self._lock:
            info = self._open.get(site)
            if info is None:
                log.warning("site %s answered although no task is open for it; the reply is ignored", site)
                return
            self.bytes_up.setdefault(site, 0)
            try:
                self._accept(site, info, reply)
            except UpdateRejected as error:
                self._refuse(site, info, str(error))
            # Whatever else a strange reply brings about is that reply's fault, and must not stop the round.
            except Exception as error:
                self._refuse(site, info, f"the reply cannot be read ({type(error).__name__})")

    def is_waiting(self) -> bool:
        """Whether some site has not yet answered the task that is open for it."""
        with self._lock:
            return len(self.bytes_up) < len(self._open)

    def why_absent(self, site: str) -> str:
        """The reason why a site's reply is not among the accepted ones."""
        return self.refused.get(site, "no answer in time")

    def _refuse(self, site: str, info: TaskInfo, reason: str) -> None:
        self.refused[site] = reason
        log.warning("%s from site %s is refused: %s", info.task, site, reason)
        self._progress({"event": "refused", "task": info.task, "site": site, "reason": reason})

    def _accept(self, site: str, info: TaskInfo, reply: Reply) -> None:
        if site in self._replies:
            raise UpdateRejected("the site has already answered")
        if reply.error is not None:
            raise UpdateRejected(f"the site failed with {reply.error[:80]}; the reason is in that site's own log")
        if len(reply.content) > MAX_CONTENT_BYTES:
            raise UpdateRejected(
                f"the reply's text has {len(reply.content)} bytes, at most {MAX_CONTENT_BYTES} expected"
            )
        self.bytes_up[site] = payload_bytes(reply.tensors, reply.content)
        try:
            content = REPLIES[info.task].model_validate_json(reply.content)
        except ValidationError as error:
            raise UpdateRejected(f"the reply does not fit its schema: {explain(error)[:300]}") from error
        answered = getattr(content, "version", info.version)
        if answered != info.version:
            raise UpdateRejected(f"the reply is to version {answered}, the task was about version {info.version}")
        for part in ("received", "trained", "personal", "mean_query"):
            figures = getattr(content, part, None)
            if isinstance(figures, SiteMetrics):
                if figures.task not in (None, self._task):
                    raise UpdateRejected(f"{part} is of a {figures.task}, the run is a {self._task}")
                _check_counts(part, figures, self._known[site])
                _check_prompts(part, figures)
                _check_tasks(part, figures, self._known[site])
        if isinstance(content, TrainReply):
            self._check_update(site, content, reply)
            try:
                self._spool.add(site, reply.tensors)
            # The server's own trouble, a full disk say, is no fault of the site whose update came just then.
            except OSError as error:
                self._failure = error
                return
        elif reply.tensors:
            raise UpdateRejected(f"a reply to {info.task} carries no tensors, got {sorted(reply.tensors)[:3]}")
        self._replies[site] = content
        self._progress({"event": "reply", "task": info.task, "site": site, "version": info.version})

    def _check_update(self, site: str, content: TrainReply, reply: Reply) -> None:
        self._strategy.check(
            reply.tensors,
            Claim(content.samples, content.score, self._known[site].tasks),
            reference=self._reference,
            max_norm=self._max_norm,
        )
        declared = self._known[site].train
        if content.samples != declared:
            raise UpdateRejected(f"weight is {content.samples} cases, the site declared {declared} when the run began")


def _check_prompts(part: str, figures: SiteMetrics) -> None:
    for split in ("validation", "test"):
        metrics = getattr(figures, split)
        if isinstance(metrics, SegmentationMetrics) and set(metrics.prompts) != set(PROMPTS):
            # With another prompt than the others' a site's Dice would join a mean in which it has no place.
            raise UpdateRejected(f"{part}.{split}.prompts has {sorted(metrics.prompts)}, expected {sorted(PROMPTS)}")


def _check_tasks(part: str, figures: SiteMetrics, declared: SiteInfo) -> None:
    for split in ("validation", "test"):
        tasks = getattr(getattr(figures, split), "tasks", {})
        if set(tasks) - set(declared.tasks) or any(own.tasks for own in tasks.values()):
            told = str(sorted(tasks))[:200]
            raise UpdateRejected(f"{part}.{split}.tasks are {told}, the site declared {sorted(declared.tasks)}")


def _check_counts(part: str, figures: SiteMetrics, declared: SiteInfo) -> None:
    for split in ("validation", "test"):
        metrics = getattr(figures, split)
        if metrics is not None and metrics.count != getattr(declared, split):
            raise UpdateRejected(
                f"{part}.{split}.count is {metrics.count}, the site declared {getattr(declared, split)} cases"
            )
