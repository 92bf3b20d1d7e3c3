"""What can go wrong with a cluster."""

from artifacts.errors import LookbookError


class ClusterError(LookbookError):
    """A cluster is not there, can't do the work, or has failed at it."""


class ClusterLost(ClusterError):
    """The connection to a cluster was lost: it may come back."""
