"""The emitted repositories in a real Triton: equal answers over both protocols, errors that stay with their request."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

from tests.e2e.exports import SAMPLES, Exported, Triton, require, triton_server
from tests.e2e.harness import ask, assert_equal, whole_model

CASES = [pytest.param(name, marks=pytest.mark.network) if name == "orientation-jpeg" else name for name in SAMPLES]


@pytest.fixture(scope="module")
def batched(tmp_path_factory, long_cutset, cnn_file) -> Exported:
    """A network whose stage takes requests of several clients in one run."""
    require("triton")
    folder = tmp_path_factory.mktemp("batched") / "out"
    done = long_cutset.partition(cnn_file, folder, "--pin", "*=gpu", "--batch", "4", "--emit", "triton", "--name", "A CNN")
    assert done.code == 0, done.err
    return Exported(name="A~20CNN", model=cnn_file, folder=folder)


@pytest.fixture(scope="module")
def triton(exported, batched, tmp_path_factory) -> Iterator[Triton]:
    repositories = [batched.folder / "triton" / "model_repository"]
    for name in SAMPLES:
        with contextlib.suppress(pytest.skip.Exception):
            repositories.append(exported(name).folder / "triton" / "model_repository")
    with triton_server(repositories, tmp_path_factory.mktemp("triton") / "log") as server:
        yield server


def ask_grpc(address: str, name: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    with contextlib.closing(tritonclient.grpc.InferenceServerClient(address)) as client:
        types = {entry.name: entry.datatype for entry in client.get_model_metadata(name).inputs}
        tensors = []
        for key, array in inputs.items():
            tensors.append(tritonclient.grpc.InferInput(key, list(array.shape), types[key]))
            tensors[-1].set_data_from_numpy(array)
        reply = client.infer(name, tensors)
        outputs = {entry.name: reply.as_numpy(entry.name) for entry in reply.get_response().outputs}
    return {key: np.char.decode(a.astype("S")) if a.dtype == object else a for key, a in outputs.items()}


@pytest.mark.parametrize("name", CASES)
def test_it_answers_as_the_whole_model(triton, exported, name):
    sample = exported(name)
    assert_equal(ask(f"http://{triton.http}/v2/models/{name}", sample.inputs), sample.expected)
    assert_equal(ask_grpc(triton.grpc, name, sample.inputs), sample.expected)


def test_requests_that_share_a_run_get_their_own_rows(triton, batched):
    rng = np.random.default_rng(0)
    requests = [{"x": rng.random((rows, 3, 8, 8), np.float32)} for rows in (1, 2, 1, 3) * 8]
    expected = [whole_model(batched.model, inputs) for inputs in requests]
    with ThreadPoolExecutor(8) as pool:
        url = f"http://{triton.http}/v2/models/{batched.name}"
        for found, wanted in zip(pool.map(lambda inputs: ask(url, inputs), requests), expected, strict=True):
            assert_equal(found, wanted)
    with contextlib.closing(tritonclient.http.InferenceServerClient(triton.http)) as client:
        (config,) = [entry for entry in client.get_model_repository_index() if entry["name"].startswith("A~20CNN.")]
        assert client.get_model_config(config["name"])["max_batch_size"] == 4


def test_a_request_that_fails_in_a_stage_fails_alone(triton, exported):
    sample = exported("detector")
    url = f"http://{triton.http}/v2/models/{sample.name}"
    with pytest.raises(InferenceServerException, match="stage 0 failed on the cpu"):
        ask(url, {"image": np.zeros((0, 5, 3), np.uint8)})
    assert_equal(ask(url, sample.inputs), sample.expected)


@pytest.mark.network
def test_a_stage_whose_process_dies_comes_back(triton, exported):
    """The JPEG library behind the custom operator ends the process when it is given something else."""
    sample = exported("orientation-jpeg")
    (name,) = sample.inputs
    url = f"http://{triton.http}/v2/models/{sample.name}"
    with pytest.raises(InferenceServerException):
        ask(url, {name: np.zeros(16, np.uint8)})
    for _ in range(20):
        with contextlib.suppress(InferenceServerException):
            assert_equal(ask(url, sample.inputs), sample.expected)
            return
        time.sleep(0.5)
    pytest.fail("the stage did not come back")
