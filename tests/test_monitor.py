"""Measuring while training: the numbers are those of the loss, and training goes on as if nothing had been measured."""

import copy
import math
import threading
import warnings

import numpy as np
import pytest
import torch

import curvtool
from curvtool import CurvtoolError, Hessian, Monitor, Problem, eigenvalues, preflight

INPUTS = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
TARGETS = torch.randint(0, 3, (60,), generator=torch.Generator().manual_seed(1))


def made():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(5, 8), torch.nn.BatchNorm1d(8), torch.nn.Tanh(), torch.nn.Dropout(0.3), torch.nn.Linear(8, 3)
    )


def trained(monitor=None, steps=12):
    torch.manual_seed(1)
    model = made()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    for step in range(steps):
        rows = torch.randint(0, 60, (16,))
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(INPUTS[rows]), TARGETS[rows]).backward()
        optimizer.step()
        if monitor is not None:
            monitor(model, step, lr=0.2)
    return model


def test_training_goes_on_as_if_nothing_had_been_measured():
    monitor = Monitor((INPUTS, TARGETS), "cross-entropy", every=5, k=2)
    watched, alone = trained(monitor), trained()
    for one, other in zip(watched.state_dict().values(), alone.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    assert watched.training and all(p.requires_grad for p in watched.parameters())
    assert [each["step"] for each in monitor.history] == [0, 5, 10]


def test_batch_norm_by_running_statistics_is_told_once_and_by_batches_measured():
    monitor = Monitor((INPUTS, TARGETS), every=1)
    with pytest.warns(UserWarning, match=r"CT238.*batch_norm=\"batch\"") as told:
        trained(monitor, 3)
    assert len([each for each in told if "CT238" in str(each.message)]) == 1
    monitor = Monitor((INPUTS, TARGETS), every=4, rtol=1e-3, batch_norm="batch", batch_size=16)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model = trained(monitor, 5)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    alone = trained(steps=5)
    assert all(torch.equal(t, before[name]) for name, t in alone.state_dict().items())  # running statistics too
    plain = copy.deepcopy(model).double().train()
    plain[3].eval()
    z = torch.cat([plain(x) for x in INPUTS.double().split(16)])  # the last batch has 12 samples
    loss, parameters = torch.nn.functional.cross_entropy(z, TARGETS), list(plain.parameters())
    gradient = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, parameters, create_graph=True)])
    rows = [torch.autograd.grad(each, parameters, retain_graph=True) for each in gradient]
    dense = torch.stack([torch.cat([part.reshape(-1) for part in row]) for row in rows])
    found = monitor.history[-1]
    assert found["curvature/loss"] == pytest.approx(float(loss.detach()), rel=1e-5)
    true = float(torch.linalg.eigvalsh(dense)[-1])
    assert abs(found["curvature/lambda_max"] - true) <= 1.1 * found["curvature/lambda_max_error"] + 1e-5
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(INPUTS, TARGETS), batch_size=16)
    again = Monitor(loader, rtol=1e-3, batch_norm="batch")(model, 0)
    assert again["curvature/lambda_max"] == pytest.approx(found["curvature/lambda_max"], rel=1e-3)


def test_the_numbers():
    told = []
    monitor = Monitor((INPUTS, TARGETS), every=4, rtol=1e-3, log=lambda found, step: told.append((step, found)))
    model = trained(monitor, 9)
    problem = Problem(model, (INPUTS, TARGETS), "cross-entropy", dtype=torch.float64)
    values = np.linalg.eigvalsh(Hessian(problem).materialize().numpy())
    step, found = told[-1]
    assert step == 8 and [each for each, _ in told] == [0, 4, 8]
    assert abs(found["curvature/lambda_max"] - values[-1]) <= 1.1 * found["curvature/lambda_max_error"] + 1e-5
    assert found["curvature/lambda_max_x_lr"] == pytest.approx(0.2 * found["curvature/lambda_max"])
    assert abs(found["curvature/trace"] - values.sum()) <= 5 * found["curvature/trace_stderr"] + 1e-5
    assert (
        found["curvature/loss"] == pytest.approx(float(problem.loss_and_gradient()[0]), rel=1e-5)
        if hasattr(problem, "loss_and_gradient")
        else found["curvature/loss"] > 0
    )


@pytest.mark.parametrize("arguments", [{"operator": "hesse"}, {"every": 0}])
def test_senseless_arguments(arguments):
    with pytest.raises(CurvtoolError, match="CT001"):
        Monitor((INPUTS, TARGETS), **arguments)


