"""What tests do to published files by force, against the store's guard."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def damage(path: Path, content: bytes) -> None:
    """Rewrite a published file in place, as whoever insists can: all names that the file has hold `content`."""
    path.chmod(0o644)
    path.write_bytes(content)


def remove(path: Path) -> None:
    """Remove a published file, or a folder with all that is in it, as `chmod -R u+w` and `rm -r` do."""
    for each in (path.parent, path, *path.rglob("*")):
        if each.is_dir():
            each.chmod(0o755)
    shutil.rmtree(path) if path.is_dir() else path.unlink()


@contextmanager
def unreadable(path: Path) -> Iterator[None]:
    """A file that even root can't read for a while: a link to itself."""
    spare = path.with_name("spare")
    path.parent.chmod(0o755)
    path.rename(spare)
    path.symlink_to(path.name)
    yield
    spare.replace(path)
