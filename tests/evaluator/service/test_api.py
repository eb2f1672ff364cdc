"""The whole API over a running app with networks by formula: the story of a photo, and every refusal."""

import hashlib
import io
import json
import threading
import time
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from skimage.color import rgb2lab
from starlette.testclient import TestClient

from evaluator.service.api import state
from evaluator.service.api.state import check_cells
from evaluator.service.app import create_app
from evaluator.service.errors import Problem
from evaluator.service.inference.engine import Engine
from evaluator.service.settings import Settings
from tests.evaluator.service import fakes
from tests.evaluator.service.conftest import BASE_URL, wait_until_ready

MISSING = "0" * 64


def decoded(response) -> Image.Image:
    assert response.status_code == 200, response.text
    picture = Image.open(io.BytesIO(response.content))
    picture.load()
    return picture


def slug(response) -> str:
    assert response.headers["content-type"] == "application/problem+json", response.text
    problem = response.json()
    assert problem["status"] == response.status_code
    return problem["type"].removeprefix("https://chromaclick.invalid/problems/")


def send(client: TestClient, content: bytes, **fields: str) -> dict:
    answer = client.post("/v1/photos", files={"file": ("photo", content)}, data=fields)
    assert answer.status_code in (200, 201), answer.text
    return answer.json()


@pytest.fixture(scope="module")
def photo(client: TestClient, picture) -> dict:
    return send(client, picture(1, 640, 480))


def test_a_photo_gets_the_hash_of_its_file_as_id(client: TestClient, picture):
    content = picture(2, 300, 200)
    first = client.post("/v1/photos", files={"file": ("cat.jpg", content)})
    assert first.status_code == 201
    assert first.json() == {
        "id": hashlib.sha256(content).hexdigest(),
        "width": 300,
        "height": 200,
        "grey": False,
        "working": {"width": 256, "height": 171},
        "colours_kept": False,
    }
    again = client.post("/v1/photos", files={"file": ("dog.jpg", content)})
    assert (again.status_code, again.json()) == (200, first.json())
    assert client.get(f"/v1/photos/{first.json()['id']}").json() == first.json()


def test_colors_are_kept_only_when_asked_for(client: TestClient, picture):
    content = picture(3, 120, 80)
    plain, kept = send(client, content), send(client, content, keep_colours="true")
    assert kept["id"] not in {plain["id"], send(client, content + b"keep")["id"]}
    assert (plain["colours_kept"], kept["colours_kept"]) == (False, True)
    reference = decoded(client.get(f"/v1/photos/{kept['id']}/reference")).convert("RGB")
    original = Image.open(io.BytesIO(content))
    assert reference.size == original.size
    assert abs(np.asarray(reference).astype(int) - np.asarray(original)).mean() < 4
    assert slug(client.get(f"/v1/photos/{plain['id']}/reference")) == "no-colours"


def test_the_grey_picture_has_the_photos_lightness(client: TestClient, picture):
    content = picture(4, 200, 160)
    grey = decoded(client.get(f"/v1/photos/{send(client, content)['id']}/grey?size=100"))
    assert grey.size == (100, 80)
    pixels = np.asarray(grey.convert("RGB")).astype(int)
    assert np.ptp(pixels, axis=-1).max() <= 2
    expected = rgb2lab(np.asarray(Image.open(io.BytesIO(content)).resize((100, 80), Image.Resampling.BOX)))
    assert abs(rgb2lab(pixels.astype(np.uint8))[..., 0] - expected[..., 0]).mean() < 2


def test_a_click_colors_the_place_that_was_clicked(client: TestClient, photo: dict):
    click = {"row": 100, "col": 500, "colour": {"hex": "#2040e0"}}
    asked = {"photo": photo["id"], "clicks": [click], "preview": 320, "format": "png"}
    answer = client.post("/v1/colorize", json=asked)
    pixels = rgb2lab(np.asarray(decoded(answer).convert("RGB")))
    assert pixels.shape == (240, 320, 3)
    assert answer.headers["x-colorizer"]
    assert {part.split(";")[0].strip() for part in answer.headers["server-timing"].split(",")} >= {
        "network",
        "encode",
    }
    assert pixels[50, 250, 2] < -20 < pixels[200, 40, 2]  # blue at the click, not far away
    assert answer.headers["content-type"] == "image/png"


