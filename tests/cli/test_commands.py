"""The program as a user meets it: results on stdout, the rest on stderr, each mistake with its status and remedy."""

import contextlib
import csv
import dataclasses
import io
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from oracles import integral
from rich.console import Console
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import curvtool
from curvtool.cli import interruption
from curvtool.cli.progress import TerminalObserver
from curvtool.operators.hessian import Hessian
from curvtool.operators.jacobian import InputJacobian
from curvtool.operators.sample_terms import SampleTerms

FACTORIES = """
import torch
def net(width=4, classes=3):
    return torch.nn.Sequential(torch.nn.Linear(5, width), torch.nn.Tanh(), torch.nn.Linear(width, classes))
def frozen():
    return net().requires_grad_(False)
def wide():
    return torch.nn.Sequential(torch.nn.Linear(130, 12), torch.nn.Tanh(), torch.nn.Linear(12, 140))
def broken():
    raise ValueError("no such size")
def nothing():
    return 3
class Beside(torch.nn.Sequential):
    def forward(self, x):
        return super().forward(x), x[:, :3]
def beside():
    return Beside(*net())
def loss(z, y):
    return ((z - y) ** 2).sum(1)
def data():
    g = torch.Generator().manual_seed(0)
    pairs = torch.utils.data.TensorDataset(torch.randn(40, 5, generator=g), torch.randint(0, 3, (40,), generator=g))
    return torch.utils.data.DataLoader(pairs, batch_size=7, shuffle=True)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A user's folder: a checkpoint, data and code."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    for name in ("models_here",):
        sys.modules.pop(name, None)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "models_here.py").write_text(FACTORIES)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Tanh(), torch.nn.Linear(4, 3))
    torch.save(model.state_dict(), "net.pt")
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 5)).astype(np.float32), rng.integers(0, 3, 50)
    np.savez("data.npz", inputs=x, targets=y)
    np.savez("labels.npz", inputs=x, targets=y + 1)
    np.savez("shape.npz", inputs=x[:, :3], targets=y)
    np.savez("empty.npz", inputs=x[:0], targets=y[:0])
    np.savez("inputs.npz", inputs=x)
    np.savez("floats.npz", inputs=x, targets=y.astype(np.float32))
    return tmp_path


MODEL = ("net.pt", "--factory", "models_here:net", "--data", "data.npz")


@pytest.mark.parametrize("kind", ["eigs", "trace", "jacnorm"])
def test_json_alone_on_stdout_and_valid(folder, run, kind):
    more = ["--rtol", "0.9"] if kind == "trace" else []  # an untrained network: its trace is small beside its spread
    status, out, _ = run(kind, *MODEL, "--json", "-", *more)
    assert status == 0
    report = json.loads(out)
    schema = json.loads((Path(curvtool.__file__).parent / "report" / "schema.json").read_text())
    jsonschema.validate(report, schema)
    assert report["status"] == "complete" and report["analyses"][0]["kind"] == kind
    assert report["provenance"]["config_sources"]["model.factory"] == "flag"


def test_numbers_are_those_of_the_library(folder, run):
    report = json.loads(run("eigs", *MODEL, "-k", "3", "--json", "-")[1])
    import models_here

    model = models_here.net()
    model.load_state_dict(torch.load("net.pt", weights_only=True))
    data = np.load("data.npz")
    problem = curvtool.Problem(
        model, (torch.tensor(data["inputs"]), torch.tensor(data["targets"])), dtype=torch.float64
    )
    true = torch.linalg.eigvalsh(Hessian(problem).materialize()).flip(0)[:3]
    found = [pair["value"] for pair in report["analyses"][0]["eigenvalues"]]
    assert np.allclose(found, true, rtol=1e-4)
    assert report["problem"]["loss_value"] == pytest.approx(Hessian(problem).loss_and_gradient()[0], rel=1e-5)


@pytest.mark.parametrize("kind", ["eigs", "trace", "jacnorm"])
def test_tables_fit_80_columns(folder, run, kind):
    status, out, _ = run(kind, *MODEL)
    assert status == 0 and len(out.splitlines()) > 5
    assert max(len(line) for line in out.splitlines()) <= 80 and "…" not in out


def test_without_a_model_the_example_runs_and_says_so(folder, run):
    status, out, err = run("jacnorm", "--num-samples", "20")
    assert status == 0 and "demo:digits" in err and "demo:digits" in out
    assert run("jacnorm", "--num-samples", "20", "-q")[2] == ""


def test_files_by_suffix(folder, run):
    assert run("eigs", *MODEL, "-o", "e.csv", "--json", "e.json")[0] == 0
    rows = list(csv.DictReader(io.StringIO(Path("e.csv").read_text())))
    pairs = json.loads(Path("e.json").read_text())["analyses"][0]["eigenvalues"]
    assert [float(row["eigenvalue"]) for row in rows] == [pair["value"] for pair in pairs]
    assert run("trace", *MODEL, "-o", "t.md")[0] == 0 and "| trace |" in Path("t.md").read_text()
    assert run("jacnorm", *MODEL, "--per-example", "n.csv", "--format", "csv")[0] == 0
    assert len(Path("n.csv").read_text().splitlines()) == 51


def test_dry_run_computes_nothing(folder, run, monkeypatch):
    monkeypatch.setattr("curvtool.session.run.run_all", None)
    status, out, _ = run("eigs", *MODEL, "--dry-run")
    assert status == 0 and "products expected" in out
    plan = json.loads(run("trace", *MODEL, "--dry-run", "--json", "-")[1])
    assert plan["status"] == "dry_run" and plan["num_params"] == 39


def test_same_seed_same_values(folder, run):
    def value(*more):
        own = ["--method", "hutchinson", "--rtol", "0.2", "--json", "-", *more]
        return json.loads(run("trace", *MODEL, *own)[1])["analyses"][0]["value"]

    # the mode that a timing chooses changes the rounding alone
    assert value("--seed", "1", "--hvp", "kept") == value("--seed", "1", "--hvp", "kept")
    assert value("--seed", "1") == pytest.approx(value("--seed", "1", "--hvp", "fresh"), rel=1e-5)
    assert abs(value("--seed", "1") / value("--seed", "2") - 1) > 1e-4
    shuffled = [*MODEL[:-1], "models_here:data", "--rtol", "0.2", "--json", "-"]
    prints = [json.loads(run("trace", *shuffled)[1])["provenance"]["data_fingerprint"] for _ in range(2)]
    assert prints[0] == prints[1]


def test_project_file(folder, run):
    Path("curvtool.toml").write_text(
        '[model]\ncheckpoint="net.pt"\nfactory="models_here:net"\n[data]\nsource="data.npz"\n[[analysis]]\nkind="eigs"\nk=2\n'
    )
    report = json.loads(run("eigs", "--json", "-")[1])
    assert len(report["analyses"][0]["eigenvalues"]) == 2
    assert report["provenance"]["config_sources"]["eigs.k"] == "curvtool.toml"


def test_inspect(folder, run):
    status, out, _ = run("inspect", "net.pt")
    assert status == 0 and "0.weight" in out and "--factory" in out
    assert json.loads(run("inspect", "data.npz", "--json", "-")[1])["role"] == "data"


def words(*changes, base=MODEL):
    return ["eigs", *base, *changes]


MISTAKES = {
    "unknown flag": (words("--kk", "3"), 2, "No such option"),
    "unknown loss": (words("--loss", "crossentropy"), 2, "CT001"),
    "unknown device": (words("--device", "abacus"), 2, "CT004"),
    "unknown choice": (words("--dtype", "float31"), 2, "float32"),
    "no such parameter": (words("--params", "conv*"), 2, "CT001"),
    "bad suffix": (words("-o", "x.xlsx"), 2, "CT005"),
    "no folder": (words("--json", "no/where.json"), 2, "CT007"),
    "too many eigenvalues": (words("-k", "500"), 2, "CT001"),
    "factory without a model": (["eigs", "--factory", "models_here:net"], 2, "CT009"),
    "no reference": (words(base=("net.pt", "--factory", "models_here", "--data", "data.npz")), 2, "CT001"),
    "missing file": (words(base=("nte.pt", *MODEL[1:])), 3, "CT010"),
    "not a checkpoint": (words(base=("models_here.py", *MODEL[1:])), 3, "CT011"),
    "needs a factory": (["eigs", "net.pt", "--data", "data.npz"], 3, "CT012"),
    "no such module": (words(base=("net.pt", "--factory", "modles:net", "--data", "data.npz")), 3, "CT013"),
    "no such function": (words(base=("net.pt", "--factory", "models_here:nett", "--data", "data.npz")), 3, "CT013"),
    "keys do not fit": (words("-K", "width=9"), 3, "CT014"),
    "broken factory": (words(base=("net.pt", "--factory", "models_here:broken", "--data", "data.npz")), 3, "CT016"),
    "no module": (words(base=("net.pt", "--factory", "models_here:nothing", "--data", "data.npz")), 3, "CT016"),
    "no data": (["eigs", "net.pt", "--factory", "models_here:net"], 3, "CT020"),
    "data missing": (words(base=(*MODEL[:-1], "dta.npz")), 3, "CT020"),
    "no targets": (words(base=(*MODEL[:-1], "inputs.npz")), 3, "CT021"),
    "label out of range": (words(base=(*MODEL[:-1], "labels.npz")), 3, "CT022"),
    "labels as floats": (words(base=(*MODEL[:-1], "floats.npz")), 3, "CT028"),
    "a device that is not here": (words("--device", "xpu"), 2, "CT004"),
    "empty data": (words(base=(*MODEL[:-1], "empty.npz")), 3, "CT023"),
    "inputs do not fit": (words(base=(*MODEL[:-1], "shape.npz")), 3, "CT024"),
    "nothing trainable": (words(base=("net.pt", "--factory", "models_here:frozen", "--data", "data.npz")), 3, "CT027"),
    "not converged, strict": (words("--max-passes", "3", "--strict"), 4, "CT045"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(folder, run, mistake):
    arguments, expected, sign = MISTAKES[mistake]
    status, out, err = run(*arguments)
    assert status == expected, err
    assert sign in err
    assert out == "" or "strict" in mistake
    if sign.startswith("CT") and "strict" not in mistake:
        assert 2 <= len([line for line in err.splitlines() if line.strip()]) <= 7


def test_loss_that_is_not_finite_names_the_sample(folder, run):
    x = np.ones((20, 5), np.float32)
    y = np.ones((20, 3), np.float32)
    y[6] = 3e38
    np.savez("over.npz", inputs=x, targets=y)
    status, _, err = run("eigs", *MODEL[:-1], "over.npz", "--loss", "mse")
    assert status == 3 and "CT026" in err and "row 6" in err


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is there")
def test_cuda_asked_for_and_absent(folder, run):
    status, _, err = run(*words("--device", "cuda"))
    assert status == 2 and "CT004" in err and "--device cpu" in err


def test_whole_module_needs_trust(folder, run):
    import models_here

    torch.save(models_here.net(), "whole.pt")
    status, _, err = run("eigs", "whole.pt", "--data", "data.npz")
    assert status == 3 and "CT015" in err and "--trust" in err
    assert run("eigs", "whole.pt", "--data", "data.npz", "--trust")[0] == 0


def test_out_of_memory_names_the_batch_size(folder, run, monkeypatch):
    from curvtool.operators.products import GradientGraph

    def fail(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(GradientGraph, "product", fail)
    status, _, err = run("eigs", *MODEL, "--batch-size", "32", "--hvp", "kept")
    assert status == 3 and "CT040" in err and "--batch-size 3" in err  # half of a part of the data


def failing_after(method, calls, error, counts=lambda *_: True):
    counted = []

    def fail(self, *args, **kwargs):
        counted.extend([1] if counts(*args) else [])
        if len(counted) > calls:
            raise error
        return method(self, *args, **kwargs)

    return fail


@pytest.mark.parametrize("error,expected", [(KeyboardInterrupt(), 130), (curvtool.CurvtoolError("CT040", "full"), 1)])
@pytest.mark.parametrize("kind", ["eigs", "trace", "jacnorm"])
def test_nothing_computed_is_lost(folder, run, monkeypatch, kind, error, expected):
    if kind == "jacnorm":
        monkeypatch.setattr(InputJacobian, "rows_of", failing_after(InputJacobian.rows_of, 4, error))
    elif kind == "trace":
        monkeypatch.setattr(SampleTerms, "products", failing_after(SampleTerms.products, 6, error))
    else:
        after = failing_after(Hessian.matvec_in_parts, 7, error, lambda _, against, *__: len(against))  # Lanczos alone
        monkeypatch.setattr(Hessian, "matvec_in_parts", after)
    more = {
        "jacnorm": ["--batch-size", "10"],
        "trace": ["--probe-group", "50", "--method", "hutchinson", "--rtol", "0.01"],
        "eigs": [],
    }[kind]
    status, out, err = run(kind, *MODEL, "--json", "r.json", *more)
    assert status == expected
    report = json.loads(Path("r.json").read_text())
    assert report["status"] == "partial" and "CT204" in err
    assert len(out.splitlines()) > 5  # the table of what there is
    analysis = report["analyses"][0]
    if kind == "eigs":
        assert len(analysis["eigenvalues"]) == 5 and not any(e["converged"] for e in analysis["eigenvalues"])
    elif kind == "trace":
        assert analysis["ci95"] is not None and analysis["num_passes"] == 6
    else:
        assert 0 < analysis["num_examples"] < 50


@pytest.mark.parametrize("error,expected", [(KeyboardInterrupt(), 130), (curvtool.CurvtoolError("CT040", "full"), 1)])
def test_the_norms_outlive_their_comparison_with_float64(folder, run, monkeypatch, error, expected):
    def stop(*_):
        raise error

    monkeypatch.setattr("curvtool.estimators.jacobian_norms.noise_over_data", stop)
    status, _, err = run("jacnorm", *MODEL, "--json", "r.json", "--per-example", "all.csv")
    report = json.loads(Path("r.json").read_text())
    assert status == expected and report["status"] == "partial" and "CT204" in err
    assert report["analyses"][0]["num_examples"] == 50 and len(report["analyses"][0]["top"]) == 10
    assert len(Path("all.csv").read_text().splitlines()) == 51


def test_the_result_is_printed_though_its_file_cannot_be_written(folder, run, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("curvtool.report.write.os.fsync", full)
    status, out, err = run("jacnorm", *MODEL, "--json", "r.json", "-o", "r.csv", "--per-example", "all.npz")
    assert status == 2 and "CT007" in err and "No space left" in err
    assert "Jacobian" in out and not Path("r.json").exists() and not Path("all.npz").exists()


def test_sigterm_is_an_interruption(folder):
    """Batch systems end a job by it: what there is is written."""
    command = [sys.executable, "-m", "curvtool", "trace", *MODEL, "--rtol", "1e-4", "--max-passes", "10000000"]
    command += ["--method", "hutchinson"]
    with subprocess.Popen(
        [*command, "--json", "r.json", "-v"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as job:
        time.sleep(8)
        while job.poll() is None:  # not before it has begun to draw
            job.terminate()
            try:
                job.wait(5)
            except subprocess.TimeoutExpired:
                continue
        said = job.stderr.read().decode()
    assert job.returncode == 130, said
    assert said.endswith("interrupted\n")
    if "CT204" in said:
        assert json.loads(Path("r.json").read_text())["status"] == "partial"


def test_an_interruption_that_is_swallowed_comes_again(monkeypatch):
    """Torch's lazy imports catch whatever falls into them."""
    monkeypatch.setattr(interruption, "_asked", None)
    monkeypatch.setattr(interruption, "_is_patient", False)  # as a test with ranks may have left it
    observer = TerminalObserver(Console(quiet=True), quiet=True, verbose=0)
    observer.advance(1, "")
    with contextlib.suppress(KeyboardInterrupt):
        interruption._interrupt(signal.SIGTERM, None)
    with pytest.raises(KeyboardInterrupt):
        observer.advance(2, "")
    with pytest.raises(KeyboardInterrupt):
        observer.begin("next")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_behind_stdout_is_told(folder):
    command = [sys.executable, "-m", "curvtool", "jacnorm", *MODEL, "--json", "r.json"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2 and "CT007" in done.stderr and "Traceback" not in done.stderr
    assert json.loads(Path("r.json").read_text())["status"] == "complete"


def test_a_loss_that_depends_on_no_parameter_is_told(folder, run):
    for kind in ("eigs", "trace"):
        status, _, err = run(
            kind, "net.pt", "--factory", "models_here:beside", "--data", "data.npz", "--output-key", "1"
        )
        assert status == 0 and "CT207" in err and "--output-key" in err


def test_a_double_checkpoint_is_not_rounded(folder, run):
    torch.save({k: v.double() for k, v in torch.load("net.pt").items()}, "double.pt")
    report = json.loads(run("eigs", "double.pt", *MODEL[1:], "--json", "-")[1])
    assert report["provenance"]["dtype"] == "float64"


def test_a_bug_leaves_its_traceback_in_a_file(folder, run, monkeypatch):
    def bug(*_, **__):
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("curvtool.session.run.run_all", bug)
    status, _, err = run("eigs", *MODEL)
    assert status == 1 and "ZeroDivisionError" in err
    path = next(word.rstrip(";") for word in err.split() if word.rstrip(";").endswith(".log"))
    assert "Traceback" in Path(path).read_text()
    Path(path).unlink()


def python(*arguments):
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)


