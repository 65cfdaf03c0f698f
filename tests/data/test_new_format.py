"""A data format is added by its reader and its specification: two files, in a copy of the package."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

PACKAGE = REPOSITORY / "custom" / "consilia"

READER = '''
"""A text file with a case per line: its id, its patient, its label and its values, apart by spaces."""

import numpy as np
import pandas as pd
import torch

from consilia.data.cases import index_cases
from consilia.data.readers.base import Reader, fit_standard


class LinesReader(Reader):
    def _table(self, file):
        rows = [line.split() for line in file.read_text().splitlines()]
        names = ["case", "patient", "diagnosis", *(f"value-{i}" for i in range(len(rows[0]) - 3))]
        return pd.DataFrame(rows, columns=names).assign(**{"row#": range(1, len(rows) + 1)})

    def index(self, problems):
        table = self._table(self.spec.lines)
        return index_cases(table, list(table["case"]), self.spec, self.spec.lines, problems)

    def read(self, cases, problems):
        return cases.rows.filter(like="value-").to_numpy(dtype=np.float64)

    def read_new(self, source, problems):
        table = self._table(source)
        return list(table["case"]), table.filter(like="value-").to_numpy(dtype=np.float64)

    def fit(self, raw):
        return fit_standard(raw, (0,))

    def apply(self, fitted, raw):
        return torch.tensor((raw - fitted["mean"]) / fitted["std"], dtype=torch.float32)

    def layout(self):
        return {"format": "lines"}
'''

SPECIFICATION = '''class LinesSpec(CommonSpec):
    """A case per line."""

    reader = "consilia.data.readers.lines:LinesReader"

    format: Literal["lines"]
    lines: AbsolutePath
    label: LabelSpec = LabelSpec(column="diagnosis")

    def files(self) -> tuple[Path, ...]:
        return (self.lines,)


DatasetSpec = Annotated[
    LinesSpec | '''

LOAD = """
import sys
from pathlib import Path
from consilia.data.loading import load_site
data = load_site(Path(sys.argv[1]), "diagnosis")
print(len(data.train), len(data.validation), len(data.test), tuple(data.train.inputs.shape[1:]))
"""

FEDERATE = """
import sys
from pathlib import Path
from consilia.core.errors import ConfigError
from consilia.simulation.federation import load_federation
try:
    print(*load_federation(sys.argv[1], Path(sys.argv[2])))
except ConfigError as error:
    sys.exit(str(error))
"""


@pytest.fixture(scope="module")
def extended(tmp_path_factory) -> Path:
    """A folder with a package consilia that differs from ours in two files."""
    folder = tmp_path_factory.mktemp("extended")
    package = folder / "consilia"
    package.mkdir()
    for item in PACKAGE.iterdir():
        if item.name == "data":
            shutil.copytree(item, package / "data")
        else:
            (package / item.name).symlink_to(item)
    (package / "data" / "readers" / "lines.py").write_text(READER)
    specs = package / "data" / "specs.py"
    union = "DatasetSpec = Annotated[\n    "
    assert specs.read_text().count(union) == 1
    specs.write_text(specs.read_text().replace(union, SPECIFICATION))
    return folder


@pytest.fixture
def lines(tmp_path) -> Path:
    """40 patients with two cases each; even patients are benign."""
    rows = [f"case-{i}-{k} patient-{i} {('benign', 'malignant')[i % 2]} {i}.5 {k}" for i in range(40) for k in range(2)]
    file = tmp_path / "lines.txt"
    file.write_text("\n".join(rows))
    return file


def run(package: Path, script: str, *arguments: Path) -> subprocess.CompletedProcess[str]:
    # Before every other folder: the copy must be found first.
    start = f"import sys; sys.path.insert(0, {str(package)!r})\n"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", start + script, *map(str, arguments)], capture_output=True, text=True, env=environment
    )


def federation_file(folder: Path, shares: str) -> Path:
    pooled = "{format: lines, lines: lines.txt, patient: patient, classes: [benign, malignant]}"
    partition = "{by: dirichlet, sites: 2, alpha: 100.0, min_cases: 2}"
    path = folder / "federation.yaml"
    path.write_text(
        "server: {public: 0.3, test: 0.3}\ndatasets:\n"
        f"  diagnosis: {{pooled: {pooled}, partition: {partition}}}\n"
        f"  again: {{pooled: {pooled}, partition: {partition}{shares}}}\n"
    )
    return path


@pytest.mark.slow
def test_new_format_loads_split_by_patient(extended, lines) -> None:
    site = lines.with_name("site.yaml")
    site.write_text(
        "site: a\ndatasets: {diagnosis: {format: lines, lines: lines.txt, patient: patient, "
        "classes: [benign, malignant]}}"
    )
    done = run(extended, LOAD, site)
    assert done.returncode == 0, done.stderr
    # 10 % and 20 % of 40 patients with two cases each, the rest to train on.
    assert done.stdout.split(maxsplit=3) == ["56", "8", "16", "(2,)\n"]


@pytest.mark.slow
def test_new_format_enters_the_patient_separation_check(extended, lines, tmp_path) -> None:
    done = run(extended, FEDERATE, federation_file(lines.parent, ""), tmp_path / "same")
    assert (done.returncode, done.stdout.split()) == (0, ["site-01", "site-02"]), done.stderr
    other = ", server: {public: 0.1, test: 0.6}"
    done = run(extended, FEDERATE, federation_file(lines.parent, other), tmp_path / "other")
    assert done.returncode == 1
    assert "datasets.again and datasets.diagnosis read the same table" in done.stderr
