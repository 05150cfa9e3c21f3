"""`track`: the same analyses over the checkpoints of a training run."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import torch

from curvtool.cluster.solo import Solo
from curvtool.config.schema import RunConfig
from curvtool.errors import CurvtoolError, DerivativeError, LoadError, RankLost, StopRequested, UsageError
from curvtool.estimators.observer import SILENT, Observer
from curvtool.problem.checkpoints import sniff
from curvtool.problem.data import Data
from curvtool.problem.vectors import load_vectors, stacked_parts, to_bytes
from curvtool.report import model as report
from curvtool.report.rows import append_row, read_rows
from curvtool.report.write import check_writable, write_atomic
from curvtool.resume.identity import fingerprint
from curvtool.resume.ledger import Keeping
from curvtool.session.load import Loaded, load
from curvtool.session.run import most_demanding, run_all
from curvtool.tracking.checkpoints import step_of
from curvtool.tracking.known_rows import differing, restated
from curvtool.vocabulary import Start

STARTS = ("auto", "cold", "warm")
_REMEMBERED = 5  # turns of a start; training changes
_LEAST_TURNS = 3
_CLEARLY = 1.2  # so much do cold starts differ from checkpoint to checkpoint; vectors of no use cost a few products


class Track:
    """Args:
    configs: the analyses, with the first checkpoint.
    paths: the checkpoints, one run after the other, each in the order of its steps.
    target: the file of JSON lines.
    shard: `i/n`, told in the file's name where there is one.
    start: `cold`, `warm`, or `auto`.
    cluster: the ranks that share the work.
    keeping: where the state within a checkpoint is kept, if anywhere.
    was_asked: whether a signal came.
    """

    def __init__(
        self,
        configs: Sequence[RunConfig],
        paths: Sequence[Path],
        target: Path,
        shard: str | None,
        start: str,
        cluster: Solo,
        keeping: Keeping | None,
        was_asked: Callable[[], bool],
    ) -> None:
        if start not in STARTS:
            raise UsageError(
                "CT001", f"no such start {start!r}", expected=", ".join(STARTS), received=start, remedy="start='auto'"
            )
        if shard is not None:
            target = target.with_name(f"{target.stem}.{shard.replace('/', '-of-')}{target.suffix}")
        self.configs, self.paths, self.target, self.cluster = configs, paths, target, cluster
        self.keeping, self.was_asked = keeping, was_asked
        self.was_stopped = False
        self.failed: CurvtoolError | None = None  # the first checkpoint that was left out, and why
        self._choice = _Choice(start)
        self._vectors_file = target.with_name(target.name + ".vectors.safetensors")
        cluster.first(lambda: check_writable(target))
        self._there: dict[str, report.TrackRow] = {}
        self._data: Data | None = None
        self._vectors: torch.Tensor | None = None  # of the checkpoint before

    def rows(self, observer: Observer) -> Iterator[report.TrackRow]:
        """The rows in order, those that are there already first; each new one is on the disk when it is given.

        Raises:
            CurvtoolError: the rows cannot be written, or are of other settings. A checkpoint that cannot be loaded or
                analysed is left out, and `failed` says why.
        """
        self._there = {row.checkpoint: restated(row, self.configs) for row in read_rows(self.target)}
        self.cluster.first(self._write_restated)
        self.cluster.barrier()
        before: Path | None = None
        for number, path in enumerate(self.paths):
            if before is None or before.parent != path.parent:  # vectors of another run are of no use
                self._vectors, before = None, None
            row = self._there.get(str(path))
            if row is not None:
                self._check_known(path, row)
            else:
                row = self._new_row(number, path, before is not None, observer)
            before = path
            if self.was_stopped:
                return
            if row is not None:
                self._choice.learn(row)
                yield row

    def _write_restated(self) -> None:
        lines = [json.dumps(row.model_dump(mode="json"), allow_nan=False) + "\n" for row in self._there.values()]
        if lines and "".join(lines).encode() != self.target.read_bytes():
            write_atomic(self.target, "".join(lines).encode())

    def _check_known(self, path: Path, row: report.TrackRow) -> None:
        """A row from before must be of the file that is there, and of these settings."""
        if sniff.sha256(path) != row.checkpoint_sha256:
            raise LoadError(
                "CT063",
                f"{path} is another file than when its row was written",
                expected="the checkpoints as they were",
                received="another checksum",
                remedy="another file for the rows (-o)",
            )
        if self._data is None:
            configs = self._configs_of(path)
            loaded = load(most_demanding(configs), SILENT, self.cluster)
            self._data = loaded.problem.data
            self._check_settings(configs, loaded)

    def _new_row(self, number: int, path: Path, follows: bool, observer: Observer) -> report.TrackRow | None:
        """None where the checkpoint is left out, or the run was stopped."""
        configs = self._configs_of(path)
        observer.begin(f"checkpoint {number + 1} of {len(self.paths)}: {path.name}")
        try:  # what is told of the data and the settings is told once
            loaded = load(most_demanding(configs), observer if self._data is None else SILENT, self.cluster, self._data)
        except LoadError as error:
            self._leave_out(path, error, observer)
            return None
        self._data = loaded.problem.data
        self._check_settings(configs, loaded)
        if self._vectors is None and follows:
            self._vectors = self._vectors_before(loaded)
        start = self._choice.pick(self._vectors is not None)
        vectors = self._vectors if start == "warm" else None
        keeping = self._keeping_of(number)
        try:
            outcome = run_all(configs, observer, self.cluster, keeping, self.was_asked, loaded, vectors)
        except StopRequested:
            self.was_stopped = True
            return None
        except (LoadError, DerivativeError) as error:
            self._leave_out(path, error, observer)
            return None
        if isinstance(outcome.stopped, RankLost):
            raise outcome.stopped
        if isinstance(outcome.stopped, CurvtoolError):
            self._leave_out(path, outcome.stopped, observer)
            return None
        if outcome.stopped is not None:
            self.was_stopped = True
            return None
        row = self._row(path, start, outcome.report, configs, loaded)
        pairs = next(iter(outcome.pairs.values()), None)
        self._vectors = None if pairs is None else pairs.vectors
        if self._vectors is not None and self.cluster.size == 1:
            self._write_vectors(loaded, self._vectors, path)
        self.cluster.first(lambda: append_row(self.target, row))
        if keeping is not None and self.cluster.is_first:
            shutil.rmtree(keeping.path, ignore_errors=True)
        self._there[str(path)] = row
        return row

    def _configs_of(self, path: Path) -> list[RunConfig]:
        return [replace(c, model=replace(c.model, checkpoint=str(path))) for c in self.configs]

    def _leave_out(self, path: Path, error: CurvtoolError, observer: Observer) -> None:
        self.failed = self.failed or error
        observer.notice(f"{path}: {error.message}; left out")

    def _row(
        self,
        path: Path,
        start: Start,
        found: report.Report,
        configs: Sequence[RunConfig],
        loaded: Loaded,
    ) -> report.TrackRow:
        return report.TrackRow(
            run=str(path.parent),
            checkpoint=str(path),
            step=step_of(path),
            settings=_settings(configs, loaded),
            start=start,
            status=found.status,
            problem=found.problem,
            analyses=found.analyses,
            warnings=found.warnings,
            checkpoint_sha256=loaded.checkpoint_sha256,
            provenance=found.provenance,
            ended=found.provenance.ended,
            unavailable={} if step_of(path) is not None else {"step": "no number in the file's name"},
        )

    def _check_settings(self, configs: Sequence[RunConfig], loaded: Loaded) -> None:
        """Rows of other settings are not to be mixed with these."""
        if self._there and {row.settings for row in self._there.values()} != {_settings(configs, loaded)}:
            raise LoadError(
                "CT063",
                f"the rows in {self.target} are of other settings",
                expected="the same analyses, data and model as before",
                received=differing(self._there.values(), configs),
                remedy="another file for the rows (-o), or the settings as they were",
            )

    def _keeping_of(self, number: int) -> Keeping | None:
        if self.keeping is None:
            return None
        return replace(self.keeping, path=self.keeping.path / f"checkpoint-{number:05d}", go_on=True)

    def _write_vectors(self, loaded: Loaded, vectors: torch.Tensor, path: Path) -> None:
        content = to_bytes(stacked_parts(vectors, loaded.problem.shapes), {"checkpoint": str(path)})
        write_atomic(self._vectors_file, content)

    def _vectors_before(self, loaded: Loaded) -> torch.Tensor | None:
        """Those of the row that was written last by a run that was stopped."""
        if self.cluster.size > 1 or not self._vectors_file.exists():
            return None
        try:
            found = load_vectors(self._vectors_file, loaded.problem.shapes)
        except LoadError:
            return None
        return found.to(loaded.problem.device, loaded.problem.dtype)


class _Choice:
    """Cold or warm, by the products that each took at its last turns.

    The first checkpoint of a run is cold, the others are warm, unless warm ones took clearly more on average; cold
    starts then go on until they have become dearer. The two are never of the same checkpoint, so neither a small
    difference nor a single turn says anything.
    """

    def __init__(self, start: str) -> None:
        self.start = start
        self._costs: dict[str, list[float]] = {"cold": [], "warm": []}

    def pick(self, has_vectors: bool) -> Start:
        if self.start == "cold" or not has_vectors:
            return "cold"
        cold, warm = self._costs["cold"], self._costs["warm"]
        if self.start == "warm" or len(warm) < _LEAST_TURNS or not cold:
            return "warm"
        return "warm" if fmean(warm) <= _CLEARLY * fmean(cold) else "cold"

    def learn(self, row: report.TrackRow) -> None:
        costs = [each.cost.solver_hvps for each in row.analyses if each.kind == "eigs"]
        if costs:
            self._costs[row.start] = [*self._costs[row.start], sum(costs)][-_REMEMBERED:]


def _settings(configs: Sequence[RunConfig], loaded: Loaded) -> str:
    facts = {
        name: value
        for name, value in fingerprint(configs, loaded.problem, loaded.checkpoint_sha256).items()
        if name not in {"checkpoint", "weights"}
    }
    return hashlib.sha256(repr(sorted(facts.items())).encode()).hexdigest()[:16]