def test_help_and_import_load_nothing_heavy():
    code = (
        "import sys, curvtool, curvtool.cli.app; "
        "print([m for m in ('torch', 'pydantic', 'numpy', 'rich.console') if m in sys.modules])"
    )
    assert python("-c", code).stdout.strip() in ("[]", "['rich.console']")


def test_module_is_the_same_program():
    done = python("-m", "curvtool", "--version")
    assert done.returncode == 0 and done.stdout.startswith("curvtool ")
    done = python("-m", "curvtool", "eigs", "nowhere.pt")
    assert done.returncode == 3 and done.stdout == "" and "CT010" in done.stderr


def test_eigenvectors_are_written_read_again_and_left_out(folder, run):
    """`--vectors`, then `--start` and `--deflate` from the file."""
    base = ["eigs", *MODEL, "-k", "2", "--dtype", "float64", "--rtol", "1e-8"]
    status, out, _ = run(*base, "--vectors", "v.safetensors", "--json", "a.json")
    assert status == 0 and "v.safetensors" in out
    first = json.loads(Path("a.json").read_text())["analyses"][0]
    assert first["vectors_file"] == "v.safetensors"
    assert run(*base, "--start", "v.safetensors", "--json", "b.json")[0] == 0
    warm = json.loads(Path("b.json").read_text())["analyses"][0]
    assert [e["value"] for e in warm["eigenvalues"]] == pytest.approx([e["value"] for e in first["eigenvalues"]])
    assert warm["cost"]["num_hvps"] < first["cost"]["num_hvps"]
    assert run(*base, "--deflate", "v.safetensors", "--json", "c.json")[0] == 0
    rest = json.loads(Path("c.json").read_text())["analyses"][0]
    assert rest["eigenvalues"][0]["value"] < first["eigenvalues"][1]["value"]
    status, _, err = run(*base, "--params", "0.*", "--start", "v.safetensors")
    assert status == 3 and "CT029" in err
    assert "CT010" in run(*base, "--start", "none.safetensors")[2]
    Path("bad.safetensors").write_bytes(b"not vectors")
    assert "CT029" in run(*base, "--start", "bad.safetensors")[2]
    assert "CT005" in run(*base, "--vectors", "v.pt")[2]


