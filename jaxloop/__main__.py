"""`python -m jaxloop` is the command `jaxloop`."""

from jaxloop.commands.cli import main

main()
