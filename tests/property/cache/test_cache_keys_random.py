"""Keys of random arguments are equal exactly when the arguments are equal in value *and* type."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tenfold.cache.keys import encode

scalars = (
    st.integers(-3, 3)
    | st.booleans()
    | st.none()
    | st.text(alphabet='a1",\\()', max_size=4)
    | st.binary(max_size=2)
    | st.floats(-2, 2, allow_nan=False).map(round).map(float)
)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=6)


def exact(value: Any) -> Any:
    """A form whose equality is equality in value and type (and sign of zero)."""
    if isinstance(value, tuple):
        return ("tuple", tuple(exact(one) for one in value))
    return (type(value).__name__, repr(value))


@given(st.lists(values, min_size=2, max_size=2), st.lists(values, min_size=2, max_size=2))
def test_equal_keys_mean_equal_arguments(first: list[Any], second: list[Any]) -> None:
    one, other = (",".join(encode(value, "f", "a") for value in arguments) for arguments in (first, second))
    assert (one == other) == (exact(tuple(first)) == exact(tuple(second)))
