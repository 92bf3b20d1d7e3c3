"""What Prefect costs: `lookbook up`, a click beside the command line, a retraining's overhead, a shard's overhead.

    python benchmarks/operations.py

Medians of five. Takes about eight minutes.
"""

import json
import os
import statistics
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from datetime import datetime
from pathlib import Path
from typing import Any

from retrain import BIN, timed
from score import OWN_RATE, make_small

RUNS = 5
IMPORTS = """
from tasks.vision.imports import quick_imports
with quick_imports():
    import flows.retrain, tasks.vision.training
"""
OWN_SECONDS = (
    OWN_RATE.partition("outcome = ")[0]
    .replace(
        'model.load(store, store.resolve("champion"))', ""
    )  # the command, too, decodes while TensorFlow is imported
    .replace("key = ", "started = time.perf_counter()\nkey = ")
    + """
import time
from tasks.commit import commit_predictions
outcome = score_plan(store, settings, job, listed)
commit_predictions(store, settings, job, key, outcome)
print(json.dumps({"seconds": time.perf_counter() - started - outcome.waited, "shards": len(outcome.parts)}))
"""
)


def ask(url: str, body: dict[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"})
    while True:
        try:
            with urllib.request.urlopen(request) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            if error.code != 503:  # SQLite is busy: Prefect's own clients ask again, too
                raise
            time.sleep(1)


def bring_up(environment: dict[str, str]) -> tuple[subprocess.Popen, str, float]:
    started = time.perf_counter()
    process = subprocess.Popen(
        [BIN / "lookbook", "up", "--json"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    )
    said = json.loads(process.stdout.readline())
    return process, said["api"], time.perf_counter() - started


def bring_down(process: subprocess.Popen) -> float:
    started = time.perf_counter()
    process.terminate()
    process.wait()
    return time.perf_counter() - started


def click(api: str, deployment: str, parameters: dict[str, Any]) -> dict[str, float]:
    """Seconds from the request that the page's button sends: until a worker has it, the first task, Completed."""
    at = ask(f"{api}/deployments/name/{deployment}")["id"]
    asked = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
    run = ask(f"{api}/deployments/{at}/create_flow_run", asked)
    while not (found := ask(f"{api}/flow_runs/{run['id']}"))["end_time"]:
        time.sleep(0.5)
    assert found["state_type"] == "COMPLETED", found["state"]["message"]
    tasks = ask(
        f"{api}/task_runs/filter", {"flow_runs": {"id": {"any_": [run["id"]]}}, "sort": "EXPECTED_START_TIME_ASC"}
    )
    states = ask(f"{api}/flow_run_states/?flow_run_id={run['id']}")
    moments = {
        "worker": next(each["timestamp"] for each in states if each["type"] == "PENDING"),
        "task": min(task["start_time"] for task in tasks),
        "whole": found["end_time"],
    }
    created = datetime.fromisoformat(run["created"])
    return {name: (datetime.fromisoformat(moment) - created).total_seconds() for name, moment in moments.items()}


def beside(
    api: str, command: list[str], deployment: str, parameters: dict[str, Any], environment: dict[str, str]
) -> list[dict[str, float]]:
    """The same work by the command and by a click in turn, after one of each; prints both, and gives the clicks."""
    clicks, commands = [], []
    for number in range(1 + RUNS):
        seconds, _ = timed([str(BIN / "lookbook"), *command, "--json"], environment)
        clicked = click(api, deployment, parameters)
        if number:
            commands.append(seconds)
            clicks.append(clicked)
    show(f"{command[0]} by the command line", commands)
    show(f"{command[0]} by a click, from when a worker has it", [each["whole"] - each["worker"] for each in clicks])
    ratios = [(each["whole"] - each["worker"]) / seconds for each, seconds in zip(clicks, commands, strict=True)]
    show("of the command line's", ratios, " ")
    return clicks


def seconds_of(program: str, environment: dict[str, str]) -> float:
    started = time.perf_counter()
    subprocess.run([BIN / "python", "-c", program], check=True, env=environment, capture_output=True)
    return time.perf_counter() - started


def show(what: str, values: list[float], unit: str = "s") -> None:
    spread = f"{min(values):.2f} to {max(values):.2f}"
    print(f"{what:<70} {statistics.median(values):7.2f} {unit}  ({spread})", flush=True)


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        top = Path(temporary)
        environment = {
            **os.environ,
            "LOOKBOOK_STORE": str(top / "store"),
            "PREFECT_HOME": str(top / "prefect"),
            "PREFECT_SERVER_API_PORT": "4217",
            "LOOKBOOK_IMAGE_ROOTS": json.dumps({"ten": str(top / "ten")}),
            "DO_NOT_TRACK": "1",
        }
        ups, downs = [], []
        for _ in range(3):
            process, api, seconds = bring_up(environment)
            ups.append(seconds)
            downs.append(bring_down(process))
        print(
            f"lookbook up: {ups[0]:.1f} s on a fresh home, then {min(ups[1:]):.1f} s; its end {max(downs):.1f} s",
            flush=True,
        )
        process, api, _ = bring_up(environment)
        try:
            command = [str(BIN / "lookbook"), "retrain", "--json"]
            timed(command, environment)
            clicks = beside(api, ["retrain"], "retrain/weekly", {"if_unchanged": "train"}, environment)
            show("from the click until an idle worker has it", [each["worker"] for each in clicks])
            show("from the click to the first task", [each["task"] for each in clicks])
            imports, overheads = [], []
            for _ in range(RUNS):
                imports.append(seconds_of(IMPORTS, environment))
                _, result = timed(command, environment)
                seconds = result["seconds"]
                stages = seconds["prepare"] + seconds["train"] + seconds["evaluate"]
                overheads.append(seconds["total"] - stages - imports[-1])
            show("imports alone", imports)
            show("retrain: all but imports and the stages", overheads)
            make_small(top / "ten/png", copies=1)
            fresh = {"folder": "ten:png", "fresh": True}
            beside(api, ["score", str(top / "ten/png"), "--fresh"], "score/by-hand", fresh, environment)
            make_small(top / "made/png", copies=7)
            score = [str(BIN / "lookbook"), "score", str(top / "made/png"), "--fresh", "--json"]
            shards = []
            for _ in range(RUNS):
                own = subprocess.run(
                    [BIN / "python", "-c", f"import time\n{OWN_SECONDS}", str(top / "made/png")],
                    capture_output=True, text=True, check=True, env=environment,
                )  # fmt: skip
                alone = json.loads(own.stdout.splitlines()[-1])
                _, result = timed(score, environment)
                shards.append((result["seconds"] - alone["seconds"]) / alone["shards"])
            show(f"a scored shard ({alone['shards']} of 70,000 PNG): flow less the stages' functions", shards)
        finally:
            bring_down(process)


if __name__ == "__main__":
    main()
