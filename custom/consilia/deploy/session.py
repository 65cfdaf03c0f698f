"""An administrator's session with the server: submit a job, follow it, fetch its result (NVFlare's FLARE API)."""

from __future__ import annotations

import io
import logging
import shutil
import socket
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any

from nvflare.apis.fl_exception import FLCommunicationError
from nvflare.fuel.flare_api.api_spec import (
    AuthenticationError,
    AuthorizationError,
    InternalError,
    InvalidJobDefinition,
    JobNotFound,
    JobNotRunning,
    NoConnection,
    NoReply,
    SessionClosed,
)
from nvflare.fuel.flare_api.flare_api import Session, new_secure_session
from nvflare.fuel.utils.config_service import ConfigService

from consilia.core.errors import ConfigError, ConsiliaError, RunFailed
from consilia.deploy.kit import Kit, open_kit
from consilia.deploy.tls import handshake
from consilia.flare.messages import PROGRESS_TOPIC

CONNECT_SECONDS = 8.0
COMMAND_SECONDS = 30.0
DOWNLOAD_SECONDS = 600.0
"""How long the server may take to pack a result; large models take minutes."""


class ServerSilent(RunFailed):
    """The server does not answer (any more). Whatever it runs goes on without us."""


class NotPermitted(ConfigError):
    """The user's role lacks a right."""


class JobSession:
    """What an administrator may ask of the server, in Consilia's own errors.

    Args:
        kit: the administrator's startup kit.
        flare: NVFlare's session, connected.
    """

    def __init__(self, kit: Kit, flare: Session) -> None:
        self.kit, self.flare = kit, flare

    def renew(self) -> None:
        """Log in once more, where the server has been started again and knows nothing of this session.

        Raises:
            ConfigError: the server cannot be reached, or does not take the login.
        """
        _reach(self.kit)
        self.close()
        self.flare = _log_in(self.kit)

    def close(self) -> None:
        """Log out. The server forgets a session by itself when it cannot be told."""
        with suppress(Exception), _hushed():
            self.flare.close()

    def submit(self, job: Path) -> str:
        """Submit a job folder and return the job's number.

        Raises:
            ConfigError: the server refuses the job, or the user may not submit.
            ServerSilent: no answer.
        """
        with tempfile.TemporaryDirectory() as scratch:
            # NVFlare writes signatures into the folder that it sends: into a copy, the user's own stays as it is.
            copy = shutil.copytree(job, Path(scratch) / job.name)
            with self._asking(f"submit {job.name}"):
                return str(self.flare.submit_job(str(copy)))

    def clone(self, job_id: str) -> str:
        """Submit a job once more, as a clone, which goes on where the first one ended; return the clone's number."""
        with self._asking(f"clone job {job_id}"):
            return str(self.flare.clone_job(job_id))

    def abort(self, job_id: str) -> None:
        """Stop a job; the server keeps the state after its last full round."""
        with self._asking(f"abort job {job_id}"):
            self.flare.abort_job(job_id)

    def meta(self, job_id: str) -> dict[str, Any]:
        """What NVFlare knows of a job: ``status``, ``name``, ``min_clients``, ``job_deploy_detail``, ..."""
        with self._asking(f"look at job {job_id}"):
            return dict(self.flare.get_job_meta(job_id))

    def jobs(self) -> list[dict[str, Any]]:
        """What NVFlare knows of every job that the server keeps, oldest first."""
        with self._asking("list the jobs"):
            return [dict(meta) for meta in self.flare.list_jobs(detailed=True)]

    def connected(self) -> list[str]:
        """Names of the connected sites."""
        with self._asking("list the connected sites"):
            return sorted(client.name for client in self.flare.get_connected_client_list())

    def running(self) -> set[str]:
        """Numbers of the jobs that the server really runs; one that it lost keeps the state RUNNING for good."""
        with self._asking("list the running jobs"):
            return {str(job.job_id) for job in self.flare.get_system_info().job_info}

    def events(self, job_id: str, start: int) -> tuple[list[dict[str, Any]], int]:
        """The events of a running job from number ``start`` on, and the number to go on from.

        Raises:
            NotPermitted: the server's authorization.json does not give the user's role the right ``app_command``.
        """
        with self._asking(f"follow job {job_id}"):
            try:
                reply = self.flare.do_app_command(job_id, PROGRESS_TOPIC, {"from": start})
            # The process is not up yet, is ending, or too busy to answer: ask again.
            except (JobNotRunning, InternalError, NoReply):
                return [], start
        return list(reply.get("events", [])), int(reply.get("next", start))

    def server_log(self, job_id: str) -> str:
        """The server's log of a job; empty where there is none."""
        with self._asking(f"read the log of job {job_id}"):
            return str(self.flare.get_job_logs(job_id).get("logs", {}).get("server", ""))

    def download(self, job_id: str, folder: Path) -> Path:
        """Fetch what a job has left at the server into ``folder/job_id``, and return that folder.

        Raises:
            ConfigError: the folder is there already, or the user may not download.
            RunFailed: the download ended early; nothing is left of it.
        """
        target = folder.absolute() / job_id
        if target.exists():
            raise ConfigError(f"{target} exists already: remove it, or choose another --download")
        folder.mkdir(parents=True, exist_ok=True)
        self.flare.set_timeout(DOWNLOAD_SECONDS)
        try:
            with (
                tempfile.TemporaryDirectory(dir=folder, prefix=f".{job_id}.") as scratch,
                self._asking(f"download job {job_id}"),
                redirect_stdout(io.StringIO()),
            ):
                shutil.move(self.flare.download_job_result(job_id, scratch), target)
        finally:
            self.flare.set_timeout(COMMAND_SECONDS)
        return target

    @contextmanager
    def _asking(self, what: str) -> Iterator[None]:
        """One question to the server: NVFlare's errors as ours, and its tracebacks not on the user's terminal."""
        try:
            with redirect_stderr(io.StringIO()):
                yield
        except ConsiliaError:
            raise
        except AuthorizationError as error:
            raise NotPermitted(
                f"{self.kit.name} may not {what}: local/authorization.json of the server decides what a role may do"
            ) from error
        except AuthenticationError as error:
            raise ConfigError(f"cannot {what}: the server does not accept {self.kit.name}: {error}") from error
        except JobNotFound as error:
            raise ConfigError(f"cannot {what}: the server knows no such job") from error
        except InvalidJobDefinition as error:
            raise ConfigError(f"cannot {what}: the server refuses the job: {error}") from error
        except (NoConnection, NoReply, SessionClosed) as error:
            raise ServerSilent(f"cannot {what}: {_address(self.kit)} does not answer ({error})") from error
        # NVFlare's API raises bare RuntimeErrors, SyntaxErrors and errors of its own that share no base.
        except Exception as error:
            raise RunFailed(f"cannot {what}: {type(error).__name__}: {error}") from error


