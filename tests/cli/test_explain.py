"""Every code that the program can say is explained, and nothing else."""

import re
from pathlib import Path

import pytest

import curvtool
from curvtool.render.explanations import explanations

SOURCES = [path.read_text() for path in Path(curvtool.__file__).parent.rglob("*.py")]
CODES = {code for text in SOURCES for code in re.findall(r'"(CT\d{3})"', text)}


def test_codes_and_explanations_are_the_same():
    explained = {name for name in explanations() if name.startswith("CT")}
    assert len(CODES) > 60
    assert explained == CODES


def test_every_explanation_says_something():
    for found in explanations().values():
        assert found.title and len(found.text) > 60, found.name


@pytest.mark.parametrize("word", ["CT026", "ct026", "sharpness", "Edge of stability", "gauss_newton"])
def test_by_word(run, word):
    status, out, _ = run("explain", word)
    assert status == 0 and len(out) > 100


def test_the_list(run):
    status, out, _ = run("explain")
    assert status == 0 and all(name in out for name in explanations())


@pytest.mark.parametrize(
    ("word", "near"), [("sharpnes", "sharpness"), ("CT999", "curvtool explain"), ("newton", "gauss-newton")]
)
def test_unknown_words(run, word, near):
    status, _, err = run("explain", word)
    assert status == 2 and "CT001" in err and near in err


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("parameterization", "parameterisation"),
        ("parametrisation", "parameterisation"),
        ("Quantisation", "quantization"),
        ("batchnorm", "batch-normalization"),
        ("batch normalisation", "batch-normalization"),
        ("condition number", "condition-number"),
        ("AdamW", "adam"),
        ("momentum", "momentum"),
        ("GGN", "gauss-newton"),
    ],
)
def test_every_spelling_and_other_words_find_their_concept(word, name, run):
    status, out, _ = run("explain", word)
    assert status == 0 and out.startswith(f"{name}: ")
