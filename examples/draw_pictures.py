"""Draws the pictures of examples/pictures anew, from numbers alone: .venv/bin/python examples/draw_pictures.py [FOLDER]

`clothes` has no labels: light clothes on black, as Fashion-MNIST shows them. `shoes` has a folder for each class, in
colour, and `new-shoes` others of the same classes.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

FINE = 8  # drawn this many times as large, then made smaller: edges are smooth
Point = tuple[float, float]
Colour = tuple[float, float, float]
# Points in 28ths of the side, how bright it is beside the whole, and how wide a line is (None: a filled shape).
Stroke = tuple[list[Point], float, float | None]


def both(half: list[Point]) -> list[Point]:
    """A shape from its left half, told from top to bottom."""
    return half + [(28 - x, y) for x, y in reversed(half)]


BOOT: list[Stroke] = [
    ([(14, 3), (25, 3), (25.5, 15), (26, 25), (21, 25), (20, 23.5), (1.5, 24.5), (1.5, 20), (12, 15)], 1.0, None),
    ([(1.5, 24), (20, 23.5)], 0.6, 0.8),
]
SANDAL: list[Stroke] = [
    ([(1, 19), (9, 18.5), (18, 16), (26, 13), (26.5, 20), (23, 20), (22, 17.5), (12, 20.5), (1, 21)], 1.0, None),
    ([(5, 19), (9, 15), (12, 18)], 1.0, 1.1),
    ([(17, 16.5), (20, 10), (25, 9), (26, 13)], 1.0, 0.8),
]
SNEAKER: list[Stroke] = [
    ([(1, 15), (8, 13.5), (14, 10), (17, 9), (20, 10.5), (26, 9), (27.5, 14), (27.5, 19.5), (1, 19.5)], 1.0, None),
    ([(0.8, 19), (27.5, 19)], 0.75, 1.4),
    ([(9, 14.5), (15, 10.5)], 0.5, 0.6),
]
CLOTHES: dict[str, list[Stroke]] = {
    "bag": [
        ([(8, 12), (9, 5), (19, 5), (20, 12)], 0.8, 1.2),
        (both([(4, 10.5), (1.5, 25.5)]), 1.0, None),
        ([(4, 14), (24, 14)], 0.6, 0.8),
    ],
    "boot": BOOT,
    "dress": [(both([(11.5, 1), (11, 6), (11.5, 11), (8.5, 27)]), 1.0, None)],
    "sandal": SANDAL,
    "sneaker": SNEAKER,
    "top": [
        (both([(10.5, 2), (7, 3), (1.5, 8), (4.5, 11.5), (8, 9), (8, 26.5)]), 1.0, None),
        (both([(11, 1.5), (12.5, 3.5)]), 0.0, None),
    ],
    "trouser": [([(9, 1), (19, 1), (20, 27), (15.5, 27), (14, 9), (12.5, 27), (8, 27)], 1.0, None)],
}
SHOES = {"boot": BOOT, "sandal": SANDAL, "sneaker": SNEAKER}


def drawn(
    strokes: list[Stroke],
    side: int,
    colour: Colour,
    background: Colour,
    random: np.random.Generator,
    turn: float,
    noise: float,
) -> Image.Image:
    """An RGB picture of side x side pixels: turned by up to `turn` degrees, a little soft, and grainy."""
    sheet = Image.new("RGB", (side * FINE, side * FINE), tuple(int(part) for part in background))
    pen = ImageDraw.Draw(sheet)
    wide, high = random.uniform(0.93, 1.0, 2)
    for points, tone, width in strokes:
        fine = [
            ((14 + (x - 14) * wide) * side * FINE / 28, (14 + (y - 14) * high) * side * FINE / 28) for x, y in points
        ]
        fill = tuple(int(part * tone) for part in colour)
        if width is None:
            pen.polygon(fine, fill=fill)
        else:
            pen.line(fine, fill=fill, width=round(width * side * FINE / 28), joint="curve")
    sheet = sheet.rotate(random.uniform(-turn, turn), Image.Resampling.BICUBIC, fillcolor=sheet.getpixel((0, 0)))
    small = sheet.resize((side, side), Image.Resampling.LANCZOS).filter(ImageFilter.GaussianBlur(0.6))
    grainy = np.asarray(small, np.float32) + random.normal(0, noise, (side, side, 1))
    return Image.fromarray(np.clip(grainy, 0, 255).astype(np.uint8))


def draw_clothes(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, (name, strokes) in enumerate(CLOTHES.items()):
        for copy in range(3):
            random = np.random.default_rng([number, copy])
            light = random.uniform(170, 235)
            picture = drawn(strokes, 56, (light, light, light), (0, 0, 0), random, turn=2, noise=1.5)
            picture.convert("L").save(folder / f"{name}-{copy + 1}.png", optimize=True)


def draw_shoe(name: str, file: Path, seed: list[int]) -> None:
    """A shoe of any darker colour before any light one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    colour, background = random.uniform(30, 170, 3), random.uniform(190, 250, 3)
    drawn(SHOES[name], 96, tuple(colour), tuple(background), random, turn=12, noise=4).save(file, quality=85)


def main(folder: Path) -> None:
    draw_clothes(folder / "clothes")
    for number, name in enumerate(SHOES):
        for copy in range(16):
            draw_shoe(name, folder / "shoes" / name / f"{copy + 1:02}.jpg", [100 + number, copy])
        draw_shoe(name, folder / "new-shoes" / f"{name}.jpg", [200 + number])


if __name__ == "__main__":
    asked = argparse.ArgumentParser(description="Draw the example pictures anew, from numbers alone.")
    asked.add_argument("folder", nargs="?", type=Path, default=Path(__file__).parent / "pictures")
    main(asked.parse_args().folder)
