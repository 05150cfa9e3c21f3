"""Every source gives the same samples in the same order."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from curvtool import CurvtoolError
from curvtool.problem.data import Data
from curvtool.problem.sources.objects import from_object
from curvtool.problem.sources.paths import from_path
from curvtool.problem.sources.reading import Reading

X = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
Y = np.arange(7) % 3


def as_expected(data):
    return np.array_equal(np.asarray(data.inputs), X) and np.array_equal(np.asarray(data.targets), Y)


def test_files(tmp_path):
    np.savez(tmp_path / "a.npz", inputs=X, targets=Y)
    np.save(tmp_path / "inputs.npy", X)
    np.save(tmp_path / "targets.npy", Y)
    save_file({"x": torch.from_numpy(X), "y": torch.from_numpy(Y)}, tmp_path / "b.safetensors")
    torch.save({"images": torch.from_numpy(X), "labels": torch.from_numpy(Y)}, tmp_path / "c.pt")
    for source in ("a.npz", "inputs.npy", "b.safetensors", "c.pt"):
        assert as_expected(from_path(str(tmp_path / source))), source
    assert as_expected(from_path(f"{tmp_path / 'inputs.npy'},{tmp_path / 'targets.npy'}"))
    folder = tmp_path / "folder"
    folder.mkdir()
    np.save(folder / "x.npy", X)
    np.save(folder / "y.npy", Y)
    assert as_expected(from_path(str(folder)))


def test_objects():
    x, y = torch.from_numpy(X), torch.from_numpy(Y)
    loader = DataLoader(TensorDataset(x, y), batch_size=3)
    for source in ((x, y), {"x": x, "y": y}, TensorDataset(x, y), loader, list(loader), [{"x": x, "y": y}]):
        assert as_expected(from_object(source))
    assert from_object(x).targets is None
    several = from_object([(x, x * 2, y)])
    assert isinstance(several.inputs, tuple) and torch.equal(several.inputs[1], x * 2)


def test_keys(tmp_path):
    np.savez(tmp_path / "a.npz", first=X, second=Y)
    data = from_path(str(tmp_path / "a.npz"), Reading(input_key="first", target_key="second"))
    assert as_expected(data)
    with pytest.raises(CurvtoolError) as caught:
        from_path(str(tmp_path / "a.npz"))
    assert "--input-key first" in caught.value.remedy
    with pytest.raises(CurvtoolError) as caught:
        from_path(str(tmp_path / "a.npz"), Reading(input_key="frist"))
    assert "'first'" in caught.value.remedy


def test_masks_travel_with_tokens():
    ids = torch.ones(4, 5, dtype=torch.long)
    data = from_object({"input_ids": ids, "attention_mask": ids, "labels": ids})
    assert set(data.inputs) == {"input_ids", "attention_mask"} and torch.equal(data.targets, ids)


def test_subset_is_fixed_by_its_seed():
    data = Data(torch.arange(100))
    assert data.subset(5).inputs.tolist() == [0, 1, 2, 3, 4]
    drawn = data.subset(5, seed=1).inputs.tolist()
    assert drawn == data.subset(5, seed=1).inputs.tolist() == sorted(drawn)
    assert drawn != data.subset(5, seed=2).inputs.tolist()
    assert len(data.subset(500)) == 100


def test_fingerprint_sees_values_order_and_type():
    prints = {Data(t).fingerprint() for t in (torch.tensor([1, 2]), torch.tensor([2, 1]), torch.tensor([1.0, 2.0]))}
    assert len(prints) == 3


class Endless(IterableDataset):
    def __iter__(self):
        while True:
            yield torch.ones(2), torch.tensor(0)


def test_endless_source_needs_a_number():
    with pytest.raises(CurvtoolError, match="num-samples"):
        from_object(Endless())


@pytest.mark.parametrize(
    "make,code",
    [
        (lambda: Data(torch.ones(3, 2), torch.ones(4)), "CT021"),
        (lambda: Data(torch.ones(0, 2)), "CT023"),
        (lambda: from_object([]), "CT023"),
        (lambda: from_object(3), "CT021"),
        (lambda: from_object(["a", "b"]), "CT021"),
        (lambda: from_object([(torch.ones(2, 3), torch.ones(2)), (torch.ones(2, 4), torch.ones(2))]), "CT021"),
        (lambda: from_path("nowhere.npz"), "CT020"),
    ],
)
def test_mistakes(make, code):
    with pytest.raises(CurvtoolError, match=code):
        make()


def test_bad_row_is_named():
    x = torch.ones(6, 2)
    x[4, 1] = float("nan")
    with pytest.raises(CurvtoolError, match="row 4"):
        Data(x)


def test_files_with_pickles_torn_or_unknown(tmp_path):
    np.savez(tmp_path / "p.npz", inputs=np.array([{}], dtype=object))
    np.savez(tmp_path / "t.npz", inputs=X)
    (tmp_path / "t.npz").write_bytes((tmp_path / "t.npz").read_bytes()[:60])
    (tmp_path / "a.xyz").write_text("1,2\n")
    np.savez(tmp_path / "s.npz", inputs=np.array(["a"]))
    for name in ("p.npz", "t.npz", "a.xyz", "s.npz"):
        with pytest.raises(CurvtoolError, match="CT021"):
            from_path(str(tmp_path / name))


def test_dictionaries_by_name_may_hold_several_inputs():
    left, right = torch.zeros(4, 2), torch.ones(4, 3)
    data = from_object({"inputs": {"a": left, "b": right}, "targets": torch.arange(4)})
    assert set(data.inputs) == {"a", "b"} and len(data) == 4
    assert len(from_object({"x": (left, right), "y": torch.arange(4)}).inputs) == 2
