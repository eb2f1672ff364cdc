"""What goes in and out of API version 1, with examples. Unknown fields are refused: a typo is not silent."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_CLICKS = 1000
MAX_ITEMS = 100
_PHOTO = "3f" * 32
PhotoId = Annotated[
    str, Field(pattern=r"^[0-9a-f]{64}$", description="from the SHA-256 of the file", examples=[_PHOTO])
]
JobId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$", description="of a batch", examples=["5c" * 16])]
Side = Annotated[int, Field(ge=0, lt=100_000)]
Byte = Annotated[int, Field(ge=0, le=255)]
HexText = Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$", examples=["#b5651d"])]
Registered = Annotated[str, Field(pattern=r"^models:/[A-Za-z0-9._-]{1,100}[@/][A-Za-z0-9._-]{1,100}$")]
"""No file can be named: the API's clients are not the machine's users."""
PreviewFormat = Literal["jpeg", "png", "webp"]
ExportFormat = Literal["png", "jpeg", "tiff"]


class Sent(BaseModel):
    """What a client sends: types are taken as they are, nothing is converted."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class HexColor(Sent):
    """`#rrggbb`, sRGB."""

    hex: HexText


class RgbColor(Sent):
    """sRGB, 0 to 255."""

    rgb: list[Byte] = Field(min_length=3, max_length=3, examples=[[181, 101, 29]])


class LabColor(Sent):
    """CIE Lab, D65. The lightness is not used: the photo keeps its own."""

    lab: list[Annotated[float, Field(ge=-128, le=128)]] = Field(
        min_length=3, max_length=3, examples=[[48.9, 25.0, 50.4]]
    )


Color = HexColor | RgbColor | LabColor


class Click(Sent):
    """A color at a place of the photo."""

    row: Side = Field(description="from the top, in pixels of the upright photo", examples=[120])
    col: Side = Field(description="from the left, in pixels of the upright photo", examples=[340])
    colour: Color = Field(description="one of hex, rgb, lab", examples=[{"hex": "#b5651d"}])
    size: Annotated[int, Field(ge=1, le=31)] | None = Field(
        default=None, description="side of the patch in pixels that the network sees; default: as it was trained"
    )


class ProjectClick(Click):
    """A click as the page saves it."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)
    locked: bool = Field(default=False, description="kept by the page; without meaning here")


Clicks = Annotated[list[Click], Field(max_length=MAX_CLICKS, description="all of them, the latest last")]


class Clicked(Sent):
    """A photo with its clicks."""

    photo: PhotoId
    clicks: Clicks = []


class Colorize(Clicked):
    """Ask for a preview."""

    preview: Annotated[int, Field(ge=64, le=1024)] = Field(default=512, description="longest long side, in pixels")
    format: PreviewFormat = "jpeg"


class At(Sent):
    """A place of the photo."""

    row: Side = Field(description="from the top, in pixels of the upright photo", examples=[120])
    col: Side = Field(description="from the left, in pixels of the upright photo", examples=[340])


class Suggest(Clicked):
    """Ask for the next places and colors."""

    places: Annotated[int, Field(ge=1, le=10, examples=[3])] = 3
    colours: Annotated[int, Field(ge=1, le=9, description="for each place", examples=[5])] = 5
    avoid: Annotated[
        list[At],
        Field(max_length=MAX_CLICKS, description="places that were refused: nothing near them is suggested"),
    ] = []
    preview: Annotated[int, Field(ge=64, le=1024)] | None = Field(
        default=None,
        description="long side of a preview of these clicks, which then comes along in the same answer",
    )


class ColorsAt(Clicked):
    """Ask for colors at one place."""

    row: Side
    col: Side
    colours: Annotated[int, Field(ge=1, le=9)] = 5


class Heatmap(Clicked):
    """Ask where clicks help."""

    size: Annotated[int, Field(ge=64, le=1024)] = Field(default=512, description="longest long side, in pixels")


class Uncertainty(Clicked):
    """Ask where the colorizer is unsure."""

    size: Annotated[int, Field(ge=64, le=1024)] = Field(default=512, description="longest long side, in pixels")


class Export(Clicked):
    """Ask for the photo in full size."""

    format: ExportFormat = "png"
    quality: Annotated[int, Field(ge=1, le=100)] = Field(default=95, description="of a JPEG")


class ProjectPhoto(BaseModel):
    """Which photo a project is of."""

    model_config = ConfigDict(strict=True)
    id: PhotoId
    name: str = Field(default="", max_length=255)
    width: int = Field(ge=1)
    height: int = Field(ge=1)


class Project(BaseModel):
    """A project file of the page."""

    model_config = ConfigDict(strict=True)
    format: Literal["chromaclick-project"]
    version: Literal[1]
    photo: ProjectPhoto
    clicks: list[ProjectClick] = Field(max_length=MAX_CLICKS)
    colorizer: str = Field(default="", max_length=255)
    saved: str = Field(default="", max_length=64)


class OfProject(Clicked):
    """A project's photo, as large as the project says, with its clicks."""

    width: int
    height: int


