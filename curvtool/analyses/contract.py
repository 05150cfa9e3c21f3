"""What the folder of a kind of analysis holds, module by module. `curvtool.registry` lists the kinds.

To add a quantity: its estimator in `estimators/`, a folder like those beside this file, and a line in the registry. The
command, its help and completion, `run`, `track`, `compare`, the JSON Schema, pages and exports are made from these.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from rich.console import Console

from curvtool.linalg.space import VectorSpace
from curvtool.operators.curvature import CurvatureOperator
from curvtool.planning.needs import Need
from curvtool.render.chart_types import Chart
from curvtool.report.headline import Headline
from curvtool.report.numbers import Number
from curvtool.report.record import AnalysisRecord
from curvtool.session.stage import Stage


class SettingsModule(Protocol):
    """`settings.py`: fields are flags and keys of the project file; no torch."""

    SETTINGS: type[Any]  # a subclass of AnalysisSettings, whose docstring is the help of the command


class RecordModule(Protocol):
    """`record.py`: fields are those of the JSON report; no torch."""

    RECORD: type[Any]  # a subclass of AnalysisRecord


class RunModule(Protocol):
    """`run.py`. It may have `restated(record, config, checkpoint)` too: a row of `track` by the settings of now."""

    def run(self, stage: Stage, analysis: Any, /) -> AnalysisRecord:
        """From the settings to the record.

        The operator comes from `stage.checked_operator`, what an estimator returns from `stage.estimate`; at the end
        `add_common_warnings(stage, operator, is_zero, rtol)` adds the warnings that every analysis shares.
        """


class PlanModule(Protocol):
    """`plan.py`: for `--dry-run`. A kind that is of no matrix has `measured` instead; see that of `jacnorm`."""

    def need(self, settings: Any, operator: CurvatureOperator, space: VectorSpace, budget: int, /) -> Need:
        """How many products and vectors, as an order of magnitude."""


class ShowModule(Protocol):
    """`show.py`; no torch. It may have these too:

    - `notes(record)`: sentences below the tables.
    - `tables(record)`: more tables than that of `csv`, for a page.
    - `galleries(record)`: images.
    - `SHOWS_PREFLIGHT`: whether the preflight's numbers stand below.
    """

    TITLE: str

    def verdict(self, record: Any, /) -> list[str]:
        """What the numbers say, in sentences."""

    def show(self, record: Any, console: Console, /) -> None:
        """Tables and notes on a terminal."""

    def csv(self, record: Any, /) -> tuple[list[str], list[list[Any]]]:
        """Header and rows, at full precision."""

    def markdown(self, record: Any, /) -> list[str]:
        """Lines of Markdown."""

    def charts(self, record: Any, /) -> list[Chart]:
        """Pictures."""


class FactsModule(Protocol):
    """`facts.py`; no torch. A kind that may end unconverged has `not_converged(record, dtype) -> Warning` too."""

    BAND: str  # what the error bars of the first number are, as a caption

    def numbers(self, record: Any, noise: float, /) -> Iterator[Number]:
        """Every number that another report may have too, for comparisons and exports."""

    def headline(self, record: Any, /) -> Headline | None:
        """The first number, which `track` follows over training."""

    def words(self, record: Any, /) -> str:
        """What the first number is."""

    def name(self, record: Any, /) -> str:
        """The same as a column's header."""


PARTS = {
    "settings": SettingsModule,
    "record": RecordModule,
    "run": RunModule,
    "plan": PlanModule,
    "show": ShowModule,
    "facts": FactsModule,
}
