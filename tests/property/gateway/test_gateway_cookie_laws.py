"""Whatever a client sends as cookies: ours are taken out, the others stay as they are and in their order."""

from hypothesis import given
from hypothesis import strategies as st

from tenfold.gateway.engine.sticky import endpoint_of, take
from tenfold.gateway.engine.users import cookie
from tenfold.gateway.framing import Limits
from tenfold.gateway.framing.head import parse_request

OURS = frozenset((b"tenfold_app", b"side"))
names = st.sampled_from(["tenfold_app", "side", "Side", "tenfold_ap", "sid", "a"])
values = st.text(st.characters(codec="ascii", exclude_characters=';, "\\\x7f', min_codepoint=33), max_size=12)
pairs = st.lists(st.tuples(names, values), max_size=6)
lines = st.lists(st.tuples(st.sampled_from(["Cookie", "cookie", "COOKIE"]), pairs), max_size=3)


def head(sent):
    text = ["GET / HTTP/1.1", "Host: a", "X-A: 1"]
    text += [f"{field}: {'; '.join(f'{name}={value}' for name, value in several)}" for field, several in sent]
    return parse_request("\r\n".join([*text, "Cook: tenfold_app=no"]).encode(), Limits())


def seen(found):
    """What an endpoint reads."""
    return [
        part.strip()
        for line in found.plain
        if line.partition(b":")[0].lower() == b"cookie"
        for part in line.partition(b":")[2].split(b";")
        if part.strip()
    ]


@given(lines)
def test_ours_are_taken_out_and_nothing_else_changes(sent):
    came, left = head(sent), head(sent)
    all_ = [(name, value) for _, several in sent for name, value in several]
    mine = take(left, OURS)
    expected = {}
    for name, value in all_:
        if name.encode() in OURS:
            expected.setdefault(name, value)
    assert mine == expected
    assert seen(left) == [part for part in seen(came) if part.partition(b"=")[0] not in OURS]
    others = [line for line in came.plain if not line.lower().startswith(b"cookie:")]
    assert [line for line in left.plain if not line.lower().startswith(b"cookie:")] == others
    assert take(left, OURS) == {}
    for name in ("tenfold_app", "side"):
        assert cookie(left, name) is None  # the edge and the picks read what endpoints see
    for name in {name for name, _ in all_} - {"tenfold_app", "side"}:
        assert cookie(left, name) == cookie(came, name)


@given(st.text(max_size=40))
def test_no_cookie_is_too_odd_to_be_read(text):
    found = endpoint_of(text)
    assert found is None or isinstance(found, str)
