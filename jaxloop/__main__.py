"""`python -m jaxloop` is the command `jaxloop`."""

from jaxloop.cli import main

main()
