#!/usr/bin/env python
"""Writes the report's JSON Schema, curvtool/report/schema.json, from its models."""

import json
from pathlib import Path

import curvtool
from curvtool.report.model import Report

if __name__ == "__main__":
    path = Path(curvtool.__file__).parent / "report" / "schema.json"
    path.write_text(json.dumps(Report.model_json_schema(), indent=2, sort_keys=True) + "\n")
    print(path)
