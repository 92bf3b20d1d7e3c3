"""A scoring as it is carried out, for tests of what stands around a model: no weights are loaded."""

from artifacts.refs import Ref
from tasks.requests import ScoreRequest
from tasks.scoring.job import Job
from tasks.vision.images import ImageSpec, Limits

SPEC = ImageSpec(height=8, width=8, channels=1)


def job_of(where, folder="root:"):
    """One with the classes a and b, of the folder that is at `where`."""
    weights, dataset = Ref.parse("weights/shapes@0123456789abcdef"), "datasets/shapes@0123456789abcdef"
    request = ScoreRequest(folder, weights=str(weights), name="any")
    return Job(request, where, "any", weights, dataset, ("a", "b"), SPEC, Limits(10**6, 10**6), None, None)
