"""Every public package says what it offers, and everything it offers says what it is."""

import importlib
import inspect
import pkgutil

import pytest

import tenfold

# The command line is a program, not a library.
PACKAGES = sorted(
    f"tenfold.{module.name}"
    for module in pkgutil.iter_modules(tenfold.__path__)
    if module.ispkg and not module.name.startswith("_") and module.name != "cli"
)


def own_members(kind):
    """The public functions and properties that a class defines itself."""
    for name, value in vars(kind).items():
        if name.startswith("_"):
            continue
        function = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        if inspect.isfunction(function):
            yield name, function


def test_there_are_packages_to_look_at():
    assert "tenfold.testing" in PACKAGES


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_lists_its_public_names(package):
    module = importlib.import_module(package)
    names = module.__all__
    assert len(names) == len(set(names)), "a name stands in __all__ twice"
    assert [name for name in names if not hasattr(module, name)] == []
    assert module.__doc__, f"{package} has no docstring"


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_has_a_docstring(package):
    module = importlib.import_module(package)
    values = {name: getattr(module, name) for name in module.__all__}
    missing = []
    for name, value in values.items():
        if inspect.isclass(value):
            # A dataclass without one gets its signature as a docstring, which tells nothing.
            if not value.__doc__ or value.__doc__.startswith(f"{value.__name__}("):
                missing.append(name)
        elif inspect.isroutine(value) and not value.__doc__:
            missing.append(name)
    assert missing == []


@pytest.mark.parametrize("package", ["tenfold.testing"])
def test_every_public_method_of_a_package_without_interfaces_has_a_docstring(package):
    module = importlib.import_module(package)
    classes = [value for name in module.__all__ if inspect.isclass(value := getattr(module, name))]
    missing = [
        f"{kind.__name__}.{member}"
        for kind in classes
        for member, function in own_members(kind)
        if not function.__doc__
    ]
    assert len(classes) > 1
    assert missing == []
