"""The metadata of a saved model."""

from __future__ import annotations

import json

from consilia.federation.config import RunConfig


def model_card(config: RunConfig, class_names: tuple[str, ...], kind: str) -> dict[str, str]:
    """Metadata of a saved model: what is needed to build it again and use it on new cases."""
    content = {
        "model": config.model.model_dump(mode="json", by_alias=True),
        "task": config.task,
        "dataset": config.dataset,
        "class_names": list(class_names),
        "method": config.method.method,
        "kind": kind,
        "run_id": config.run_id,
    }
    return {"consilia": json.dumps(content, sort_keys=True)}
