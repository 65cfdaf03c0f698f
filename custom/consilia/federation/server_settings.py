"""What the server's own administrator decides: which model classes jobs may name, and where runs are kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from consilia.core.schema import Strict
from consilia.data.allowed import DEFAULT_ALLOWED, FoundationFolder
from consilia.data.site import load_site_config, server_data
from consilia.data.yaml_file import AbsolutePath, read_yaml, validate
from consilia.federation.config import RunConfig

SERVER_FILE = "server.yaml"
JOB_ID = "{job_id}"


class ServerSettings(Strict):
    """``server.yaml`` in the server's local/ folder; every key may be left out.

    Attributes:
        allow_models: dotted paths, or ``package.module.*``, that a job may name.
        allow_methods: methods of other packages than Consilia that a job may name.
        foundation_models: the server's copies of large pre-trained models, by the name that jobs use.
        state_dir: where checkpoints and results go, so that a run can be resumed; every job has a folder of its
            own there, called by its number; ``{job_id}`` puts the number elsewhere in the path. Default: ``consilia``
            in the server's startup kit.
        data: the server's own public data, where the method trains there: a file of site.yaml's form, whose
            training cases are the public ones and whose test cases judge the result, a dataset per task.
        engine: noted in the record.
    """

    allow_models: tuple[str, ...] = DEFAULT_ALLOWED
    allow_methods: tuple[str, ...] = ()
    foundation_models: dict[str, FoundationFolder] = Field(default_factory=dict)
    state_dir: AbsolutePath | None = None
    data: AbsolutePath | None = None
    engine: Literal["inprocess", "sim", "poc", "prod"] = "prod"

    @field_validator("state_dir")
    @classmethod
    def _placeholder(cls, value: Path | None) -> Path | None:
        if value is not None and set("{}") & set(str(value).replace(JOB_ID, "")):
            raise ValueError(f"knows {JOB_ID} only, got {str(value)!r}")
        return value

    def run_folder(self, job_id: str, kit: Path) -> Path:
        """The folder of one job's run.

        Args:
            job_id: the job's.
            kit: the server's startup kit.
        """
        place = self.state_dir or kit / "consilia"
        if JOB_ID in str(place):
            return Path(str(place).replace(JOB_ID, job_id))
        # A run in the simulator is known by its folder, not by a job's number.
        return place if self.engine == "sim" else place / job_id


def load_server_settings(path: Path) -> ServerSettings:
    """Read server.yaml, or the defaults where there is none.

    Raises:
        ConfigError: names the file, the key, what was expected and what came.
    """
    return validate(ServerSettings, read_yaml(path), path) if path.is_file() else ServerSettings()


def own_server(config: RunConfig, site_files: Mapping[str, Path]) -> ServerSettings:
    """The server of a run on one machine: whoever starts it decides, and the sites' foundation models are at hand."""
    folders = {
        name: folder
        for path in site_files.values()
        for name, folder in load_site_config(path).foundation_models.items()
    }
    return ServerSettings(
        allow_models=(config.model.class_,),
        allow_methods=(config.method.method,),
        foundation_models=folders,
        data=server_data(site_files),
    )