def test_vectors_without_a_direction_are_refused_and_copies_left_out(folder, run):
    base = ["eigs", *MODEL, "-k", "2", "--dtype", "float64", "--json", "r.json"]
    assert run(*base, "--vectors", "v.safetensors")[0] == 0
    tensors = load_file("v.safetensors")
    for name, change in {
        "zero": lambda t: torch.cat([t, torch.zeros_like(t[:1])]),
        "nan": lambda t: torch.cat([t, torch.full_like(t[:1], float("nan"))]),
        "copies": lambda t: torch.cat([t, -2 * t[1:], t[:1] * (1 + 1e-6)]),
    }.items():
        save_file({key: change(t) for key, t in tensors.items()}, f"{name}.safetensors")
    for name, word in (("zero", "zeros"), ("nan", "not finite")):
        for flag in ("--deflate", "--start"):
            status, _, err = run(*base, flag, f"{name}.safetensors")
            assert status == 3 and "CT029" in err and f"vector 2 in {name}.safetensors" in err and word in err
    assert run(*base, "--deflate", "v.safetensors")[0] == 0
    once = [e["value"] for e in json.loads(Path("r.json").read_text())["analyses"][0]["eigenvalues"]]
    status, _, err = run(*base, "--deflate", "copies.safetensors")
    assert status == 0 and "CT251: 2 of 4 vectors in copies.safetensors" in err
    twice = [e["value"] for e in json.loads(Path("r.json").read_text())["analyses"][0]["eigenvalues"]]
    assert twice == pytest.approx(once, rel=1e-3)


