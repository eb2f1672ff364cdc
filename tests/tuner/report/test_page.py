"""The page is read back with the standard library's parser, and its script is tried in Chromium."""

import base64
import re
import shlex
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from matplotlib import pyplot
from PIL import Image

from tests.tuner.made_up_sweep import METRICS, NASTY, made_up_sweep, made_up_trial
from tuner.__main__ import main
from tuner.records import BEST_FILE, REPORT_FILE, Sweep, read_trials, write_trials
from tuner.report.page import save_picture, write_report

VOID = {"meta", "img", "br", "line"}


class Page(HTMLParser):
    """Tags, attributes and texts of a page; fails on tags that do not close."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.text = file.read_text(encoding="utf-8")
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.rows: list[list[str]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.feed(self.text)
        self.close()
        assert self.open == []

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)
            if "caption" in self.open and data.strip():
                self.rows = self.tables.setdefault(data, [])
            if {"td", "th"} & set(self.open) and data.strip():
                self.rows[-1][-1] = f"{self.rows[-1][-1]} {data.strip()}".strip()

    @property
    def all_words(self) -> str:
        return " ".join("".join(self.words).split())

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def table(self, beginning: str) -> list[list[str]]:
        (found,) = [rows for caption, rows in self.tables.items() if caption.startswith(beginning)]
        return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = made_up_sweep(tmp_path_factory.mktemp("sweep") / "made up")
    write_report(made)
    return made


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    return Page(folder / REPORT_FILE)


def test_nothing_comes_from_outside_and_nothing_but_the_pages_own_script_runs(page: Page):
    for tag, attributes in page.tags:
        for name in ("src", "href", "srcset", "data", "action", "poster", "xlink:href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/")), (tag, name)
        assert tag not in ("link", "iframe", "object", "base")
        assert not any(name.startswith("on") or name == "style" for name in attributes)
    assert len(page.of("script")) == 1
    policy = page.of("meta")[1]["content"] or ""
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in policy
    assert page.text.index("Content-Security-Policy") < page.text.index("<style>")
    style = page.text[page.text.index("<style>") : page.text.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert "prefers-color-scheme: dark" in style


def test_text_from_outside_cannot_become_markup(page: Page):
    assert "<script>alert" not in page.text
    assert NASTY in page.all_words


def test_every_picture_has_words_every_table_headings_and_every_link_a_place(page: Page):
    assert all((attributes.get("alt") or "").strip() for attributes in page.of("img"))
    (drawing,) = page.of("svg")
    assert drawing["role"] == "img"
    assert "40 trials" in (drawing["aria-label"] or "")
    assert all(attributes.get("scope") in ("row", "col") for attributes in page.of("th"))
    assert page.of("html")[0]["lang"] == "en"
    anchors = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert {(a["href"] or "")[1:] for a in page.of("a")} <= set(anchors)
    assert len(anchors) == len(set(anchors))
    assert len(page.of("h1")) == 1


def test_drawings_are_well_formed_and_refer_to_nothing_outside(page: Page):
    head = "data:image/svg+xml;base64,"
    drawings = [a["src"] or "" for a in page.of("img")]
    assert len(drawings) == 1 + 1 + 2  # the best curve, importance, two Pareto plots
    for drawing in drawings:
        root = ElementTree.fromstring(base64.b64decode(drawing.removeprefix(head)))
        links = [value for element in root.iter() for key, value in element.attrib.items() if key.endswith("href")]
        assert all(link.startswith(("#", "data:")) for link in links)


def test_all_trials_are_lines_and_rows_with_their_errors_and_the_best_is_marked(page: Page, folder: Path):
    trials = read_trials(folder)
    lines = [attributes for attributes in page.of("path") if "data-trial" in attributes]
    assert sorted(int(line["data-trial"] or -1) for line in lines) == [trial.number for trial in trials]
    best = max(
        (one for one in trials if one.status == "finished"),
        key=lambda one: one.reports[-1].metrics["ab_psnr"] or 0,
    )
    assert [line["data-trial"] for line in lines if "best" in (line["class"] or "")] == [str(best.number)]
    assert len({len((line["data-heights"] or "").split()) for line in lines}) == 1

    heading, *rows = page.table("All 40 trials")
    assert heading[:5] == ["trial", "status", *METRICS]
    assert len(rows) == 40
    assert rows[0][:2] == [str(best.number), "finished best"]
    failed = [row for row in rows if row[1] == "failed"]
    assert [row[-1] for row in failed] == [NASTY, NASTY]
    assert all(row[2:5] == ["–"] * 3 for row in failed)
    ends = heading.index("temperature.end")
    shapes = heading.index("temperature.shape")
    assert all((row[ends] == "–") == (row[shapes] == "constant") for row in rows)


def test_the_findings_name_the_best_the_estimators_and_what_entropy_goes_along_with(page: Page):
    words = page.all_words
    assert "2 failed, 30 finished, 8 stopped" in words
    assert re.search(
        r"Best: trial \d+ with ab PSNR, dB, range 2, at 5 clicks, guide blind 25\.\d+: recipe.choice", words
    )
    assert re.search(
        r"Estimators by mean ab_psnr, the best first: gumbel_softmax 24\.\d+ ± 0\.\d+ \(n = 6\)", words
    )
    assert re.search(r"Rank correlation of recipe.loss.entropy over 30 .* ab_psnr .*dispersion \+1\.00", words)
    assert "too few to trust" in words


def test_groups_have_means_spreads_and_a_mark_on_the_best_mean(page: Page):
    heading, *rows = page.table("By recipe.choice.estimator")
    assert heading == ["recipe.choice.estimator", "trials", *METRICS]
    marked = {
        row[0]: [name for name, cell in zip(heading, row, strict=True) if "best mean" in cell] for row in rows
    }
    assert marked["gumbel_softmax"][:2] == ["ab_psnr", "lpips"]
    assert all("±" in cell for row in rows for cell in row[2:])
    assert page.table("By recipe.loss.entropy")[1][0] == "0"


def test_machine_versions_commit_and_the_command_are_stated(page: Page, folder: Path):
    for fact in ("A made-up processor", "torch 2.15.0", "0123abc", "sqlite:///mlflow.db", "2026-11-26T12:00"):
        assert fact in page.all_words
    command = f"accelerate launch trainer/main.py --config {shlex.quote(str(folder / BEST_FILE))}"
    assert command in page.all_words
    assert shlex.split(command)[-1] == str(folder / BEST_FILE)


def test_the_best_ones_config_can_be_drawn_without_its_photos(folder: Path, tmp_path: Path):
    """A report is often written on another machine: data.train is not opened."""
    sweep = Sweep.read(folder)
    base = {**sweep.base, "data.train": ["/nowhere/{00..11}.tar"]}
    replace(sweep, base=base).write(tmp_path)
    write_trials(tmp_path, read_trials(folder))
    assert "tau of the estimator" in Page(write_report(tmp_path)).of("img")[0]["alt"]  # pyright: ignore[reportOperatorIssue]


@pytest.mark.parametrize("trials", [0, 1, 3])
def test_a_sweep_that_has_only_begun_has_a_page_too(tmp_path: Path, trials: int):
    folder = made_up_sweep(tmp_path, trials, options={})
    (folder / BEST_FILE).unlink()
    page = Page(write_report(folder))
    assert "The sweep has not come to its end." in page.all_words
    assert "Not computed" in page.all_words
    assert "accelerate launch" not in page.all_words
    assert ("There is none yet." in page.all_words) == (trials == 0)


def test_a_sweep_of_one_metric_whose_trials_all_failed_has_a_page(tmp_path: Path):
    folder = made_up_sweep(tmp_path, 8)
    sweep = Sweep.read(folder)
    replace(sweep, metrics=sweep.metrics[:1], scheduler="pbt").write(folder)
    values = read_trials(folder)[0].values
    failed = [made_up_trial(number, values, 0, status="failed", error=NASTY) for number in range(8)]
    write_trials(folder, failed)
    page = Page(write_report(folder))
    assert "No trial has measured ab_psnr." in page.all_words
    assert "Several metrics" not in page.all_words
    with pytest.raises(ValueError, match="nothing to draw"):
        save_picture(folder, tmp_path / "all.png")


def test_copied_weights_are_named_and_stages_that_nobody_knows_are_drawn(tmp_path: Path):
    folder = made_up_sweep(tmp_path, 6)
    trials = [
        replace(one, parent="t000", reports=tuple(replace(report, stage="stage 9") for report in one.reports))
        for one in read_trials(folder)
    ]
    write_trials(folder, trials)
    heading, *rows = Page(write_report(folder)).table("All 6 trials")
    assert {row[heading.index("weights of")] for row in rows} == {"0"}


def test_the_same_sweep_gives_the_same_page_and_no_global_state(folder: Path):
    before = (folder / REPORT_FILE).read_bytes()
    assert write_report(folder).read_bytes() == before
    assert pyplot.get_fignums() == []


def test_a_folder_without_a_sweep_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["report", str(tmp_path)]) == 2
    assert "is no sweep" in capsys.readouterr().err


def test_the_command_writes_the_page_and_one_picture_of_all_figures(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["report", str(folder), "--picture", str(tmp_path / "all.png")]) == 0
    assert capsys.readouterr().out.strip() == str(folder / REPORT_FILE)
    with Image.open(tmp_path / "all.png") as picture:
        assert picture.size == (1430, 1144)
        assert len(picture.convert("RGB").getcolors(1 << 20) or []) > 100
