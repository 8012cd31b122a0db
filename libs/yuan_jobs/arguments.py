"""A parser of arguments whose errors are one line, for services' own commands."""

import argparse
from typing import NoReturn

from yuan_events import InputError


class ArgumentParser(argparse.ArgumentParser):
    """An argparse parser that raises InputError, where argparse prints its usage and exits."""

    def error(self, message: str) -> NoReturn:
        """Raises InputError with argparse's message."""
        raise InputError(f"{self.prog}: {message}; see {self.prog} --help")
