"""`photos.js` and `autosave.js` alone: what may take the place of which work."""

import pytest
from playwright.sync_api import Page

from tests.evaluator.service.page.steps import run

pytestmark = pytest.mark.browser

_PRELUDE = """
    const { Session } = await import('/static/session.js');
    const { add } = await import('/static/clicks.js');
    const session = new Session(), said = [], asked = [], told = [], uploads = {};
    const idOf = (name) => [...name].map((c) => c.charCodeAt(0).toString(16)).join('').padEnd(64, '0');
    const api = { json: ({ form, path }) => new Promise((answer, refuse) => {
        const name = form.get('file').name;
        uploads[name] = () => answer({ id: idOf(name), width: 30, height: 20, grey: true });
        if (!name.includes('slow')) uploads[name]();
    }) };
    let may = true;
    const mayReplace = async () => (asked.push(session.clicks.length), may);
    const say = (text) => said.push(text);
    const photos = new m.Photos(api, session, { say, onProgress: () => {}, mayReplace });
    const file = (name) => new File([name], name, { type: 'image/jpeg' });
    const project = (name, change = {}, colorizer = '') => new File([JSON.stringify({
        format: 'chromaclick-project', version: 1, colorizer, saved: '',
        photo: { id: idOf(name), name, width: 30, height: 20, ...change },
        clicks: [{ row: 1, col: 2, colour: { hex: '#ff0000' } }],
    })], 'work.json', { type: 'application/json' });
    const click = () => session.change(add(session.clicks, { row: 1, col: 2, hex: '#00ff00' }));
    const open = (...files) => photos.open(files).catch((error) => said.push(error.message));
    const now = () => [session.photo?.name, session.clicks.length];
"""


def opening(page: Page, body: str) -> object:
    """The value of JavaScript with `photos` whose server answers at once, but for names with "slow"."""
    return run(page, "photos", _PRELUDE + body)


def test_slower_upload_of_an_older_photo_replaces_nothing(blank: Page):
    body = """
        const older = open(file('slow.jpg'));
        await open(file('new.jpg'));
        click();
        uploads['slow.jpg']();
        await older;
        return [now(), asked];"""
    assert opening(blank, body) == [["new.jpg", 1], [0]]


def test_work_done_during_an_upload_is_asked_about(blank: Page):
    body = """
        await open(file('old.jpg'));
        const later = open(file('slow.jpg'));
        click();
        may = false;
        uploads['slow.jpg']();
        await later;
        return [now(), asked];"""
    assert opening(blank, body) == [["old.jpg", 1], [0, 1]]


def test_open_photo_that_comes_again_keeps_its_clicks(blank: Page):
    body = """
        session.open({ id: idOf('a.jpg'), name: 'a.jpg', width: 30, height: 20, grey: true, blob: null });
        click();
        for (const name of ['photo', 'file', 'clicks']) session.addEventListener(name, () => told.push(name));
        await open(file('a.jpg'));
        return [now(), session.photo.blob?.size, asked, told, said];"""
    said = ["a.jpg is open already. Its clicks stay."]
    assert opening(blank, body) == [["a.jpg", 1], 5, [], ["file", "clicks"], said]


def test_project_that_contradicts_its_photo_is_refused(blank: Page):
    body = """
        await open(file('old.jpg'));
        await open(project('a.jpg', { width: 31 }), file('a.jpg'));
        await open(project('b.jpg', { height: 21 }));
        return [now(), said.slice(1)];"""
    blank_api = "api.json = async ({ path }) => ({ id: path.slice(-64), width: 30, height: 20, grey: true });"
    body = body.replace("await open(project('b", f"{blank_api} await open(project('b")
    work, said = opening(blank, body)  # pyright: ignore[reportGeneralTypeIssues]
    assert work == ["old.jpg", 0]
    assert "31 × 20 pixels, but a.jpg has 30 × 20" in said[0]
    assert "30 × 21 pixels, but b.jpg has 30 × 20" in said[1]


def test_files_that_are_not_opened_are_named(blank: Page):
    body = """
        await open(file('a.jpg'), file('b.jpg'), file('c.jpg'));
        await open(project('a.jpg'), file('a.jpg'), file('b.jpg'));
        await open(file('b.jpg'));
        return said;"""
    first, second, third = opening(blank, body)  # pyright: ignore[reportGeneralTypeIssues]
    assert "2 other files were not opened" in first
    assert "1 other file was not opened" in second
    assert "not opened" not in third


def test_other_network_than_the_projects_is_said_once(blank: Page):
    body = """
        await open(project('a.jpg', {}, 'models:/colornet/1'), file('a.jpg'));
        photos.answeredBy('models:/colornet/2');
        photos.answeredBy('models:/colornet/2');
        await open(project('a.jpg', {}, 'models:/colornet/2'), file('a.jpg'));
        photos.answeredBy('models:/colornet/2');
        return [said.filter((text) => text.includes('made with')), session.colorizer];"""
    said, colorizer = opening(blank, body)  # pyright: ignore[reportGeneralTypeIssues]
    assert len(said) == 1
    assert "made with models:/colornet/1; now models:/colornet/2 colours it" in said[0]
    assert colorizer == "models:/colornet/2"


def test_only_the_open_photo_is_sent_again(blank: Page):
    body = """
        await open(file('a.jpg'));
        delete uploads['a.jpg'];
        const results = [await photos.sendAgain(idOf('b.jpg')), Object.keys(uploads)];
        return [...results, await photos.sendAgain(idOf('a.jpg')), Object.keys(uploads)];"""
    assert opening(blank, body) == [False, [], True, ["a.jpg"]]


def test_two_tabs_keep_the_work_of_the_one_that_changed_last(blank: Page):
    body = """
        const photo = (letter, blob) => ({ id: letter, name: letter, width: 3, height: 2, grey: true, blob });
        const tab = () => {
            let done;
            const kept = new m.Autosave((error) => done(error));
            const save = (photo, present) => new Promise((resolve) => {
                done = resolve;
                kept.save({ photo, history: { past: [], present, future: [] }, skipped: [] });
            });
            return { save, load: () => kept.load() };
        };
        const one = tab(), two = tab(), seen = [];
        const look = async () => {
            const saved = await tab().load();
            seen.push([saved?.photo.id, saved?.history.present, saved?.photo.blob?.size ?? 0]);
        };
        await one.save(photo('a', new Blob(['xyz'])), [1]);
        await two.save(photo('b', new Blob(['x'])), [2]);
        await look();
        await one.save(photo('a', new Blob(['xyz'])), [1, 1]);
        await look();
        await two.save(photo('c', null), []);
        await two.save(photo('c', new Blob(['xy'])), []);
        await look();
        return seen;"""
    assert run(blank, "autosave", body) == [["b", [2], 1], ["a", [1, 1], 3], ["c", [], 2]]
