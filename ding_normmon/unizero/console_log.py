"""Log lines of the monitor: in colour above the progress bar on a terminal, as plain lines elsewhere."""

from __future__ import annotations

import logging
import sys

from ding_normmon.core.terminal import has_colours, terminal_width, wrapped

__all__ = ['ConsoleLog']

_COLOURS = {'WARNING': '\x1b[33m', 'ERROR': '\x1b[31m'}
_RESET = '\x1b[0m'


class ConsoleLog(logging.Handler):
    """Writes the lines of the logger ``ding_normmon`` to the current ``sys.stderr``.

    While a progress bar is shown, ``sys.stderr`` is the bar's own console, which keeps the bar below the lines.
    DI-engine's handler on the root logger holds the earlier standard error and would write into the bar.
    """

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._logger = logging.getLogger('ding_normmon')
        self._before: tuple[int, bool] | None = None

    def install(self) -> None:
        """Handle the monitor's log lines from level INFO up."""
        self._before = (self._logger.level, self._logger.propagate)
        self._logger.addHandler(self)
        self._logger.setLevel(logging.INFO)
        self._logger.propagate = False

    def uninstall(self) -> None:
        """Give the log lines back to the root logger."""
        if self._before is not None:
            self._logger.removeHandler(self)
            level, self._logger.propagate = self._before
            self._logger.setLevel(level)
            self._before = None

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        try:
            name = record.levelname
            terminal = sys.__stderr__ or sys.stderr
            text = wrapped(f'{name} {self.format(record)}', terminal_width(), hang='    ')
            if has_colours(terminal) and name in _COLOURS:
                text = f'{_COLOURS[name]}{name}{_RESET}{text.removeprefix(name)}'
            # One write, because other threads write too.
            sys.stderr.write(f'{text}\n')
            sys.stderr.flush()
        except Exception:
            self.handleError(record)