def test_in_lightning(tmp_path):
    lightning = pytest.importorskip("lightning.pytorch")

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = made()

        def forward(self, x):
            return self.net(x)

        def training_step(self, batch, _):
            return torch.nn.functional.cross_entropy(self(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    from curvtool.monitor import lightning_callback

    monitor = Monitor((INPUTS, TARGETS), every=3)
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(INPUTS, TARGETS), batch_size=10)
    trainer = lightning.Trainer(
        max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu",
        enable_model_summary=False, callbacks=[lightning_callback(monitor)], default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(Module(), data)
    assert [each["step"] for each in monitor.history] == [1, 4]
    assert all(each["curvature/lambda_max_x_lr"] > 0 for each in monitor.history)


def test_in_a_hugging_face_trainer(tmp_path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    from curvtool.monitor import hugging_face_callback

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = made()

        def forward(self, x, labels=None):
            logits = self.net(x)
            loss = None if labels is None else torch.nn.functional.cross_entropy(logits, labels)
            return {"loss": loss, "logits": logits}

    monitor = Monitor(({"x": INPUTS}, TARGETS), "cross-entropy", every=2)
    rows = [{"x": x, "labels": y} for x, y in zip(INPUTS, TARGETS, strict=True)]
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), max_steps=4, report_to=[], use_cpu=True, save_strategy="no"
    )
    trainer = transformers.Trainer(Model(), arguments, train_dataset=rows, callbacks=[hugging_face_callback(monitor)])
    trainer.train()
    assert [each["step"] for each in monitor.history] == [1, 3]
    assert any("curvature/lambda_max" in entry for entry in trainer.state.log_history)


def test_a_report_as_records(tmp_path):
    pandas = pytest.importorskip("pandas")
    from curvtool.config.resolve import resolve
    from curvtool.session.run import run

    found = run(resolve("eigs", {"num_samples": 40, "k": 2, "device": "cpu"}, environment={})).report
    (tmp_path / "r.json").write_text(found.model_dump_json())
    table = pandas.DataFrame(curvtool.numbers(curvtool.load_report(tmp_path / "r.json")))
    assert list(table.columns) == [
        "analysis", "name", "value", "error", "error_kind", "degrees_of_freedom", "low", "high", "data_stderr"
    ]  # fmt: skip
    assert table[table.name == "eigenvalue 1"].value.item() == found.analyses[0].eigenvalues[0].value


def test_as_a_scipy_operator():
    from scipy.sparse.linalg import eigsh

    problem = Problem(made(), (INPUTS, TARGETS), "cross-entropy", dtype=torch.float64)
    hessian = Hessian(problem)
    view = curvtool.scipy_operator(hessian)
    dense = hessian.materialize().numpy()
    block = np.random.default_rng(0).standard_normal((dense.shape[0], 3))
    np.testing.assert_allclose(view @ block, dense @ block, atol=1e-10)
    np.testing.assert_allclose(view @ block[:, 0], dense @ block[:, 0], atol=1e-10)
    largest = eigsh(view, k=1, which="LA", return_eigenvectors=False)[0]
    found = eigenvalues(hessian, 1, which="la", rtol=1e-6).eigenvalues[0]
    assert largest == pytest.approx(found.value, abs=10 * found.error_bound + 1e-9)


def test_within_inference_mode():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    data = (torch.randn(30, 3), torch.randint(0, 2, (30,)))
    expected = Monitor(data, "cross-entropy")(net, 0)
    with torch.inference_mode():
        found = Monitor(data, "cross-entropy")(net, 0)
    assert found == expected and found["curvature/lambda_max"] > 0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_a_model_that_diverged_stops_no_training(value):
    net = torch.nn.Linear(3, 2)
    data = (torch.randn(30, 3), torch.randint(0, 2, (30,)))
    monitor = Monitor(data, "mse", every=1) if value == 1e30 else Monitor(data, "cross-entropy", every=1)
    monitor.data = (data[0], torch.randn(30, 2)) if value == 1e30 else data
    monitor(net, 0, lr=0.1)
    with torch.no_grad():
        net.weight.mul_(value)
    found = monitor(net, 1, lr=0.1)
    assert set(found) == {"curvature/loss"} and not math.isfinite(found["curvature/loss"])


def test_what_does_not_fit_is_told_at_the_first_measurement():
    net = torch.nn.Linear(3, 2)
    too_large, too_wide = (torch.randn(9, 3), torch.full((9,), 7)), (torch.randn(9, 5), torch.zeros(9).long())
    for data, code in ((too_large, "CT022"), (too_wide, "CT024")):
        with pytest.raises(CurvtoolError, match=code):
            Monitor(data, "cross-entropy")(net, 0)


def test_the_monitor_states_the_error_of_the_search_and_of_the_record():
    from curvtool.analyses.eigs.recording import eigenvalue_record

    torch.manual_seed(0)
    model, data = torch.nn.Linear(5, 3), (torch.randn(60, 5), torch.randint(0, 3, (60,)))
    monitor = Monitor(data, "cross-entropy", with_trace=False)
    logged = monitor.measure(model)
    problem = Problem(model, data)
    pair = eigenvalues(Hessian(problem), 1, rtol=1e-2, noise=preflight(problem).noise_floor).eigenvalues[0]
    assert logged["curvature/lambda_max_error"] == pytest.approx(pair.error_bound, rel=0.2)
    assert eigenvalue_record(pair).error_bound == pair.error_bound


def test_threads_that_share_a_model_take_turns():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(20, 16), torch.nn.Tanh(), torch.nn.Linear(16, 3))
    data = torch.randn(60, 20, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 3
    alone = Monitor(data, every=1)(model, 0)["curvature/lambda_max"]
    monitors, found = [Monitor(data, every=1) for _ in range(2)], []

    def measured(number):
        found.append(monitors[number % 2](model, number))

    threads = [threading.Thread(target=measured, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6  # those whose step another one was ahead of measured nothing
    values = [each["curvature/lambda_max"] for each in found if each is not None]
    assert len(values) >= 2 and values == pytest.approx([alone] * len(values), rel=1e-3)
    assert all(parameter.grad is None for parameter in model.parameters())
