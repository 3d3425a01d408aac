"""A split model as an application of Ray Serve: one deployment a stage, and an ingress that speaks the package's protocol.

The serving package (`args.package` of serve.yaml) must be importable on every node; it loads and runs the stages, decodes
requests and encodes answers. How many copies of what, on which resources, is in serve.yaml.

Source:
    Ray Serve, model composition, dynamic request batching, and Serve configuration files.
"""

from __future__ import annotations

import asyncio
import importlib
import time
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from ray import serve
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError

GONE = (RayActorError, DeploymentUnavailableError, ReplicaUnavailableError)
ATTEMPTS = 3
"""How often a request is begun whose replica died: a stage is a function of its inputs, so running it again is right."""
Tensors = dict[str, Any]


def build(args: Mapping[str, str]) -> serve.Application:
    """Return the application of a serving package.

    Args:
        args: ``package``, the package's importable name.
    """
    package = args["package"]
    plan = _module(package, "config").read_plan(_folder(package))
    stages = [
        Stage.options(name=stage_name(stage.index, stage.device)).bind(package, stage.index)  # type: ignore[attr-defined]
        for stage in plan.stages
    ]
    return Ingress.bind(package, *stages)  # type: ignore[attr-defined]


def stage_name(index: int, device: str) -> str:
    """Return the name of a stage's deployment, as serve.yaml has it."""
    return f"stage-{index:02d}-{device}"


@serve.deployment
class Stage:
    """One stage, loaded once a replica."""

    def __init__(self, package: str, index: int) -> None:
        self._replica = _module(package, "replica").StageReplica.load(_folder(package), index)
        self._error = _module(package, "errors").PipelineError
        self._run.set_max_batch_size(self._replica.max_batch)

    async def __call__(self, given: Tensors, *earlier: Tensors) -> Tensors:
        """Return the stage's outputs by name.

        Args:
            given: The request's own tensors that the stage reads.
            earlier: All outputs of the stages it reads from; arrays in the node's shared memory, not copied.
        """
        known = {name: value for tensors in (given, *earlier) for name, value in tensors.items()}
        outcome: Tensors | Exception = await self._run({name: known[name] for name in self._replica.stage.inputs})
        if isinstance(outcome, Exception):
            raise self._error(str(outcome))  # an error of plain text crosses between processes, whatever it was
        return outcome

    def check_health(self) -> None:
        """Raise if the stage cannot run any more; Ray Serve then starts another replica in its place."""
        if not self._replica.healthy:
            raise RuntimeError("the stage's backend was given up")

    @serve.batch(max_batch_size=1, batch_wait_timeout_s=0)  # type: ignore[untyped-decorator]
    async def _run(self, requests: list[Tensors]) -> list[Any]:
        """Run what waits, as one where that is proven right; one such run at a time."""
        return await asyncio.to_thread(self._replica.run, requests)


@serve.deployment
@serve.ingress()
class Ingress:
    """The Open Inference Protocol v2 in front of the stages."""

    def __init__(self, package: str, *stages: serve.handle.DeploymentHandle) -> None:
        plan = _module(package, "config").read_plan(_folder(package))
        settings = _module(package, "settings").ServerSettings()
        service = _module(package, "service").Service(RemotePipeline(package, plan, stages), settings)
        self._front = Front(_module(package, "server").Application(service))

    def __serve_build_asgi_app__(self) -> Front:
        """Return what answers HTTP requests."""
        return self._front


class Front:
    """The package's ASGI application, below the application's route prefix.

    Args:
        application: What answers requests.
    """

    def __init__(self, application: Any) -> None:
        self._application = application

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Answer one request, or the server's start and stop."""
        if scope["type"] == "lifespan":
            for word in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{word}.complete"})
        else:
            path = scope["path"].removeprefix(scope.get("root_path", ""))
            await self._application({**scope, "path": path}, receive, _sender_of_bytes(send))


