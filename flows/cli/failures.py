"""How a command tells that it failed: its exit status, and one line on stderr."""

import sys
from http import HTTPStatus

import click

FAILED, WRONG_USAGE, INTERRUPTED = 1, 2, 130


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


def one_line(error: Exception) -> str:
    """What an error says to a person: what was expected, what was found, and what to do."""
    from pydantic import ValidationError
    from pydantic_settings import SettingsError

    from artifacts.errors import LookbookError

    if isinstance(error, LookbookError):
        return " ".join(str(error).split())
    if isinstance(error, SettingsError):
        return f'a setting can\'t be read: {error}; LOOKBOOK_IMAGE_ROOTS is JSON like {{"photos": "/srv/photos"}}'
    if isinstance(error, ValidationError) and error.title == "Settings":
        first = error.errors()[0]
        why = first["msg"].removeprefix("Value error, ")
        return f"the setting LOOKBOOK_{str(first['loc'][0]).upper()} can't be {first['input']!r}: {why}"
    if (server := _which_refused_us(error)) is not None:
        return (
            f"expected the password of the Prefect server {server} in PREFECT_API_AUTH_STRING (name:password), found "
            "none or another one"
        )
    return f"unexpected {type(error).__name__}: {error}; run it again with --verbose to see where".replace("\n", " ")


def _which_refused_us(error: Exception) -> str | None:
    """The address of the Prefect server that doesn't know who asks it; None where an error is none of that kind."""
    if "prefect.exceptions" not in sys.modules:
        return None
    from prefect.exceptions import PrefectHTTPStatusError

    if isinstance(error, PrefectHTTPStatusError) and error.response.status_code == HTTPStatus.UNAUTHORIZED:
        url = error.request.url
        return f"{url.scheme}://{url.netloc.decode()}"
    return None
