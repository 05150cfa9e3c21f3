"""Every kind of data file: the same samples as were written, subsets by seed, and bad rows by their number."""

import json

import numpy as np
import pytest
import torch

from curvtool import CurvtoolError, Hessian, Problem
from curvtool.problem.sources.arrays import describe
from curvtool.problem.sources.objects import from_object
from curvtool.problem.sources.paths import from_path
from curvtool.problem.sources.reading import Reading

RNG = np.random.default_rng(0)
X = RNG.normal(size=(20, 3)).astype(np.float32)
Y = RNG.integers(0, 3, 20)


def same(data, x=X, y=Y):
    return np.array_equal(np.asarray(data.inputs), x) and np.array_equal(np.asarray(data.targets), y)


# arrays that are mapped


def test_maps_give_what_memory_gives(tmp_path):
    from safetensors.torch import save_file

    np.save(tmp_path / "inputs.npy", X)
    np.save(tmp_path / "targets.npy", Y.astype(np.uint16))
    save_file({"x": torch.from_numpy(X), "y": torch.from_numpy(Y)}, tmp_path / "data.safetensors")
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 3))
    wanted = Hessian(Problem(model, (torch.from_numpy(X), torch.from_numpy(Y))), batch_size=7)
    v = wanted.space.normal(0)
    for source in ("inputs.npy", "data.safetensors"):
        data = from_path(str(tmp_path / source))
        assert data.mapped
        problem = Problem(model, data)
        assert torch.equal(Hessian(problem, batch_size=7) @ v, wanted @ v)
        subset = from_path(str(tmp_path / source), Reading(num_samples=5, subset_seed=3))
        assert np.array_equal(np.asarray(subset.inputs), np.asarray(data.subset(5, 3).inputs)) and len(subset) == 5


def test_a_model_that_writes_to_mapped_inputs_does_not_end_the_process(tmp_path):
    from curvtool.problem.validation import check_problem

    np.savez(tmp_path / "d.npz", inputs=X, targets=Y)
    np.save(tmp_path / "inputs.npy", X)
    np.save(tmp_path / "targets.npy", Y)
    model = torch.nn.Sequential(torch.nn.ReLU(inplace=True), torch.nn.Linear(3, 3))
    with pytest.raises(CurvtoolError, match="writes to its inputs"):
        check_problem(Problem(model, from_path(str(tmp_path / "inputs.npy"))))


@pytest.mark.parametrize("name", ["a.npz", "inputs.npy", "b.safetensors"])
def test_described_by_headers_alone(tmp_path, name):
    from safetensors.numpy import save_file

    np.savez(tmp_path / "a.npz", inputs=X)
    np.save(tmp_path / "inputs.npy", X)
    save_file({"inputs": X}, tmp_path / "b.safetensors")
    ((_, shape, dtype),) = describe(tmp_path / name)
    assert shape == (20, 3) and dtype == "float32"


def test_bfloat16_and_big_endian(tmp_path):
    from safetensors.torch import save_file

    half = torch.from_numpy(X).bfloat16()
    save_file({"inputs": half, "targets": torch.from_numpy(Y)}, tmp_path / "h.safetensors")
    assert torch.equal(from_path(str(tmp_path / "h.safetensors")).inputs, half)
    np.save(tmp_path / "inputs.npy", X.astype(">f4"))
    assert np.array_equal(np.asarray(from_path(str(tmp_path / "inputs.npy")).inputs), X)


def test_an_archive_larger_than_memory_is_told(tmp_path, monkeypatch):
    np.savez(tmp_path / "a.npz", inputs=X, targets=Y)
    monkeypatch.setattr("curvtool.problem.sources.reading.free_host_bytes", lambda: 100)
    with pytest.raises(CurvtoolError, match="CT027"):
        from_path(str(tmp_path / "a.npz"))


# tokens


TOKENS = RNG.integers(0, 50_000, 103)


@pytest.mark.parametrize("dtype", ["uint16", "uint32", "int64"])
def test_tokens_and_the_next_ones(tmp_path, dtype):
    TOKENS.astype(dtype).tofile(tmp_path / "train.bin")
    reading = Reading(sequence_length=17, token_dtype=dtype)
    data = from_path(str(tmp_path / "train.bin"), reading)
    x, y = data.rows(0, len(data))
    assert len(data) == 6 and np.array_equal(x.flatten(), TOKENS[:102]) and np.array_equal(y.flatten(), TOKENS[1:103])
    assert x.dtype == torch.int64
    alone = from_path(str(tmp_path / "train.bin"), Reading(sequence_length=17, token_dtype=dtype, next_tokens=False))
    assert alone.targets is None and len(alone) == 6
    drawn = from_path(str(tmp_path / "train.bin"), Reading(None, None, 2, 5, None, 17, dtype))
    assert len(drawn) == 2


