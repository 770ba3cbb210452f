"""The HTML page and the plot files: whole, escaped, visible."""

from __future__ import annotations

import base64
import random
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from pytest_torchcheck import cli

from . import benchmark_files as files

pytest.importorskip("matplotlib", reason="needs matplotlib: it draws the plots")
pytest.importorskip("rich", reason="needs rich: it prints the tables")

HOSTILE = "<script>alert(1)</script>"
NAMES = {
    "test_mm[float32]": 1.0,
    "test_copy": 1.3,
    HOSTILE: 1.0,
    "test_$x_{2$": 0.8,
    '"><img src=x onerror=alert(1)>': 1,
}


class Page(HTMLParser):
    """Gathers the tags, the images and the text of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.images, self.text = set(), [], ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag == "img":
            self.images.append(dict(attrs)["src"])

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a baseline, a candidate and a fleet, all with hostile names."""
    monkeypatch.chdir(tmp_path)
    source = random.Random(1)
    files.write(tmp_path / "base.json", [files.entry(name, files.rounds(source)) for name in NAMES])
    files.write(
        tmp_path / "new.json", [files.entry(name, files.rounds(source, 1e-3 * by)) for name, by in NAMES.items()]
    )
    for number in range(9):
        factor = 1.2 if number == 4 else source.gauss(1, 0.005)
        entries = [files.entry(name, files.rounds(source, 1e-3 * factor)) for name in NAMES]
        files.write(tmp_path / "gpus" / f"{number}{'<b>' if number == 4 else ''}.json", entries, cpu=HOSTILE)
    return tmp_path


COMMANDS = {"compare": ["compare", "base.json", "new.json"], "fleet": ["fleet", "gpus"]}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_page_is_self_contained_and_escaped(folder, command):
    """The page holds its plots, needs no other file, and has every name from the files as text only."""
    assert cli.main([*command, "--html", "out.html"]) == 1
    text = (folder / "out.html").read_text(encoding="utf-8")
    page = Page(text)
    assert not page.tags & {"script", "link", "iframe", "object", "b"}
    assert not re.search(r"(src|href)=\"(?!data:)", text)
    for name in NAMES:
        assert f"test_speed.py::{name}" in page.text
    assert len(page.images) == 2
    for image in page.images:
        assert image.startswith("data:image/png;base64,")
        assert base64.b64decode(image.partition(",")[2]).startswith(b"\x89PNG")


def browser():
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.skipif(browser() is None, reason="needs Chromium: apt-get install chromium")
@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_page_is_shown_by_a_browser(folder, command):
    """Headless Chromium shows the plots, runs no script, and has the hostile name as text."""
    from matplotlib import image

    cli.main([*command, "--html", "out.html"])
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}/profile"]
    options += ["--enable-logging=stderr", "--window-size=1200,2600"]
    page = f"file://{folder}/out.html"
    shown = subprocess.run(
        [browser(), *options, f"--screenshot={folder}/shot.png", page], capture_output=True, text=True, timeout=120
    )
    pixels = image.imread(folder / "shot.png")
    red = (abs(pixels[..., :3] - [0.776, 0.157, 0.157]) < 0.02).all(-1)
    assert red.sum() > 50  # the colour of what is slow, in the plots and the table
    assert "CONSOLE" not in shown.stderr
    found = subprocess.run([browser(), *options, "--dump-dom", page], capture_output=True, text=True, timeout=120)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in found.stdout
    assert "<script" not in found.stdout


def test_plots_are_written_to_a_folder_or_a_file(folder):
    """A folder is made and gets one file per plot; an image file gets the first, with the others beside it."""
    cli.main([*COMMANDS["compare"], "--plot", "plots"])
    assert sorted(path.name for path in (folder / "plots").iterdir()) == ["ratios.png", "rounds.png"]
    cli.main([*COMMANDS["compare"], "--plot", "figure.svg"])
    assert "<svg" in (folder / "figure.svg").read_text(encoding="utf-8")
    assert (folder / "figure-rounds.svg").exists()
    cli.main([*COMMANDS["fleet"], "--plot", "fleet.pdf"])
    assert (folder / "fleet.pdf").read_bytes().startswith(b"%PDF")
    assert (folder / "fleet-cohort-1-spread.pdf").exists()


@pytest.mark.parametrize("ending", ["svg", "png"])
def test_equal_results_give_equal_files(folder, ending):
    """A plot drawn twice is the same to the byte."""
    for name in ("a", "b"):
        cli.main([*COMMANDS["compare"], "--plot", f"{name}.{ending}"])
    assert (folder / f"a.{ending}").read_bytes() == (folder / f"b.{ending}").read_bytes()


def test_nothing_to_draw_is_no_error(folder):
    """A comparison without any ratio has a page without plots."""
    files.write(folder / "other.json", [files.entry("test_other", [1e-3] * 30)])
    assert cli.main(["compare", "base.json", "other.json", "--html", "out.html", "--plot", "plots"]) == 1
    page = Page((folder / "out.html").read_text(encoding="utf-8"))
    assert page.images == []
    assert "5 rows" not in page.text
    assert list((folder / "plots").iterdir()) == []
