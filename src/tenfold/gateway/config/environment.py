"""Values from the environment: ``${NAME}`` and ``${NAME:-default}`` in any string of the file.

As the shell has it, the default stands in for a variable that is not set or is empty; a variable without a default
must be set. ``$${`` is ``${`` itself. Keys are not substituted, and what was put in is not looked at again.

What comes from the environment may be a secret, wherever it is put: errors tell the name and never the value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from tenfold.gateway.config.positions import Path
from tenfold.gateway.config.problems import Findings

_PLACE: Final = re.compile(r"\$\$\{|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}|\$\{[^}]*\}?")


class Secret:
    """A text that must not be seen: its ``repr`` and ``str`` show nothing of it. `reveal` gives it."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself."""
        return self._text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash((Secret, self._text))

    def __len__(self) -> int:
        return len(self._text)

    def __repr__(self) -> str:
        return "Secret(…)"

    __str__ = __repr__


class Substitution:
    """Puts the values of ``environ`` into a document. ``whole`` has the paths of strings that were nothing but one
    ``${…}``: those may stand for numbers and for true and false.
    """

    def __init__(self, environ: Mapping[str, str], findings: Findings) -> None:
        self._environ = environ
        self._findings = findings
        self._values: dict[str, str] = {}
        self.whole: set[Path] = set()

    def document(self, value: dict[str, Any]) -> dict[str, Any]:
        """The document with everything in its place. What is missing becomes a problem at its line."""
        done: dict[str, Any] = self._walk(value, ())
        self._findings.secrets = self._values
        return done

    def _walk(self, value: Any, path: Path) -> Any:
        if isinstance(value, dict):
            return {key: self._walk(each, (*path, key)) for key, each in value.items()}
        if isinstance(value, list):
            return [self._walk(each, (*path, number)) for number, each in enumerate(value)]
        if isinstance(value, str) and "${" in value:
            return self._text(value, path)
        return value

    def _text(self, raw: str, path: Path) -> str:
        used = False

        def put(match: re.Match[str]) -> str:
            nonlocal used
            name = match["name"]
            if match[0] == "$${":
                return "${"
            if name is None:
                self._findings.wrong(
                    path,
                    f'expected "${{NAME}}" or "${{NAME:-default}}", got {match[0]!r}; say "$${{" for the text itself',
                )
                return ""
            found = self._environ.get(name, "")
            if found:
                used = True
                self._values.setdefault(found, f"${{{name}}}")
                return found
            if match["default"] is None and name not in self._environ:
                self._findings.wrong(path, f"{name} is not set in the environment; set it, or say ${{{name}:-default}}")
            return match["default"] or ""

        text = _PLACE.sub(put, raw)
        match = _PLACE.fullmatch(raw)
        if match is not None and match["name"] is not None:
            self.whole.add(path)
        if used:
            self._values[text] = raw
        return text
