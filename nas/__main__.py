"""`python -m nas`, for launchers that start modules, such as torchrun."""

from nas.cli.main import main

main()
