"""``python -m consilia.study.jobs FOLDER``: write every shipped job folder from its study."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from consilia.flare.recipe import ConsiliaRecipe
from consilia.methods.registry import STANDARD
from consilia.study.study import embedded_studies, load_study, study_config

ANY_MODEL = {
    "wisconsin": "wisconsin",
    "heart-disease": "configs/studies/heart-disease.yaml",
    "busbra": "configs/studies/busbra.yaml",
}
"""Studies of which every standard method gets a job, called METHOD-STUDY."""


def write_jobs(folder: Path, root: Path) -> list[Path]:
    """Write every job; study files are looked up below ``root``. Returns the folders."""
    wanted = {f"{method}-{name}": (source, method) for name, source in ANY_MODEL.items() for method in STANDARD}
    # An embedded study that is about one method begins with it, and its job has the study's name.
    firsts = {name: next(iter(load_study(name).methods)) for name in embedded_studies()}
    wanted |= {name: (name, method) for name, method in firsts.items() if method not in STANDARD}
    for name, (source, method) in wanted.items():
        study = load_study(root / source if source.endswith(".yaml") else source)
        shutil.rmtree(folder / name, ignore_errors=True)
        ConsiliaRecipe(study_config(study, method, 0, {}), name=name).export(str(folder))
    return [folder / name for name in wanted]


if __name__ == "__main__":
    for job in write_jobs(Path(sys.argv[1]), Path.cwd()):
        print(job)