def test_causal_lm_over_mapped_tokens(tmp_path):
    (TOKENS % 7).astype(np.uint16).tofile(tmp_path / "train.bin")
    data = from_path(str(tmp_path / "train.bin"), Reading(sequence_length=10, next_tokens=False))
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Embedding(7, 3), torch.nn.Tanh(), torch.nn.Linear(3, 7)).double()
    ids = torch.from_numpy(TOKENS[:100] % 7).view(10, 10)
    mapped, held = (Hessian(Problem(model, source, "causal-lm"), batch_size=3) for source in (data, ids))
    assert torch.equal(mapped.materialize(), held.materialize())
    assert mapped.problem.total_weight == 90


@pytest.mark.parametrize(
    ("reading", "code"),
    [
        (Reading(), "sequence-length"),
        (Reading(sequence_length=500), "CT023"),
        (Reading(sequence_length=5, token_dtype="uint32"), "token-dtype"),
    ],
)
def test_tokens_that_cannot_be_read(tmp_path, reading, code):
    TOKENS.astype(np.uint16).tofile(tmp_path / "train.bin")
    with pytest.raises(CurvtoolError, match=code):
        from_path(str(tmp_path / "train.bin"), reading)


# images


def _image_folder(folder, sizes=((8, 8),)):
    from PIL import Image

    pixels = []
    for number, name in enumerate(("cats/1", "cats/2", "dogs/1", "birds/deep/1")):
        path = folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        height, width = sizes[number % len(sizes)]
        image = RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(image).save(path)
        pixels.append((name, image))
    return pixels


def test_a_folder_of_images(tmp_path):
    pytest.importorskip("PIL")
    pixels = dict(_image_folder(tmp_path))
    data = from_path(str(tmp_path), Reading(image_mean=(0.5, 0.4, 0.3), image_std=(0.2, 0.2, 0.1)))
    order = ["birds/deep/1", "cats/1", "cats/2", "dogs/1"]
    assert data.targets.tolist() == [0, 1, 1, 2]
    wanted = np.stack([pixels[name] for name in order]).transpose(0, 3, 1, 2) / 255
    wanted = (wanted - np.array([0.5, 0.4, 0.3])[:, None, None]) / np.array([0.2, 0.2, 0.1])[:, None, None]
    assert np.allclose(data.inputs, wanted, atol=1e-6)
    assert len(from_path(str(tmp_path), Reading(num_samples=2, subset_seed=1))) == 2


def test_images_of_several_sizes_and_bad_ones(tmp_path):
    pytest.importorskip("PIL")
    _image_folder(tmp_path, ((8, 8), (6, 9)))
    with pytest.raises(CurvtoolError, match="image-size"):
        from_path(str(tmp_path))
    assert from_path(str(tmp_path), Reading(image_size=5)).inputs.shape == (4, 3, 5, 5)
    (tmp_path / "cats" / "2.png").write_bytes(b"\x89PNG no image")
    with pytest.raises(CurvtoolError, match="row 2"):
        from_path(str(tmp_path), Reading(image_size=5))


def test_a_decompression_bomb_among_the_images(tmp_path):
    image = pytest.importorskip("PIL.Image")
    image.new("1", (60_000, 60_000)).save(tmp_path / "bomb.png")
    with pytest.raises(CurvtoolError, match="CT025"):
        from_path(str(tmp_path), Reading(image_size=8))


# tables


datasets_missing = pytest.mark.skipif(
    not pytest.importorskip("importlib.util").find_spec("datasets"), reason="datasets is not installed"
)


def _table(folder, kind, columns):
    import datasets

    table = datasets.Dataset.from_dict(columns)
    path = folder / f"data.{kind}"
    match kind:
        case "parquet":
            table.to_parquet(path)
        case "csv":
            table.to_csv(path)
        case "jsonl":
            table.to_json(path)
        case "saved":
            table.save_to_disk(path)
        case "splits":
            datasets.DatasetDict({"train": table, "test": table.select(range(5))}).save_to_disk(path)
    return path


@datasets_missing
@pytest.mark.parametrize("kind", ["parquet", "jsonl", "saved"])
def test_tables_with_lists(tmp_path, kind):
    path = _table(tmp_path, kind, {"inputs": X.tolist(), "label": Y.tolist()})
    data = from_path(str(path))
    assert np.allclose(data.inputs, X) and np.array_equal(data.targets, Y)
    drawn = from_path(str(path), Reading(num_samples=4, subset_seed=2))
    assert torch.equal(drawn.inputs, data.subset(4, 2).inputs)


@datasets_missing
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_columns_of_numbers_are_the_inputs(tmp_path, kind):
    columns = {"a": X[:, 0].tolist(), "b": X[:, 1].tolist(), "c": X[:, 2].tolist(), "target": Y.tolist()}
    path = _table(tmp_path, kind, columns)
    data = from_path(str(path))
    assert np.allclose(data.inputs, X) and np.array_equal(data.targets, Y)
    assert any("a, b, c" in note for note in data.notes)
    some = from_path(str(path), Reading(input_key="c,a", target_key="b"))
    assert np.allclose(some.inputs, X[:, [2, 0]]) and np.allclose(some.targets, X[:, 1])
    with pytest.raises(CurvtoolError, match="no column"):
        from_path(str(path), Reading(input_key="a,d"))


