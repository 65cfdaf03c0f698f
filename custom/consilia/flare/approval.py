"""The site's say before a job does anything at it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from nvflare.apis.filter import Filter
from nvflare.apis.fl_constant import FilterKey, FLContextKey
from nvflare.apis.fl_context import FLContext


class ApprovalFilter(Filter, ABC):  # type: ignore[misc]
    """A filter in a site's privacy.json that the executor asks before each task.

    It is asked about the very objects that the executor works by, whatever the job's files say.
    """

    @abstractmethod
    def require_approved(self, settings: dict[str, Any], manifest: dict[str, Any], fl_ctx: FLContext) -> None:
        """Say nothing if the site has approved the job.

        Args:
            settings: the configuration's JSON.
            manifest: the JSON of :class:`consilia.federation.release_manifest.Manifest`.
            fl_ctx: of the task.

        Raises:
            ReleaseRefused: it has not, or the job is not what its manifest says.
        """


def approval_filters(fl_ctx: FLContext) -> list[ApprovalFilter]:
    """Those of the site; none in the simulator, and where Consilia is not installed in the kit."""
    scope = fl_ctx.get_prop(FLContextKey.SCOPE_OBJECT)
    filters = scope.task_result_filters[FilterKey.OUT] if scope else ()
    return [item for item in filters if isinstance(item, ApprovalFilter)]
