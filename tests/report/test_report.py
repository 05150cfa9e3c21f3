"""The schema is checked in and in step; no number that is not finite gets through; a file is whole or the old one."""

import json
from pathlib import Path

import pytest

import curvtool
from curvtool.analyses.eigs.record import Eigenvalue
from curvtool.report import write
from curvtool.report.model import Cost, Report

SCHEMA = Path(curvtool.__file__).parent / "report" / "schema.json"


def test_schema_is_in_step():
    assert json.loads(SCHEMA.read_text()) == Report.model_json_schema(), "run scripts/make_schema.py"


def test_numbers_that_are_not_finite_are_null_with_a_reason():
    pair = Eigenvalue(
        value=0.0, error_bound=0.0, bound_kind="linear", residual_norm=0.0, relative_residual=float("inf"),
        vector_error=None, data_stderr=None, converged=True,
    )  # fmt: skip
    assert pair.relative_residual is None and "inf" in pair.unavailable["relative_residual"]
    assert "Infinity" not in pair.model_dump_json()
    with pytest.raises(ValueError):
        Cost(num_hvps=float("nan"), solver_hvps=0, check_hvps=0, data_passes=0, seconds=0, peak_bytes=0)


def test_writing_is_all_or_nothing(tmp_path, monkeypatch):
    path = tmp_path / "report.json"
    write.write_atomic(path, b"old")
    monkeypatch.setattr(write.os, "fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(curvtool.CurvtoolError, match="CT007"):
        write.write_atomic(path, b"new and longer")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_places_that_cannot_be_written(tmp_path):
    for path in (tmp_path, tmp_path / "no" / "x.json"):
        with pytest.raises(curvtool.CurvtoolError, match="CT007"):
            write.check_writable(path)


def test_a_report_by_its_name(tmp_path, whole):
    from curvtool import load_report

    (tmp_path / "r.json").write_text(whole.model_dump_json())
    assert load_report(str(tmp_path / "r.json")) == load_report(tmp_path / "r.json") == whole
