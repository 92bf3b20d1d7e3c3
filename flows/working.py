"""The processes of a worker of `lookbook up`, and of each run that it starts.

`python -m flows.working prefect worker start ...` is Prefect's own process worker, but for how it starts runs: by
`python -m flows.working prefect.engine`, one process that imports Prefect once, and quickly. Prefect's own way takes
two programs, one after the other, each of which imports it.
"""

import runpy
import sys
import threading
import warnings
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any

from tasks.vision.imports import quick_imports

if TYPE_CHECKING:
    from prefect.client.schemas.objects import Flow, FlowRun
    from prefect.client.schemas.responses import DeploymentResponse

_THIS = [sys.executable, "-P", "-m", "flows.working"]  # -P: nothing from the current folder
WORKER = [*_THIS, "prefect", "worker", "start"]
_RUN = [*_THIS, "prefect.engine"]  # and the flow's name
# The pull steps of prefect.yaml. Whoever changed them brings other code than this, which Prefect's own way finds.
_CHECKOUT = [{"prefect.deployments.steps.set_working_directory": {"directory": "{{ $LOOKBOOK_HOME }}"}}]
_TRAIN = ("retrain", "train")  # flows that need TensorFlow, whatever they find; each is in the module of its name


def _work() -> None:
    with quick_imports():
        from prefect.utilities.processutils import command_to_string
        from prefect.workers.process import ProcessJobConfiguration, ProcessWorker

    class Job(ProcessJobConfiguration):
        def prepare_for_flow_run(
            self,
            flow_run: "FlowRun",
            deployment: "DeploymentResponse | None" = None,
            flow: "Flow | None" = None,
            *others: Any,
            **named: Any,
        ) -> None:
            ours = deployment is not None and deployment.pull_steps == _CHECKOUT
            if flow and ours and self.command is None:  # a deployment, or its pool, may name another
                self.command = command_to_string([*_RUN, flow.name])
            super().prepare_for_flow_run(flow_run, deployment, flow, *others, **named)

    with warnings.catch_warnings(action="ignore"):  # it takes the place of Prefect's in its registry

        class Worker(ProcessWorker):
            job_configuration = Job

    runpy.run_module("prefect", run_name="__main__", alter_sys=True)


def _run(flow: str) -> None:
    with quick_imports():
        import prefect.flow_engine

        _let_runs_fail_for_their_parameters()
        if flow in _TRAIN:
            with suppress(ImportError):  # what is wrong is told when Prefect loads it
                import_module(f"flows.{flow}")
            # It takes turns with Prefect's requests. No daemon: a short run ends when this has.
            threading.Thread(target=_import_tensorflow, name="imports").start()
    sys.modules.pop(prefect.engine.__name__)  # imported as a module, and now to be the program
    runpy.run_module("prefect.engine", run_name="__main__", alter_sys=True)


def _let_runs_fail_for_their_parameters() -> None:
    """An unknown parameter, or a missing one, is a reason to fail. Prefect looks at them before a run begins, where
    there is nothing yet that could fail: the run crashes without a word (Prefect 3.8.8). It looks again later."""
    import prefect.flow_engine
    from prefect.exceptions import ParameterBindError, SignatureMismatchError

    resolved = prefect.flow_engine._flow_parameters

    def as_given(flow: Any, flow_run: Any, parameters: dict[str, Any] | None) -> dict[str, Any]:
        try:
            return resolved(flow, flow_run, parameters)
        except (SignatureMismatchError, ParameterBindError):
            return dict(flow_run.parameters)

    prefect.flow_engine._flow_parameters = as_given


def _import_tensorflow() -> None:
    with quick_imports(), suppress(ImportError):
        import tasks.vision.training  # noqa: F401


if __name__ == "__main__":
    program, *arguments = sys.argv[1:]
    if program == "prefect":
        sys.argv = [program, *arguments]
        _work()
    else:
        sys.argv = [program]
        _run(*arguments)
