"""What comes from outside may say no in a sentence, and nothing else: garbage must never end a task."""

import asyncio
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenfold._core.errors import MisuseError
from tenfold.balance.discovery import FromKubernetes, read_endpoints
from tenfold.balance.discovery.base import LookFailed
from tenfold.balance.probe_http import Answer, NoAnswer, _answer

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
ODD = st.sampled_from(
    ["http://h:1", "http://[", "http://[::1", "unix:", "tcp://", "https://h:x", "//", "http://\n", ""]
)
TABLE = st.fixed_dictionaries(
    {},
    optional={
        "url": ODD | JSON,
        "id": st.text(max_size=4) | JSON,
        "weight": st.floats() | JSON,
        "zone": JSON,
        "priority": st.integers(-2, 5) | JSON,
        "metadata": st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2) | JSON,
    },
)


@given(st.lists(ODD | TABLE | JSON, max_size=4) | JSON)
def test_a_declaration_makes_endpoints_or_a_sentence(declared):
    try:
        made = read_endpoints(declared, "pool.json")
    except MisuseError as error:
        assert str(error).startswith("pool.json: ")  # noqa: PT017 - both ends are right
    else:
        assert [each.id for each in made] == sorted({each.id for each in made})


HTTP = st.lists(
    st.sampled_from(
        [
            b"HTTP/1.1 200 OK",
            b"HTTP/1.1 100 Continue",
            b"HTTP/1.1 999",
            b"Content-Length: 3",
            b"Content-Length: -1",
            b"Content-Length: \xb2",
            b"Content-Length: " + b"9" * 5000,
            b"X : y",
            b": y",
            b"\r\n",
            b"\r\n\r\n",
            b"\n",
            b"abc",
            b"\x00",
        ]
    )
    | st.binary(max_size=20),
    max_size=10,
)


@given(HTTP)
def test_an_answer_is_read_or_refused_with_a_sentence(parts):
    async def main():
        reader = asyncio.StreamReader(limit=16 * 1024)
        reader.feed_data(b"".join(parts))
        reader.feed_eof()
        try:
            return await _answer(reader)
        except NoAnswer as error:
            return str(error)

    result = asyncio.run(main())
    assert result.status >= 200 if isinstance(result, Answer) else len(result) > 5


SLICE = st.fixed_dictionaries(
    {"metadata": st.fixed_dictionaries({"name": st.text(max_size=3)}, optional={"resourceVersion": JSON})},
    optional={
        "addressType": st.sampled_from(["IPv4", "IPv6"]) | JSON,
        "endpoints": st.lists(
            st.fixed_dictionaries(
                {"addresses": st.lists(st.sampled_from(["10.0.0.1", "[", "", "a b", "\n"]), max_size=2)},
                optional={"zone": st.none() | st.text(max_size=3), "targetRef": JSON},
            ),
            max_size=2,
        ),
        "ports": st.lists(st.fixed_dictionaries({"port": st.integers() | st.none()}), max_size=2) | JSON,
    },
)


@given(
    st.lists(
        st.fixed_dictionaries({"type": st.sampled_from(["ADDED", "DELETED", "ERROR", "?"]), "object": SLICE}) | JSON
    )
)
def test_a_change_of_the_api_is_taken_or_refused_with_a_sentence(changes):
    pytest.importorskip("httpx2")
    source = FromKubernetes("checkout", api="http://127.0.0.1:1", namespace="shop")
    for change in changes:
        try:
            if source._take(json.dumps(change).encode()):
                ids = [each.id for each in source._slices.endpoints()]
                assert ids == sorted(set(ids))
        except (LookFailed, msgspec.DecodeError):
            continue