class RemotePipeline:
    """The stages behind their handles, as the package's server expects its pipeline.

    Args:
        package: The serving package.
        plan: Its plan.
        stages: A handle each.
    """

    ready = True

    def __init__(self, package: str, plan: Any, stages: tuple[Any, ...]) -> None:
        self.plan = plan
        self._stages = stages
        self._errors = _module(package, "errors")
        self._check = _module(package, "validation").check_inputs
        self._statistics = _module(package, "statistics")
        self._requests = self._statistics.Recorder()
        self._started = time.perf_counter()
        self._inside = 0
        self._producer = {name: stage.index for stage in plan.stages for name in stage.outputs}

    def answer(self, inputs: Mapping[str, Any], deadline: float | None = None) -> Future[Tensors]:
        """Return a future of the model's outputs; cancelled, it cancels the stages.

        Args:
            inputs: As the package's pipeline takes them.
            deadline: The server waits no longer; the stages are then cancelled with the future.
        """
        del deadline
        checked = self._check(self.plan.inputs, inputs)
        future: Future[Tensors] = Future()
        task = asyncio.get_running_loop().create_task(self._answer(checked, future))
        future.add_done_callback(lambda done: task.cancel() if done.cancelled() else None)
        return future

    def stats(self) -> Any:
        """Return what this replica of the ingress has seen; the stages' numbers are Ray's."""
        return self._statistics.PipelineStats(
            uptime_s=time.perf_counter() - self._started,
            completed=self._requests.count,
            failed=self._requests.failed,
            failures=self._requests.failures,
            latency=self._requests.service(),
            latency_sum_s=self._requests.total,
            inside=self._inside,
            waiting=0,
            stages=(),
            utilisation={},
        )

    def distributions(self) -> tuple[Any, list[Any]]:
        """Return the histogram of request times."""
        return self._requests.distribution(), []

    async def _answer(self, inputs: Tensors, future: Future[Tensors]) -> None:
        begin = time.perf_counter()
        self._inside += 1
        try:
            outputs = await self._try(inputs)
        except Exception as error:
            self._requests.add_failure(type(error).__name__)
            if future.set_running_or_notify_cancel():
                future.set_exception(error)
        else:
            self._requests.add(time.perf_counter() - begin)
            if future.set_running_or_notify_cancel():
                future.set_result(outputs)
        finally:
            self._inside -= 1

    async def _try(self, inputs: Tensors) -> Tensors:
        for attempt in range(ATTEMPTS):
            try:
                return await self._run(inputs)
            except BackPressureError as error:
                raise self._errors.Overloaded(waiting=self._inside, retry_after_s=1.0) from error
            except GONE as error:
                gone: Exception = error
            except RayTaskError as error:
                cause = _cause(error)
                if not isinstance(cause, GONE):
                    raise self._errors.PipelineError(str(cause)) from error
                gone = error
            await asyncio.sleep(0.1 * attempt)
        raise self._errors.Closed(f"a stage has no replica that lives, tried {ATTEMPTS} times") from gone

    async def _run(self, inputs: Tensors) -> Tensors:
        """Call every stage at once; what a stage makes goes from replica to replica and not through here."""
        responses: list[Any] = []
        for stage, handle in zip(self.plan.stages, self._stages, strict=True):
            given = {name: inputs[name] for name in stage.inputs if name in inputs}
            earlier = dict.fromkeys(self._producer[name] for name in stage.inputs if name in self._producer)
            responses.append(handle.remote(given, *(responses[index] for index in earlier)))
        tensors = dict(inputs)
        for index in sorted({self._producer[t.name] for t in self.plan.outputs if t.name in self._producer}):
            tensors |= await responses[index]
        return {tensor.name: tensors[tensor.name] for tensor in self.plan.outputs}


def _cause(error: BaseException) -> BaseException:
    """Return what was raised first: an error travels wrapped once a stage."""
    while isinstance(error, RayTaskError) and isinstance(error.cause, BaseException):
        error = error.cause
    return error


def _sender_of_bytes(send: Any) -> Any:
    """Return a sender that Ray can pickle messages of, which it cannot with views of tensors in them."""

    async def call(message: dict[str, Any]) -> None:
        await send({**message, "body": bytes(message["body"])} if "body" in message else message)

    return call


def _module(package: str, name: str) -> Any:
    return importlib.import_module(f"{package}.runtime.{name}")


def _folder(package: str) -> Path:
    return Path(str(importlib.import_module(package).__file__)).parent
