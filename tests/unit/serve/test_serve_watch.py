"""Changed sources: which files count, and when a change is over."""

import os

from tenfold.serve.watch import changed, changes, look, named


def test_what_counts(tmp_path):
    for name in ("app.py", "pack/mod.py", "notes.txt", ".git/hook.py", "__pycache__/x.py", "venv/lib/y.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    (tmp_path / "venv" / "pyvenv.cfg").write_text("")
    assert named(sorted(look(tmp_path)), tmp_path) == ("app.py", "pack/mod.py")


def test_new_gone_and_other(tmp_path):
    (tmp_path / "a.py").write_text("1")
    (tmp_path / "b.py").write_text("1")
    (tmp_path / "c.py").write_text("1")
    before = look(tmp_path)
    (tmp_path / "a.py").unlink()
    (tmp_path / "b.py").write_text("12")
    (tmp_path / "d.py").write_text("1")
    assert named(changed(before, look(tmp_path)), tmp_path) == ("a.py", "b.py", "d.py")
    assert changed(before, before) == []


async def test_several_writes_are_one_change(tmp_path, monkeypatch):
    """Looks are fed one by one: a tree that still moves says nothing, one at rest tells all."""
    looks = iter([{"a": (1, 1)}, {"a": (2, 1)}, {"a": (3, 1)}, {"a": (3, 1), "b": (1, 1)}, {"a": (3, 1), "b": (1, 1)}])
    monkeypatch.setattr("tenfold.serve.watch.look", lambda directory: next(looks))
    watching = changes(tmp_path, every=0.0)
    assert await anext(watching) == ["a", "b"]
    await watching.aclose()
    assert next(looks, None) is None


def test_a_file_that_vanishes_between_two_steps_is_no_error(tmp_path):
    os.symlink(tmp_path / "nowhere", tmp_path / "dangling.py")
    assert look(tmp_path) == {}
