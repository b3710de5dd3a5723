"""The parser of the command line. It reports an unknown option with the usage of its command."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from contrastive_ner.errors import did_you_mean
from contrastive_ner.logs import coloured


class Parser(argparse.ArgumentParser):
    """A parser of one command, or of all, that refuses unknown options itself.

    The class of argparse leaves them to the parser of all commands, under whose usage an error does
    not tell what the command takes. Positional arguments that stand behind an option belong to the
    last argument that takes any number of them (`rest`).
    """

    rest: str | None = None

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """The values of known arguments; anything else is an error."""
        found, unknown = super().parse_known_args(args, namespace)
        if self.rest is not None and not any(name.startswith("-") for name in unknown):
            setattr(found, self.rest, [*getattr(found, self.rest), *unknown])
            unknown = []
        if unknown:
            name = unknown[0].partition("=")[0]
            kind = "option" if name.startswith("-") else "argument"
            known = [key for key in self._option_string_actions if key.startswith("--")]
            hint = did_you_mean(name, known) if kind == "option" else ""
            self.error(f"unknown {kind} {name}{hint}")
        return found, []

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """As the base class; a choice that is like the value is asked for."""
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            raise argparse.ArgumentError(
                action, f"{error.message}{did_you_mean(str(value), action.choices or ())}"
            ) from error

    def error(self, message: str) -> NoReturn:
        """Print the usage and the error, and exit with 2."""
        self.print_usage(sys.stderr)
        self.exit(2, f"{coloured('error:', 'red')} {message} (see {self.prog} --help)\n")
