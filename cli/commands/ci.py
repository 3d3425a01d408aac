"""`cutset ci`: hold deployments against a baseline, and fail when one got worse."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from cutset import serde
from cutset.advisory import SkippedSteps, recording
from cutset.cli.arguments import CostArguments, ModelArguments, split_arguments
from cutset.cli.backend import backend_option
from cutset.cli.ci_files import Files, check_comment, write_ci_files
from cutset.cli.ci_init import init
from cutset.cli.continuous import Examined, Settings, examine, like_baseline, take
from cutset.cli.engines import EngineArguments, engine_options
from cutset.cli.options import Number, cost_options, model_options, shared
from cutset.cli.output import Output
from cutset.cli.plan_arguments import PlanArguments, plan_options, served_name
from cutset.cli.planning import Planner
from cutset.codegen.atomic import check_target, new_folder
from cutset.codegen.ci.baseline import Baseline, pick, read_baseline, updated, write_baseline
from cutset.codegen.ci.document import document, model_document
from cutset.codegen.ci.limits import CHECKS, parse_limits, shown_limit
from cutset.codegen.ci.record import machine_of
from cutset.codegen.numerics import Tolerance
from cutset.codegen.package import package_name
from cutset.codegen.report.text import counted
from cutset.errors import UsageError
from cutset.profilers.environment import environment

REGRESSION = 5
"""Exit code of a regression."""

DEFAULTS = ", ".join(f"{name}={shown_limit(name, check.default)}" for name, check in CHECKS.items())


@click.command(name="ci")
@click.argument("models", nargs=-1, metavar="MODEL...", type=click.Path(path_type=Path))
@click.option(
    "--baseline", type=click.Path(path_type=Path), default=Path("cutset-baseline.json"), show_default=True,
    help="What deployments were like; kept in the repository, an entry for each model on each machine.",
)  # fmt: skip
@click.option("--update", is_flag=True, help="Put what is found now into the baseline instead of judging it.")
@click.option(
    "--fail-on", "limits", multiple=True, metavar="CHECK=LIMIT,...",
    help=f"What counts as a regression, if it is more than noise too. The defaults: {DEFAULTS}.",
)  # fmt: skip
@click.option(
    "--repeats", type=click.IntRange(1, 100), default=3, show_default=True, help="Measurements of a model for the baseline."
)
@click.option(
    "--again", type=click.IntRange(0, 100), default=2, show_default=True,
    help="Most further measurements of what looks like a regression before it fails.",
)  # fmt: skip
@click.option(
    "--bench", "bench_s", type=Number(min=1, max=3600), metavar="S",
    help="Run each package for so many seconds against the unsplit model too, and compare the measured gain.",
)  # fmt: skip
@click.option(
    "-o", "--output", "target_dir", type=click.Path(path_type=Path), default=Path("cutset-ci"), show_default=True,
    help="Folder for JUnit, Markdown, JSON and the packages with their reports; replaced if it is one of cutset.",
)  # fmt: skip
@click.option(
    "--comment", type=click.Path(path_type=Path), metavar="FILE",
    help="Template of a comment; filled in, it is written to comment.md.",
)  # fmt: skip
@click.option(
    "--init", "wanted", is_flag=True,
    help="Write a GitHub workflow, a GitLab job and the template of a comment for MODEL... into this folder, and stop.",
)  # fmt: skip
@click.option("--force", is_flag=True, help="With --init, replace files that exist.")
@click.option("--rtol", type=Number(min=0), help="Relative tolerance of the verification.")
@click.option("--atol", type=Number(min=0), help="Absolute tolerance of the verification.")
@backend_option
@engine_options
@plan_options
@model_options
@cost_options
@shared
def command(models: tuple[Path, ...], target_dir: Path, output: Output, **arguments: Any) -> int:
    """Measure, plan, emit and verify each MODEL, and compare it with the baseline: exit code 5 if one got worse.

    What looks like a regression is measured again before it fails. Times are compared at one speed of the machine, which
    the work that did not change tells. A baseline of another machine is compared in what does not depend on it.
    """
    if arguments.pop("wanted"):
        return _init(arguments["force"], output)
    names = _names(models)
    baseline_path, update = arguments.pop("baseline"), arguments.pop("update")
    files = Files(comment=check_comment(arguments.pop("comment")))
    arguments.pop("force")
    check_target(target_dir, force=True)
    baseline = _baseline(baseline_path, update=update)
    prepared = [_prepare(model, dict(arguments), output) for model in models]
    if not update:  # before anything is measured
        for planner, settings in prepared:
            pick(baseline, planner.wanted.name, settings.options, _here())
    found = []
    with new_folder(target_dir, force=True) as work:
        for planner, settings in prepared:
            with output.progress() as progress, recording(SkippedSteps(lambda skipped: output.notice(str(skipped)))):
                examined = _examine(
                    replace(planner, progress=progress),
                    settings,
                    None if update else baseline,
                    work / names[planner.about.model],
                )
            baseline = updated(baseline, examined.record)
            found.append(_document(examined, settings))
        result = document(found, str(baseline_path))
        if update:
            write_baseline(baseline_path, baseline)
        write_ci_files(result, files, work, output)
    _show(result, target_dir, output)
    return REGRESSION if result["verdict"] == "regression" else 0


def _init(force: bool, output: Output) -> int:
    written = init(click.get_current_context(), force=force)
    if output.as_json:
        output.json({"written": [str(path) for path in written]})
    else:
        for path in written:
            output.line(f"wrote {path}")
        output.line("take a baseline on the machine that will run the job, and commit it: see the first lines of the workflow")
    return 0


def _names(models: tuple[Path, ...]) -> dict[Path, str]:
    """Return the folder of each model inside the output.

    Raises:
        UsageError: If there is no model, or two would share a name.
    """
    if not models:
        raise UsageError("no model was given", hint="cutset ci MODEL.onnx --baseline cutset-baseline.json")
    names = {model: package_name(served_name(None, model)).removesuffix("_serving") for model in models}
    twice = sorted(name for name in names.values() if list(names.values()).count(name) > 1)
    if twice or len(names) < len(models):
        raise UsageError(
            f"two models are called {(twice or [models[0].stem])[0]!r}", hint="entries of a baseline go by file names"
        )
    return names


def _baseline(path: Path, *, update: bool) -> Baseline:
    if path.is_file():
        return read_baseline(path)
    if not update:
        raise UsageError(f"there is no baseline {path}", hint="take one on this machine and commit it: add --update")
    return Baseline()


def _prepare(model: Path, arguments: dict[str, Any], output: Output) -> tuple[Planner, Settings]:
    """Return what measures and plans a model, and how it is examined."""
    limits = parse_limits(arguments.pop("limits"))
    repeats, again = arguments.pop("repeats"), arguments.pop("again")
    tolerance = Tolerance(rtol=arguments.pop("rtol"), atol=arguments.pop("atol"))
    gpu_backend, bench_s = arguments.pop("gpu_backend"), arguments.pop("bench_s")
    engines = EngineArguments.take(arguments)
    wanted = PlanArguments.take(served_name(None, model), arguments)
    if wanted.calibrate:
        raise UsageError("--calibrate measures at the speed of the moment, which is not the baseline's", hint="leave it out")
    about, costs = split_arguments(model, arguments)
    costs = replace(costs, fresh=True)
    settings = Settings(
        repeats=repeats, again=again, limits=limits, tolerance=tolerance, gpu_backend=gpu_backend, engines=engines,
        bench_s=bench_s, options=_options(about, costs, wanted, engines, gpu_backend), command=tuple(sys.argv),
    )  # fmt: skip
    planner = Planner(
        about=about, costs=costs, wanted=wanted, output=output, progress=lambda _text: None, engines=engines
    )  # fmt: skip
    return planner, settings


def _options(
    about: ModelArguments, costs: CostArguments, wanted: PlanArguments, engines: EngineArguments, gpu_backend: str
) -> dict[str, Any]:
    """Return what decides whether a record can be compared with another, beside the machine."""
    settings = {key: None if value == math.inf else value for key, value in wanted.settings.items()}
    return {
        "target": costs.target,
        "batch": costs.batch,
        "threads": costs.threads,
        "optimization": costs.optimization,
        "precision": engines.precision,
        "gpu_backend": gpu_backend,
        "shapes": list(about.shapes),
        "seed": about.seed,
        "cpu_workers": wanted.workers,
        "slo_s": wanted.slo_s,
        "pins": [f"{pin.pattern}={pin.device}" for pin in wanted.pins],
        **settings,
    }


def _here() -> dict[str, Any]:
    return machine_of(serde.to_builtins(environment()))


def _examine(planner: Planner, settings: Settings, baseline: Baseline | None, folder: Path) -> Examined:
    if baseline is None:
        return take(planner, settings, folder)
    then = pick(baseline, planner.wanted.name, settings.options, _here())
    if then.machine == _here():
        planner = like_baseline(planner, then)
    return examine(planner, settings, then, folder)


def _document(examined: Examined, settings: Settings) -> dict[str, Any]:
    return model_document(
        examined.record, examined.case, examined.findings, settings.limits, measured=examined.measured,
        report=f"{examined.folder.name}/report.html",
    )  # fmt: skip


def _show(found: dict[str, Any], target: Path, output: Output) -> None:
    """Write the verdict."""
    if output.as_json:
        output.json({**found, "directory": str(target)})
        return
    for model in found["models"]:
        output.line(f"{model['name']}: {model['headline']} (measured {counted(model['measured'], 'time')})")
        for note in model.get("notes", ()):
            output.line(f"  {note}")
        for line in _lines(model["findings"]):
            output.line(f"  {line}")
        output.line(f"  report: {target / model['report']}")
    if found["verdict"] == "taken":
        output.line(f"baseline: {found['baseline']}; commit it")


def _lines(findings: Iterable[dict[str, Any]]) -> list[str]:
    return [f"{finding['word']}: {finding['sentence']}" for finding in findings]
