"""Examples as images, side by side: what people find mislabelled data with."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from experiments.data import Images

COLUMNS = 10
INCHES = 1.15  # of a picture and the two lines above it
LETTERS = 20  # that fit a line
RIGHT, WRONG = "#222222", "#D55E00"


@dataclass(frozen=True)
class ContactSheet:
    """Pictures in a grid, a heading above it, and two lines of text above each.

    Attributes:
        title: the heading.
        rows: `[M]` int64, which examples, in the order of reading.
        notes: the second line of each.
    """

    title: str
    rows: Tensor
    notes: Sequence[str]

    def draw(self, images: Images, true_labels: Tensor, file: Path) -> None:
        """Writes a PNG file.

        Args:
            images: the training set, whose labels may be wrong.
            true_labels: `[N]` int64; where they differ from the labels, they stand beside them in another colour.
            file: where to.
        """
        import matplotlib

        matplotlib.use("Agg")  # draws without a display
        from matplotlib import pyplot

        lines = max(1, -(-len(self.rows) // COLUMNS))
        size = (COLUMNS * INCHES, (lines + 0.45) * 1.2 * INCHES)
        figure, places = pyplot.subplots(lines, COLUMNS, figsize=size, squeeze=False, layout="constrained")
        for place in places.flat:
            place.axis("off")
        for place, row, note in zip(places.flat, self.rows.tolist(), self.notes, strict=False):
            _picture(place, images.pixels[row])
            label, truth = int(images.labels[row]), int(true_labels[row])
            text = images.name(label)
            if label != truth:
                text = f"{text} (is {images.name(truth)})"
                text = text if len(text) <= LETTERS else text.replace(" (is", "\n(is")
            place.set_title(f"{text}\n{note}", fontsize=7, color=RIGHT if label == truth else WRONG, pad=2)
        figure.suptitle(self.title, fontsize=11)
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, dpi=140)
        pyplot.close(figure)


def _picture(place: Any, pixels: Tensor) -> None:
    """One image `[C, H, W]` uint8, of one channel or three."""
    shown = pixels.cpu().permute(1, 2, 0).numpy()
    place.imshow(shown.squeeze(-1) if shown.shape[-1] == 1 else shown, cmap="gray", vmin=0, vmax=255)
