"""How a command tells that it failed: its exit status, one line on stderr, and with --json an object on stdout.

The object has `error` (what stderr says), `kind` (the name of an error of docs/design.md, or WrongUsage, SettingsError,
Interrupted, Unexpected) and `exit` (the status).
"""

import json
import re
import sys
from http import HTTPStatus
from typing import Any

import click

FAILED, WRONG_USAGE, INTERRUPTED = 1, 2, 130
AS_JSON = "--json"
_FIELD = re.compile(r'field "(\w+)"')


def complain(text: str) -> None:
    """Print one line, with nothing in it that a terminal would obey."""
    from artifacts.printable import printable

    click.echo(f"{click.style('lookbook:', fg='red')} {printable(text)}", err=True)


def was_interrupted(error: BaseException | None) -> bool:
    """Whether an interrupt is behind an error: code that calls others' code may make an error of its own of it, as
    pydantic does of one in a serializer."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def tell_as_json(error: str, kind: str, status: int) -> None:
    """Print the object, where --json asks for it: the last line of stdout."""
    from artifacts.printable import printable

    if AS_JSON in sys.argv:
        click.echo(json.dumps(_failure(printable(error), kind, status)))


def failure_in(result: Any) -> dict[str, Any]:
    """What a result that is one and a failure, too, says besides: pictures that can't be read, damaged files."""
    if not isinstance(result, dict):
        return {}
    if corrupt := result.get("corrupt"):
        return _failure(_first(corrupt), "Corrupt", FAILED)
    if result.get("failed"):
        bad = [f"{each['path']}: {each['detail']}" for each in result["results"] if each["error"]]
        return _failure(_first(bad), "ImageError", FAILED)
    return {}


def _failure(error: str, kind: str, status: int) -> dict[str, Any]:
    return {"error": error, "kind": kind, "exit": status}


def _first(sentences: list[str]) -> str:
    return sentences[0] + (f"; and {len(sentences) - 1:,} more" if len(sentences) > 1 else "")


def kind_of(error: Exception) -> str:
    """The name of an error of ours, `SettingsError` for a setting that can't be, or `Unexpected`."""
    from pydantic import ValidationError
    from pydantic_settings import SettingsError

    from artifacts.errors import LookbookError

    if isinstance(error, LookbookError):
        return type(error).__name__
    if isinstance(error, SettingsError) or (isinstance(error, ValidationError) and error.title == "Settings"):
        return SettingsError.__name__
    return "Unexpected"


def one_line(error: Exception) -> str:
    """What an error says to a person: what was expected, what was found, and what to do."""
    from pydantic import ValidationError
    from pydantic_settings import SettingsError

    from artifacts.errors import LookbookError
    from artifacts.settings import Settings

    if isinstance(error, LookbookError):
        return " ".join(str(error).split())
    if isinstance(error, SettingsError):
        name = found[1] if (found := _FIELD.search(str(error))) else ""
        return _no_json(name) if name in Settings.model_fields else f"a setting can't be read: {error}"  # Prefect's
    if isinstance(error, ValidationError) and error.title == "Settings":
        first = error.errors()[0]
        why = first["msg"].removeprefix("Value error, ")
        name, *inner = map(str, first["loc"])
        if first["type"] == "dict_type":
            return _no_json(name)
        problem = f"have this value of {inner[0]!r}" if inner else f"be {first['input']!r}"
        return f"the setting LOOKBOOK_{name.upper()} can't {problem}: {why}"
    if (server := _which_refused_us(error)) is not None:
        return (
            f"expected the password of the Prefect server {server} in PREFECT_API_AUTH_STRING (name:password), found "
            "none or another one"
        )
    return f"unexpected {type(error).__name__}: {error}; run it again with --verbose to see where".replace("\n", " ")


def _no_json(name: str) -> str:
    """What was found stays unsaid: it may hold a secret."""
    from artifacts.settings import Settings

    examples = Settings.model_fields[name].examples
    like = f" like {json.dumps(examples[0])}" if examples else ""
    return f"the setting LOOKBOOK_{name.upper()} can't be read: expected JSON{like}"


def _which_refused_us(error: Exception) -> str | None:
    """The address of the Prefect server that doesn't know who asks it; None where an error is none of that kind."""
    if "prefect.exceptions" not in sys.modules:
        return None
    from prefect.exceptions import PrefectHTTPStatusError

    if isinstance(error, PrefectHTTPStatusError) and error.response.status_code == HTTPStatus.UNAUTHORIZED:
        url = error.request.url
        return f"{url.scheme}://{url.netloc.decode()}"
    return None
