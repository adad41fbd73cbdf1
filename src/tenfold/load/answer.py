"""What a journey gets back: status, headers, body. Headers are parsed when somebody asks for them."""

from __future__ import annotations

from typing import Any

import msgspec


class Answer(msgspec.Struct, eq=False, gc=False):  # a Struct, because it is made in half the time of a class
    """One HTTP answer.

    ``status`` is the code, ``body`` the bytes after transfer decoding (content coding is left alone: the
    client asks for none).
    """

    status: int
    _head: bytes
    body: bytes
    _cookies: bool
    """Whether there is a ``Set-Cookie``."""
    _headers: Headers | None = None

    @property
    def headers(self) -> Headers:
        """The header fields; names compare without regard to case."""
        if self._headers is None:
            self._headers = Headers(self._head)
        return self._headers

    @property
    def text(self) -> str:
        """The body as UTF-8; bytes that are not become U+FFFD."""
        return self.body.decode("utf-8", "replace")

    def json(self) -> Any:
        """The body as JSON. Raises `ValueError` where it is none."""
        return msgspec.json.decode(self.body)

    def __repr__(self) -> str:
        return f"Answer(status={self.status}, {len(self.body)} bytes)"


class Headers:
    """Fields of one answer in the order they came; a name may come several times."""

    __slots__ = ("_fields",)

    def __init__(self, head: bytes) -> None:
        """``head`` is everything before the empty line, status line included."""
        fields: list[tuple[str, str]] = []
        for line in head.split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            fields.append((name.decode("latin-1"), value.strip(b" \t").decode("latin-1")))
        self._fields = fields

    def get(self, name: str, default: str | None = None) -> str | None:
        """The first field of that name, or ``default``."""
        wanted = name.lower()
        return next((value for field, value in self._fields if field.lower() == wanted), default)

    def get_all(self, name: str) -> list[str]:
        """Every field of that name, in order."""
        wanted = name.lower()
        return [value for field, value in self._fields if field.lower() == wanted]

    def items(self) -> list[tuple[str, str]]:
        """All fields, names as the server wrote them."""
        return list(self._fields)

    def __getitem__(self, name: str) -> str:
        value = self.get(name)
        if value is None:
            raise KeyError(name)
        return value

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.get(name) is not None

    def __repr__(self) -> str:
        return f"Headers({self._fields!r})"
