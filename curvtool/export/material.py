"""What every tracker is given of a report: numbers by tag, settings, and its pictures, page and JSON."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import PurePath
from typing import Any

from curvtool.errors import UsageError
from curvtool.render.formats import charts_of, content
from curvtool.report.headline import headline_of
from curvtool.report.model import Report, TrackRow
from curvtool.report.numbers import numbers_of, tag_of

PREFIX = "curvature/"
_SUFFIX = {"bound": "_error", "stderr": "_stderr", "interval": "_error"}
_NOT_IN_TAGS = re.compile(r"[^\w./-]+")  # what some tracker refuses


@dataclass(frozen=True)
class Run:
    """One run of a tracker: a report, or a training run's rows of `track`."""

    name: str
    found: Report | Sequence[TrackRow]

    def scalars(self, step: int = 0) -> Iterator[tuple[str, float, int]]:
        """Tag, value and step of every number, and of its error beside it.

        The tags are a `Monitor`'s: `curvature/lambda_max` and `curvature/lambda_max_error`, `curvature/trace` and
        `curvature/trace_stderr` (with its degrees of freedom, `curvature/trace_stderr_degrees`), `curvature/loss`;
        another matrix's begin as `curvature/ggn/`.

        Args:
            step: of a report; rows have their own.
        """
        if isinstance(self.found, Report):
            yield from _scalars_of(self.found, step)
            return
        for place, row in enumerate(self.found):
            yield from _scalars_of(row, row.step if row.step is not None else place)

    def settings(self) -> dict[str, Any]:
        """Facts and settings, flat, without those that are not known."""
        problem = self.found.problem if isinstance(self.found, Report) else self.found[0].problem
        told: dict[str, Any] = {
            "model": problem.model,
            "num_trainable": problem.num_trainable,
            "num_samples": problem.num_samples,
            "loss": problem.loss,
            "reduction": problem.reduction,
        }
        if isinstance(self.found, Report):
            prov = self.found.provenance
            facts = ("tool_version", "torch", "device_name", "dtype", "seed", "git_commit", "checkpoint_sha256",
                     "data_fingerprint")  # fmt: skip
            told |= {"status": self.found.status, **{name: getattr(prov, name) for name in facts}}
            given = (name for name, source in prov.config_sources.items() if source != "default")
            told |= {name: _at(prov.config, name) for name in given}
        else:
            told["status"] = "complete" if all(row.status == "complete" for row in self.found) else "not_converged"
        return {name: value for name, value in told.items() if value is not None}

    def warnings(self) -> list[str]:
        """A line a warning."""
        if isinstance(self.found, Report):
            return [f"{each.code}: {each.message}" for each in self.found.warnings]
        return [f"{row.checkpoint}: {each.code}: {each.message}" for row in self.found for each in row.warnings]

    def pictures(self) -> Iterator[tuple[str, bytes]]:
        """A PNG a chart, by a name made of its title; none without matplotlib."""
        if find_spec("matplotlib") is None:
            return
        from curvtool.render.pictures import draw

        seen: dict[str, int] = {}
        for chart in charts_of(self.found):
            name = clean(chart.title.lower()).strip("_")
            seen[name] = seen.get(name, 0) + 1
            yield name + (f"_{seen[name]}" if seen[name] > 1 else ""), draw([chart], "png")

    def files(self) -> Iterator[tuple[str, bytes]]:
        """The report as JSON and Markdown, and as a page where the extra `plot` is installed."""
        rows = not isinstance(self.found, Report)
        yield "track.jsonl" if rows else "report.json", content(self.found, "json")
        yield "report.md", content(self.found, "md")
        if find_spec("uplot") is not None and find_spec("jinja2") is not None:
            yield "report.html", content(self.found, "html")


def runs_of(name: str, found: Report | Sequence[TrackRow]) -> list[Run]:
    """A report is one run; the rows of several training runs are one each.

    Raises:
        UsageError: CT001, a name that is none: a run is a folder for some trackers, and stays within theirs.
    """
    if not name.strip(". ") or "/" in name or "\\" in name:
        raise UsageError(
            "CT001",
            "no such name of a run",
            expected="one without slashes",
            received=repr(name),
            remedy="--name run",
        )
    if isinstance(found, Report):
        return [Run(name, found)]
    runs = dict.fromkeys(row.run for row in found)
    if len(runs) == 1:
        return [Run(name, found)]
    return [Run(f"{name}-{PurePath(run).name}", [row for row in found if row.run == run]) for run in runs]


def clean(tag: str) -> str:
    """With letters, digits, `_`, `-`, `.` and single `/` alone."""
    return re.sub("/+", "/", _NOT_IN_TAGS.sub("_", tag)).strip("/")


def missing(package: str, extra: str, error: ImportError) -> UsageError:
    """CT005: the tracker's own package is not installed."""
    return UsageError(
        "CT005",
        f"{package} is not installed",
        expected=f"the extra `{extra}`",
        received=str(error),
        remedy=f"pip install 'curvtool[{extra}]'",
    )


def _scalars_of(found: Report | TrackRow, step: int) -> Iterator[tuple[str, float, int]]:
    seen: dict[str, int] = {}
    for number in numbers_of(found):
        tag, value = PREFIX + clean(number.tag), number.value
        seen[tag] = seen.get(tag, 0) + 1
        if seen[tag] > 1:  # the same analysis twice in a report, or names that differ in what trackers refuse
            tag += f"_again_{seen[tag]}"
        yield tag, value.value, step
        yield tag + _SUFFIX[value.error_kind], value.error, step
        if value.error_kind == "stderr" and value.degrees_of_freedom is not None:
            yield tag + "_stderr_degrees", value.degrees_of_freedom, step
        if value.data_stderr is not None:
            yield tag + "_data_stderr", value.data_stderr, step
        if value.population is not None:
            yield tag + "_population_low", value.population[0], step
            yield tag + "_population_high", value.population[1], step
    ratios = {}
    for each in found.analyses:
        first = headline_of(each)
        if first is not None and first.ratio is not None:
            ratios[tag_of(getattr(each, "operator", "hessian"), first.ratio.tag)] = first.ratio
    for tag, ratio in ratios.items():
        yield PREFIX + tag, ratio.value, step
        yield f"{PREFIX}{tag}_error", ratio.error, step


def _at(config: dict[str, Any], name: str) -> Any:
    value: Any = config
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value
