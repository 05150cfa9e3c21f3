"""What charts show is what the report says; pictures are made of them in every format."""

import base64
import io
import math
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from curvtool.analyses.jacnorm import thumbnails
from curvtool.errors import UsageError
from curvtool.render import pictures
from curvtool.render.analyses import charts_of_analysis, galleries_of, verdict_of
from curvtool.render.formats import FORMATS, PICTURES, content, format_of
from curvtool.render.track import charts as charts_of_rows


def all_charts(report):
    return [chart for each in report.analyses for chart in charts_of_analysis(each)]


def test_every_analysis_is_drawn(whole):
    for analysis in whole.analyses[:-1]:  # no way to run products was timed
        assert charts_of_analysis(analysis), analysis.kind


def test_series_are_whole_and_errors_stand_around_the_values(whole, rows):
    for chart in [*all_charts(whole), *charts_of_rows(rows)]:
        for series in chart.series:
            assert len(series.x) == len(series.y) > 0
            assert (series.low is None) == (series.high is None)
            if series.low is not None:
                for low, y, high in zip(series.low, series.y, series.high, strict=True):
                    assert y is None or low - 1e-12 <= y <= high + 1e-12
            if chart.log_y:
                ends = [*series.y, *(series.low or []), *(series.high or [])]
                assert all(v is None or v > 0 for v in ends)
            if chart.names and series.mark == "bars":
                assert list(series.x) == list(range(len(chart.names)))


def test_values_are_those_of_the_report(whole, rows):
    eigs, trace, density, _, jac, _ = whole.analyses
    charts = {chart.title: chart for chart in all_charts(whole)}
    pairs = charts["Eigenvalues of the Hessian (both ends)"].series[0]
    assert list(pairs.y) == [pair.value for pair in eigs.eigenvalues]
    edge = charts["Eigenvalues of the Hessian (both ends)"].series[-1]
    assert edge.y[0] == pytest.approx(2 / 0.3) and "learning rate" in edge.name
    layers = charts["Trace of the Hessian by layer"]
    assert dict(zip(layers.names, layers.series[0].y, strict=True)) == {n: b.value for n, b in trace.per_layer.items()}
    histogram = charts["Spectral norm of the input-output Jacobian"].series[0]
    assert sum(histogram.y) == jac.num_examples == 60
    line, outliers = charts["Spectral density of the Hessian"].series
    drawn = [(x, y) for x, y in zip(line.x, line.y, strict=True) if y is not None]
    wanted = dict(zip(density.grid, density.density, strict=True))
    assert all(wanted[x] == y for x, y in drawn) and len(drawn) > 50
    assert list(outliers.x) == [outlier.value for outlier in density.outliers]
    (above,) = charts["How many eigenvalues of the Hessian lie above each value"].series
    assert above.y[0] == pytest.approx(density.num_dims) and above.x == density.grid
    for count, low, high, share in zip(above.y, above.low, above.high, density.cumulative, strict=True):
        assert count is None or low <= count <= high
        assert (
            count == pytest.approx(density.num_dims * (1 - share)) if count else density.num_dims * (1 - share) <= 0.5
        )
    over_training = charts_of_rows(rows)[0]
    assert list(over_training.series[0].x) == [10, 20, 30] and over_training.series[-1].y[0] == pytest.approx(2 / 0.3)


@pytest.mark.parametrize("format", PICTURES)
def test_pictures(whole, rows, format, monkeypatch):
    begin = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[format]
    for found in (whole, rows):
        picture = content(found, format)
        assert picture.startswith(begin) and len(picture) > 5000
        if format == "svg":
            text = " ".join(ET.fromstring(picture).itertext())
            assert "eigenvalue" in text and "2 / learning rate" in text
    monkeypatch.setitem(pictures._STYLE, "pdf.compression", 0)
    first, second = (content(whole, format) for _ in range(2))
    if format == "png":
        one, other = (imread(io.BytesIO(each)) for each in (first, second))
        assert one.shape == other.shape and float(np.abs(one - other).mean()) < 1e-3
        return
    (words, numbers), (others, again) = _parts(first), _parts(second)
    assert words == others, "the same picture of the same numbers"
    assert np.allclose(numbers, again, rtol=0, atol=0.01)  # points: a panel's place has its solver's last bits