@pytest.mark.parametrize("colour", [{"hex": "#ff0000"}, {"rgb": [255, 0, 0]}, {"lab": [10, 80.09, 67.20]}])
def test_a_color_can_be_named_in_three_ways(client: TestClient, photo: dict, colour: dict):
    def shown(named: dict) -> np.ndarray:
        asked = {"photo": photo["id"], "clicks": [{"row": 9, "col": 9, "colour": named}], "format": "png"}
        return np.asarray(decoded(client.post("/v1/colorize", json=asked))).astype(int)

    assert abs(shown(colour) - shown({"hex": "#ff0000"})).max() <= 2


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp"])
def test_previews_come_in_three_formats(client: TestClient, photo: dict, kind: str):
    answer = client.post("/v1/colorize", json={"photo": photo["id"], "format": kind})
    assert answer.headers["content-type"] == f"image/{kind}"
    assert decoded(answer).format == kind.upper()
    assert decoded(answer).size == (512, 384)


def test_suggested_places_are_apart_in_the_photo_and_have_colors(client: TestClient, photo: dict):
    answer = client.post("/v1/suggest", json={"photo": photo["id"], "clicks": [], "places": 4, "colours": 3})
    assert answer.status_code == 200, answer.text
    places = answer.json()["places"]
    assert len(places) == 4
    assert len({(place["row"], place["col"]) for place in places}) == 4
    assert sum(place["probability"] for place in places) <= 1 + 1e-6
    for place in places:
        assert 0 <= place["row"] < photo["height"]
        assert 0 <= place["col"] < photo["width"]
        assert 0 < place["probability"] <= 1
        assert len(place["colours"]) == 3
        for colour in place["colours"]:
            assert int(colour["hex"][1:], 16) < 2**24
            assert 0 <= colour["lab"][0] <= 100


def test_places_that_were_refused_are_not_suggested_again(client: TestClient, photo: dict):
    def suggested(**more) -> list[dict]:
        answer = client.post("/v1/suggest", json={"photo": photo["id"], "places": 3, "colours": 1, **more})
        assert answer.status_code == 200, answer.text
        return [{"row": place["row"], "col": place["col"]} for place in answer.json()["places"]]

    refused: list[dict] = []
    for _ in range(4):  # more than there are in one answer
        refused += suggested(avoid=refused)
    assert len({(place["row"], place["col"]) for place in refused}) == 12
    assert suggested(avoid=[]) == refused[:3]
    answer = client.post("/v1/suggest", json={"photo": photo["id"], "avoid": [{"row": 480, "col": 0}]})
    assert (answer.status_code, slug(answer)) == (422, "outside")


def test_colors_are_suggested_at_any_place(client: TestClient, photo: dict):
    asked = {"photo": photo["id"], "clicks": [], "row": 479, "col": 0, "colours": 5}
    colours = client.post("/v1/colours", json=asked).json()["colours"]
    assert len(colours) == 5
    assert len({colour["hex"] for colour in colours}) > 1


def test_the_heat_map_is_transparent_where_clicks_do_not_help(client: TestClient, photo: dict):
    heat = decoded(client.post("/v1/heatmap", json={"photo": photo["id"], "size": 128}))
    assert (heat.mode, heat.size) == ("RGBA", (128, 96))
    alpha = np.asarray(heat)[..., 3]
    assert alpha.max() == 255
    assert alpha.min() < 64


