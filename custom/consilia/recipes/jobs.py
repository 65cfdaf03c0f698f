"""``python -m consilia.recipes.jobs FOLDER``: write every shipped job folder from its study."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from consilia.federation.study import load_study, study_config
from consilia.flare.recipe import ConsiliaRecipe
from consilia.methods.catalogue import METHODS

STUDIES = ("wisconsin", "configs/studies/heart-disease.yaml", "configs/studies/busbra.yaml")


def write_jobs(folder: Path, root: Path) -> list[Path]:
    """One job per method and study, ``METHOD-STUDY``; study files are looked up below ``root``. Returns the folders."""
    written = []
    for source in STUDIES:
        study = load_study(source if not source.endswith(".yaml") else root / source)
        for method in METHODS:
            name = f"{method}-{Path(source).stem}"
            shutil.rmtree(folder / name, ignore_errors=True)
            config = study_config(study, method, 0, {})
            ConsiliaRecipe(config, name=name).export(str(folder))
            written.append(folder / name)
    return written


if __name__ == "__main__":
    for job in write_jobs(Path(sys.argv[1]), Path.cwd()):
        print(job)
