"""``python -m ding_normmon`` is ``normmon``, for ``torchrun -m -- ding_normmon run ...`` too."""

from ding_normmon.cli.main import main

main()
