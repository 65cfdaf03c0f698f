"""NVFlare contexts without NVFlare's processes: real Workspace and FLContext, an engine that only keeps components."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey, ReservedKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.workspace import Workspace


class Engine:
    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.aux: dict[str, Any] = {}
        self.events: list[str] = []

    def get_workspace(self) -> Workspace:
        return self.workspace

    def register_aux_message_handler(self, topic: str, handler: Any) -> None:
        self.aux[topic] = handler

    def fire_event(self, event_type: str, fl_ctx: FLContext) -> None:
        self.events.append(event_type)


def participant(root: Path, name: str) -> tuple[Path, FLContext]:
    """A participant's kit folder and a context of a run at it."""
    kit = root / name
    for part in ("startup", "local"):
        (kit / part).mkdir(parents=True, exist_ok=True)
    for file in ("fed_server.json", "fed_client.json"):
        (kit / "startup" / file).touch()
    engine = Engine(Workspace(root_dir=str(kit), site_name=name))
    context = FLContext()
    context.set_prop(ReservedKey.ENGINE, engine, private=True, sticky=True)
    context.set_prop(ReservedKey.IDENTITY_NAME, name, private=False, sticky=True)
    context.set_prop(ReservedKey.RUN_NUM, "job", private=False, sticky=True)
    app = Path(engine.workspace.get_app_dir("job"))
    app.mkdir(parents=True, exist_ok=True)
    context.set_prop(FLContextKey.APP_ROOT, str(app), private=True, sticky=True)
    context.set_prop(FLContextKey.WORKSPACE_OBJECT, engine.workspace, private=True, sticky=True)
    return kit, context


def start(component: Any, context: FLContext) -> Any:
    component.handle_event(EventType.START_RUN, context)
    return component
