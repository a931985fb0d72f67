"""Matrices of cosines as pictures, with the tasks' names on the axes."""

from __future__ import annotations

import io
import textwrap

from ding_normmon.core.record import Matrix

__all__ = ['draw_matrix', 'is_drawn', 'load_matplotlib']

_NUMBERED = 12
"""Up to this many tasks, cells are wide enough to show numbers."""

_TITLE_WIDTH = 60
_LETTER = 0.1
"""Inches that are enough for the widest common letter of a title."""


def is_drawn(name: str) -> bool:
    """Return whether a matrix is drawn; standard errors are not.

    >>> is_drawn('conflict/encoder/cosine'), is_drawn('conflict/encoder/standard_error')
    (True, False)
    """
    return name.endswith('/cosine')


def load_matplotlib() -> None:
    """Import Matplotlib for :func:`draw_matrix`.

    Raises:
        ImportError: Matplotlib is not installed.
    """
    import matplotlib.backends.backend_agg
    import matplotlib.figure  # noqa: F401


def draw_matrix(title: str, matrix: Matrix) -> tuple[bytes, int, int]:
    """Return a matrix of figures between -1 and 1 as a PNG, with its height and width in pixels.

    Arguments:
        title: title of the picture, shown whole.
        matrix: its row and column labels, or the ids if it has none, are shown on the axes.

    Raises:
        ImportError: Matplotlib is not installed.
    """
    # Not pyplot, which keeps global state: this runs in a background thread.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows, columns = matrix.values.shape
    side = 2.5 + 0.3 * max(rows, columns)
    lines = [line for part in title.split('\n') for line in textwrap.wrap(part, _TITLE_WIDTH) or ['']]
    width = max(side + 0.8, _LETTER * max(map(len, lines)))
    figure = Figure(figsize=(width, side + 0.2 * len(lines)), dpi=80, layout='constrained')
    # Above the whole picture: above the matrix alone, which is narrow, it would be cut off.
    figure.suptitle('\n'.join(lines), fontsize=10)
    axes = figure.add_subplot()
    image = axes.imshow(matrix.values, vmin=-1, vmax=1, cmap='RdBu')
    figure.colorbar(image, ax=axes, shrink=0.8)
    axes.set_xticks(range(columns), [matrix.labels.get(entry, str(entry)) for entry in matrix.columns], rotation=90)
    axes.set_yticks(range(rows), [matrix.labels.get(entry, str(entry)) for entry in matrix.rows])
    if max(rows, columns) <= _NUMBERED:
        for i in range(rows):
            for j in range(columns):
                value = float(matrix.values[i, j])
                colour = 'white' if abs(value) > 0.6 else 'black'
                axes.text(j, i, f'{value:.2f}', ha='center', va='center', fontsize=7, color=colour)
    canvas = FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    canvas.print_png(buffer)
    width, height = canvas.get_width_height()
    return buffer.getvalue(), height, width
