"""From a choice about atoms to a plan about nodes: stages, devices, reasons, what crosses, and what to expect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from cutset.graph.model import ModelGraph
from cutset.partitioner.atoms import Atom, least_sure
from cutset.partitioner.baselines import WITHIN_LIMITS, WORDS, Baseline
from cutset.partitioner.cost import Costed
from cutset.partitioner.decide import Candidate, Case, Choice, operation_of
from cutset.partitioner.judge import MIN_GAIN, refused_split
from cutset.partitioner.options import PlanOptions
from cutset.partitioner.plan import BoundaryTensor, Part, Plan, Prediction, Stage, finite, form_stages
from cutset.partitioner.problem import CPU, GPU, RESOURCES, IntArray, Placement
from cutset.partitioner.reasons import Moves, reasons_of
from cutset.partitioner.simulate import Simulation
from cutset.partitioner.sizing import front_of, points_of
from cutset.partitioner.solve import Solution
from cutset.profilers.table import CostTable

DEVICES = {CPU: "cpu", GPU: "gpu"}

BOTTLENECKS = {"cpu": "CPU", "gpu": "GPU", "h2d": "copy to the GPU", "d2h": "copy to the host"}


def parts_of(graph: ModelGraph, costed: Costed, placement: Placement, labels: IntArray) -> list[Part]:
    """Return the nodes of each phase; labels that hold no node are left out by `form_stages`."""
    labels = labels[: len(costed.atoms)]
    order = {node.name: index for index, node in enumerate(graph.nodes)}
    parts = []
    for label in sorted({int(label) for label in labels}):
        members = [atom for atom, found in zip(costed.atoms, labels, strict=True) if found == label]
        indices = [index for index, found in enumerate(labels) if found == label]
        device = DEVICES[int(placement[indices[0]])]
        costs = costed.problem.cpu_s if device == "cpu" else costed.problem.gpu_s
        parts.append(
            Part(
                device=device,
                nodes=tuple(sorted((name for atom in members for name in atom.nodes), key=order.__getitem__)),
                service_s=float(sum(costs[index] for index in indices)),
                source="measured" if device == "cpu" else least_sure(atom.gpu_source for atom in members),
            )
        )
    return parts


def node_placement(graph: ModelGraph, atoms: Sequence[Atom], placement: Placement) -> dict[str, str]:
    """Return the device of every node; constant nodes follow their first reader, dead ones stay on the CPU."""
    found = {name: DEVICES[int(placement[index])] for index, atom in enumerate(atoms) for name in atom.nodes}
    for node in reversed(graph.nodes):
        if node.name not in found:
            readers = (found.get(reader) for output in node.outputs for reader in graph.consumers.get(output, ()))
            found[node.name] = next((device for device in readers if device), "cpu")
    return {node.name: found[node.name] for node in graph.nodes}


def boundary_of(graph: ModelGraph, table: CostTable, stages: Sequence[Stage]) -> tuple[BoundaryTensor, ...]:
    """Return the values that stages exchange, with bytes and transfer time where they change device."""
    writer = {value: stage for stage in stages for value in stage.outputs}
    found = []
    for value, stage in writer.items():
        readers = [other for other in stages if value in other.inputs]
        if not readers:
            continue
        size = graph.nbytes(value) if graph.knows_shape(value) and graph.values[value].is_tensor else None
        crossings = {"h2d" if reader.device == "gpu" else "d2h" for reader in readers if reader.device != stage.device}
        transfers = [t for t in table.transfers if t.direction in crossings]
        found.append(
            BoundaryTensor(
                spec=graph.values[value],
                size_bytes=size,
                producer=stage.index,
                consumers=tuple(reader.index for reader in readers),
                transfer_s=sum(transfer.seconds(size or 0) for transfer in transfers),
            )
        )
    return tuple(found)


def assemble(case: Case, costed: Costed, solution: Solution, choice: Choice) -> Plan:
    """Return the plan that deploys a choice."""
    chosen = choice.candidate
    graph, table, options = case.evidence.graph, case.evidence.table, case.options
    machine = options.machine
    parts = parts_of(graph, costed, chosen.placement, chosen.evaluation.labels)
    if chosen.decision == "unsplit-cpu":  # nothing is cut, so nothing costs its unfused price
        parts = [replace(part, service_s=chosen.latency_s) for part in parts]
    stages = form_stages(graph, parts)
    placement = node_placement(graph, costed.atoms, chosen.placement)
    workers = machine.cores if chosen.decision == "unsplit-cpu" else machine.cpu_workers
    tokens, loaded = operation_of(case, chosen)
    prediction = _prediction(case, solution, chosen, loaded)
    moves = None
    if chosen.decision == "split":
        moves = Moves(costed, chosen.placement, chosen.evaluation, options.max_stages)
    return Plan(
        name=options.name,
        model={"file": table.model.file, "sha256": table.model.sha256, "nodes": table.model.nodes},
        target=_target(table),
        objective=options.objective,
        options={
            "max_stages": options.max_stages,
            "min_gpu_nodes": options.min_gpu_nodes,
            "flow": options.flow,
            "slo_s": options.slo_s,
            "seed": options.seed,
        },
        decision=chosen.decision,
        verdict=". ".join([_verdict(choice, prediction, table, options), *_others(case, solution, choice)]),
        cpu_workers=workers,
        intra_op_threads=options.threads,
        batch=machine.batch,
        tokens=tokens,
        queue_limit=max(64, 8 * tokens),
        inputs=graph.inputs,
        outputs=graph.outputs,
        placement=placement,
        reasons=reasons_of(graph, costed, chosen.placement, moves),
        pins={name: pin.device for name, pin in case.evidence.pins.items()},
        stages=stages,
        steps=chosen.steps,
        boundary=boundary_of(graph, table, stages),
        prediction=prediction,
        baselines=_baselines(solution, choice, machine.batch),
        comparison=choice.judgement.as_json(),
        robustness=choice.robustness,
        pareto=front_of(points_of(case, chosen)),
        notes=solution.notes,
    )


def _prediction(case: Case, solution: Solution, chosen: Candidate, loaded: Simulation) -> Prediction:
    """Return what the chosen placement should reach.

    The bound is of the cost model with the pool's workers; replicas on every core can be quicker than it allows.
    """
    evaluation = chosen.evaluation
    throughput = finite(chosen.throughput_per_s)
    servers = chosen.servers
    value_s = 1 / case.score(chosen)
    a_request = case.options.objective == "throughput"
    bound_s = min(solution.lower_bound_s * (1 if a_request else case.options.machine.batch), value_s)
    return Prediction(
        latency_s=chosen.latency_s,
        throughput_per_s=throughput,
        bottleneck=evaluation.bottleneck,
        utilisation={name: float(evaluation.demand_s[name]) * throughput / servers.get(name, 1) for name in RESOURCES},
        lower_bound_s=bound_s,
        gap=value_s / bound_s - 1 if bound_s > 0 else 0.0,
        loaded_latency_s=loaded.latency_p50_s,
    )


def _baselines(solution: Solution, choice: Choice, batch: int) -> dict[str, Any]:
    """Return what each baseline reaches, None for the impossible, and whether a package could be made of it."""
    found = {
        name: baseline and _baseline_json(baseline, batch, deployable=_deployable(baseline, choice))
        for name, baseline in solution.baselines.items()
    }
    limited = choice.alternatives.get(WITHIN_LIMITS)
    if limited is not None:
        found[WITHIN_LIMITS] = {
            "throughput_per_s": finite(limited.throughput_per_s),
            "latency_s": finite(limited.latency_s),
            "stages": limited.evaluation.stages,
            "deployable": True,
        }
    return found


def _deployable(baseline: Baseline, choice: Choice) -> bool:
    """Return whether a package can be made of a baseline within the limits."""
    placement = baseline.placement
    return placement is not None and any(np.array_equal(placement, plan.placement) for plan in choice.alternatives.values())


def _baseline_json(baseline: Baseline, batch: int, *, deployable: bool) -> dict[str, Any]:
    return {
        "throughput_per_s": finite(baseline.throughput_per_s),
        "latency_s": finite(baseline.latency_s * batch),
        "stages": baseline.stages,
        "deployable": deployable,
    }


def _target(table: CostTable) -> dict[str, Any]:
    environment = table.environment
    gpu = table.target
    return {
        "cpu": {"name": environment.get("cpu"), "cores": environment.get("usable_cores")},
        "gpu": None if gpu is None else dict(gpu),
        "source": "measured" if gpu is None else gpu.get("source", "modelled"),
    }


def _verdict(choice: Choice, prediction: Prediction, table: CostTable, options: PlanOptions) -> str:
    """Return the headline: the kind of plan, the predicted number, and the gain over the best other plan."""
    decision, gpu = choice.candidate.decision, table.target
    about = f" ({gpu.get('source')} for {gpu.get('name')})" if gpu else ""
    rate, latency = f"{prediction.throughput_per_s:.1f} requests/s", f"{prediction.latency_s * 1e3:.2f} ms"
    number = rate if options.objective == "throughput" else latency
    if decision == "split":
        what = "split" if choice.simple is None else f"split, {WORDS[choice.simple]}"
        bottleneck = BOTTLENECKS[prediction.bottleneck]
        return f"{what}: {number} predicted, {choice.why}{about}; the bottleneck is the {bottleneck}"
    why = "no GPU was named" if gpu is None else f"{choice.why}{about}"
    where = "CPU" if decision == "unsplit-cpu" else "GPU"
    return f"leave it whole on the {where}: {why}; {number} predicted"


def _others(case: Case, solution: Solution, choice: Choice) -> list[str]:
    """Return what follows the headline, in sentences: the split that was refused, and what is better but no package can be."""
    refused = refused_split(choice.judgement)
    found = [refused] if refused and case.evidence.table.target is not None else []
    if case.options.objective != "throughput" or case.options.slo_s is not None:
        return found
    for name, baseline in solution.baselines.items():
        routes = [solution.baselines[route] for route in baseline.routes] if baseline is not None else []
        parts_too = all(route is not None and _deployable(route, choice) for route in routes)
        if baseline is None or _deployable(baseline, choice) or not parts_too:
            continue
        gain = baseline.throughput_per_s / choice.candidate.throughput_per_s
        if gain > 1 + MIN_GAIN:
            why = "which no package does" if name == "mix" else "which is over the limits"
            words = WORDS[name]
            found.append(f"{words[:1].upper()}{words[1:]}, {why}, would give {gain:.2f}x of this")
    return found