def test_the_palette_is_that_of_the_lightness_at_the_place(client: TestClient, photo: dict):
    answer = client.get(f"/v1/palette?photo={photo['id']}&row=240&col=320&step=16").json()
    assert answer["step"] == 16
    grey = decoded(client.get(f"/v1/photos/{photo['id']}/grey?size=640")).convert("RGB")
    near = rgb2lab(np.asarray(grey))[236:245, 316:325, 0].mean()
    assert answer["lightness"] == pytest.approx(near, abs=3)
    assert {"a": 0.0, "b": 0.0} in [{"a": one["a"], "b": one["b"]} for one in answer["colours"]]
    wider = client.get("/v1/palette?lightness=60").json()
    assert len(wider["colours"]) > len(client.get("/v1/palette?lightness=5").json()["colours"]) > 0


@pytest.mark.parametrize(("kind", "name"), [("png", "png"), ("jpeg", "jpg"), ("tiff", "tif")])
def test_an_export_has_full_size_and_is_a_file_to_save(client: TestClient, photo: dict, kind: str, name: str):
    answer = client.post("/v1/export", json={"photo": photo["id"], "format": kind})
    if kind == "tiff":  # of 16 bits, which Pillow cannot read
        assert tifffile.imread(io.BytesIO(answer.content)).shape == (480, 640, 3)
    else:
        assert decoded(answer).size == (640, 480)
    assert answer.headers["content-type"] == f"image/{kind}"
    disposition = answer.headers["content-disposition"]
    assert disposition == f'attachment; filename="coloured-{photo["id"][:12]}.{name}"'


def test_a_batch_takes_photos_and_projects(client: TestClient, photo: dict):
    project = {
        "format": "chromaclick-project",
        "version": 1,
        "photo": {"id": photo["id"], "name": "a.jpg", "width": 640, "height": 480},
        "clicks": [{"row": 1, "col": 2, "colour": {"hex": "#ff0000"}, "size": 3, "locked": True}],
        "colorizer": "models:/colornet/3",
        "saved": "2026-11-26T12:00:00Z",
    }
    other = {**project, "photo": {**project["photo"], "width": 480, "height": 640}}
    items = [
        {"photo": photo["id"], "clicks": []},
        {"project": project},
        {"photo": MISSING, "clicks": []},
        {"project": other},
    ]
    answer = client.post("/v1/batch", json={"items": items, "format": "jpeg"})
    assert answer.status_code == 202, answer.text
    job = answer.json()["job"]
    ends = time.monotonic() + 30
    while (state := client.get(f"/v1/batch/{job}").json())["state"] in ("queued", "running"):
        assert time.monotonic() < ends
    assert (state["state"], state["done"], state["total"]) == ("done", 4, 4)
    assert [error[:8] for error in state["errors"]] == ["item 2: ", "item 3: "]
    assert "of 480 x 640 pixels, and this one has 640 x 480" in state["errors"][1]
    result = client.get(f"/v1/batch/{job}/result")
    assert result.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(result.content)) as archive:
        files = [archive.read(name) for name in sorted(archive.namelist())]
    assert [Image.open(io.BytesIO(file)).size for file in files] == [(640, 480)] * 2
    assert files[0] != files[1]
    assert client.delete(f"/v1/batch/{job}").status_code == 204
    assert slug(client.get(f"/v1/batch/{job}")) == "job-missing"


def test_samples_are_photos_that_can_be_sent(client: TestClient):
    samples = client.get("/v1/samples").json()
    assert len(samples) >= 3
    for sample in samples:
        content = client.get(f"/v1/samples/{sample['name']}").content
        sent = send(client, content)
        assert (sent["width"], sent["height"]) == (sample["width"], sample["height"])
    assert client.get("/v1/samples/secret").status_code == 404


def test_the_networks_are_described(client: TestClient):
    models = client.get("/v1/models").json()
    for kind in ("colorizer", "guide"):
        assert models[kind]["source"]
        assert models[kind]["runtime"]


def test_health_and_figures(client: TestClient):
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").status_code == 200
    client.get("/nowhere")
    figures = client.get("/metrics").text
    assert 'chromaclick_requests_total{method="GET",route="/healthz",status="200"}' in figures
    assert 'route="other",status="404"' in figures
    assert "process_resident_memory_bytes" in figures


