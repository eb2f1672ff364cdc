"""The popover and the suggestions, each with a session of its own: what a person would have to be quick to see."""

import pytest
from playwright.sync_api import Page

from tests.evaluator.service.page.steps import run

pytestmark = pytest.mark.browser

_PRELUDE = """
    const { Session } = await import('/static/session.js');
    const c = await import('/static/clicks.js');
    const session = new Session(), sent = [];
    const api = { json: (request) => new Promise((answer) => sent.push({ ...request, answer })) };
    const view = Object.assign(new EventTarget(), {
        photo: { width: 30, height: 20 }, stage: { width: 30, height: 20 }, canvas: document.body,
        pointOf: ({ row, col }) => ({ x: col, y: row }), colourAt: () => null, reveal: () => {},
    });
    const photo = (id) => ({ id, name: id, width: 30, height: 20, grey: true, blob: null });
    const colours = () => session.clicks.map(({ colour }) => colour.hex);
"""
_PICKER = f"""{_PRELUDE}
    const places = [];
    const onPlace = (place) => place && places.push([place.row, place.col]);
    const picker = new m.Picker(api, session, view, {{ onPlace, onDropping: () => {{}}, say: () => {{}} }});
    const choose = (hex) => {{
        document.querySelector('#hex').value = hex;
        document.querySelector('#entry').requestSubmit();
    }};
    session.open(photo('a'));
"""
_SUGGESTIONS = f"""{_PRELUDE}
    const suggestions = new m.Suggestions(api, session, view, {{ onError: () => {{}}, say: () => {{}} }});
    const place = {{ row: 1, col: 2, probability: 0.5, colours: [{{ hex: '#ff0000' }}, {{ hex: '#0000ff' }}] }};
    const answer = async (index) => {{
        sent[index].answer({{ places: [place] }});
        await new Promise(setTimeout);
    }};
"""


def test_undo_within_the_popover_ends_the_step_that_colors_amend(blank: Page):
    body = """
        picker.openAt({ row: 1, col: 2 });
        choose('#ff0000');
        picker.close();
        picker.openFor(session.clicks[0]);
        choose('#0000ff');
        session.undo();
        choose('#00ff00');
        const green = colours();
        session.undo();
        return [green, colours()];"""
    assert run(blank, "picker", _PICKER + body) == [["#00ff00"], ["#ff0000"]]


def test_change_elsewhere_ends_the_step_that_colors_amend(blank: Page):
    body = """
        session.change(c.add(session.clicks, { row: 9, col: 9, hex: '#ffffff' }));
        picker.openAt({ row: 1, col: 2 });
        choose('#ff0000');
        session.change(c.remove(session.clicks, 1));
        choose('#0000ff');
        choose('#00ff00');
        session.undo();
        return colours();"""
    assert run(blank, "picker", _PICKER + body) == ["#ff0000"]


def test_popover_follows_its_click(blank: Page):
    body = """
        picker.openAt({ row: 1, col: 2 });
        choose('#ff0000');
        session.change(c.move(session.clicks, 1, 5, 6));
        const asked = sent.filter(({ path }) => path === '/v1/colours').map(({ json }) => [json.row, json.col]);
        choose('#0000ff');
        return [places, asked, session.clicks.map(({ row, col }) => [row, col])];"""
    assert run(blank, "picker", _PICKER + body) == [[[1, 2], [5, 6]], [[1, 2], [5, 6]], [[5, 6]]]


def test_suggestion_of_another_photo_or_of_older_clicks_is_not_accepted(blank: Page):
    body = """
        session.open(photo('a'));
        suggestions.coloured(session.clicks);
        await answer(0);
        session.open(photo('b'));
        suggestions.accept();
        const onAnother = colours();
        suggestions.coloured(session.clicks);
        await answer(1);
        session.change(c.add(session.clicks, { row: 9, col: 9, hex: '#ffffff' }));
        suggestions.accept();
        suggestions.skip();
        suggestions.nextColour();
        const stale = [colours(), session.skipped];
        suggestions.coloured(session.clicks);
        await answer(2);
        suggestions.accept();
        return [onAnother, stale, colours()];"""
    outcome = [[], [["#ffffff"], []], ["#ffffff", "#ff0000"]]
    assert run(blank, "suggestions", _SUGGESTIONS + body) == outcome


def test_a_place_is_asked_for_once_when_the_present_clicks_are_colored(blank: Page):
    body = """
        session.open(photo('a'));
        const before = session.clicks;
        session.change(c.add(session.clicks, { row: 9, col: 9, hex: '#ffffff' }));
        suggestions.coloured(before);
        const early = sent.length;
        suggestions.coloured(session.clicks);
        suggestions.coloured(session.clicks);
        return [early, sent.map(({ json }) => json.clicks.length)];"""
    assert run(blank, "suggestions", _SUGGESTIONS + body) == [0, [1]]


def test_suggestions_that_are_shown_again_do_not_say_that_there_is_none(blank: Page):
    body = """
        session.open(photo('a'));
        suggestions.coloured(session.clicks);
        await answer(0);
        const hidden = () => document.querySelector('#suggestion').hidden;
        const shown = hidden();
        suggestions.toggle();
        suggestions.toggle();
        return [shown, hidden(), sent.length];"""
    assert run(blank, "suggestions", _SUGGESTIONS + body) == [False, True, 2]


def test_skipped_places_are_told_to_the_server(blank: Page):
    body = """
        session.open(photo('a'));
        suggestions.coloured(session.clicks);
        await answer(0);
        suggestions.skip();
        return sent.map(({ json }) => json.avoid);"""
    assert run(blank, "suggestions", _SUGGESTIONS + body) == [None, [{"row": 1, "col": 2}]]
