"""Why a Prefect server isn't there: the cause in its log, and who names a server that doesn't answer."""

import os
import re
from pathlib import Path

_CAUSES = {
    r"Can't locate revision identified by": "{database} was made by a newer Prefect than {version}; use that one, or "
    "another database (PREFECT_HOME names the folder of one)",
    r"file is not a database|database disk image is malformed|unsupported file format": "{database} is damaged; move "
    "it away, and the history of runs begins anew, or put a copy of it there",
    r"database or disk is full|No space left on device": "the disk of {database} is full; make room",
    r"attempt to write a readonly database|unable to open database file": "{database} can't be opened and written; "
    "mend its permissions, or name another folder (PREFECT_HOME)",
    r"disk I/O error": "the disk of {database} can't be read or written",
    r"database is locked": "another program keeps {database} locked; end it",
    r"getcwd|\bcwd\(\)": "the current folder was removed; start it in one that is there",
    r"No module named 'flows'": "Lookbook's own code is not where it was started from; install it again",
}
"""What a log has -> what that means."""

_ERROR = re.compile(r"(?:[\w.]+\.)?\w*(?:Error|Exception|Refused|Exit|Interrupt)(?:: .*)?")
_SHUTDOWN = re.compile(r"Fatal Python error: _enter_buffered_busy")  # of an interpreter that ends beside a thread
_SECRET = re.compile(r"(://[^/@\s:]*):[^/@\s]*@")


def cause_in(log: str) -> str:
    """Why a Prefect server ended, by its log: a cause that is known, with what to do, or its last error, or line."""
    from prefect import __version__

    for sign, meaning in _CAUSES.items():
        if re.search(sign, log):
            return meaning.format(database=_database(), version=__version__)
    lines = [line.strip() for line in _SHUTDOWN.split(log)[0].splitlines() if line.strip()]
    errors = [line for line in lines if _ERROR.fullmatch(line)]
    return _SECRET.sub(r"\1:...@", (errors or lines or ["it said nothing"])[-1])


def _database() -> str:
    """Prefect's, without the password of a server's."""
    from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL, PREFECT_HOME

    url = PREFECT_API_DATABASE_CONNECTION_URL.value() or f"sqlite+aiosqlite:///{PREFECT_HOME.value()}/prefect.db"
    if url.startswith("sqlite"):
        return f"Prefect's database {url.partition(':///')[2].partition('?')[0]}"
    return "the database of PREFECT_API_DATABASE_CONNECTION_URL"


def how_to_unset() -> str:
    """What to do so that PREFECT_API_URL names no server: where that is said, by Prefect's sources, in their order."""
    from prefect.context import get_settings_context
    from prefect.settings.models.api import APISettings
    from prefect.settings.sources import (
        PrefectTomlConfigSettingsSource,
        ProfileSettingsTomlLoader,
        PyprojectTomlConfigSettingsSource,
    )
    from pydantic_settings import DotEnvSettingsSource

    here = Path.cwd()
    if os.environ.get("PREFECT_API_URL"):
        return "unset PREFECT_API_URL"
    if "url" in DotEnvSettingsSource(APISettings, env_file=here / ".env")():
        return f"take PREFECT_API_URL out of {here / '.env'}"
    if "url" in PrefectTomlConfigSettingsSource(APISettings)():
        return f"take `url` out of [api] in {here / 'prefect.toml'}"
    if "url" in PyprojectTomlConfigSettingsSource(APISettings)():
        return f"take `url` out of [tool.prefect.api] in {here / 'pyproject.toml'}"
    if "url" in (found := ProfileSettingsTomlLoader(APISettings))():
        profile = get_settings_context().profile
        return (
            f"take PREFECT_API_URL out of the profile {profile.name} in {found.profiles_path}, or use another profile"
        )
    return "unset PREFECT_API_URL"