def test_the_page_is_served_with_its_files(client: TestClient):
    answer = client.get("/")
    assert answer.headers["content-type"].startswith("text/html")
    assert answer.headers["cache-control"] == "no-cache"
    assert "script-src 'self'" in answer.headers["content-security-policy"]
    assert client.get("/static/../app.py").status_code == 404
    assert client.get("/static/%2e%2e/app.py").status_code == 404


@pytest.mark.parametrize("asked", ["bytes=0-3", "bytes=9999999-", "bytes=5-2", "nonsense"])
def test_files_of_the_page_come_whole_whatever_part_is_asked_for(client: TestClient, asked: str):
    whole = client.get("/static/main.js")
    answer = client.get("/static/main.js", headers={"Range": asked, "If-Range": whole.headers["etag"]})
    assert (answer.status_code, answer.content) == (200, whole.content)


@pytest.mark.parametrize("path", ["colorize", "suggest", "heatmap", "export"])
def test_a_photo_that_is_not_there_has_to_be_sent_again(client: TestClient, path: str):
    answer = client.post(f"/v1/{path}", json={"photo": MISSING})
    assert (answer.status_code, slug(answer)) == (404, "photo-missing")
    assert "send it again" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"photo": "../../etc/passwd"}, "body.photo"),
        ({"photo": "A" * 64}, "body.photo"),
        ({"clicks": [{"row": -1, "col": 0, "colour": {"hex": "#000000"}}]}, "body.clicks.0.row"),
        ({"clicks": [{"row": 1.5, "col": 0, "colour": {"hex": "#000000"}}]}, "body.clicks.0.row"),
        ({"clicks": [{"row": 1, "col": 0, "colour": {"hex": "red"}}]}, "body.clicks.0.colour"),
        ({"clicks": [{"row": 1, "col": 0, "colour": {"rgb": [0, 0, 256]}}]}, "body.clicks.0.colour"),
        ({"clicks": [{"row": 1, "col": 0, "colour": {"lab": [0, 0]}}]}, "body.clicks.0.colour"),
        ({"clicks": [{"row": 1, "col": 0, "colour": {}}]}, "body.clicks.0.colour"),
        ({"clicks": [{"row": 1, "col": 0, "colour": {"hex": "#000000"}, "size": 32}]}, "body.clicks.0.size"),
        ({"clicks": [{"row": 1, "col": 0, "colour": {"hex": "#000000"}}] * 1001}, "body.clicks"),
        ({"preview": 5000}, "body.preview"),
        ({"format": "gif"}, "body.format"),
        ({"prview": 512}, "body.prview"),
    ],
)
def test_what_is_wrong_is_named(client: TestClient, photo: dict, change: dict, where: str):
    answer = client.post("/v1/colorize", json={"photo": photo["id"], "clicks": [], **change})
    assert (answer.status_code, slug(answer)) == (422, "invalid")
    assert answer.json()["errors"][0]["where"].startswith(where)


def test_a_click_outside_of_the_photo_is_named(client: TestClient, photo: dict):
    click = {"row": 480, "col": 0, "colour": {"hex": "#000000"}}
    answer = client.post("/v1/colorize", json={"photo": photo["id"], "clicks": [click]})
    assert (answer.status_code, slug(answer)) == (422, "outside")
    assert "click 0 is at row 480, column 0; the photo has 480 rows" in answer.json()["detail"]


@pytest.mark.parametrize("body", [b"{", b"\xff\xfe", b"[" * 100_000, b'{"photo": NaN}', b"", b"null"])
def test_a_body_that_is_not_json_is_refused(client: TestClient, body: bytes):
    answer = client.post("/v1/colorize", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422)
    assert slug(answer) in ("bad-request", "invalid")