def test_every_layers_leading_eigenvalue_and_the_learning_rate(folder, run):
    status, out, _ = run("eigs", *MODEL, "-k", "1", "--dtype", "float64", "--per-layer", "--lr", "0.1",
                         "--check", "full", "--json", "r.json")  # fmt: skip
    assert status == 0 and "gradient descent on the quadratic model is stable" in " ".join(out.split())
    analysis = json.loads(Path("r.json").read_text())["analyses"][0]
    assert set(analysis["per_layer"]) == {"0", "2"}
    top = analysis["eigenvalues"][0]["value"]
    assert all(layer["value"] <= top * (1 + 1e-3) for layer in analysis["per_layer"].values())
    assert run("eigs", *MODEL, "-k", "1", "--dtype", "float64", "--params", "2.*", "--json", "one.json")[0] == 0
    alone = json.loads(Path("one.json").read_text())["analyses"][0]["eigenvalues"][0]["value"]
    assert analysis["per_layer"]["2"]["value"] == pytest.approx(alone, rel=2e-3)
    assert analysis["stability"]["sharpness_times_lr"] == pytest.approx(0.1 * top)
    assert analysis["num_missed"] == 0 and analysis["eigenvalues"][0]["data_stderr"] > 0


@pytest.mark.parametrize("operator", ["ggn", "fisher", "empirical-fisher"])
def test_every_operator(folder, run, operator):
    status, out, _ = run("eigs", *MODEL, "-k", "2", "--operator", operator, "--json", "r.json")
    assert status == 0 and {"ggn": "Gauss-Newton", "fisher": "Fisher"}.get(operator, "empirical") in out
    assert json.loads(Path("r.json").read_text())["analyses"][0]["operator"] == operator
    status, out, _ = run("trace", *MODEL, "--operator", operator, "--rtol", "0.2")
    assert status == 0 and "Trace of the" in out


