"""A site whose data have changed since the run began."""

from __future__ import annotations

from pathlib import Path

import pytest

from consilia.federation.messages import Broadcast, Reply
from tests.federation.support import Federation, small


class Stopped(Federation):
    """A run that is stopped in its third round."""

    def bend(self, site: str, task: Broadcast, reply: Reply) -> Reply:
        if task.request.kind == "train" and task.request.round == 2:
            raise KeyboardInterrupt
        return reply


@pytest.mark.slow
def test_a_site_with_other_splits_cannot_go_on_with_a_run(wisconsin: dict[str, Path], tmp_path: Path) -> None:
    config = small(rounds=3)
    with pytest.raises(KeyboardInterrupt):
        Stopped(config, wisconsin, tmp_path / "run").run()
    splits = wisconsin["hospital-2"].parent / "state" / "diagnosis" / "splits.csv"
    kept = splits.read_text()
    first = next(line for line in kept.splitlines() if line.endswith(",test"))
    splits.write_text(kept.replace(first, first.removesuffix("test") + "train"))
    record = Federation(config, wisconsin, tmp_path / "run").run()
    others = ["hospital-1", "hospital-3", "hospital-4"]
    assert record.absent == {"hospital-2": "it has other data than when the run began"}
    assert [sorted(item.contributions) for item in record.rounds] == [sorted(wisconsin)] * 2 + [others]
