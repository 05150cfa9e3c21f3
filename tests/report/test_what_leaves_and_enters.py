"""Files that are written, names that come from files, and reports that are damaged."""

import copy
import csv
import io
import json
import os
import random
import socket
import stat
import threading
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch

from curvtool.errors import CurvtoolError, LoadError, UsageError
from curvtool.render.formats import content
from curvtool.render.table_parts import csv_text, markdown_table
from curvtool.report.comparison import compare
from curvtool.report.read import read_from, read_report
from curvtool.report.write import check_writable, write_atomic
from curvtool.setup.starter import toml_string
from curvtool.words import printable


def test_a_link_stays_and_its_file_is_replaced(tmp_path):
    (tmp_path / "real").mkdir()
    target, link = tmp_path / "real" / "r.json", tmp_path / "r.json"
    target.write_text("before")
    link.symlink_to(target)
    check_writable(link)
    write_atomic(link, b"after")
    assert link.is_symlink() and target.read_text() == "after"
    dangling = tmp_path / "new.json"
    dangling.symlink_to(tmp_path / "real" / "new.json")
    write_atomic(dangling, b"new")
    assert dangling.is_symlink() and (tmp_path / "real" / "new.json").read_text() == "new"
    lost = tmp_path / "lost.json"
    lost.symlink_to(tmp_path / "nowhere" / "r.json")
    with pytest.raises(UsageError, match="CT007"):
        check_writable(lost)


def test_a_file_keeps_its_mode(tmp_path):
    path = tmp_path / "r.json"
    path.write_text("before")
    path.chmod(0o600)
    write_atomic(path, b"after")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and path.read_text() == "after"
    before = os.umask(0o027)
    try:
        write_atomic(tmp_path / "new.json", b"new")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new.json").stat().st_mode) == 0o640


