"""Writes curvtool/docs/operations.md: which of torch's operations have a right second derivative in this version."""

from pathlib import Path

from curvtool.render.doctor import operations_page
from curvtool.setup.doctor import examine

PAGE = Path(__file__).parents[1] / "curvtool" / "docs" / "operations.md"

if __name__ == "__main__":
    PAGE.write_text(operations_page(examine(operations=True)), encoding="utf-8")
    print(PAGE)
