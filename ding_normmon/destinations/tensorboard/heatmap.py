"""Matrices of cosines as pictures, with the tasks' names on the axes."""

from __future__ import annotations

import io

from ding_normmon.core.record import Matrix

__all__ = ['draw_matrix', 'is_drawn', 'load_matplotlib']

_NUMBERED = 12
"""Up to this many tasks the cells are wide enough for their numbers."""


def is_drawn(name: str) -> bool:
    """Tell whether a matrix is worth a picture; its standard errors are not.

    >>> is_drawn('conflict/encoder/cosine'), is_drawn('conflict/encoder/standard_error')
    (True, False)
    """
    return name.endswith('/cosine')


def load_matplotlib() -> None:
    """Import what :func:`draw_matrix` needs.

    Raises:
        ImportError: Matplotlib is not installed.
    """
    import matplotlib.backends.backend_agg
    import matplotlib.figure  # noqa: F401


def draw_matrix(title: str, matrix: Matrix) -> tuple[bytes, int, int]:
    """Return a matrix of figures between -1 and 1 as a PNG, with its height and width in pixels.

    Arguments:
        title: stands above it.
        matrix: the rows' and columns' labels stand on the axes, or the ids where there are none.

    Raises:
        ImportError: Matplotlib is not installed.
    """
    # Not pyplot: it keeps global state, and this runs in a background thread.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows, columns = matrix.values.shape
    side = 2.5 + 0.3 * max(rows, columns)
    figure = Figure(figsize=(side + 0.8, side), dpi=80, layout='constrained')
    axes = figure.add_subplot()
    image = axes.imshow(matrix.values, vmin=-1, vmax=1, cmap='RdBu')
    figure.colorbar(image, ax=axes, shrink=0.8)
    axes.set_xticks(range(columns), [matrix.labels.get(entry, str(entry)) for entry in matrix.columns], rotation=90)
    axes.set_yticks(range(rows), [matrix.labels.get(entry, str(entry)) for entry in matrix.rows])
    axes.set_title(title)
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
