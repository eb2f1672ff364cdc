"""The page's pure modules, each on its own, in the browser that runs them."""

import pytest
from playwright.sync_api import Page

from tests.evaluator.service.page.steps import run

pytestmark = pytest.mark.browser


def test_history_undoes_in_reverse_and_redoes_in_order(blank: Page):
    body = """
        let h = m.begin(0);
        for (const value of [1, 2, 3]) h = m.step(h, value);
        const seen = [];
        for (let i = 0; i < 4; i++) { h = m.undo(h); seen.push(h.present); }
        for (let i = 0; i < 4; i++) { h = m.redo(h); seen.push(h.present); }
        return seen;"""
    assert run(blank, "history", body) == [2, 1, 0, 0, 1, 2, 3, 3]


def test_step_after_undo_ends_what_could_be_redone(blank: Page):
    body = "const h = m.step(m.undo(m.step(m.begin('a'), 'b')), 'c'); return [h.past, h.present, h.future];"
    assert run(blank, "history", body) == [["a"], "c", []]


def test_amended_step_is_undone_as_one(blank: Page):
    assert run(blank, "history", "return m.undo(m.amend(m.step(m.begin('a'), 'b'), 'c')).present;") == "a"


def test_history_is_bounded(blank: Page):
    body = """
        let h = m.begin(0);
        for (let i = 1; i < 900; i++) h = m.step(h, i);
        return h.past.length === m.MOST_STEPS;"""
    assert run(blank, "history", body) is True


def test_locked_clicks_refuse_every_change(blank: Page):
    body = """
        const one = m.toggleLock(m.add([], { row: 1, col: 2, hex: '#ffffff' }), 1);
        return [m.move(one, 1, 5, 5), m.recolour(one, 1, '#000000'), m.remove(one, 1), m.removeAll(one)]
            .every((clicks) => clicks === one);"""
    assert run(blank, "clicks", body) is True


def test_server_gets_only_what_its_schema_knows(blank: Page):
    body = "return m.forServer(m.toggleLock(m.add([], { row: 1, col: 2, hex: '#ffffff', size: 3 }), 1));"
    assert run(blank, "clicks", body) == [{"row": 1, "col": 2, "colour": {"hex": "#ffffff"}, "size": 3}]


def test_project_survives_writing_and_reading(blank: Page):
    body = """
        const photo = { id: 'ab'.repeat(32), name: 'x.jpg', width: 30, height: 20, grey: true, blob: null };
        const clicks = [{ id: 7, row: 19, col: 29, colour: { hex: '#123456' }, size: 5, locked: true },
                        { id: 9, row: 0, col: 0, colour: { hex: '#ffffff' }, locked: false }];
        const text = m.write(photo, clicks, 'models:/colornet/3', new Date(0));
        return [JSON.parse(text), m.read(text)];"""
    written, read = run(blank, "project", body)  # pyright: ignore[reportGeneralTypeIssues]
    assert written == {
        "format": "chromaclick-project",
        "version": 1,
        "photo": {"id": "ab" * 32, "name": "x.jpg", "width": 30, "height": 20},
        "clicks": [
            {"row": 19, "col": 29, "colour": {"hex": "#123456"}, "size": 5, "locked": True},
            {"row": 0, "col": 0, "colour": {"hex": "#ffffff"}},
        ],
        "colorizer": "models:/colornet/3",
        "saved": "1970-01-01T00:00:00.000Z",
    }
    assert [click["locked"] for click in read["clicks"]] == [True, False]
    assert [click["id"] for click in read["clicks"]] == [1, 2]


@pytest.mark.parametrize(
    ("click", "said"),
    [
        ({"row": 20, "col": 0, "colour": {"hex": "#ffffff"}}, "outside the photo"),
        ({"row": 0.5, "col": 0, "colour": {"hex": "#ffffff"}}, "outside the photo"),
        ({"row": 0, "col": 0, "colour": {"hex": "white"}}, "no colour"),
        ({"row": 0, "col": 0, "colour": {"hex": "#ffffff"}, "size": 99}, "size 99"),
        (None, "outside the photo"),
    ],
)
def test_project_with_an_impossible_click_is_refused(blank: Page, click: object, said: str):
    body = """
        const photo = { id: 'ab'.repeat(32), name: 'x', width: 30, height: 20 };
        const project = { format: 'chromaclick-project', version: 1, photo, clicks: [argument] };
        try { m.read(JSON.stringify(project)); return ''; } catch (error) { return error.message; }"""
    assert said in str(run(blank, "project", body, click))


@pytest.mark.parametrize(
    ("text", "colour"),
    [
        ("#Ab12cD", "#ab12cd"),
        ("abc", "#aabbcc"),
        (" 102030 ", "#102030"),
        ("#12", None),
        ("red", None),
        ("#12345g", None),
    ],
)
def test_hex_colors_are_read(blank: Page, text: str, colour: str | None):
    assert run(blank, "color_math", "return m.parseHex(argument);", text) == colour


@pytest.mark.parametrize(
    ("colour", "name"),
    [
        ("#c03030", "red"),
        ("#1030a0", "blue"),
        ("#6b4423", "dark brown"),
        ("#808080", "grey"),
        ("#000000", "black"),
        ("#ffffff", "white"),
        ("#ffd9e6", "light pink"),
        ("#6f7f6a", "muted green"),
    ],
)
def test_colors_have_names_to_be_heard(blank: Page, colour: str, name: str):
    assert run(blank, "color_math", "return m.nameOf(argument);", colour) == name


def test_zoom_keeps_the_pixel_under_the_pointer(blank: Page):
    body = """
        const stage = { width: 800, height: 600 }, photo = { width: 6000, height: 4000 };
        const before = m.fit(stage, photo);
        const after = m.zoomAround(before, 5, 300, 250, stage, photo);
        const pixel = (transform) => m.pixelAt(transform, 300, 250, photo);
        return [pixel(before), pixel(after), after.scale / before.scale];"""
    before, after, factor = run(blank, "transform", body)  # pyright: ignore[reportGeneralTypeIssues]
    assert before == after
    assert factor == pytest.approx(5)


def test_pixels_and_points_are_inverse(blank: Page):
    body = """
        const photo = { width: 31, height: 17 }, at = m.fit({ width: 400, height: 500 }, photo), wrong = [];
        for (let row = 0; row < 17; row++) for (let col = 0; col < 31; col++) {
            const { x, y } = m.pointOf(at, { row, col }), back = m.pixelAt(at, x, y, photo);
            if (back?.row !== row || back?.col !== col) wrong.push([row, col]);
        }
        return [wrong, m.pixelAt(at, 0, 0, photo)];"""
    assert run(blank, "transform", body) == [[], None]


def test_photo_never_leaves_the_stage(blank: Page):
    body = """
        const stage = { width: 400, height: 300 }, photo = { width: 600, height: 400 };
        const near = m.zoomAround(m.fit(stage, photo), 4, 200, 150, stage, photo);
        return [m.pan(near, 1e6, 1e6, stage, photo), m.pan(near, -1e6, -1e6, stage, photo), near.scale];"""
    first, last, scale = run(blank, "transform", body)  # pyright: ignore[reportGeneralTypeIssues]
    assert first["x"] == first["y"] == 12
    assert last["x"] == pytest.approx(400 - 600 * scale - 12)
    assert last["y"] == pytest.approx(300 - 400 * scale - 12)


def test_waits_grow_and_stay_bounded(blank: Page):
    waits = run(blank, "api", "return [1, 2, 3, 4, 5, 6, 50].map(m.backOff);")
    assert waits == [0.25, 0.5, 1, 2, 4, 5, 5]
