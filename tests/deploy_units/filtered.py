"""A site's filter with NVFlare's own results and contexts, for the tests of what leaves and of approvals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.shareable import Shareable
from nvflare.app_common.utils.fl_model_utils import FLModelUtils

from consilia.core.errors import ReleaseRefused
from consilia.deploy.release_filter import AUDIT, ReleaseFilter
from consilia.federation.config import RunConfig
from consilia.federation.messages import Reply
from consilia.federation.release_manifest import Manifest, manifest_of
from consilia.flare.messages import model_to_reply, reply_to_dxo
from tests.federation.support import initial_state, model_of, small, write_job
from tests.flare.support import participant

NAME = "hospital-1"
CONFIG = small()
STATE = initial_state(CONFIG)
MANIFEST = manifest_of(CONFIG, model_of(CONFIG))
GOOD = Reply(json.dumps({"round": 0, "cases": 9, "weight": 0.5, "fields": {"train_loss": 1.5}}), STATE)


class Place:
    """A site with a kit, a deployed job in it, and the filter as NVFlare calls it."""

    def __init__(self, root: Path, manifest: Manifest = MANIFEST, config: RunConfig = CONFIG) -> None:
        self.kit, self.context = participant(root, NAME)
        (self.kit / "startup" / "fed_server.json").unlink()
        server = {"service": {"target": "localhost:8002"}}
        content = {"servers": [server], "client": {"fqsn": NAME}}
        (self.kit / "startup" / "fed_client.json").write_text(json.dumps(content))
        self.job = write_job(self.kit / "job", manifest.to_json(), f"app_{NAME}", config)
        self.filter = ReleaseFilter()

    def arguments(self) -> dict[str, Any]:
        """What NVFlare makes the job's executor with."""
        path = self.job / f"app_{NAME}" / "config" / "config_fed_client.json"
        found: dict[str, Any] = json.loads(path.read_text())["executors"][0]["executor"]["args"]
        return found

    def ask(self) -> str:
        """Why the job may not work, as the executor is told before each task; empty: it may."""
        arguments = self.arguments()
        try:
            self.filter.require_approved(arguments["config"], arguments["release_manifest"], self.context)
        except ReleaseRefused as error:
            return str(error)
        return ""

    def process(self, result: Shareable, task: str = "train") -> Shareable:
        self.ask()
        return self.filtered(result, task)

    def filtered(self, result: Shareable, task: str) -> Shareable:
        """What leaves of a result."""
        self.context.set_prop(FLContextKey.TASK_NAME, task, private=True, sticky=False)
        return self.filter.process(result, self.context)

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.kit / AUDIT).read_text().splitlines()]


def result_of(reply: Reply = GOOD) -> Shareable:
    return reply_to_dxo(reply).to_shareable()


def is_refusal(result: Shareable) -> bool:
    """Whether a result is exactly the error that stands for a refused one."""
    assert result == result_of(Reply(error="ReleaseRefused"))
    return model_to_reply(FLModelUtils.from_shareable(result)) == Reply(error="ReleaseRefused")