class ProjectItem(Sent):
    """A project in a batch."""

    project: Project


class Batch(Sent):
    """Ask for many photos at once."""

    items: list[Clicked | ProjectItem] = Field(min_length=1, max_length=MAX_ITEMS)
    format: ExportFormat = "png"
    quality: Annotated[int, Field(ge=1, le=100)] = Field(default=95, description="of JPEGs")


class Switch(Sent):
    """Ask for other networks."""

    colorizer: Registered | None = Field(default=None, examples=["models:/colornet@champion"])
    guide: Registered | None = Field(default=None, examples=["models:/editnet-blind/2"])


class Size(BaseModel):
    """In pixels."""

    width: int
    height: int


class Photo(BaseModel):
    """A photo that the service has."""

    id: PhotoId
    width: int = Field(description="of the upright photo")
    height: int
    grey: bool = Field(description="whether the file was grey, or nearly")
    working: Size = Field(description="at which the networks see it")
    colours_kept: bool


class SuggestedColor(BaseModel):
    """A plausible color."""

    hex: HexText
    lab: list[float]
    probability: float | None = Field(description="null where the way of proposing gives none")


class Place(BaseModel):
    """Where a click helps."""

    row: int
    col: int
    probability: float = Field(description="share of the heat map around this place")
    colours: list[SuggestedColor]


class Suggestions(BaseModel):
    """The next places."""

    guide: str
    colorizer: str
    places: list[Place]
    preview: str | None = Field(default=None, description="JPEG as a data: URL, where it was asked for")


class Colors(BaseModel):
    """Plausible colors at the asked place, the likeliest first."""

    colours: list[SuggestedColor]


class PaletteColor(BaseModel):
    """A color of the palette, CIE a and b."""

    a: float
    b: float
    hex: HexText


class Palette(BaseModel):
    """Every color of a lightness that a screen can show."""

    lightness: float = Field(description="CIE L, 0 to 100")
    step: int
    colours: list[PaletteColor]


class JobState(BaseModel):
    """How far a batch is."""

    job: JobId
    state: Literal["queued", "running", "done", "failed", "cancelled"]
    done: int
    total: int
    errors: list[str]


class Job(BaseModel):
    """A batch that was taken."""

    job: JobId


class Models(BaseModel):
    """The networks at work."""

    model_config = ConfigDict(extra="allow")
    colorizer: dict[str, Any] = Field(
        description="name, version, source, hint_size, ...; runtime: torch, or onnxruntime once that is ready; "
        "skipped: why it never will be; split: whether it looks at a photo once, and tells how unsure it is"
    )
    guide: dict[str, Any]


class Sample(BaseModel):
    """A photo to try."""

    name: str
    title: str
    width: int
    height: int
    credit: str


class Alive(BaseModel):
    """The process runs, or is ready."""

    status: Literal["ok"] = "ok"


class ProblemBody(BaseModel):
    """An error, RFC 9457."""

    type: str
    title: str
    status: int
    detail: str = Field(description="what, the value, and what to do")
    errors: list[dict[str, Any]] = []