ODD_MODELS = """
import torch
class Random(torch.nn.Linear):
    def forward(self, x):
        return super().forward(torch.nn.functional.dropout(x, 0.5, True))
def random():
    return Random(5, 3)
def coupled():
    norm = torch.nn.BatchNorm1d(4, track_running_stats=False)
    return torch.nn.Sequential(torch.nn.Linear(5, 4), norm, torch.nn.Linear(4, 3))
class Branching(torch.nn.Linear):
    def forward(self, x):  # by the sum of the batch, which has the sign of some of its samples'
        return super().forward(x if float(x.sum()) > 0 else -x)
def branching():
    return Branching(5, 3)
def tokens():
    return torch.nn.Sequential(torch.nn.Embedding(11, 4), torch.nn.Flatten(), torch.nn.Linear(8, 3))
"""


@pytest.mark.parametrize(
    ("name", "code", "expected"), [("random", "CT033", 3), ("coupled", "CT051", 5), ("branching", "CT051", 5)]
)
def test_models_whose_numbers_would_mean_nothing(folder, run, name, code, expected):
    """Random in evaluation mode, or samples that depend on the rest of their batch."""
    Path("odd.py").write_text(ODD_MODELS)
    scope = {}
    exec(ODD_MODELS, scope)
    torch.save(scope[name]().state_dict(), "odd.pt")
    status, _, err = run("eigs", "odd.pt", "--factory", f"odd:{name}", *MODEL[MODEL.index("--data") :])
    assert status == expected and code in err


def test_a_token_out_of_range_in_a_later_row(folder, run):
    Path("odd.py").write_text(ODD_MODELS)
    scope = {}
    exec(ODD_MODELS, scope)
    torch.save(scope["tokens"]().state_dict(), "tok.pt")
    ids = np.ones((40, 2), dtype=np.int64)
    ids[7] = 99
    np.savez("tok.npz", inputs=ids, targets=np.zeros(40, dtype=np.int64))
    status, _, err = run("eigs", "tok.pt", "--factory", "odd:tokens", "--data", "tok.npz")
    assert status == 3 and "CT024" in err and "vocabulary" in err