def test_streams_are_written_to_and_stay_streams(tmp_path):
    fifo, got = tmp_path / "pipe", []
    os.mkfifo(fifo)
    reader = threading.Thread(target=lambda: got.append(fifo.read_bytes()), daemon=True)
    reader.start()
    check_writable(fifo)
    write_atomic(fifo, b"through")
    reader.join(10)
    assert got == [b"through"] and stat.S_ISFIFO(fifo.stat().st_mode)
    write_atomic(Path("/dev/null"), b"away")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_a_socket_is_not_replaced(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # its path may not be long
    with socket.socket(socket.AF_UNIX) as there:
        there.bind("s")
        for write in (check_writable, lambda path: write_atomic(path, b"x")):
            with pytest.raises(UsageError, match="CT007"):
                write(Path("s"))
        assert stat.S_ISSOCK(Path("s").stat().st_mode)


def test_a_file_without_write_permission_and_links_in_a_circle_are_refused(tmp_path):
    path = tmp_path / "r.json"
    path.write_text("before")
    path.chmod(0o444)
    with pytest.raises(UsageError, match="CT007"):
        check_writable(path)
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    for write in (check_writable, lambda path: write_atomic(path, b"x")):
        with pytest.raises(UsageError, match="CT007"):
            write(tmp_path / "a")
    assert (tmp_path / "a").is_symlink()


def test_a_report_does_not_replace_what_the_run_reads(tmp_path, monkeypatch, run):
    monkeypatch.chdir(tmp_path)
    torch.save(torch.nn.Linear(3, 2).state_dict(), "model.pt")
    Path("mine.py").write_text("import torch\ndef net():\n    return torch.nn.Linear(3, 2)\n")
    np.savez("data.npz", inputs=np.zeros((4, 3), "f4"), targets=np.zeros(4, dtype=int))
    Path("curvtool.toml").write_text('[model]\ncheckpoint = "model.pt"\nfactory = "mine:net"\n')
    for name in ("model.pt", "mine.py", "data.npz", "curvtool.toml", "./model.pt"):
        before = Path(name).read_bytes()
        status, _, err = run("eigs", "--data", "data.npz", "--json", name)
        assert status == 2 and "CT007" in err and "written over" in err, (name, err)
        assert Path(name).read_bytes() == before


def test_a_long_name_is_written(tmp_path):
    write_atomic(tmp_path / ("x" * 250 + ".json"), b"1")


@pytest.mark.parametrize(
    "name", ['a"b', "a\nfactory = 1", "a\\b", 'x"]\n[model]\ntrust = true\n#', "tab\tü\x7f\x1b[31m", "日本"]
)
def test_names_in_a_project_file_are_text(name, tmp_path):
    assert tomllib.loads(f"key = {toml_string(name)}\n") == {"key": name}
    assert "\n" not in toml_string(name)


def test_init_is_not_led_by_names(tmp_path, monkeypatch, run):
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": torch.zeros(2, 2)}, 'a"\ntrust = true #.pt')
    torch.save({"weight": torch.zeros(2, 2)}, "b\x1b[31m.pt")
    np.savez("data.npz", inputs=np.zeros((2, 2)), targets=np.zeros(2, dtype=int))
    Path("deep.py").write_text("x = " + "(" * 5000 + ")" * 5000)
    Path("nul.py").write_bytes(b"a = 1\0")
    os.mkfifo("pipe.pt")
    with Path(os.fsdecode(os.fsencode(str(tmp_path)) + b"/\xff.pt")).open("wb") as file:
        torch.save({"weight": torch.zeros(2, 2)}, file)
    status, _, err = run("init")
    assert status == 0 and "\x1b" not in err, err
    found = tomllib.loads(Path("curvtool.toml").read_text())
    assert set(found) == {"model", "data", "loss", "compute", "analysis"} and set(found["model"]) == {"checkpoint"}


def test_a_next_command_is_quoted(tmp_path, monkeypatch, run):
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": torch.zeros(2, 2)}, "a; touch owned.pt")
    status, out, _ = run("inspect", "a; touch owned.pt")
    assert status == 0 and "'a; touch owned.pt'" in out


def test_control_characters_do_not_reach_the_terminal(tmp_path, monkeypatch, run):
    monkeypatch.chdir(tmp_path)
    evil = "a\x1b]0;owned\x07\x9b31m‮b"
    assert printable(evil) == "a]0;owned31mb"
    torch.save({evil: torch.zeros(2, 2)}, f"{evil}.pt")
    status, out, err = run("inspect", f"{evil}.pt")
    assert status == 0 and not {"\x1b", "\x07", "\x9b", "‮"} & set(out + err)
    status, out, err = run("eigs", f"{evil}.pt.nothing")
    assert status == 3 and not {"\x1b", "\x07", "\x9b", "‮"} & set(out + err)


def test_cells_are_no_formulas_and_no_columns():
    rows = [["=cmd()", 1.5], ["+1", -2], ["@x", None], ["-layer", 3], ["a|b\nc", "\x1b[0m"]]
    read = list(csv.reader(io.StringIO(csv_text(["name", "value"], rows))))
    assert [row[0] for row in read[1:]] == ["'=cmd()", "'+1", "'@x", "'-layer", "a|b\nc"]
    assert read[2][1] == "-2" and read[5][1] == "[0m"
    lines = markdown_table(["name", "value"], rows)
    assert len(lines) == 7 and lines[-1] == "| a\\|b c | [0m |"


def paths(value, here=()):
    yield here
    if isinstance(value, dict):
        for key in value:
            yield from paths(value[key], (*here, key))
    elif isinstance(value, list):
        for place in range(min(len(value), 3)):
            yield from paths(value[place], (*here, place))


ODD = [None, True, "", "x", "\ud800", "\x1b[31m", -1, 0, 1e308, -1e308, 1e-320, 10**400, [], {}, [1], "nan", [[]]]


def damaged(content_, rng):
    changed = copy.deepcopy(content_)
    for _ in range(rng.choice((1, 1, 2))):
        *way, last = rng.choice([path for path in paths(changed) if path])
        place = changed
        for key in way:
            place = place[key]
        kind = rng.random()
        if kind < 0.25:
            del place[last]
        elif kind < 0.4 and isinstance(place[last], list):
            place[last] = place[last][:-1]
        elif kind < 0.5 and type(place[last]) in (int, float):
            place[last] = place[last] * rng.choice((1e300, -1, 0))
        else:
            place[last] = rng.choice(ODD)
    return changed


@pytest.mark.parametrize("seed", range(4))
def test_a_damaged_report_is_refused_or_shown(seed, whole, tmp_path):
    """Whatever was changed in it: an error with a code, or numbers."""
    rng, good = random.Random(seed), json.loads(whole.model_dump_json())
    path, refused = tmp_path / "r.json", 0
    for _ in range(40):
        path.write_text(json.dumps(damaged(good, rng)))
        try:
            report = read_report(path)
            with read_from(path):
                for format in ("json", "csv", "md", "html"):
                    content(report, format)
                compare([whole, report], ["a", "b"])
        except CurvtoolError as error:
            refused += 1
            assert error.code in {"CT070", "CT071", "CT072"}, error
    assert refused > 10


def test_an_interval_whose_ends_are_exchanged_is_refused(whole, tmp_path):
    def exchanged(value):
        for name, item in value.items():
            if name.endswith(("ci95", "interval")) and item and item[0] < item[1]:
                yield name, {**value, name: item[::-1]}
            for number, inner in enumerate(item if isinstance(item, list) else [item]):
                for found, changed in exchanged(inner) if isinstance(inner, dict) else ():
                    replaced = [*item[:number], changed, *item[number + 1 :]] if isinstance(item, list) else changed
                    yield found, {**value, name: replaced}

    made = list(exchanged(json.loads(whole.model_dump_json())))
    assert {name for name, _ in made} >= {"ci95", "trace_ci95", "spectral_interval"}
    for _, changed in made:
        (tmp_path / "r.json").write_text(json.dumps(changed))
        with pytest.raises(LoadError, match="CT070"):
            read_report(tmp_path / "r.json")


@pytest.mark.parametrize("image", ["x", "aGVsbG8=", "iVBORw0KGgoAAAANSUhEUgAA//8AAP//CAIAAAA="])
def test_images_in_a_report_are_small_pngs(image, whole, tmp_path):
    good = json.loads(whole.model_dump_json())
    norms = next(each for each in good["analyses"] if each["kind"] == "jacnorm")
    assert norms["top"][0]["image"]
    norms["top"][0]["image"] = image
    (tmp_path / "r.json").write_text(json.dumps(good))
    with pytest.raises(LoadError, match="CT070"):
        read_report(tmp_path / "r.json")


def test_json_that_is_nested_too_deeply(tmp_path):
    (tmp_path / "r.json").write_text("[" * 100_000)
    with pytest.raises(LoadError, match="CT070"):
        read_report(tmp_path / "r.json")
