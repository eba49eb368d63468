"""Pictures, and the frames that a camera panning over them would give.

A picture is decoded from its PNG or JPEG bytes into a plate: an object in the arena,
somewhat larger than a frame. Frame i is a window of a plate; which one, and where, is a
function of i alone, so every way of carrying them carries the same bytes.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

import uslub
from uslub.tools.demo.crew import DemoError

if TYPE_CHECKING:
    from uslub.tools.demo.course import Plan

Pixels: TypeAlias = npt.NDArray[np.uint8]

#: Shipped inside the scikit-image wheel; authors and licences as its docstrings say.
CREDITS = {
    "astronaut.png": "Eileen Collins (NASA, public domain)",
    "coffee.png": "Coffee cup (Rachel Michetti, CC0)",
    "retina.jpg": "Human retina (Mikael Häggström, CC0)",
    "chelsea.png": "Chelsea the cat (Stefan van der Walt, CC0)",
    "hubble_deep_field.jpg": "Hubble eXtreme Deep Field (NASA, public domain)",
    "rocket.jpg": "Falcon 9 with DSCOVR (SpaceX, public domain)",
    "camera.png": "Camera (Lav Varshney, CC0)",
    "gravel.png": "Gravel (CC0Textures, CC0)",
    "brick.png": "Brick wall (CC0Textures, CC0)",
    "grass.png": "Grass (linolafett, CC0)",
    "cell.png": "Cell in saline (Paul Müller, CC0)",
}
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
PICTURES_MAX = 16
FRAMES_PER_PICTURE = 24


@dataclass(frozen=True)
class Picture:
    """One file, still encoded."""

    path: Path
    credit: str


def find_pictures(folder: Path | None) -> list[Picture]:
    """The pictures of `folder`, or those of scikit-image (which is not imported).

    Raises:
        DemoError: There are none.
    """
    if folder is not None:
        paths = sorted(p for p in folder.glob("*") if p.suffix.lower() in SUFFIXES)
        if not paths:
            raise DemoError(f"no pictures in {folder} ({', '.join(sorted(SUFFIXES))})")
        return [Picture(path, path.name) for path in paths[:PICTURES_MAX]]
    spec = importlib.util.find_spec("skimage")
    for place in (spec and spec.submodule_search_locations) or ():
        known = ((Path(place) / "data" / name, CREDITS[name]) for name in CREDITS)
        if found := [Picture(*item) for item in known if item[0].is_file()]:
            return found
    raise DemoError(
        "the pictures come with scikit-image, which is not installed; "
        "pip install 'uslub[demo]', or name a folder of pictures with --pictures"
    )


class Reel:
    """Decoded plates, and the frames cut from them."""

    def __init__(
        self,
        arena: uslub.Arena,
        pictures: list[Picture],
        plan: Plan,
        say: Callable[[str], None],
    ) -> None:
        self.plan = plan
        self.cache = arena.cache("plate", plan.plate_width * plan.plate_height * 3)
        self.plates: list[Pixels] = []
        for picture in pictures:
            self.plates.append(self.decode(picture))
            say(f"decoded {len(self.plates)} of {len(pictures)} pictures")

    def decode(self, picture: Picture) -> Pixels:
        """The picture, scaled and cropped to a plate, in an object of the arena."""
        plan = self.plan
        with Image.open(picture.path) as encoded:
            whole = encoded.convert("RGB")
        wanted = (plan.plate_width, plan.plate_height)
        scaled = ImageOps.fit(whole, wanted, Image.Resampling.BILINEAR)
        # The array keeps the object alive; dropping the array frees it.
        plate = pixels(self.cache.alloc(), plan.plate_height, plan.plate_width)
        plate[...] = np.asarray(scaled)
        return plate

    def window(self, number: int) -> tuple[int, int, int]:
        """Of frame `number`: plate, left edge, top edge."""
        plan = self.plan
        plate = number // FRAMES_PER_PICTURE % len(self.plates)
        x = swing(13 * number, plan.plate_width - plan.width)
        y = swing(7 * number, plan.plate_height - plan.height)
        return plate, x, y

    def cut(self, number: int, target: Pixels) -> None:
        """Write frame `number` into `target`, every byte of it."""
        plate, x, y = self.window(number)
        height, width = target.shape[:2]
        np.copyto(target, self.plates[plate][y : y + height, x : x + width])

    def close(self) -> None:
        """Free the plates."""
        self.plates.clear()


def pixels(buffer: Any, height: int, width: int) -> Pixels:
    """The RGB array on `buffer`."""
    count = height * width * 3
    return np.frombuffer(buffer, np.uint8, count).reshape(height, width, 3)


def swing(position: int, room: int) -> int:
    """To and fro between 0 and `room`."""
    if room <= 0:
        return 0
    position %= 2 * room
    return min(position, 2 * room - position)