def test_density_from_the_command_line(folder, run):
    status, out, err = run(
        "density",
        *MODEL,
        *("--method", "probes", "--probes", "3", "--steps", "12", "--outliers", "2", "--json", "r.json"),
    )
    assert status == 0 and "outliers, found beforehand" in out and "below 0" in out, err
    report = json.loads(Path("r.json").read_text())
    jsonschema.validate(report, json.loads((Path(curvtool.__file__).parent / "report/schema.json").read_text()))
    found = report["analyses"][0]
    assert len(found["nodes"]) == 3 and len(found["outliers"]) == 2 and found["cost"]["num_hvps"] > 36
    assert integral(found["density"], found["grid"]) == pytest.approx(1.0, abs=1e-3)
    assert run("eigs", *MODEL, "-k", "3", "--vectors", "v.safetensors")[0] == 0
    status, out, _ = run(
        "density", *MODEL, "--probes", "2", "--steps", "8", "--deflate", "v.safetensors", "-o", "d.csv"
    )
    assert status == 0 and Path("d.csv").read_text().startswith("eigenvalue,density,density_stderr")
    assert "below 0" in out.lower()


def test_a_density_of_all_eigenvalues(folder, run):
    status, out, err = run("density", *MODEL, "--json", "r.json")
    found = json.loads(Path("r.json").read_text())["analyses"][0]
    assert status == 0 and found["method"] == "exact", err
    assert "Every eigenvalue was computed (39)" in " ".join(out.split())
    assert found["trace_stderr"] == 0.0 and found["unavailable"]["trace_by_probes"] == "every eigenvalue was computed"
    assert run("density", *MODEL, "--dry-run")[0] == 0


def test_what_a_stopped_density_had_found_is_reported(folder, run, monkeypatch):
    product, made = Hessian.matvec_in_parts, []

    def failing(self, vector, against, *more):
        if len(against):  # Lanczos, not the preflight
            made.append(1)
        if len(made) > 8:
            raise KeyboardInterrupt
        return product(self, vector, against, *more)

    monkeypatch.setattr(Hessian, "matvec_in_parts", failing)
    status, out, err = run("density", *MODEL, "--method", "probes", "--json", "r.json")
    report = json.loads(Path("r.json").read_text())
    assert status == 130 and report["status"] == "partial" and "Eigenvalues" in out, err
    assert report["analyses"][0]["kind"] == "eigs" and len(report["analyses"][0]["eigenvalues"]) == 5


def test_zeros_of_a_matrix_of_low_rank_are_told(folder, run):
    np.savez("few.npz", x=np.random.default_rng(0).normal(size=(4, 5)).astype("f4"), y=np.array([0, 1, 2, 0]))
    command = ("eigs", *MODEL[:-2], "--data", "few.npz", "--operator", "ggn", "--which", "sa", "-k", "2")
    status, _, err = run(*command)
    assert status == 0 and "CT214" in err and "at least 27 of the 39" in err
    status, _, err = run(*command, "--max-passes", "3")
    assert status == 0 and "CT201" in err, err
    assert "CT201" not in run(*command, "--max-passes", "6", "--atol", "1e3")[2]


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (("eigs", "-k", "2", "--rtol", "1e-7"), "CT201"),
        (("trace", "--method", "exact", "--rtol", "1e-9"), "CT202"),
        (("diag", "--method", "exact", "--rtol", "1e-9"), "CT202"),
    ],
)
def test_rounding_above_the_tolerance_is_told_with_remedies_that_work(command, code, folder, run):
    status, _, err = run(*command, *MODEL, "--strict")
    told = re.search(rf"{code}: (rounding alone keeps .*): --dtype float64, or (--rtol) (\S+)", err)
    assert status == 4 and told, err
    again = command[:-1]
    assert run(*again, told[3], *MODEL, "--strict")[0] == 0
    assert run(*command, *MODEL, "--dtype", "float64", "--strict")[0] == 0


def test_vectors_that_rounding_keeps_from_their_tolerance_are_told_as_such(folder, run):
    words = ("eigs", *MODEL, "-k", "1", "--rtol", "0.1", "--vector-rtol", "1e-12")
    status, _, err = run(*words, "--strict")
    assert status == 4 and "CT201" in err and "--vector-rtol" in err and "above rtol" not in err, err


@pytest.mark.parametrize(("passes", "kind"), [(2, "eigs"), (30, "density")])
def test_a_density_that_is_stopped_on_its_way(passes, kind, folder, run, monkeypatch):
    """Before ten steps of the first probe the outliers are all there is; the budget is not to blame."""
    from curvtool.linalg import quadrature

    class Stopping(quadrature.Lanczos):
        def grow(self, *arguments):
            if self.num_steps >= passes:
                raise KeyboardInterrupt
            return super().grow(*arguments)

    monkeypatch.setattr(quadrature, "Lanczos", Stopping)
    status, _, err = run("density", *MODEL, "--method", "probes", "--steps", "40", "--json", "r.json")
    report = json.loads(Path("r.json").read_text())
    assert status == 130 and report["status"] == "partial" and "CT204" in err and "CT209" not in err
    assert report["analyses"][0]["kind"] == kind
    if kind == "eigs":
        assert len(report["analyses"][0]["eigenvalues"]) == 5


