"""The commands ``torchcheck compare`` and ``torchcheck fleet``."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from pytest_torchcheck.benchmark import comparison, results, sides, tables
from pytest_torchcheck.benchmark import fleet as fleets
from pytest_torchcheck.command import CommandError, check_output, need, write, write_json
from pytest_torchcheck.report import changes
from pytest_torchcheck.report.from_json import SavedReportError, results_of

FAIL_ON = (comparison.SLOWER, comparison.INVALID, comparison.MISSING)
IMAGES = (".png", ".svg", ".pdf")


def compare(options: argparse.Namespace) -> int:
    """Compare benchmark files, or conformance reports, and return the exit status."""
    margin = _margin(options.margin)
    _check_outputs(options)
    _need_packages(options, "scipy")
    try:
        if _is_report(options.baseline):
            return _compare_reports(options)
        chosen = _fail_on(options.fail_on, comparison.VERDICTS, FAIL_ON)
        base, candidates = sides.sides(options.baseline, options.candidates, options.by)
    except results.ResultError as error:
        raise CommandError(str(error)) from error
    found = comparison.compare(base, candidates, margin=margin)
    if options.json:
        write_json(options.json, found.as_data())
    if options.html or options.plot:
        _draw_comparison(options, found)
    failures = found.failures(chosen)
    tables.show_comparison(found, failures)
    return int(bool(failures))


def _draw_comparison(options: argparse.Namespace, found: comparison.Comparison) -> None:
    from pytest_torchcheck.benchmark import page, plots

    if options.html:
        write(options.html, page.of_comparison(found))
    if options.plot:
        _write_plots(options.plot, plots.of_comparison(found))


def fleet(options: argparse.Namespace) -> int:
    """Compare the files in a folder with each other and return the exit status."""
    _check_outputs(options)
    _need_packages(options)
    folder = Path(options.folder)
    if not folder.is_dir():
        raise CommandError(f"{folder} is not a folder; name the one that holds the result files")
    try:
        paths = sides.files_of(options.folder)
        files = [results.read(path) for path in paths]
    except results.ResultError as error:
        raise CommandError(str(error)) from error
    cohorts = fleets.fleet(files, [str(path.relative_to(folder)) for path in paths])
    if options.json:
        write_json(options.json, fleets.as_data(cohorts))
    if options.html or options.plot:
        _draw_fleet(options, cohorts)
    tables.show_fleet(cohorts)
    return int(any(cohort.slow or cohort.invalid for cohort in cohorts))


def _draw_fleet(options: argparse.Namespace, cohorts: Sequence[fleets.Cohort]) -> None:
    from pytest_torchcheck.benchmark import page, plots

    if options.html:
        write(options.html, page.of_fleet(cohorts))
    if options.plot:
        _write_plots(options.plot, plots.of_fleet(cohorts))


def _is_report(argument: str) -> bool:
    path = Path(argument)
    return path.is_file() and results.is_conformance_report(results.read_json(path))


def _compare_reports(options: argparse.Namespace) -> int:
    if options.plot:
        raise CommandError("--plot draws benchmarks, and these are conformance reports; leave it out")
    chosen = _fail_on(options.fail_on, ("BROKEN", "NOT-RUN"), ("BROKEN", "NOT-RUN"))
    names = sides.short_names([options.baseline, *options.candidates])
    saved = []
    for argument in (options.baseline, *options.candidates):
        try:
            saved.append(results_of(results.read_json(Path(argument))))
        except SavedReportError as error:
            raise CommandError(f"{argument} is not a report that can be read: {error}") from error
    found = [
        change
        for name, candidate in zip(names[1:], saved[1:], strict=True)
        for change in changes.changes(saved[0], candidate, name)
    ]
    if options.json:
        write_json(options.json, changes.as_data(names[0], found))
    if options.html:
        from pytest_torchcheck.benchmark import page

        write(options.html, page.of_changes(names[0], found))
    tables.show_changes(names[0], found)
    bad = {changes.BROKEN: "BROKEN", changes.NOT_RUN: "NOT-RUN"}
    return int(any(bad.get(change.change) in chosen for change in found))


def _margin(text: str) -> float:
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = math.nan
    if not 0 <= value < 1:
        raise CommandError(f"--margin {text} is not valid; give a share from 0 up, below 1, such as 0.05 or 5%")
    return value


def _fail_on(text: str | None, valid: Sequence[str], default: Sequence[str]) -> tuple[str, ...]:
    if text is None:
        return tuple(default)
    names = [name.strip().upper() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in (*valid, "NONE"):
            listed = ", ".join(map(str.lower, valid))
            raise CommandError(f"--fail-on {name.lower()} is not valid; choose from {listed}, or none")
    return tuple(name for name in names if name != "NONE")


def _need_packages(options: argparse.Namespace, *more: str) -> None:
    """Refuse to begin without a package that the end needs."""
    for name in ("rich", *more, *(["matplotlib"] if options.html or options.plot else [])):
        need(name)


def _check_outputs(options: argparse.Namespace) -> None:
    check_output(options.json)
    check_output(options.html)
    if options.plot and Path(options.plot).suffix in IMAGES:
        check_output(options.plot)
    elif options.plot:
        _check_folder(Path(options.plot))


def _check_folder(path: Path) -> None:
    """Make sure that plots can go into a folder, which is made where only it is missing."""
    if path.exists() and not path.is_dir():
        raise CommandError(f"--plot {path} is a file; name a folder, or a file that ends with {', '.join(IMAGES)}")
    if not path.absolute().parent.is_dir():
        raise CommandError(f"--plot {path} cannot be made: {path.parent} is not a folder; create it first")


def _write_plots(target: str, figures: Mapping[str, object]) -> None:
    """Write each figure: into a folder as NAME.png, or beside the first one as STEM-NAME.SUFFIX."""
    from pytest_torchcheck.benchmark import plots

    path = Path(target)
    is_file = path.suffix in IMAGES
    if not is_file:
        path.mkdir(exist_ok=True)
    for number, (name, figure) in enumerate(figures.items()):
        if is_file:
            place = path if number == 0 else path.with_name(f"{path.stem}-{name}{path.suffix}")
        else:
            place = path / f"{name}.png"
        write(place, plots.render(figure, place.suffix[1:]))
