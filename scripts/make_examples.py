"""Runs the worked examples of curvtool/docs/examples.md, and puts their output and pictures where it shows them.

    python scripts/make_examples.py            # needs curvtool[plot]; about half a minute

A block of `console` holds commands after `$`, each followed by what it prints on stdout. Files that a command writes by
`-o name.svg` become `curvtool/docs/pictures/name.svg`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "curvtool" / "docs" / "examples.md"
PICTURES = ROOT / "curvtool" / "docs" / "pictures"
BLOCK = re.compile(r"```console\n(.*?)```", re.DOTALL)
WIDTH = 88


def files_of(text: str) -> dict[str, str]:
    """Blocks that begin with a comment of their file's name, as `# train.py: …`."""
    blocks = re.findall(r"```(?:python|toml)\n(# (\S+\.(?:py|toml))\b.*?)```", text, re.DOTALL)
    return {name: content for content, name in blocks}


def commands_of(block: str) -> list[str]:
    """What stands after the `$`s."""
    return re.findall(r"^\$ (.*)$", block, re.MULTILINE)


def prepare(folder: Path, text: str) -> None:
    """Writes the files, and trains the network."""
    for name, content in files_of(text).items():
        (folder / name).write_text(content)
    subprocess.run([sys.executable, "train.py"], cwd=folder, check=True, env=environment())


def environment() -> dict[str, str]:
    """That of a plain terminal of a fixed width; the package is this checkout's."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CURVTOOL_")}
    own = {"CURVTOOL_CACHE": "false", "PYTHONPATH": path, "COLUMNS": str(WIDTH), "NO_COLOR": "1"}
    return {**kept, **own, "PYTHONIOENCODING": "utf-8"}


def output_of(command: str, folder: Path) -> str:
    """Its stdout, without blanks at the ends of lines."""
    words = command.replace("curvtool ", f"{sys.executable} -m curvtool ", 1)
    done = subprocess.run(["bash", "-c", words], cwd=folder, env=environment(), capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{command}: status {done.returncode}\n{done.stderr}")
    return "\n".join(line.rstrip() for line in done.stdout.strip("\n").splitlines())


def main() -> None:
    """Rewrites the page and the pictures."""
    text = PAGE.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, text)

        def run(match: re.Match[str]) -> str:
            parts = []
            for command in commands_of(match[1]):
                printed = output_of(command, folder)
                parts.append(f"$ {command}\n{printed}\n" if printed else f"$ {command}\n")
            return "```console\n" + "".join(parts) + "```"

        PAGE.write_text(BLOCK.sub(run, text), encoding="utf-8")
        for picture in folder.glob("*.svg"):
            (PICTURES / picture.name).write_bytes(picture.read_bytes())


if __name__ == "__main__":
    main()
