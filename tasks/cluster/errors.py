"""What can go wrong with a cluster."""

from artifacts.errors import LookbookError


class ClusterError(LookbookError):
    """A cluster is not there, can't do the work, or has failed at it."""


class ClusterLost(ClusterError):
    """A cluster was lost, or has no processors to spare: that may pass."""
