"""What the README shows works."""

import re
from pathlib import Path

from curvtool.config.resolve import resolve

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_python_examples_run(capsys):
    example, training = blocks("python")
    exec(compile(example, "README.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    low, high = (float(number) for number in lines[3].strip("()").split(","))
    assert low < high
    exec(compile(training, "README.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["0", "50", "100"]
    assert all("curvature/lambda_max_x_lr" in line for line in lines)


def test_its_flags_exist(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    helps = " ".join(
        run(*command.split(), "--help")[1]
        for command in (
            "eigs",
            "trace",
            "density",
            "diag",
            "jacnorm",
            "run",
            "track",
            "check",
            "render",
            "export tensorboard",
            "export mlflow",
            "export wandb",
            "compare",
            "explain",
            "init",
            "verify",
            "inspect",
            "doctor",
        )
    )
    shown = set(
        re.findall(
            r"(?<![\w-])--[a-z][a-z-]+",
            re.sub(r"pip install.*|nvidia.*|torchrun --.*?curvtool|srun --ntasks", "", README),
        )
    )
    assert shown and {flag for flag in shown if flag not in helps} == set()


def test_the_configurations_resolve():
    files = sorted((ROOT / "configs").glob("*.toml"))
    assert files
    for file in files:
        kinds = re.findall(r'^kind = "(\w+)"', file.read_text(), re.MULTILINE)
        assert kinds, file
        for kind in kinds:
            assert (
                "default"
                not in resolve(kind, {}, config_file=str(file)).sources[
                    "model.factory" if file.stem == "track" else "model.checkpoint"
                ]
            )
