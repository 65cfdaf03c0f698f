"""The server's guard at the door: a job's meta data say nothing that only the server knows.

NVFlare 2.9 keeps a ``job_id`` that a submitter writes into ``meta.json``, and sites make the job's folder by that name
in their kit, after deleting what is there: ``local`` and ``startup`` are such names. A ``cloned_from`` would pass a new
job off as the continuation of somebody else's.
"""

from __future__ import annotations

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.job_def import JobMetaKey
from nvflare.widgets.widget import Widget

OF_THE_SERVER = frozenset(
    key.value
    for key in (
        JobMetaKey.JOB_ID,
        JobMetaKey.CLONED_FROM,
        JobMetaKey.SUBMITTER_NAME,
        JobMetaKey.SUBMITTER_ORG,
        JobMetaKey.SUBMITTER_ROLE,
    )
)
"""Keys of a job's meta data that NVFlare's server sets itself, after the event at which the guard looks."""


class SubmissionGuard(Widget):  # type: ignore[misc]
    """Blocks a submitted job whose ``meta.json`` holds a key of the server's own; the submitter is told which.

    ``consilia site install`` names it among the components of the server's ``local/resources.json``. A clone, whose
    meta data the server makes, does not pass here.
    """

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """NVFlare's event of a submission, before the job is kept."""
        if event_type != EventType.SUBMIT_JOB:
            return
        meta = fl_ctx.get_prop(FLContextKey.JOB_META)
        reason = "its meta data cannot be read"
        if isinstance(meta, dict):
            forged = sorted(OF_THE_SERVER & meta.keys())
            if not forged:
                return
            reason = f"meta.json holds {forged}, which the server alone sets: take it out"
        fl_ctx.set_prop(FLContextKey.JOB_BLOCK_REASON, f"job refused: {reason}", private=True, sticky=False)
