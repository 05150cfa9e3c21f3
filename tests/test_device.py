"""The whole path on an accelerator: on a stand-in everywhere, on CUDA where there is one."""

import json

import numpy as np
import pytest
import standin
import torch
from cases import CASES

from curvtool import Hessian, InputJacobian, Problem, eigenvalues, jacobian_norms, trace
from curvtool.config.resolve import resolve
from curvtool.estimators.steering import keep_for
from curvtool.linalg.lanczos import Lanczos
from curvtool.problem.validation import check_problem
from curvtool.session.run import run

# abs has a second derivative without storage (an efficient zero tensor), which a device in Python cannot hold
CASES = [case for case in CASES if case.name != "user-loss"]


@pytest.fixture(scope="module")
def device():
    try:
        return standin.setup()
    except (ImportError, AttributeError):
        pytest.skip("this torch cannot register a device in Python")


def test_a_cpu_tensor_that_slips_in_raises(device):
    x = torch.ones(3).to(device)
    with pytest.raises(RuntimeError, match="slipped"):
        x + torch.ones(3)
    assert (x + 1).cpu().tolist() == [2, 2, 2]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_same_numbers_as_on_the_cpu(case, device):
    model, inputs, targets = case.make(torch.float32)
    results = []
    for place in (torch.device("cpu"), device):
        problem = Problem(model, (inputs, targets), case.loss, device=place, **case.options)
        check_problem(problem)
        hessian = Hessian(problem, batch_size=case.batch_size, mode="kept")
        assert (hessian @ hessian.space.zeros()).device.type == place.type
        results.append(
            [
                hessian.loss_and_gradient()[0],
                *eigenvalues(hessian, 2).values,
                *eigenvalues(hessian, 1, method="power", rtol=1e-5).values,
                trace(hessian, max_passes=3).value,
            ]
        )
        if place.type != "cpu":
            assert eigenvalues(hessian, 2).vectors.device.type == place.type
    assert np.allclose(*results, rtol=1e-5)


@pytest.mark.parametrize("max_basis", [None, 8])
def test_a_basis_on_the_host(max_basis, device):
    model, inputs, targets = CASES[0].make(torch.float32)
    hessian = Hessian(Problem(model, (inputs, targets), device=device), batch_size=4, mode="kept")
    near = eigenvalues(hessian, 3, max_basis=max_basis)
    far = eigenvalues(hessian, 3, max_basis=max_basis, basis="host")
    assert (near.basis, far.basis) == ("device", "host")
    assert np.allclose(near.values, far.values, rtol=1e-5)
    assert far.vectors.device.type == device.type
    assert eigenvalues(hessian, 3, memory_budget=0).basis == "host"  # where the device's memory is too small
    standin.traffic.clear()
    lanczos = Lanczos(hessian.matvec_in_parts, hessian.space, 12, (0,), storage="host")
    lanczos.step(keep_for(2, "la"))
    lanczos.step(keep_for(2, "la"))
    assert lanczos.basis.device.type == "cpu"
    assert max(numbers for _, numbers in standin.traffic) <= hessian.space.dim  # a vector at a time, never the basis


def test_jacobian_norms(device):
    for case in (CASES[0], CASES[3]):
        model, inputs, _ = case.make(torch.float32)
        found = []
        for place in (torch.device("cpu"), device):
            for limit in (1000, 1):
                jacobian = InputJacobian(Problem(model, inputs, None, device=place), batch_size=4)
                found.append(jacobian_norms(jacobian, max_exact_outputs=limit))
        for other in found[1:]:
            assert np.allclose(other.spectral, found[0].spectral, rtol=1e-4)


@pytest.mark.parametrize("kind", ["eigs", "trace", "jacnorm"])
def test_whole_run(kind, device):
    flags = {"device": str(device), "num_samples": 64, "checkpoint": "demo:digits", "hvp": "kept"}
    report = run(resolve(kind, flags, environment={})).report
    assert report.status == "complete"
    assert report.provenance.device == "standin:0"
    assert report.problem.preflight.noise_floor is not None
    json.loads(report.model_dump_json())


@pytest.mark.parametrize("restart", [False, True])
def test_one_synchronisation_an_iteration_and_no_vector_moves(device, restart):
    model, inputs, targets = CASES[0].make(torch.float32)
    problem = Problem(model, (inputs, targets), device=device)
    hessian = Hessian(problem, batch_size=4, mode="kept")
    dim = hessian.space.dim
    lanczos = Lanczos(hessian.matvec_in_parts, hessian.space, 8 if restart else 60, (0,))
    keep = keep_for(2, "la")
    for _ in range(8):
        lanczos.step(keep)
    for _ in range(4):
        standin.traffic.clear()
        lanczos.step(keep)
        waits = [entry for entry in standin.traffic if entry[0] in ("sync", "to host")]
        assert len(waits) == 1, standin.traffic
        assert all(numbers < dim for _, numbers in waits)
        uploads = [numbers for kind, numbers in standin.traffic if kind == "to device"]
        assert all(numbers < dim for numbers in uploads)  # a restart's rotation of the small basis
        assert restart or not uploads


def test_a_fresh_product_does_not_wait(device):
    model, inputs, targets = CASES[0].make(torch.float32)
    hessian = Hessian(Problem(model, (inputs, targets), device=device), batch_size=4, mode="fresh")
    vector = hessian.space.zeros() + 1
    assert hessian.execution.calibration.num_samples  # measured once, before the first product
    standin.traffic.clear()
    hessian @ vector
    assert not standin.traffic


def test_one_synchronisation_a_pass_of_the_trace(device):
    model, inputs, targets = CASES[0].make(torch.float32)
    hessian = Hessian(Problem(model, (inputs, targets), device=device), batch_size=4, mode="kept", group_size=2)
    trace(hessian, max_passes=2)
    standin.traffic.clear()
    trace(hessian, rtol=1e-6, max_passes=3)
    waits = [entry for entry in standin.traffic if entry[0] in ("sync", "to host")]
    assert waits == [
        ("to host", columns * hessian.terms.number) for columns in (6, 2)
    ]  # a pair of passes, and one more


@pytest.mark.cuda
@pytest.mark.parametrize("case", CASES, ids=str)
def test_cuda_gives_the_cpu_numbers(case):
    model, inputs, targets = case.make(torch.float64)
    found = []
    for place in ("cpu", "cuda"):
        problem = Problem(model, (inputs, targets), case.loss, device=place, **case.options)
        hessian = Hessian(problem, batch_size=case.batch_size)
        found.append(eigenvalues(hessian, 2, which="be", rtol=1e-10).values)
    assert np.allclose(*found, rtol=1e-8)


@pytest.mark.cuda
@pytest.mark.parametrize("kind", ["eigs", "trace", "jacnorm"])
def test_cuda_whole_run(kind):
    torch.cuda.set_sync_debug_mode("default")
    report = run(resolve(kind, {"device": "cuda", "checkpoint": "demo:digits"}, environment={})).report
    assert report.status == "complete" and report.analyses[0].cost.peak_bytes > 0