def _parts(picture):
    """The text without numbers, and the numbers, of a picture without matplotlib's own names and the file's lengths."""
    picture = re.sub(rb"\b[a-z][0-9a-f]{10}\b", b"", picture)
    if picture.startswith(b"%PDF"):
        picture = re.sub(rb"^\d{10} \d{5} [nf].*$|^\d+$", b"", picture, flags=re.M)
    number = rb"(?<![\w#.])-?\d+(?:\.\d+)?(?:e-?\d+)?"
    words = b" ".join(re.sub(number, b"0", picture).split())  # lines break where a number was shorter
    return words, [float(each) for each in re.findall(number, picture)]


def test_images_and_directions(whole):
    """The pictures in the report are those of the data and of the singular vectors."""
    from curvtool.problem.demo import digits

    top = whole.analyses[4].top
    assert len(top) == 4
    for example in top:
        image, direction = (
            imread(io.BytesIO(base64.b64decode(text)), format="png") for text in (example.image, example.direction)
        )
        assert image.shape == direction.shape == (8, 8, 3)
        pixels = digits().inputs[example.index, 0].numpy()
        np.testing.assert_allclose(image[..., 0], (pixels - pixels.min()) / np.ptp(pixels), atol=1 / 250)
        assert direction.min() < 0.1 and not (direction[..., 0] == direction[..., 2]).all()
    (gallery,) = galleries_of(whole.analyses[4])
    assert gallery.labels[0].startswith(f"row {top[0].index}")


def test_large_images_are_averaged():
    image = torch.linspace(0, 1, 400)[None, None, :].expand(3, 300, 400)
    shown = imread_of(thumbnails.of_image(image))
    assert max(shown.shape[:2]) <= 96 and abs(np.diff(shown[0, :, 0]).mean() - 1 / shown.shape[1]) < 0.002


def imread_of(text):
    from matplotlib.image import imread

    return imread(io.BytesIO(base64.b64decode(text)), format="png")


def test_many_layers_with_long_names(whole):
    eigs = whole.analyses[0]
    layer = next(iter(eigs.per_layer.values()))
    layers = {f"model.encoder.layers.{i}.attention.self.query_projection": layer for i in range(300)}
    changed = whole.model_copy(update={"analyses": [eigs.model_copy(update={"per_layer": layers})]})
    assert content(changed, "png").startswith(b"\x89PNG")


def test_convergence(whole):
    eigs, trace = whole.analyses[:2]
    products, value, _ = eigs.history[-1]
    assert products == eigs.cost.solver_hvps and value == pytest.approx(eigs.eigenvalues[0].value, rel=1e-6)
    assert [n for n, _, _ in eigs.history] == list(range(1, len(eigs.history) + 1))
    passes, estimate, stderr = trace.history[-1]
    assert passes == trace.num_passes and estimate == pytest.approx(trace.value)
    assert stderr == pytest.approx(trace.stderr)
    line, wanted = {chart.title: chart for chart in charts_of_analysis(eigs)}["Convergence"].series
    assert len(line.x) >= 2 and set(wanted.y) == {eigs.rtol}


def test_a_number_alone_is_drawn_with_its_interval(whole):
    trace = whole.analyses[1].model_copy(update={"per_layer": None, "history": []})
    (chart,) = charts_of_analysis(trace)
    assert (chart.series[0].low[0], chart.series[0].high[0]) == trace.ci95
    assert content(whole.model_copy(update={"analyses": [trace]}), "png").startswith(b"\x89PNG")


def test_nothing_is_no_picture(whole):
    with pytest.raises(UsageError, match="CT009"):
        content(whole.model_copy(update={"analyses": []}), "png")


def test_names_without_a_format(tmp_path):
    for name in ("report.xyz", "report"):
        with pytest.raises(UsageError, match="CT005"):
            format_of(tmp_path / name)
    assert {format_of(tmp_path / f"r.{name}") for name in FORMATS} == set(FORMATS)


def test_verdicts(whole):
    told = {each.kind: " ".join(verdict_of(each)) for each in whole.analyses}
    eigs = whole.analyses[0]
    product = eigs.eigenvalues[0].value * 0.3
    assert ("sharp" in told["eigs"]) == (product > 2) and math.isfinite(product)
    assert "95 % interval" in told["trace"] and "of zero" in told["density"]
    assert f"row {whole.analyses[4].top[0].index}" in told["jacnorm"]
