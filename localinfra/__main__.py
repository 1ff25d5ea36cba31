"""`python -m localinfra`."""

from localinfra.cli.main import main

main()
