"""The page is read back with the standard library's parser: what a browser would see."""

import base64
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib import pyplot, rcParams
from PIL import Image
from skimage import data

from evaluator.protocol.finished import Finished
from evaluator.report import Gallery, build, save_figures
from evaluator.report.gallery import Exhibit, Pick, Shot
from tests.evaluator.made_up_run import made_up_rows, write_run

NASTY = "<script>alert('1')</script> & \"co\".jpg"
VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Tags, attributes and texts of a page; fails on tags that do not close."""

    def __init__(self, file: Path):
        super().__init__()
        self.text = file.read_text(encoding="utf-8")
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.cells: dict[str, list[list[str]]] = {}
        self.feed(self.text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "caption":
            self.rows: list[list[str]] = []
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str):
        assert self.open.pop() == tag
        if tag == "table" and getattr(self, "caption", ""):
            self.cells[self.caption], self.caption = self.rows, ""

    def handle_data(self, data: str):
        if not self.open or self.open[-1] == "style":
            return
        self.words.append(data)
        if "caption" in self.open:
            self.caption = data
        elif {"td", "th"} & set(self.open) and self.rows and self.rows[-1]:
            self.rows[-1][-1] += f" {data.strip()}"

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def levels(value: float) -> list[dict[str, object]]:
    return [
        {
            "policy": policy,
            "metric": "ab_psnr",
            "level": 29.5,
            "mean": value,
            "low": 3.0,
            "high": 9.0,
            "failures": 0.25,
        }
        for policy in ("random", "guide-blind", "max-error")
    ]


PAPER = {
    "source": "Thesis, Table 9.9",
    "dataset": "COCO 2017 validation",
    "another_dataset": True,
    "protocol": "256 px",
    "note": "A note.",
    "columns": ["whose", "number", "clicks", "printed", "ours"],
    "rows": [["Random", "ab PSNR", "5", "32.64", "29.11"], ["ArgmaxSTE", "ab PSNR", "5", "32.59", ""]],
    "figures": [],
}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    rows = made_up_rows(
        photos=[NASTY, *(f"photo{i}.png" for i in range(11))], metrics=["ab_psnr", "ab_ssim", "delta_e"]
    )
    rows.loc[rows["clicks"] == 0, "ab_ssim"] = np.nan
    folder = write_run(
        tmp_path_factory.mktemp("report"),
        rows,
        nri=levels(5.5),
        fid=[
            {"policy": "random", "clicks": 5, "value": 31.25},
            {"policy": "max-error", "clicks": 5, "value": None},
        ],
        papers=[PAPER],
        cycles=[{"cycle": 1, "policy": "random", "clicks": 10, "images_seen": 2400, "ab_psnr": 28.125}],
        not_measured=[{"metric": "lpips", "reason": "AlexNet's weights are not here"}],
        preset={"name": "thesis-table-4.2", "changed": ["size"]},
        photos={
            "source": "<b>photos</b>.zip",
            "count": 12,
            "sha256": "00",
            "enlarged": 2,
            "skipped": [{"photo": f"{NASTY}-{i}", "reason": "grey & tiny"} for i in range(250)],
        },
    )
    return Page(build(Finished.read(folder), gallery_of(3)))


def gallery_of(photos: int, seed: int = 0) -> Gallery:
    """Noise, which JPEG cannot make small."""
    generator = np.random.default_rng(seed)

    def shot() -> Shot:
        picture = Image.fromarray(generator.integers(0, 256, (192, 192, 3), dtype=np.uint8))
        return Shot(picture=picture, caption="RGB PSNR 20 dB", alt=f"{NASTY} after 5 clicks")

    return Gallery(
        rule="By a rule.",
        budgets=[0, 1, 5, 20],
        exhibits=[
            Exhibit(
                pick=Pick(photo=NASTY, index=0, reasons=("worst ab PSNR 20 dB",)),
                grey=shot(),
                truth=shot(),
                rows={policy: [shot() for _ in range(4)] for policy in ("random", "guide-blind")},
            )
            for _ in range(photos)
        ],
    )


def test_nothing_comes_from_outside_the_page_and_nothing_runs(page: Page):
    for tag, attributes in page.tags:
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            address = attributes.get(name) or "#"
            assert address.startswith(("#", "data:image/")), (tag, address[:80])
        assert tag not in ("script", "link", "iframe", "object", "base")
        assert not any(name.startswith("on") for name in attributes)
    style = page.text[page.text.index("<style>") : page.text.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style


def test_drawings_are_well_formed_and_refer_to_nothing_outside(page: Page):
    head = "data:image/svg+xml;base64,"
    drawings = [a["src"] for a in page.of("img") if (a["src"] or "").startswith(head)]
    assert len(drawings) == 2 * 3 + 1  # per metric means and gains; NRI
    for drawing in drawings:
        root = ElementTree.fromstring(base64.b64decode((drawing or "")[len(head) :]))
        for element in root.iter():
            links = [value for key, value in element.attrib.items() if key.endswith("href")]
            assert all(link.startswith(("#", "data:")) for link in links)


def test_text_from_outside_cannot_become_markup(page: Page):
    assert "<script" not in page.text
    assert "<b>photos" not in page.text
    words = "".join(page.words)
    assert NASTY in words
    assert "<b>photos</b>.zip" in words
    assert any(NASTY in (attributes.get("alt") or "") for attributes in page.of("img"))


def test_pictures_have_words_and_tables_have_headings(page: Page):
    assert all((attributes.get("alt") or "").strip() for attributes in page.of("img"))
    assert all(attributes.get("scope") in ("row", "col") for attributes in page.of("th"))
    assert page.of("html")[0]["lang"] == "en"
    assert page.of("meta")[1]["name"] == "viewport"
    assert len(page.of("h1")) == 1
    anchors = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    assert {(a["href"] or "")[1:] for a in page.of("a")} <= anchors
    assert len(anchors) == len([1 for _, attributes in page.tags if "id" in attributes])


def test_the_protocol_is_one_paragraph_that_states_what_numbers_depend_on(page: Page):
    paragraph = re.search(r'<section id="protocol">.*?<p>(.*?)</p>\s*</section>', page.text, re.DOTALL)
    assert paragraph
    for fact in (
        "12 photos of",
        "48 x 32 px",
        "2 of them enlarged",
        "250 photos left out",
        "3 x 3 pixel patch (hint size 3)",
        "hits its place exactly",
        "0, 1, 5 and 20 clicks",
        "over per-photo values",
        "95 %",
        "4000 resamples",
        "Seed 0",
        "thesis-table-4.2, with other size",
    ):
        assert fact in paragraph[1], fact


def test_tables_have_the_means_the_differences_and_the_verdict_in_words(page: Page):
    rows = page.cells["ab PSNR (dB, range 2): mean over photos, below it the difference to random clicks."]
    assert [cell.strip() for cell in rows[0]] == ["clicks", "0", "1", "5", "20"]
    assert [row[0].strip() for row in rows[1:]] == ["random", "guide-blind", "max-error"]
    made_up = made_up_rows(
        photos=[NASTY, *(f"photo{i}.png" for i in range(11))], metrics=["ab_psnr", "ab_ssim", "delta_e"]
    )
    at = made_up[made_up["clicks"] == 20].set_index("policy")["ab_psnr"]
    last = rows[3][4].split()
    assert float(last[0]) == pytest.approx(at["max-error"].mean(), abs=0.005)
    assert float(last[1]) == pytest.approx(at["max-error"].mean() - at["random"].mean(), abs=0.005)
    assert last[-2:] == ["▲", "better"]
    assert len(rows[1][4].split()) == 1  # random is not compared with itself


def test_undefined_means_are_dashes(page: Page):
    rows = page.cells["ab SSIM (range 2): mean over photos, below it the difference to random clicks."]
    assert [row[1].strip() for row in rows[1:]] == ["–"] * 3


def test_findings_are_sentences(page: Page):
    words = "".join(page.words)
    assert "max-error against random after 20 clicks: better on ab PSNR, ab SSIM and Delta E 2000." in words


def test_levels_fid_papers_and_cycles_stand_in_tables(page: Page):
    nri = page.cells["NRI: clicks to reach a level; a failure counts as one more than the most"]
    assert nri[1][1:] == [" ab PSNR of 29.5 dB", " 5.50 [3.00, 9.00]", " 25.0 %"]
    fid = page.cells["FID of the set of coloured photos to the originals; lower is better"]
    assert fid[1:] == [[" random", " 31.25"], [" max-error", " –"]]
    paper = page.cells["Thesis, Table 9.9, beside this benchmark"]
    assert paper[1] == [" Random", " ab PSNR", " 5", " 32.64", " 29.11"]
    assert paper[2][-1] == " –"
    assert "From another data set" in "".join(page.words)
    cycles = page.cells["Validation of this training after each cycle"]
    assert cycles[1] == [" 1", " random", " 10", " 2,400", " 28.12"]


def test_what_was_left_out_is_named_up_to_a_hundred_and_counted(page: Page):
    words = "".join(page.words)
    assert "250 of 262" in words
    assert words.count("grey & tiny") == 100
    assert "150 more" in words
    assert "AlexNet's weights are not here" in words


def test_machine_versions_commit_and_networks_are_stated(page: Page):
    words = "".join(page.words)
    for fact in (
        "A made-up processor",
        "torch 2.15.0",
        "0123abc",
        "models:/colornet/1",
        "models:/editnet-blind/1",
    ):
        assert fact in words


def test_a_run_of_one_policy_and_one_photo_has_a_page_without_comparisons(tmp_path: Path):
    rows = made_up_rows(photos=["one.png"], policies=["random"], clicks=[5], metrics=["ab_psnr"])
    page = Page(build(Finished.read(write_run(tmp_path, rows))))
    words = "".join(page.words)
    assert "There is nothing to compare" in words
    assert "This report was built without photos." in words
    assert "1 photo of" in words
    assert len(page.of("img")) == 2  # one curve, one heat map


def test_a_page_without_random_has_means_only(tmp_path: Path):
    rows = made_up_rows(photos=["a.png", "b.png"], policies=["random", "grid"], metrics=["ab_psnr"])
    folder = write_run(tmp_path, rows)
    rows[rows["policy"] == "grid"].to_parquet(folder / "results.parquet", index=False)
    content = (folder / "results.json").read_text()
    (folder / "results.json").write_text(re.sub(r'\{"policy": "random"[^}]*\}, ', "", content))
    page = Page(build(Finished.read(folder)))
    assert "▲" not in page.text
    assert "grid" in "".join(page.words)


def test_no_clicks_make_no_map(tmp_path: Path):
    rows = made_up_rows(photos=["a.png", "b.png"], clicks=[0], metrics=["ab_psnr"])
    assert "No clicks were placed" in build(Finished.read(write_run(tmp_path, rows))).read_text()


@pytest.mark.training
def test_a_full_page_stays_below_ten_megabytes(tmp_path: Path):
    """26 photographs, two for each of 13 metrics, of four policies at five budgets."""
    astronaut = Image.fromarray(data.astronaut())
    shots = [
        Shot(picture=astronaut.crop((x, y, x + 192, y + 192)), caption="", alt="a crop")
        for x in range(0, 320, 64)
        for y in range(0, 320, 64)
    ]
    rows = {policy: shots[5 * i : 5 * i + 5] for i, policy in enumerate("abcd")}
    pick = Pick(photo="astronaut", index=0, reasons=("worst",))
    exhibits = [Exhibit(pick=pick, grey=shots[20], truth=shots[21], rows=rows)] * 26
    gallery = Gallery(rule="", budgets=[0, 1, 2, 10, 20], exhibits=exhibits)
    page = build(Finished.read(write_run(tmp_path)), gallery)
    assert 2e6 < page.stat().st_size < 10e6


def test_the_same_folder_gives_the_same_page(tmp_path: Path):
    folder = write_run(tmp_path)
    once = build(Finished.read(folder), gallery_of(1)).read_bytes()
    assert build(Finished.read(folder), gallery_of(1)).read_bytes() == once


def test_building_leaves_no_global_state(tmp_path: Path):
    before = dict(rcParams)
    build(Finished.read(write_run(tmp_path)))
    assert dict(rcParams) == before
    assert pyplot.get_fignums() == []


def test_figures_are_saved_for_a_tracker(tmp_path: Path):
    files = save_figures(Finished.read(write_run(tmp_path / "run")), tmp_path / "figures")
    names = {file.name for file in files}
    assert {"ab_psnr.png", "ab_psnr-gain.png", "clicks-random.png"} <= names
    for file in files:
        with Image.open(file) as picture:
            assert min(picture.size) > 300
