"""Bulk prediction of a folder: list it, score what was not scored before, publish the table."""

import time
from typing import Annotated, Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from pydantic import Field

from artifacts import predictions
from artifacts.refs import Ref, check_name
from artifacts.settings import Settings
from artifacts.store import Store
from tasks.commit import commit
from tasks.plan import default_name, plan
from tasks.predict import predict
from tasks.reports import scoring


@flow(
    name="score",
    description="Tell what is on every picture of a folder, one row a file, in Parquet. Only what is new is scored.",
    flow_run_name="score-{folder}",
    persist_result=False,  # refs go into the store; nothing is pickled
)
def score(
    folder: Annotated[str, Field(description="The pictures: root:sub/path, root one of LOOKBOOK_IMAGE_ROOTS.")],
    weights: Annotated[str, Field(description="Which weights: champion, or a ref.")] = "champion",
    name: Annotated[str | None, Field(description="What the predictions are called; by default as the folder.")] = None,
    invert: Annotated[
        bool, Field(description="For dark objects on a light background; the weights know light ones on black.")
    ] = False,
    limit: Annotated[int | None, Field(ge=1, description="Score only the first so many entries, for a trial.")] = None,
    fresh: Annotated[bool, Field(description="Score everything anew, whatever was scored before.")] = False,
) -> dict[str, Any]:
    """Returns predictions (ref), path, images, predicted, reused, errors, classes, images_per_second and seconds."""
    started = time.perf_counter()
    settings = Settings()
    store = Store(settings.store)
    weights = str(store.resolve(weights, "weights"))
    name = check_name(name) if name else default_name(folder, settings)
    listed = plan(folder, limit)
    outcome = predict(listed, folder, name, weights, invert, fresh)
    waited = outcome["waited"]
    ref = commit(listed, folder, name, weights, invert, outcome, trial=limit is not None)
    return _told(store, Ref.parse(ref), name, outcome, time.perf_counter() - started - waited)


def _told(store: Store, ref: Ref, name: str, outcome: dict[str, Any], seconds: float) -> dict[str, Any]:
    published = predictions.load(store, ref)
    facts = published.artifact.facts
    result = {
        "predictions": str(ref),
        "path": str(published.folder),
        "images": facts["rows"],
        "predicted": outcome["predicted"],
        "reused": outcome["reused"],
        "errors": facts["errors"],
        "classes": facts["labels"],
        "images_per_second": round(outcome["predicted"] / outcome["seconds"], 1),
        "seconds": round(seconds, 3),
    }
    create_markdown_artifact(
        scoring.markdown(name, result), key=scoring.report_key(name), description=f"Predictions of {name}"
    )
    return result
