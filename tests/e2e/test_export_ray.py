"""The emitted applications on a real Ray with GPUs that it believes in: equal answers, a killed replica, too many requests."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pytest
import tritonclient.http
import yaml
from tritonclient.utils import InferenceServerException

from tests.e2e.exports import PATIENCE_S, SAMPLES, Exported, free_ports, ray_serve, require, wait_ready
from tests.e2e.harness import assert_equal

pytestmark = pytest.mark.timeout(3 * PATIENCE_S)  # the node, the applications and then the answers

CASES = [pytest.param(name, marks=pytest.mark.network) if name == "orientation-jpeg" else name for name in SAMPLES]
CLIENTS = 6
ONE_AT_A_TIME = {"max_ongoing_requests": 1, "max_queued_requests": 1}


class Serve:
    """Ray Serve with an application a sample."""

    def __init__(self, port: int, head: psutil.Process) -> None:
        self.port = port
        self.head = head

    def url(self, name: str) -> str:
        return f"127.0.0.1:{self.port}/{name}"

    def ask(self, sample: Exported) -> dict[str, np.ndarray]:
        inputs = sample.inputs
        with contextlib.closing(tritonclient.http.InferenceServerClient(self.url(sample.name))) as client:
            types = {entry["name"]: entry["datatype"] for entry in client.get_model_metadata(sample.name)["inputs"]}
            tensors = []
            for key, array in inputs.items():
                tensors.append(tritonclient.http.InferInput(key, list(array.shape), types[key]))
                tensors[-1].set_data_from_numpy(array)
            reply = client.infer(sample.name, tensors)
            outputs = {entry["name"]: reply.as_numpy(entry["name"]) for entry in reply.get_response()["outputs"]}
        return {key: np.char.decode(a.astype("S")) if a.dtype == object else a for key, a in outputs.items()}

    def replicas(self, sample: Exported, stage: str) -> list[psutil.Process]:
        """Return the processes of a stage: Ray names each after its deployment."""
        package = sample.name.replace("-", "_") + "_serving"
        title = f"ray::ServeReplica:{package}:{stage}"
        return [child for child in self.head.children(recursive=True) if " ".join(child.cmdline()).startswith(title)]


def merged(samples: list[Exported], port: int) -> dict[str, object]:
    """Return one configuration of several, each below a prefix of its own; the tagger's stage takes one request at a time."""
    applications = []
    for sample in samples:
        config = yaml.safe_load((sample.folder / "ray" / "serve.yaml").read_text("utf-8"))
        (application,) = config["applications"]
        if sample.name == "tagger":
            application["deployments"][1] |= ONE_AT_A_TIME
        applications.append(application | {"route_prefix": f"/{sample.name}"})
    return {**config, "http_options": {"host": "127.0.0.1", "port": port}, "applications": applications}


@pytest.fixture(scope="module")
def serve(exported, tmp_path_factory) -> Iterator[Serve]:
    require("ray")
    samples = []
    for name in SAMPLES:
        with contextlib.suppress(pytest.skip.Exception):
            samples.append(exported(name))
    folder = tmp_path_factory.mktemp("ray")
    (port,) = free_ports(1)
    (folder / "serve.yaml").write_text(yaml.safe_dump(merged(samples, port)))
    paths = [samples[0].folder / "ray", *(sample.folder / "serving" for sample in samples)]
    with ray_serve(folder / "serve.yaml", paths, folder / "log") as process:
        for sample in samples:
            wait_ready(f"http://127.0.0.1:{port}/{sample.name}/v2/health/ready", process, folder / "log")
        yield Serve(port, psutil.Process(process.pid))


@pytest.mark.parametrize("name", CASES)
def test_it_answers_as_the_whole_model(serve, exported, name):
    sample = exported(name)
    assert_equal(serve.ask(sample), sample.expected)


def test_a_replica_that_is_killed_under_load(serve, exported):
    """No answer is wrong, at most the requests under way fail, and it goes on as before."""
    sample = exported("classifier-quarter")
    (killed,) = serve.replicas(sample, "stage-00-cpu")[:1]
    stop, errors, answers = threading.Event(), [], []

    def client(_number: int) -> None:
        while not stop.is_set():
            try:
                answers.append(serve.ask(sample))
            except InferenceServerException as error:
                errors.append(error)

    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(client, number) for number in range(CLIENTS)]
        _until(lambda: len(answers) >= CLIENTS)
        killed.send_signal(signal.SIGKILL)
        after = len(answers)
        _until(lambda: len(answers) >= after + 5 * CLIENTS)
        stop.set()
        for one in clients:
            one.result()
    for answer in answers:
        assert_equal(answer, sample.expected)
    assert len(errors) <= 3 * CLIENTS
    _until(lambda: serve.replicas(sample, "stage-00-cpu") and not killed.is_running())
    assert_equal(serve.ask(sample), sample.expected)


def _until(true, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.05)


def test_more_than_the_queue_holds_is_refused(serve, exported):
    sample = exported("tagger")
    expected = sample.expected  # not in the threads: numpy reads headers with Python's parser, of which 3.11 can run but one

    def attempt(_number: int) -> str:
        try:
            assert_equal(serve.ask(sample), expected)
        except InferenceServerException as error:
            return str(error.status())
        return "answered"

    with ThreadPoolExecutor(16) as pool:
        found = set(pool.map(attempt, range(96)))
    assert found == {"answered", "503"}
    assert_equal(serve.ask(sample), sample.expected)


def test_an_error_of_a_stage_is_the_requests(serve, exported):
    sample = exported("detector")
    wrong = Exported(name=sample.name, model=sample.model, folder=sample.folder)
    with contextlib.closing(tritonclient.http.InferenceServerClient(serve.url(wrong.name))) as client:
        tensor = tritonclient.http.InferInput("image", [0, 5, 3], "UINT8")
        tensor.set_data_from_numpy(np.zeros((0, 5, 3), np.uint8))
        with pytest.raises(InferenceServerException, match="stage 0 failed on the cpu") as caught:
            client.infer(wrong.name, [tensor])
    assert caught.value.status() == "500"
    assert "Traceback" not in str(caught.value)
    assert_equal(serve.ask(sample), sample.expected)
