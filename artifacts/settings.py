"""Settings: where things are and how large a picture may be, from `LOOKBOOK_...` environment variables."""

import json
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

RetrainWhen = Literal[
    "low_confidence", "low_confidence_rise", "class_shift", "confidence_shift", "distance", "errors", "labels"
]
RETRAIN_WHEN: dict[RetrainWhen, float] = {
    "low_confidence_rise": 0.1,
    "class_shift": 0.25,
    "confidence_shift": 0.25,
    "distance": 1.5,
    "errors": 0.1,
    "labels": 300,
}
HOME = Path(__file__).absolute().parents[1]


def _cache() -> Path:
    """A user id without a name has no home, where HOME does not say otherwise: then `/`, as containers set it."""
    try:
        return Path.home() / ".cache/lookbook"
    except RuntimeError:
        return Path("/.cache/lookbook")


def _expanded(folder: Path) -> Path:
    """Raises ValueError for the home of nobody."""
    try:
        return folder.expanduser()
    except RuntimeError as error:
        raise ValueError(f"{error}".rstrip(".")) from None


def _place(where: object) -> str:
    """A folder, with `~` as a shell expands it, or a URL. Raises ValueError."""
    return str(_expanded(Path(str(where)))) if str(where).startswith("~") else str(where)


def _as_text(value: object) -> object:
    """True and numbers of JSON as they stand there."""
    return json.dumps(value) if isinstance(value, (bool, int, float)) else value


Folder = Annotated[Path, AfterValidator(_expanded)]
Place = Annotated[str, BeforeValidator(_place)]


def _address(url: str) -> str:
    """Raises ValueError."""
    try:
        parts = urlsplit(url)
        name = (parts.hostname or "").removesuffix(".").encode("idna")
        sound = parts.scheme in ("http", "https") and name and parts.port != 0 and "@" not in parts.netloc
    except ValueError:
        sound = False
    if not sound:
        raise ValueError("expected an address like https://review.example or http://review.example:8080")
    return url


class Settings(BaseSettings):
    """Each field is read from the environment variable `LOOKBOOK_<FIELD>`."""

    model_config = SettingsConfigDict(env_prefix="LOOKBOOK_", env_ignore_empty=True)

    store: Annotated[Place, Field(description="Folder or bucket (s3://bucket/prefix) that holds the artifacts.")] = str(
        HOME / "store"
    )
    store_options: Annotated[
        dict[str, Annotated[str, BeforeValidator(_as_text)]],
        Field(
            description="How to reach a bucket, as JSON: endpoint, region, allow_http, credentials.",
            examples=[{"region": "eu-central-1"}],
        ),
    ] = {}
    home: Annotated[Folder, Field(description="The checkout that workers run in.")] = HOME
    cache: Annotated[Folder, Field(description="Folder for downloads; safe to delete.")] = _cache()
    cache_bytes: Annotated[int, Field(gt=0, description="How much of a bucket the cache keeps, in bytes.")] = 20 << 30
    dataset_mirror: Annotated[
        Folder | None, Field(description="Folder with the data sets' own files; asked before anything else.")
    ] = None
    image_roots: Annotated[
        dict[str, Place],
        Field(
            description="Folders that flows may read pictures from, as JSON: name -> folder or s3://bucket/prefix.",
            examples=[{"photos": "/srv/photos"}],
        ),
    ] = {}
    cluster: Annotated[
        str | None,
        Field(
            pattern=r"^(local|auto|ray://[^/\s]+)$",
            description="Ray cluster of runs on it: local, auto (this machine is a node) or ray://host:10001.",
        ),
    ] = None
    decoders: Annotated[
        int | None, Field(gt=0, description="Decoder processes; by default one a processor, at most 32.")
    ] = None
    max_image_bytes: Annotated[int, Field(gt=0, description="Largest picture file that is read, in bytes.")] = 64 << 20
    max_image_pixels: Annotated[int, Field(gt=0, description="Largest picture that is decoded, in pixels.")] = (
        50_000_000
    )
    max_image_seconds: Annotated[float, Field(gt=0, description="Longest time that decoding a picture may take.")] = 10
    review_host: Annotated[str, Field(description="Where the page that labels pictures listens.")] = "127.0.0.1"
    review_port: Annotated[int, Field(ge=0, le=65535, description="Its port; where that is taken, a free one.")] = 4201
    review_password: Annotated[
        SecretStr | None,
        Field(description="What it asks for, with any name; without one it answers this machine's own user alone."),
    ] = None
    review_url: Annotated[
        Annotated[str, AfterValidator(_address)] | None,
        Field(
            description="Its address behind a proxy: reports link to it, and pages that come from there may label; by "
            "default where it listens."
        ),
    ] = None
    retrain_when: Annotated[
        dict[RetrainWhen, Annotated[float, Field(ge=0)]],
        Field(
            description="Above what a retraining is wished for, as JSON: low_confidence_rise, low_confidence, "
            "class_shift, confidence_shift, distance, errors (of two tables in a row), labels (new ones).",
            examples=[{"labels": 300}],
        ),
    ] = RETRAIN_WHEN
    notify_url: Annotated[
        SecretStr | None, Field(description="Where `lookbook up` sends word of a failed scheduled run: POST, JSON.")
    ] = None
