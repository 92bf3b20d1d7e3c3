"""Which disk a store stands on: a folder, or a bucket."""

from pathlib import Path

from artifacts.disk import Disk, LocalDisk


def disk_at(root: Path | str) -> Disk:
    """The disk at a path, or at a URL. Raises StoreError for a URL that can't be one."""
    if "://" not in str(root):
        return LocalDisk(Path(root))
    from artifacts.bucket import BucketDisk
    from artifacts.settings import Settings

    return BucketDisk(str(root), Settings())
