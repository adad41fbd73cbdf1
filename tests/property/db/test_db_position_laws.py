"""Positions against PostgreSQL's own arithmetic, written out here from the layout of a log file."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from tenfold.db.lineage import History, covers
from tenfold.db.position import Position, format_lsn, normalised, parse_lsn

PAGES = st.sampled_from([1024, 4096, 8192, 65536])
SEGMENTS = st.sampled_from([2**20, 2**24, 2**26, 2**30])


def place(usable: int, page: int, segment: int, *, end: bool) -> int:
    """Where the byte number ``usable`` of the log's payload lies: page by page, as the writer lays it out.

    ``end``: as the end of a record, which stays in front of the next page's header; else as the begin of one.
    """
    in_long, in_short = page - 40, page - 24
    in_segment = in_long + (segment // page - 1) * in_short
    segments, left = divmod(usable, in_segment)
    at = segments * segment
    if left < in_long:
        return at if end and left == 0 else at + 40 + left
    pages, left = divmod(left - in_long, in_short)
    at += page * (1 + pages)
    return at if end and left == 0 else at + 24 + left


@st.composite
def layouts(draw: st.DrawFn) -> tuple[int, int, int]:
    """A page, a segment and a payload byte, most of them near the edge of a page."""
    page, segment = draw(PAGES), draw(SEGMENTS)
    in_segment = (page - 40) + (segment // page - 1) * (page - 24)
    segments = draw(st.integers(0, 2**20)) * in_segment
    pages = draw(st.integers(0, segment // page - 1))
    inside = (page - 40 + (pages - 1) * (page - 24)) if pages else 0
    offset = draw(st.one_of(st.integers(-64, 64), st.integers(0, page)))
    return page, segment, max(0, segments + inside + 8 * offset)


@given(layouts())
@example((8192, 2**24, 0))
@example((8192, 2**24, 8192 - 40))
@example((8192, 2**24, 8192 - 40 + 8192 - 24))
@example((8192, 2**24, (8192 - 40) + 2047 * (8192 - 24)))
def test_the_begin_of_the_next_record_becomes_the_end_of_the_last(layout: tuple[int, int, int]) -> None:
    page, segment, usable = layout
    begin, end = place(usable, page, segment, end=False), place(usable, page, segment, end=True)
    assert normalised(begin, page=page, segment=segment) == end
    assert normalised(end, page=page, segment=segment) == end


@given(layouts(), st.integers(1, 500))
def test_what_comes_later_stays_later(layout: tuple[int, int, int], more: int) -> None:
    """Never before the commit that it was read after, and strictly ordered."""
    page, segment, usable = layout
    first = normalised(place(usable, page, segment, end=False), page=page, segment=segment)
    then = normalised(place(usable + 8 * more, page, segment, end=False), page=page, segment=segment)
    assert first < then


def test_one_edge_of_each_kind() -> None:
    assert normalised(0x2000018) == 0x2000000 + 0  # inside of a segment's long header
    assert normalised(0x2000028) == 0x2000000
    assert normalised(0x2002018) == 0x2002000
    assert normalised(0x2002028) == 0x2002028  # 16 bytes behind a short header: a place of its own
    # A page that starts a segment of 1 MB and none of 16 MB: only the server's own geometry tells.
    assert normalised(0x2100028) == 0x2100028
    assert normalised(0x2100028, segment=2**20) == 0x2100000


SYSTEM = st.integers(0, 2**64 - 1)
LSN = st.integers(0, 2**64 - 1)
POSITION = st.builds(Position, SYSTEM, st.integers(1, 2**32 - 1), LSN)
NEAR = st.builds(Position, st.sampled_from([7, 8]), st.integers(1, 3), st.integers(0, 50))


@given(LSN)
def test_lsns_are_read_as_they_are_printed(lsn: int) -> None:
    assert parse_lsn(format_lsn(lsn)) == lsn


@given(POSITION)
def test_positions_are_read_as_they_are_printed(position: Position) -> None:
    assert Position.parse(str(position)) == position


@given(NEAR, NEAR, NEAR)
def test_a_partial_order(a: Position, b: Position, c: Position) -> None:
    assert a.covers(a) is True
    if a.covers(b) and b.covers(a):
        assert a == b
    if a.covers(b) and b.covers(c):
        assert a.covers(c) is True
    assert (a.covers(b) is None) == ((a.system, a.timeline) != (b.system, b.timeline))


@given(st.lists(st.integers(1, 12), min_size=1, max_size=5), st.integers(0, 60), st.integers(0, 60), st.data())
def test_history_against_a_log_of_pieces(lengths: list[int], wanted_at: int, seen_at: int, data: st.DataObject) -> None:
    """A chain of promotions, each timeline written on beyond the point where it was left. What a server at a place of
    the last timeline shows is a set of (timeline, byte): covered means that it shows all that a writer could see.
    """
    left: dict[int, int] = {}
    at = 0
    for number, length in enumerate(lengths, 1):
        at += length
        left[number] = at
    last = len(lengths) + 1

    def shown(timeline: int, lsn: int) -> set[tuple[int, int]]:
        """By the owner of each byte up to ``lsn`` in the log as that timeline has it."""
        owner = lambda byte: next((n for n in range(1, timeline) if byte < left[n]), timeline)  # noqa: E731
        return {(owner(byte), byte) for byte in range(lsn)}

    timeline = data.draw(st.integers(1, last))
    seen, wanted = Position(7, last, max(seen_at, at)), Position(7, timeline, wanted_at)
    history = History.parse(
        7, last, "".join(f"{n}\t{format_lsn(lsn)}\tno recovery target\n" for n, lsn in left.items())
    )
    verdict = covers(seen, wanted, history)
    truth = shown(timeline, wanted_at) <= shown(last, seen.lsn)
    assert (verdict is True) == truth
    if timeline != last:
        assert covers(seen, wanted, None) is None
