"""The report page that a run ends with."""

from __future__ import annotations

from pathlib import Path

from ding_normmon.core.install import install_command

__all__ = ['print_report']


def print_report(folder: Path) -> None:
    """Write ``report.html`` into a run's folder and print its path, or one sentence on why it could not be written."""
    try:
        from ding_normmon.runs import read_run
        from ding_normmon.runs.report.page import write_page

        path = folder / 'report.html'
        write_page(path, [read_run(folder)])
    except ImportError as error:
        print(f'report:       not written ({error}); to install it: {install_command("report")}', flush=True)
    except Exception as error:
        # A broken page must not turn a finished run into a failed one.
        print(f'report:       not written ({type(error).__name__}: {error})', flush=True)
    else:
        print(f'report:       {path}', flush=True)
