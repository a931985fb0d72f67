"""``python -m ding_normmon`` is ``normmon``, and so is ``torchrun -m ding_normmon``."""

from ding_normmon.cli.main import main

main()