def test_a_budget_too_small_for_the_steps_is_told(folder, run):
    status, _, err = run("density", *MODEL, "--method", "probes", "--memory-budget", "4KiB", "--json", "r.json")
    assert status == 0 and "CT209" in err and "--memory-budget" in err
    assert json.loads(Path("r.json").read_text())["status"] == "not_converged"


def test_check_of_a_pinned_way(folder, run):
    status, out, _ = run("check", *MODEL, "--hvp", "kept", "--operations", "torch")
    assert status == 0 and "no way to run a product was timed" in out


def test_a_density_that_disagrees_with_the_trace_is_told(folder, run, monkeypatch):
    def wrong(*arguments, **options):
        true = curvtool.trace(*arguments, **options)
        return dataclasses.replace(true, value=9 * true.value, ci95=(8.9 * true.value, 9.1 * true.value))

    monkeypatch.setattr("curvtool.analyses.density.run.trace", wrong)
    status, _, err = run("density", *MODEL, "--probes", "6", "--outliers", "6", "--method", "probes")
    assert status == 0 and "CT210" in err


def test_diagonal_from_the_command_line(folder, run):
    status, out, err = run("diag", *MODEL, "--out", "d.safetensors", "--json", "r.json", "--dtype", "float64")
    assert status == 0 and "2.weight" in out, err
    report = json.loads(Path("r.json").read_text())
    jsonschema.validate(report, json.loads((Path(curvtool.__file__).parent / "report/schema.json").read_text()))
    found = report["analyses"][0]
    with safe_open("d.safetensors", "pt") as file:
        whole = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert sum(float(t.sum()) for n, t in whole.items() if "/" not in n) == pytest.approx(found["sum"])
    assert whole["stderr/0.weight"].shape == whole["0.weight"].shape == (4, 5)
    status, out, _ = run("diag", *MODEL, "--operator", "ggn", "--method", "exact", "--format", "md")
    assert status == 0 and "| all |" in out
    assert run("diag", *MODEL, "--out", "d.txt")[0] == 2


def test_layers_of_the_trace(folder, run):
    status, out, _ = run("trace", *MODEL, "--per-layer", "--json", "r.json")
    found = json.loads(Path("r.json").read_text())["analyses"][0]
    assert status == 0 and "each layer" in out
    assert set(found["per_layer"]) == {"0", "2"} and set(found["per_parameter"]) >= {"0.weight", "2.bias"}
    assert sum(b["value"] for b in found["per_layer"].values()) == pytest.approx(found["value"], rel=1e-5)
    assert run("trace", *MODEL, "--per-layer", "--method", "xtrace")[0] == 2


def test_classes_directions_and_linf(folder, run):
    more = ["--per-class", "--linf", "--directions", "v.safetensors", "--top", "4", "--json", "r.json"]
    status, out, err = run("jacnorm", *MODEL, *more)
    assert status == 0 and "By class" in out and "linf to l2" in out, err
    found = json.loads(Path("r.json").read_text())["analyses"][0]
    assert sum(c["num_examples"] for c in found["per_class"].values()) == 50
    assert found["linf_lower"]["max"] <= found["linf_upper"]["max"]
    with safe_open("v.safetensors", "pt") as file:
        assert file.get_tensor("inputs").shape == (4, 5) and file.get_tensor("outputs").shape == (4, 3)
        assert file.get_tensor("index").tolist() == [example["index"] for example in found["top"]]
    np.savez("only.npz", inputs=np.zeros((4, 5), np.float32))
    status, _, err = run("jacnorm", *MODEL[: MODEL.index("--data")], "--data", "only.npz", "--per-class")
    assert status == 3 and "CT021" in err


def test_estimated_norms_say_how_certain_their_list_is(folder, run):
    import models_here

    torch.manual_seed(0)
    torch.save(models_here.wide().state_dict(), "wide.pt")
    np.savez("wide.npz", inputs=0.1 * np.random.default_rng(0).normal(size=(40, 130)).astype(np.float32))
    words = ("jacnorm", "wide.pt", "--factory", "models_here:wide", "--data", "wide.npz", "--top", "3")
    status, out, err = run(*words, "--norm", "frobenius", "--recompute", "4", "--json", "r.json")
    found = json.loads(Path("r.json").read_text())["analyses"][0]
    assert status == 0 and "CT211" in err, err
    assert found["num_recomputed"] <= 4 and found["frobenius_max_degrees"] >= 12
    assert ("CT248" in err) == ("could belong to the largest 3" in out) == (found["top_rivals"] > 0)
    summary = found["frobenius"]
    for name in ("mean", "std", "min", "median", "p95", "max"):
        low, high = summary["bounds"][name]
        assert low <= summary[name] <= high
    assert summary["max"] == pytest.approx(found["top"][0]["frobenius"])
    low, high = found["top"][0]["frobenius_interval"]
    assert 0 < high - low < 1e-4 * high
    status, out, err = run(*words, "--json", "s.json", "-o", "s.csv", "--per-example", "all.csv")
    found = json.loads(Path("s.json").read_text())["analyses"][0]
    assert found["top_rivals"] == 0 and "CT248" not in err and "uncertain" not in out
    assert "spectral from" in Path("s.csv").read_text() and "frobenius_low" in Path("all.csv").read_text()


