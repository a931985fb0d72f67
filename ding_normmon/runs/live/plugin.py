"""TensorBoard's tab: it finds this module by the entry point of the package, and imports it when it starts."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path
from typing import Any

from tensorboard.plugins import base_plugin

__all__ = ['Loader', 'NormmonPlugin']

logger = logging.getLogger('ding_normmon')


class Loader(base_plugin.TBLoader):
    """Loads the tab where history files can be read; a plugin that raises an error would end TensorBoard."""

    def load(self, context: Any) -> NormmonPlugin | None:
        """Return the plugin; None if a package that it needs is missing."""
        if importlib.util.find_spec('pyarrow') is None:
            logger.warning('normmon: no tab, because pyarrow is missing: pip install pyarrow')
            return None
        return NormmonPlugin(context)


class NormmonPlugin(base_plugin.TBPlugin):
    """A tab with the report page of every run below TensorBoard's folder, which follows the runs while they train.

    Arguments:
        context: of TensorBoard.
    """

    plugin_name = 'ding_normmon'

    def __init__(self, context: Any) -> None:
        from ding_normmon.runs.live.library import RunLibrary

        self._library = RunLibrary(_roots(context))

    def get_plugin_apps(self) -> dict[str, Any]:
        """Return the application for each kind of path."""
        from ding_normmon.runs.live.application import ENTRY, Application

        application = Application(self._library)
        return {f'/{route}': application for route in (ENTRY, 'runs', 'run', 'settings', 'static/*')}

    def is_active(self) -> bool:
        """Return whether there is a run."""
        return bool(self._library.runs())

    def frontend_metadata(self) -> Any:
        """Return what TensorBoard wants to know of the tab."""
        from ding_normmon.runs.live.application import ENTRY

        return base_plugin.FrontendMetadata(es_module_path=f'/{ENTRY}', tab_name='Normmon', disable_reload=True)


def _roots(context: Any) -> dict[str, Path]:
    """Return the folders that TensorBoard looks at, by what the names of their runs begin with."""
    folders = {'': str(context.logdir or '')}
    for entry in str(getattr(context.flags, 'logdir_spec', '') or '').split(','):
        name, colon, folder = entry.partition(':')
        folders[name if colon else ''] = folder if colon else entry or folders['']
    # What is not on this machine, such as gs://, is left to TensorBoard's own tabs.
    return {name: Path(folder).expanduser() for name, folder in folders.items() if folder and '://' not in folder}