@datasets_missing
def test_splits(tmp_path):
    path = _table(tmp_path, "splits", {"x": X.tolist(), "y": Y.tolist()})
    assert len(from_path(str(path), Reading(split="test"))) == 5
    with pytest.raises(CurvtoolError, match="--split"):
        from_path(str(path))


@datasets_missing
@pytest.mark.parametrize("bad", [[1.0], None, [float("nan"), 1.0]])
def test_bad_rows_of_tables_are_named(tmp_path, bad):
    path = _table(tmp_path, "parquet", {"inputs": [[1.0, 2.0], [1.0, 2.0], bad], "label": [0, 1, 2]})
    with pytest.raises(CurvtoolError, match="row 2"):
        from_path(str(path))


@datasets_missing
def test_damaged_tables(tmp_path):
    for name in ("a.parquet", "a.csv", "a.jsonl", "a.arrow"):
        (tmp_path / name).write_bytes(b"PAR1 \x00\xff nothing,of\x00 the kind\n{")
        with pytest.raises(CurvtoolError) as caught:
            from_path(str(tmp_path / name))
        assert caught.value.exit_status == 3, name


# text


def _tokenizer(folder):
    pytest.importorskip("transformers")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words += ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "rats"]
    (folder / "vocab.txt").write_text("\n".join(words))
    settings = {"tokenizer_class": "BertTokenizer", "model_max_length": 64}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def test_text_as_sequences(tmp_path):
    place = _tokenizer(tmp_path)
    (tmp_path / "corpus.txt").write_text("the cat sat on a mat and saw rats " * 10)
    reading = Reading(tokenizer=place, sequence_length=9, next_tokens=False)
    data = from_path(str(tmp_path / "corpus.txt"), reading)
    assert data.inputs["input_ids"].shape == (10, 9) and len(set(data.inputs["input_ids"][0].tolist())) == 9
    hidden = from_path(str(tmp_path / "corpus.txt"), Reading(tokenizer=place, sequence_length=9, mask_tokens=True))
    counted = hidden.targets != -100
    assert 0 < int(counted.sum()) < 45 and bool((hidden.inputs[counted] == 4).all())
    assert torch.equal(torch.where(counted, hidden.targets, hidden.inputs), data.inputs["input_ids"])


@datasets_missing
def test_a_column_of_text(tmp_path):
    place = _tokenizer(tmp_path)
    path = _table(tmp_path, "jsonl", {"text": ["the cat", "a mat and rats saw"], "label": [1, 0]})
    data = from_path(str(path), Reading(tokenizer=place))
    assert data.inputs["input_ids"].shape == (2, 7) and data.inputs["attention_mask"].sum(1).tolist() == [4, 7]
    assert data.targets.tolist() == [1, 0]
    with pytest.raises(CurvtoolError, match="tokenizer"):
        from_path(str(path))


def test_lists_within_lists_from_python_stay_as_they_were():
    assert from_object({"x": [[1.0, 2.0]], "y": [1]}).inputs.shape == (1, 2)


def test_looks_of_what_is_no_checkpoint(tmp_path):
    from curvtool.setup.inspection import inspect_file

    TOKENS.astype(np.uint16).tofile(tmp_path / "train.bin")
    (tmp_path / "t.csv").write_text("a,b,label\n1,2,0\n")
    (tmp_path / "c.txt").write_text("the cat sat\n")
    found = {name: inspect_file(tmp_path / name) for name in ("train.bin", "t.csv", "c.txt")}
    assert {each.role for each in found.values()} == {"data"}
    assert "--sequence-length" in found["train.bin"].next_command and "103 tokens" in found["train.bin"].notes[0]
    assert "a,b,label" in found["t.csv"].notes[0] and "--tokenizer" in found["c.txt"].next_command
    pytest.importorskip("PIL")
    (tmp_path / "pictures").mkdir()
    _image_folder(tmp_path / "pictures")
    assert "3 classes: birds, cats, dogs" in inspect_file(tmp_path / "pictures").notes[0]


def test_folders_of_parts_are_no_classes(tmp_path):
    pytest.importorskip("PIL")
    for part in ("train", "val"):
        (tmp_path / part).mkdir()
        _image_folder(tmp_path / part)
    with pytest.raises(CurvtoolError, match="--split"):
        from_path(str(tmp_path))
    assert from_path(str(tmp_path), Reading(split="val")).targets.tolist() == [0, 1, 1, 2]
    with pytest.raises(CurvtoolError, match="tset"):
        from_path(str(tmp_path), Reading(split="tset"))


def test_arrays_of_numpy_from_python():
    from curvtool.problem.sources.objects import from_object

    x, y = np.random.default_rng(0).random((5, 3)).astype(np.float32), np.arange(5)
    found = from_object((x, y))
    assert torch.equal(found.inputs, torch.from_numpy(x)) and torch.equal(found.targets, torch.from_numpy(y))
    assert torch.equal(from_object(x).inputs, torch.from_numpy(x))