@contextmanager
def open_session(kit_folder: Path) -> Iterator[JobSession]:
    """Log in with an administrator's startup kit; logged out on leaving.

    Raises:
        ConfigError: the kit is not an administrator's, the server cannot be reached, or it and the kit do not accept
            each other.
    """
    kit = open_kit(kit_folder)
    if kit.kind != "admin":
        raise ConfigError(
            f"{kit.folder} is the kit of the {kit.kind} {kit.name}: jobs are submitted with the kit of an "
            "administrator, whose folder is named like a mail address"
        )
    _reach(kit)
    # Without a handler of its own, NVFlare's chatter would go to the terminal through logging's last resort.
    silent, chatter = logging.NullHandler(), logging.getLogger("nvflare")
    chatter.addHandler(silent)
    try:
        session = JobSession(kit, _log_in(kit))
        try:
            yield session
        finally:
            session.close()
    finally:
        chatter.removeHandler(silent)


def _reach(kit: Kit) -> None:
    """Fail at once where nobody listens; NVFlare would try for its whole time limit."""
    try:
        socket.create_connection((kit.host, kit.port), timeout=CONNECT_SECONDS / 2).close()
    except OSError as error:
        raise ConfigError(
            f"the server at {_address(kit)} cannot be reached ({error}): is it running, and is the port open from here?"
        ) from error


def _log_in(kit: Kit) -> Session:
    # Without a place to look, NVFlare searches the whole tree below the working directory for comm_config.
    ConfigService.initialize({}, [str(place) for place in (kit.local, kit.folder / "startup") if place.is_dir()])
    try:
        try:
            return _connect(kit)
        except FLCommunicationError:
            if _certificate_problem(kit) is not None:
                raise
            # A busy server may lose the first message of a new connection.
            return _connect(kit)
    except NoConnection as error:
        refused = _certificate_problem(kit)
        if refused is not None:
            raise ConfigError(f"{_other_federation(kit)} ({refused})") from error
        raise ConfigError(
            f"{_address(kit)} accepts connections but does not answer as an NVFlare server within "
            f"{CONNECT_SECONDS:.0f} s: is this the server's port, and is the server up?"
        ) from error
    except AuthorizationError as error:
        raise ConfigError(f"{kit.name} is not authorised at {_address(kit)}: {error}") from error
    except (AuthenticationError, FLCommunicationError) as error:
        raise ConfigError(f"{_other_federation(kit)} ({error})") from error
    # Certificates and signatures that do not fit come as errors of several libraries.
    except Exception as error:
        raise ConfigError(f"{kit.name} cannot log in at {_address(kit)}: {type(error).__name__}: {error}") from error


def _connect(kit: Kit) -> Session:
    with _hushed():
        return new_secure_session(
            kit.name,
            str(kit.folder),
            timeout=CONNECT_SECONDS,
            command_timeout=COMMAND_SECONDS,
            auto_login_max_tries=3,
        )


def _certificate_problem(kit: Kit) -> str | None:
    """Why the server's certificate and the kit's do not go together; None where they do, or nobody answers."""
    try:
        handshake(kit, CONNECT_SECONDS / 2)
    except ssl.SSLError as error:
        return str(error.reason or error)
    except OSError:
        return None
    return None


def _other_federation(kit: Kit) -> str:
    return (
        f"{_address(kit)} and the kit {kit.folder} do not accept each other: is the kit of this federation, is its "
        "certificate still valid, and is this machine's clock right?"
    )


def _address(kit: Kit) -> str:
    return f"{kit.host}:{kit.port}"


@contextmanager
def _hushed() -> Iterator[None]:
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        yield
