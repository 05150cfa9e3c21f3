"""Every kind of analysis has what the contract says, and shows its results without torch."""

import inspect
import subprocess
import sys

import pytest

from curvtool import registry
from curvtool.analyses.contract import PARTS
from curvtool.config.section import AnalysisSettings
from curvtool.report.record import AnalysisRecord

OPTIONAL = {("jacnorm", "need")}  # it has `measured`


@pytest.mark.parametrize("kind", registry.kinds())
def test_every_part_holds_what_the_contract_says(kind):
    for name, protocol in PARTS.items():
        module = registry.part(kind, name)
        assert module.__doc__
        for member in protocol.__annotations__:
            assert hasattr(module, member), f"{kind}/{name}.py has no {member}"
        for member, wanted in inspect.getmembers(protocol, inspect.isfunction):
            if member.startswith("_") or (kind, member) in OPTIONAL:
                continue
            own = inspect.signature(getattr(module, member)).parameters.values()
            needed = [p for p in own if p.default is p.empty]
            assert len(needed) == len(inspect.signature(wanted).parameters) - 1, f"{kind}/{name}.py: {member}"


@pytest.mark.parametrize("kind", registry.kinds())
def test_settings_and_record_are_of_the_kind(kind):
    settings, record = registry.settings_of(kind), registry.record_of(kind)
    assert issubclass(settings, AnalysisSettings) and issubclass(record, AnalysisRecord)
    assert settings.kind == kind == record.model_fields["kind"].default
    assert settings.__doc__ and registry.part(kind, "show").TITLE


def test_what_needs_no_torch_imports_with_torch_blocked():
    parts = [f"curvtool.analyses.{kind}.{part}" for kind in registry.kinds()
             for part in ("settings", "record", "show", "facts")]  # fmt: skip
    code = f"""
import sys
sys.modules["torch"] = None
import importlib
for name in {[*parts, "curvtool.report.model", "curvtool.report.comparison", "curvtool.render.formats"]!r}:
    importlib.import_module(name)
from curvtool.report.model import Report
Report.model_json_schema()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