def test_check_alone(folder, run):
    status, out, _ = run("check", *MODEL, "--json", "r.json")
    found = json.loads(Path("r.json").read_text())
    assert status == 0 and "Preflight" in out and "noise floor" in out and "around every product" in out
    assert set(found["analyses"][0]["seconds_by_mode"]) >= {"kept", "fresh"}
    assert found["problem"]["preflight"]["finite_difference"] < 1e-3
    assert any("training mode" in repair for repair in found["problem"]["preflight"]["repairs"])


def test_verify_beside_the_dense_matrix_and_pyhessian(folder, run):
    pytest.importorskip("pyhessian")
    status, out, err = run("verify", *MODEL, "-k", "2", "--json", "r.json")
    assert status == 0 and "agree" in out, err
    found = json.loads(Path("r.json").read_text())["analyses"][0]
    ways = {way["tool"]: way for way in found["ways"]}
    assert set(ways) == {"curvtool", "dense", "pyhessian"}
    assert ways["dense"]["agrees"] and ways["dense"]["num_hvps"] == 39 and ways["pyhessian"]["num_hvps"] > 2
    assert run("verify", *MODEL, "--tools", "magic")[0] == 2
    status, _, err = run("verify", *MODEL, "--tools", "dense", "--max-dense", "10")
    assert status == 0 and "CT213" in err


def test_verify_tells_who_is_wrong(folder, run):
    """Power iteration takes a negative eigenvalue for the second largest; the dense matrix is the judge."""
    pytest.importorskip("pyhessian")
    with Path("models_here.py").open("a") as file:
        file.write("\ndef saddle(z, y):\n    return z[:, 0] ** 2 - 0.9 * z[:, 1] ** 2 + 0.1 * z[:, 2] ** 2\n")
    sys.modules.pop("models_here", None)
    status, out, err = run("verify", *MODEL, "--loss", "models_here:saddle", "-k", "2", "--dtype", "float64")
    assert (
        status == 0
        and "the dense matrix agrees with curvtool, PyHessian does not" in " ".join(out.split())
        and "CT212" in err
    )
    words = ["verify", *MODEL, "--loss", "models_here:saddle", "-k", "2", "--dtype", "float64", "--strict"]
    assert run(*words)[0] == 0  # the dense matrix decides
    status, out, err = run(*words, "--tools", "pyhessian")
    assert status == 4 and "contradicts" in err and "eigenvalue" in out


FAULTY = """
import torch
class Ragged(torch.utils.data.Dataset):
    def __len__(self): return 5
    def __getitem__(self, i): return torch.randn(5 + i), 0
class Fails(Ragged):
    def __getitem__(self, i): raise ValueError("disk gone")
class Words(Ragged):
    def __getitem__(self, i): return torch.randn(5), "cat"
def pairs(): return [(torch.randn(5), 1) for _ in range(4)]
def ragged(): return Ragged()
def fails(): return Fails()
def words(): return Words()
def loss(z, y): return z.nothing
"""


@pytest.mark.parametrize(
    "arguments,told",
    [
        (("--data", "faulty:ragged"), "CT021"),
        (("--data", "faulty:fails"), "disk gone"),
        (("--data", "faulty:words"), "CT021"),
        (("--data", "faulty:pairs"), "CT021"),
        (("--loss", "faulty:loss"), "CT028"),
    ],
)
def test_what_fails_in_a_users_own_code_is_no_bug(folder, run, arguments, told):
    Path("faulty.py").write_text(FAULTY)
    sys.modules.pop("faulty", None)
    model = MODEL if "--data" not in arguments else MODEL[:-2]
    status, _, err = run("eigs", *model, *arguments)
    assert status == 3 and told in err and "Traceback" not in err, err


def test_the_number_of_eigenvalues_fits_where_none_was_asked_for(folder, run):
    only = ("--params", "2.bias")  # three parameters
    assert run("eigs", *MODEL, *only)[0] == 0
    assert run("eigs", *MODEL, *only, "-k", "5")[0] == 2
    assert run("verify", *MODEL, *only, "--tools", "dense")[0] == 0


def test_layers_stand_apart_in_the_table(folder, run):
    assert run("eigs", *MODEL, "-k", "2", "--per-layer", "-o", "t.csv")[0] == 0
    rows = list(csv.DictReader(Path("t.csv").read_text().splitlines()))
    assert [(row["block"], row["rank"]) for row in rows] == [("all", "1"), ("all", "2"), ("0", "1"), ("2", "1")]


def test_saturated_losses_do_not_claim_a_trace_beyond_their_noise(folder, run):
    state = torch.load("net.pt")
    torch.save({name: 30 * tensor for name, tensor in state.items()}, "sharp.pt")
    run("trace", "sharp.pt", *MODEL[1:], "--json", "rough.json", "--method", "exact")
    run("trace", "sharp.pt", *MODEL[1:], "--json", "true.json", "--method", "exact", "--dtype", "float64")
    rough, true = (json.loads(Path(name).read_text()) for name in ("rough.json", "true.json"))
    low, high = rough["analyses"][0]["ci95"]
    assert low <= true["analyses"][0]["value"] <= high and low < high
    assert rough["problem"]["preflight"]["noise_floor"] > 1e-7
