"""Hostile names and reasons in a record, through every output that is made of it."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from consilia.core.events import Refused, read_event
from consilia.data.dataset import Split
from consilia.evaluation.compare import comparison_table, to_markdown
from consilia.record.files import load_record, save_record
from consilia.record.schema import Record
from consilia.report.html import render_report
from consilia.report.site_report import write_site_report
from consilia.report.site_segmentation import write_segmentation_report
from consilia.report.tensorboard import write_events
from tests.report.factory import make_record
from tests.report.reading import assert_self_contained, read

EVIL = "=E\n|\u202e\u200b\x1b[2J[red]<script>x</script>`[y](javascript:z)$_{"
SHOWN = r"=E\n|\u202e\u200b\x1b[2J[red]<script>x</script>`[y](javascript:z)$_{"
STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\u200b-\u200f\ufeff]")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Record:
    """A site, a class, a refused update, a field's heading and the run's label and configuration with the text."""
    content = make_record(rounds=4).plain()
    content["class_names"] = [EVIL, "malignant"]
    content["run"] |= {"label": EVIL, "name": EVIL}
    content["config"] |= {EVIL: EVIL}
    content["versions"][EVIL] = EVIL
    content["fields"]["train_accuracy"] |= {"heading": EVIL, "meaning": EVIL}
    content["rounds"][1]["refused"] = {"Ashford": EVIL}
    content["absent"] = {EVIL: EVIL}
    text = json.dumps(content).replace('"Ashford"', json.dumps(EVIL))
    path = tmp_path_factory.mktemp("record") / "result.json"
    path.write_text(text)
    return load_record(path)


def test_a_record_is_plain_once_it_is_read_and_stays_as_it_is(hostile: Record, tmp_path: Path) -> None:
    assert hostile.class_names[0] == hostile.run.label == SHOWN
    assert SHOWN in hostile.sites
    assert hostile.rounds[1].refused == {SHOWN: SHOWN}
    save_record(hostile, tmp_path / "result.json")
    assert not STEERING.search((tmp_path / "result.json").read_text())
    assert load_record(tmp_path / "result.json") == hostile


@pytest.mark.parametrize("seeds", [1, 2])
def test_html(hostile: Record, seeds: int) -> None:
    other = make_record(seed=2, rounds=4)
    html = render_report([hostile, other][:seeds])
    assert_self_contained(html)
    assert not STEERING.search(html)
    assert SHOWN in read(html).text


def test_html_escapes_what_comes_from_no_record(tmp_path: Path) -> None:
    # A site's own report has no record that would have been read.
    found = torch.tensor([[2.0, 0.0], [3.0, 0.0]])
    table = write_site_report(
        tmp_path / "site.html",
        site=EVIL,
        dataset=EVIL,
        class_names=[EVIL, "b"],
        models={"global": found, EVIL: -found},
        test=Split(torch.rand(2, 1, 8, 8), torch.tensor([0, 1]), (EVIL, "-12"), patients=(EVIL, EVIL)),
        about=EVIL,
    )
    masks = torch.ones(2, 8, 8, dtype=torch.uint8)
    cases = write_segmentation_report(
        tmp_path / "masks.html",
        site=EVIL,
        dataset=EVIL,
        structure=EVIL,
        predictions={"global": {"box": masks.bool()}},
        test=Split(torch.rand(2, 1, 8, 8), masks, (EVIL, "-12"), patients=(EVIL, EVIL)),
    )
    for path in (tmp_path / "site.html", tmp_path / "masks.html"):
        html = path.read_text(encoding="utf-8")
        assert_self_contained(html)
        assert not STEERING.search(html)
        assert r"\u202e\u200b\x1b[2J" in read(html).text
    for path, columns in ((table, 11), (cases, 6)):
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
        assert [len(row) for row in rows] == [columns] * 3
        # The text is no formula, the number is still a number, and no line is forged.
        assert [row[0] for row in rows] == ["case_id", f"'{SHOWN}", "-12"]


def test_markdown(hostile: Record) -> None:
    lines = to_markdown(comparison_table([hostile])).splitlines()
    assert len(lines) == 3
    assert not STEERING.search(lines[2])
    assert re.split(r"(?<!\\)\|", lines[2])[1].strip().startswith("=E")
    assert len(re.split(r"(?<!\\)\|", lines[2])) == len(lines[0].split("|"))
    assert not re.search(r"(?<!\\)[`\[<]", lines[2])


def test_tensorboard(hostile: Record, tmp_path: Path) -> None:
    write_events(hostile, tmp_path)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert not [tag for tag in events.Tags()["scalars"] if STEERING.search(tag)]
    assert any("u202e" in tag for tag in events.Tags()["scalars"])
    (file,) = tmp_path.iterdir()
    assert EVIL.encode() not in file.read_bytes()


def test_an_event_of_another_process_is_plain() -> None:
    event = read_event({"event": "refused", "site": EVIL, "request": "train", "reason": EVIL})
    assert isinstance(event, Refused)
    assert str(event) == f"{SHOWN}: refused: {SHOWN}"
