"""What tells the tools of AWS where a bucket is, and who asks: variables, and the profiles of ~/.aws, in their order.

https://docs.aws.amazon.com/sdkref/latest/guide/settings-reference.html
"""

import configparser
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from artifacts.errors import StoreError

_KEYS = {
    "aws_access_key_id": "access_key_id",
    "aws_secret_access_key": "secret_access_key",
    "aws_session_token": "token",
}
"""Name in a profile -> what obstore calls it."""

_BY_OTHERS = ("role_arn", "sso_session", "sso_start_url", "credential_process", "web_identity_token_file")
"""What has a profile's credentials made by a service or a program."""


@dataclass(frozen=True)
class Aws:
    """What is said.

    options: endpoint, region, allow_http and virtual_hosted, as LOOKBOOK_STORE_OPTIONS has them; of these what is said.
    keys: a profile's credentials, as obstore calls them; empty where the environment has some, which go before these.
    made: what has the profile's credentials made, where it has none itself; else empty.
    profile: its name.
    """

    options: Mapping[str, str]
    keys: Mapping[str, str] = field(repr=False)
    made: str
    profile: str


def read_aws() -> Aws:
    """What the environment and the files say now. Raises StoreError for a file that can't be read, and a profile that
    AWS_PROFILE names and that is not there."""
    config = _sections("AWS_CONFIG_FILE", "config")
    shared = _sections("AWS_SHARED_CREDENTIALS_FILE", "credentials")
    name = os.environ.get("AWS_PROFILE") or os.environ.get("AWS_DEFAULT_PROFILE") or "default"
    found = config.get(f"profile {name}", config.get(name, {}) if name == "default" else {})
    if name != "default" and f"profile {name}" not in config and name not in shared:
        raise StoreError(
            f"expected the profile {name} of AWS_PROFILE in ~/.aws/config or ~/.aws/credentials, found none"
        )
    profile = {**found, **shared.get(name, {})}
    services = _inner(config.get(f"services {profile.get('services')}", {}).get("s3", ""))
    s3 = _inner(profile.get("s3", ""))
    endpoint = (
        os.environ.get("AWS_ENDPOINT_URL_S3")
        or os.environ.get("AWS_ENDPOINT_URL")
        or services.get("endpoint_url")
        or s3.get("endpoint_url")
        or profile.get("endpoint_url")
    )
    said = {
        "endpoint": endpoint,
        "region": os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or profile.get("region"),
        "allow_http": "true" if endpoint and endpoint.startswith("http://") else None,
        "virtual_hosted": {"virtual": "true", "path": "false"}.get(s3.get("addressing_style", "")),
    }
    made = next((each for each in _BY_OTHERS if each in profile), "")
    keys = {theirs: profile[ours] for ours, theirs in _KEYS.items() if ours in profile}
    keys = {} if made or _has_keys() else keys
    return Aws({option: value for option, value in said.items() if value}, keys, made, name)


def _has_keys() -> bool:
    """Whether the environment has credentials."""
    return any(map(os.environ.get, ("AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE")))


def _sections(variable: str, name: str) -> dict[str, dict[str, str]]:
    """The sections of a file; none where there is no such file, or one that can't be read and that nobody needs: HOME
    may be somebody else's. Raises StoreError, which tells nothing of what is in it."""
    parser = configparser.RawConfigParser(strict=False, default_section="")
    try:
        file = Path(os.environ.get(variable) or f"~/.aws/{name}").expanduser()
        parser.read_string(file.read_text())
    except (FileNotFoundError, NotADirectoryError, RuntimeError):  # RuntimeError: a user without a home
        return {}
    except OSError as error:
        if _has_keys() and variable not in os.environ:
            return {}
        raise StoreError(f"can't read {file}: {error.strerror}; mend its permissions") from None
    except (configparser.Error, UnicodeDecodeError):
        raise StoreError(
            f"expected profiles in {file}, found something else; mend it, or name another ({variable})"
        ) from None
    return {_unquoted(section): dict(parser[section]) for section in parser.sections()}


def _unquoted(section: str) -> str:
    """`profile "my shop"` as `profile my shop`."""
    try:
        return " ".join(shlex.split(section))
    except ValueError:  # a quotation mark that is part of the name
        return section


def _inner(text: str) -> dict[str, str]:
    """The lines `name = value` that are indented below a name."""
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line)
    return {name.strip(): value.strip() for name, _, value in pairs}
