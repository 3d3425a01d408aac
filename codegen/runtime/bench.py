"""The command `python -m <package> bench`: throughput and latency of the pipeline, or of a server that runs."""

from __future__ import annotations

import argparse
import http.client
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from .arguments import add_knobs, integer, knobs, seconds
from .config import PlanConfig, TensorConfig, read_plan
from .dtypes import Value
from .errors import ConfigError
from .pipeline import Pipeline
from .samples import FILE, read_sample
from .validation import check_inputs
from .wire import encode_raw

Call = Callable[[], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a number of callers, each sending when its last answer is there, got.

    Args:
        concurrency: How many.
        throughput_per_s: Answers a second.
        p50_s: Median time of an answer.
        p99_s: 99th percentile of it.
        failed: Requests without an answer.
    """

    concurrency: int
    throughput_per_s: float
    p50_s: float
    p99_s: float
    failed: int


def main(argv: Sequence[str], folder: str | Path | None = None) -> int:
    """Measure and print; return the exit code."""
    options = _parser().parse_args(argv)
    root = Path(__file__).resolve().parent.parent if folder is None else Path(folder)
    plan = read_plan(root)
    sample = read_sample(plan, folder)
    if sample is None:
        raise ConfigError(f"the package has no {FILE} to send", where=str(root))
    levels = [int(word) for word in options.concurrency.split(",")]
    if options.url:
        found = [load(lambda: HttpCaller(options.url, plan, sample), level, options.seconds) for level in levels]
    else:
        with Pipeline.load(folder, **knobs(options)) as pipeline:
            found = [load(lambda: lambda: pipeline.run(sample), level, options.seconds) for level in levels]
    print(json.dumps([asdict(entry) for entry in found]) if options.json else _table(found))
    return 0


def load(caller: Callable[[], Call], concurrency: int, duration_s: float) -> Load:
    """Return what `concurrency` callers reach in about `duration_s` seconds.

    Counted are the answers between the moment at which every caller has had one and the moment at which they stop asking:
    while a pipeline fills or runs empty it is slower.

    Args:
        caller: Makes the function that one thread calls again and again.
        concurrency: How many threads.
        duration_s: How long.
    """
    window = _Window(concurrency, duration_s)
    answers: list[list[tuple[float, float]]] = [[] for _ in range(concurrency)]
    failed = [0] * concurrency

    def work(number: int) -> None:
        call = caller()
        while window.open:
            begin = time.perf_counter()
            try:
                call()
            except Exception:  # what a server refuses counts as failed, whatever it is
                failed[number] += 1
            else:
                answers[number].append((time.perf_counter(), begin))
            window.answered(number)
        close = getattr(call, "close", None)
        if close is not None:
            close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(concurrency)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counted = sorted(entry for own in answers for entry in own if window.begin <= entry[0] <= window.end)
    ordered = sorted(end - begin for end, begin in counted) or [float("nan")]
    return Load(
        concurrency=concurrency,
        throughput_per_s=rate([end for end, _ in counted], duration_s),
        p50_s=ordered[len(ordered) // 2],
        p99_s=ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))],
        failed=sum(failed),
    )


class _Window:
    """The time in which answers are counted: it begins when each caller has had its first."""

    def __init__(self, callers: int, duration_s: float) -> None:
        self._lock = threading.Lock()
        self._waiting = set(range(callers))
        self._duration_s = duration_s
        self.begin = self.end = float("inf")

    @property
    def open(self) -> bool:
        """Whether callers go on."""
        return time.perf_counter() < self.end

    def answered(self, number: int) -> None:
        """Note that a caller has had an answer, or a refusal."""
        if number not in self._waiting:
            return
        with self._lock:
            self._waiting.discard(number)
            if not self._waiting:
                self.begin = time.perf_counter()
                self.end = self.begin + self._duration_s


def rate(ends: Sequence[float], duration_s: float) -> float:
    """Return answers a second: the slope of the line through their times, by least squares.

    Answers come in bursts where several requests share a pipeline's devices, so their number over the time from the first
    to the last, or over any time, is off by up to a burst. With too few to tell, it is their number over the whole time.

    Args:
        ends: When each answer came, in order, in seconds.
        duration_s: The whole time.
    """
    if len(ends) < 2 or ends[-1] <= ends[0]:
        return len(ends) / duration_s if duration_s else 0.0
    times = np.asarray(ends) - np.mean(ends)
    return float(times @ np.arange(len(ends)) / (times @ times))


class HttpCaller:
    """Sends one request again and again over one connection, tensors as raw bytes.

    Args:
        url: The model's, as the server prints it.
        plan: The package's plan.
        inputs: One value an input.
    """

    def __init__(self, url: str, plan: PlanConfig, inputs: Mapping[str, Value]) -> None:
        self._body, header_length = encode_request(plan.inputs, inputs)
        parts = urlsplit(url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection = kind(parts.netloc, timeout=60)
        self._path = f"{parts.path}/infer"
        self._headers = {
            "Content-Type": "application/octet-stream",
            "Inference-Header-Content-Length": str(header_length),
        }

    def __call__(self) -> bytes:
        """Return the body of one answer.

        Raises:
            RuntimeError: If the status is not 200.
        """
        self._connection.request("POST", self._path, self._body, self._headers)
        response = self._connection.getresponse()
        body = response.read()
        if response.status != 200:
            raise RuntimeError(f"{response.status}: {body[:200]!r}")
        return body

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def encode_request(
    signature: Sequence[TensorConfig], inputs: Mapping[str, Value], *, binary_output: bool = True
) -> tuple[bytes, int]:
    """Return an inference request in the binary form, and the length of its JSON part.

    Args:
        signature: The model's inputs, tensors all.
        inputs: One value an input.
        binary_output: Whether the answer's tensors are to be raw too.
    """
    checked = check_inputs(signature, inputs)
    raw, entries = [], []
    for tensor in signature:
        assert tensor.element is not None
        array = checked[tensor.name]
        raw.append(encode_raw(array, tensor.element))
        entry = {"name": tensor.name, "datatype": tensor.element.datatype, "shape": list(array.shape)}
        entries.append(entry | {"parameters": {"binary_data_size": len(raw[-1])}})
    header = json.dumps({"inputs": entries, "parameters": {"binary_data_output": binary_output}}).encode()
    return b"".join([header, *raw]), len(header)


def _table(found: Sequence[Load]) -> str:
    lines = ["callers  requests/s  p50 ms  p99 ms  failed"]
    lines += [
        f"{entry.concurrency:7}  {entry.throughput_per_s:10.1f}  {entry.p50_s * 1e3:6.2f}  {entry.p99_s * 1e3:6.2f}"
        f"  {entry.failed:6}"
        for entry in found
    ]
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    package = __name__.split(".", maxsplit=1)[0]
    parser = argparse.ArgumentParser(
        prog=f"python -m {package} bench",
        description="Measure throughput and latency with the package's sample: of the pipeline, or of a server.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--url", help="the model's URL as a running server prints it; without one the pipeline is loaded here")
    parser.add_argument("--concurrency", type=_levels, default="1,4,8", help="numbers of callers, separated by commas")
    parser.add_argument("--seconds", type=seconds, default=5.0, help="how long each")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_knobs(parser)
    return parser


def _levels(text: str) -> str:
    for word in text.split(","):
        integer(1, 1024)(word)
    return text
