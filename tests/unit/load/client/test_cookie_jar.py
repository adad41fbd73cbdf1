"""The cookie jar against RFC 6265's rules for storing and sending."""

from __future__ import annotations

from tenfold.load.cookies import CookieJar


def test_path_rules() -> None:
    jar = CookieJar()
    jar.store("h", "/shop/cart?x=/y/z", "a=1")
    assert jar.header("h", "/shop", False) == "a=1"
    assert jar.header("h", "/shop/x?y", False) == "a=1"
    assert jar.header("h", "/shopping", False) == ""
    assert jar.header("other", "/shop", False) == ""


def test_secure_expiry_and_replacement() -> None:
    jar = CookieJar()
    jar.store("h", "/", "s=1; Secure; HttpOnly")
    jar.store("h", "/", "old=1; Expires=Thu, 01 Jan 1970 00:00:00 GMT")
    jar.store("h", "/", 'q="v"; Max-Age=60; Expires=Thu, 01 Jan 1970 00:00:00 GMT')
    jar.store("h", "/", "=nameless")
    jar.store("h", "/", "broken")
    jar.store("h", "/", "odd=1; Expires=someday")
    assert jar.header("h", "/", True) == "s=1; q=v; odd=1"
    assert jar.header("h", "/", False) == "q=v; odd=1"
    jar.store("h", "/", "q=2")
    assert jar.get("q") == "2"
    assert jar.get("none") is None
    jar.store("h", "/", "q=; Max-Age=0")
    assert repr(jar) == "CookieJar(odd, s)"
    jar.set("h", "m", "1")
    assert len(jar) == 3
    jar.clear()
    assert len(jar) == 0
