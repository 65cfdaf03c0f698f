"""``python -m consilia.flare.jobs FOLDER``: write every shipped job folder from its study."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from consilia.federation.study import TRAIN_ALL, load_study, study_config
from consilia.flare.recipe import ConsiliaRecipe

ANY_MODEL = {
    "wisconsin": "wisconsin",
    "heart-disease": "configs/studies/heart-disease.yaml",
    "busbra": "configs/studies/busbra.yaml",
}
"""Studies that every method of :data:`~consilia.federation.study.TRAIN_ALL` gets a job of, called METHOD-STUDY."""

EMBEDDED = {"fedgpl-classification": "fedgpl", "fedgpl-segmentation": "fedgpl", "fedkim": "fedkim"}
"""Embedded studies of which one method's run is a job of the study's name."""


def write_jobs(folder: Path, root: Path) -> list[Path]:
    """Write every job; study files are looked up below ``root``. Returns the folders."""
    wanted = {f"{m}-{name}": (source, m) for name, source in ANY_MODEL.items() for m in TRAIN_ALL}
    wanted |= {name: (name, method) for name, method in EMBEDDED.items()}
    for name, (source, method) in wanted.items():
        study = load_study(root / source if source.endswith(".yaml") else source)
        shutil.rmtree(folder / name, ignore_errors=True)
        ConsiliaRecipe(study_config(study, method, 0, {}), name=name).export(str(folder))
    return [folder / name for name in wanted]


if __name__ == "__main__":
    for job in write_jobs(Path(sys.argv[1]), Path.cwd()):
        print(job)
