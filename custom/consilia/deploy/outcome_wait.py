"""How long NVFlare's server keeps a job open, after its run has ended, for sites that do not say how it ended there.

A site that has vanished never does. NVFlare waits 900 s for it; the run's result is written long before, and can be
fetched once the job is closed.
"""

from __future__ import annotations

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_context import FLContext
from nvflare.widgets.widget import Widget

from consilia.flare.nvflare_internals import set_outcome_wait


class OutcomeWait(Widget):  # type: ignore[misc]
    """Sets the wait, in the server's own process.

    Args:
        seconds: a site's process ends within a few, and whoever follows the job takes it for lost after 20. Nothing
            depends on an outcome that comes later.
    """

    def __init__(self, seconds: float = 15.0) -> None:
        super().__init__()
        self.seconds = seconds

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """NVFlare's first event once its runner of jobs is there."""
        if event_type == EventType.SYSTEM_START:
            set_outcome_wait(fl_ctx.get_engine(), self.seconds)
