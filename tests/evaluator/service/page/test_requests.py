"""`api.js` alone, with answers that no server here gives: cut, refused, for another photo."""

import pytest
from playwright.sync_api import Page

from tests.evaluator.service.page.steps import run

pytestmark = pytest.mark.browser

_PRELUDE = """
    const real = globalThis.fetch, seen = [], troubles = [], answers = [];
    const hooks = { onTrouble: (trouble) => troubles.push(trouble?.kind ?? null) };
    const problem = (status, slug, headers = {}) => new Response(
        JSON.stringify({ type: `https://x/${slug}`, detail: `it is ${slug}` }),
        { status, headers: { 'Content-Type': 'application/problem+json', ...headers } });
    globalThis.fetch = async (path, init) => {
        seen.push(init.headers.Authorization ?? path);
        return answers.shift()(path, init);
    };
    const api = new m.Api(hooks);
    const said = async (sent) => (await sent.then((answer) => answer.text(), (error) => error.message));
"""


def ask(page: Page, body: str, argument: object = None) -> object:
    """The value of JavaScript with an `api` whose `answers` stand in a list."""
    return run(page, "api", f"{_PRELUDE} try {{ {body} }} finally {{ globalThis.fetch = real; }}", argument)


def test_answer_that_breaks_off_is_asked_for_again(blank: Page):
    body = """
        const start = (c) => { c.enqueue(new Uint8Array(3)); c.error(new TypeError('cut')); };
        answers.push(() => new Response(new ReadableStream({ start })), () => new Response('whole'));
        return [await said(api.send({ path: '/a' })), troubles];"""
    assert ask(blank, body) == ["whole", ["down", None]]


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        ("problem(503, 'store-full')", ["it is store-full", []]),
        ("problem(503, 'not-ready', { 'Retry-After': '0.01' })", ["later", ["starting", None]]),
        (
            "new Response('<h1>', { status: 503, headers: { 'Content-Type': 'text/html' } })",
            ["later", ["down", None]],
        ),
        ("problem(429, 'overloaded', { 'Retry-After': '0.01' })", ["later", ["full", None]]),
    ],
)
def test_only_what_passes_is_waited_for(blank: Page, answer: str, outcome: list):
    body = f"""
        answers.push(() => {answer}, () => new Response('later'));
        return [await said(api.send({{ path: '/a' }})), troubles];"""
    assert ask(blank, body) == outcome


def test_waiting_of_one_request_is_shown_where_it_wants(blank: Page):
    body = """
        const own = [];
        answers.push(() => problem(429, 'overloaded', { 'Retry-After': '0.01' }), () => new Response(''));
        await api.send({ path: '/a', onTrouble: (trouble) => own.push(trouble?.seconds ?? null) });
        return [own, troubles];"""
    assert ask(blank, body) == [[0.01, None], []]


def test_token_is_asked_for_again_where_it_was_wrong(blank: Page):
    body = """
        const asked = [], tokens = ['bad', 'good'];
        hooks.askToken = async (wrong) => (asked.push(wrong), tokens[asked.length - 1]);
        answers.push(() => problem(401, 'no'), () => problem(401, 'no'), () => new Response('in'));
        return [await said(api.send({ path: '/a' })), asked, seen];"""
    assert ask(blank, body) == ["in", [False, True], ["/a", "Bearer bad", "Bearer good"]]


def test_token_that_is_not_given_is_a_refusal(blank: Page):
    body = """
        hooks.askToken = async () => null;
        answers.push(() => problem(401, 'no'));
        return said(api.send({ path: '/a' }));"""
    assert "without its token" in str(ask(blank, body))


def test_late_refusal_of_an_older_token_does_not_ask_again(blank: Page):
    body = """
        let refuse, asked = 0;
        hooks.askToken = async () => (asked++, 'good');
        answers.push(() => new Promise((done) => (refuse = done)), () => problem(401, 'no'));
        answers.push(() => new Response('one'), () => new Response('two'));
        const late = said(api.send({ path: '/late' }));
        const first = await said(api.send({ path: '/a' }));
        refuse(problem(401, 'no'));
        return [first, await late, asked];"""
    assert ask(blank, body) == ["one", "two", 1]


def test_missing_photo_is_sent_again_only_where_the_page_has_it(blank: Page):
    body = """
        const sent = [], open = 'a'.repeat(64), other = 'b'.repeat(64);
        hooks.sendPhotoAgain = async (id) => (sent.push(id), id === open);
        const missing = () => problem(404, 'photo-missing');
        answers.push(missing, () => new Response('found'), missing);
        const first = await said(api.send({ path: '/v1/colorize', json: { photo: open } }));
        return [first, await said(api.send({ path: `/v1/photos/${other}` })), sent];"""
    assert ask(blank, body) == ["found", "it is photo-missing", ["a" * 64, "b" * 64]]
