"""`python -m curvtool` is the same program as `curvtool`."""

from curvtool.cli.app import main

main()