def test_a_thousand_clicks_are_taken(client: TestClient, photo: dict):
    clicks = [{"row": n % 480, "col": n % 640, "colour": {"rgb": [n % 256, 9, 9]}} for n in range(1000)]
    decoded(client.post("/v1/colorize", json={"photo": photo["id"], "clicks": clicks}))


@pytest.mark.parametrize(
    ("content", "status", "name"),
    [
        (b"not a photo", 415, "not-a-photo"),
        (b"", 415, "not-a-photo"),
        (b"\xff\xd8\xff\xe0" + bytes(99), 415, None),
    ],
)
def test_what_is_no_photo_is_refused(client: TestClient, content: bytes, status: int, name: str | None):
    answer = client.post("/v1/photos", files={"file": ("photo.jpg", content)})
    assert answer.status_code in (status, 422)
    assert name in (None, slug(answer))


def test_a_photo_with_too_many_pixels_is_refused(client: TestClient):
    bomb = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(bomb, "PNG")
    answer = client.post("/v1/photos", files={"file": ("bomb.png", bomb.getvalue())})
    assert (answer.status_code, slug(answer)) == (413, "too-large")


def test_unknown_paths_and_methods_are_problems_too(client: TestClient):
    assert slug(client.get("/v2/photos")) == "not-found"
    answer = client.delete("/v1/colorize")
    assert (answer.status_code, slug(answer), answer.headers["allow"]) == (405, "method-not-allowed", "POST")


def test_until_the_networks_are_ready_the_service_says_so(tmp_path, picture):
    app = create_app(Settings(store=str(tmp_path)))
    client = TestClient(app, base_url=BASE_URL)  # its lifespan does not begin, so nothing is loaded
    assert client.get("/healthz").status_code == 200
    for answer in (client.get("/readyz"), client.post("/v1/colorize", json={"photo": MISSING})):
        assert (answer.status_code, slug(answer), answer.headers["retry-after"]) == (503, "not-ready", "2")


def test_networks_that_cannot_be_loaded_are_named(tmp_path):
    settings = Settings(
        store=str(tmp_path),
        registry=f"sqlite:///{tmp_path}/none.db",
        colorizer="models:/colornet@champion",
        guide="models:/editnet-blind@champion",
    )
    app = create_app(settings)
    with TestClient(app, base_url=BASE_URL) as client:
        assert client.portal is not None
        client.portal.call(app.state.service.settled.wait)
        answer = client.get("/readyz")
        assert (answer.status_code, slug(answer)) == (503, "no-networks")
        assert "accelerate launch trainer/main.py" in answer.json()["detail"]


@pytest.mark.training
def test_networks_are_changed_while_the_service_runs(tmp_path, registry, picture):
    engine = Engine(tracking_uri=registry.uri, runtimes=("torch",))  # compilers take a minute
    app = create_app(Settings(store=str(tmp_path)), engine)
    with TestClient(app, base_url=BASE_URL) as client:
        wait_until_ready(client)
        photo = send(client, picture(5, 64, 64))
        asked = {"photo": photo["id"], "format": "png"}
        before = client.post("/v1/colorize", json=asked)
        assert before.headers["x-colorizer"] == "models:/colornet/1"
        models = client.put("/v1/models", json={"colorizer": "models:/colornet/2"}).json()
        assert models["colorizer"]["source"] == "models:/colornet/2"
        assert models["guide"]["source"] == "models:/editnet-blind/1"
        after = client.post("/v1/colorize", json=asked)
        assert after.headers["x-colorizer"] == "models:/colornet/2"
        assert after.content != before.content
        refused = client.put("/v1/models", json={"colorizer": "models:/colornet/9"})
        assert (refused.status_code, slug(refused)) == (422, "no-such-network")
        assert client.get("/v1/models").json()["colorizer"]["source"] == "models:/colornet/2"


