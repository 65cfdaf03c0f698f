"""Every error Consilia raises on purpose: each message names the file, row or key, what was expected and what came."""

import traceback
from pathlib import Path


class ConsiliaError(Exception):
    """Base of all errors that are meant for the user's eyes: the command line prints them without a traceback."""


class ConfigError(ConsiliaError):
    """A configuration value is missing, unknown or out of range."""


class CannotTrain(ConfigError):
    """A method or a baseline cannot do what a run asks for: its task, its network, its optimiser."""


class DataError(ConsiliaError):
    """A site's data does not match what its site.yaml says."""


class UpdateRejected(ConsiliaError):
    """A site's update failed a check; the message names the tensor (or the weight) and the reason."""


class AggregationError(ConsiliaError):
    """The accepted updates of a round cannot be combined."""


class CheckpointError(ConsiliaError):
    """A checkpoint is missing, damaged or belongs to another run."""


class RunFailed(ConsiliaError):
    """A federated run ended without its result (too few updates in a round, a site that could not start, ...)."""


class TrainingStopped(ConsiliaError):
    """Training was told to stop: the job was aborted or the round timed out."""


class LimitReached(ConsiliaError):
    """A request asks more than the site allows; the message names the limit, what was asked and what is allowed."""


class ReleaseRefused(ConsiliaError):
    """A site's message holds what its hospital has not approved; the message names the task and the tensor or field."""


def described(error: BaseException, file: Path | None = None) -> str:
    """Kind and text of an error; of one that is none of ours also the line that raised it.

    Args:
        error: as it was caught.
        file: the line is looked for there first, since what is wrong may stand in a plugin and show in torch.
    """
    if isinstance(error, ConsiliaError):
        return f"{type(error).__name__}: {error}"
    if isinstance(error, SyntaxError):  # Its text names the line.
        return f"SyntaxError: {error}"
    frames = traceback.extract_tb(error.__traceback__)
    found = [frame for frame in frames if frame.filename == str(file)] or frames
    place = f" ({Path(found[-1].filename).name}, line {found[-1].lineno})" if found else ""
    return f"{type(error).__name__}: {error}{place}"