@pytest.mark.parametrize("settings_", [Settings(host="0.0.0.0"), Settings(allow_switch="no")])
def test_networks_are_not_changed_by_anybody(tmp_path, settings_: Settings):
    engine = Engine.from_networks(fakes.spread, fakes.detail)
    app = create_app(replace(settings_, store=str(tmp_path)), engine)
    with TestClient(app, base_url=BASE_URL) as client:
        answer = client.put("/v1/models", json={"colorizer": "models:/colornet/2"})
        assert (answer.status_code, slug(answer)) == (403, "token-needed")


def test_other_web_sites_may_call_only_where_they_are_named(client: TestClient, tmp_path):
    site = {"Origin": "https://photos.example", "Access-Control-Request-Method": "POST"}
    assert "access-control-allow-origin" not in client.get("/v1/samples", headers=site).headers
    app = create_app(
        Settings(store=str(tmp_path), origins=("https://photos.example",)),
        Engine.from_networks(fakes.spread, fakes.detail),
    )
    other = TestClient(app, base_url=BASE_URL)
    for origin, allowed in (("https://photos.example", "https://photos.example"), ("https://evil.example", None)):
        answer = other.options("/v1/colorize", headers={**site, "Origin": origin})
        assert answer.headers.get("access-control-allow-origin") == allowed


def test_each_request_is_one_line_of_the_log(client: TestClient, caplog: pytest.LogCaptureFixture):
    with caplog.at_level("INFO", logger="chromaclick.requests"):
        client.get("/v1/samples")
        client.get("/v1/no%0AFORGED line")
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2
    assert lines[0].startswith("GET /v1/samples 200 ")
    assert "\n" not in lines[1]
    assert "%0AFORGED%20line 404 " in lines[1]


def test_what_nobody_expected_is_a_problem_without_details(tmp_path):
    app = create_app(Settings(store=str(tmp_path)), Engine.from_networks(fakes.spread, fakes.detail))

    @app.get("/v1/broken")
    async def broken() -> None:
        raise ZeroDivisionError("a secret")

    client = TestClient(app, base_url=BASE_URL, raise_server_exceptions=False)
    answer = client.get("/v1/broken")
    assert (answer.status_code, slug(answer)) == (500, "internal")
    assert "secret" not in answer.text
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_the_documentation_has_every_problem_and_example(client: TestClient):
    schema = client.get("/openapi.json").json()
    assert set(schema["paths"]) >= {"/v1/photos", "/v1/colorize", "/v1/suggest", "/v1/export", "/readyz"}
    text = json.dumps(schema)
    assert "HTTPValidationError" not in text
    for path, methods in schema["paths"].items():
        if path.startswith("/v1"):
            for about in methods.values():
                assert "application/problem+json" in about["responses"]["422"]["content"], path
    assert schema["components"]["schemas"]["Click"]["properties"]["colour"]["examples"]


@pytest.mark.parametrize("path", ["colorize", "suggest", "heatmap"])
@pytest.mark.training
def test_who_waits_longer_than_the_deadline_is_told_to_come_back(tmp_path, picture, path: str):
    leave = threading.Event()

    def slow(lightness, clicks):
        assert leave.wait(60)
        return fakes.spread(lightness, clicks)

    settings = Settings(store=str(tmp_path), upload_workers=1, deadline_seconds=0.2)
    with TestClient(create_app(settings, Engine.from_networks(slow, fakes.detail)), base_url=BASE_URL) as client:
        photo = send(client, picture(6, 40, 30))
        answer = client.post(f"/v1/{path}", json={"photo": photo["id"]})
        leave.set()
    assert (answer.status_code, slug(answer), answer.headers["retry-after"]) == (429, "overloaded", "1")


def test_clicks_that_cover_too_much_are_refused_in_words():
    """The attention to them would take memory that others need."""
    few, many = torch.zeros(1, 3, 256, 256), torch.ones(1, 3, 256, 256)
    few[:, :, :3, :3] = 1.0
    check_cells(few)
    with pytest.raises(Problem, match=f"cover 4096 cells .* {state.MAX_CELLS} are the most"):
        check_cells(many)
