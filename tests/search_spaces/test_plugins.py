"""Registries: whose a name is, when a thing is imported, and what is said of a package that cannot be."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from search_spaces import NasError, UnknownNameError, plugins
from search_spaces.plugins import Registry

GROUP = "nas.numbers"


@pytest.fixture
def numbers(monkeypatch: pytest.MonkeyPatch) -> Registry[float]:
    theirs = {"tau": "math:tau", "pi": "math:inf", "gone": "no_such_package.numbers:GONE", "less": "math:no_such_name"}
    points = {name: EntryPoint(name, value, GROUP) for name, value in theirs.items()}
    monkeypatch.setattr(plugins, "installed", lambda group: points if group == GROUP else {})
    return Registry("number", GROUP, {"one": 1.0, "pi": "math:pi"})


def test_a_name_of_ours_stays_ours(numbers: Registry[float]) -> None:
    assert numbers.names() == ["one", "pi", "tau", "gone", "less"]
    assert [numbers.get(name) for name in ("one", "pi", "tau")] == pytest.approx([1.0, 3.14159265, 6.2831853])


def test_a_name_is_registered_once(numbers: Registry[float]) -> None:
    numbers.register("two", 2.0)
    assert numbers.get("two") == 2.0
    for name in ("one", "two", "tau"):
        with pytest.raises(ValueError, match=f"number `{name}` is registered already"):
            numbers.register(name, 3.0)


def test_an_unknown_name_is_answered_with_the_nearest(numbers: Registry[float]) -> None:
    assert numbers.find("ta") is None
    with pytest.raises(UnknownNameError, match="unknown number: `ta`") as caught:
        numbers.get("ta")
    assert caught.value.hint == "did you mean `tau`?"


@pytest.mark.parametrize(("name", "package"), [("gone", "no_such_package.numbers"), ("less", "math")])
def test_a_package_that_cannot_be_imported_is_named(numbers: Registry[float], name: str, package: str) -> None:
    with pytest.raises(NasError, match=f"number `{name}` of package `{package}`: .* cannot be imported") as caught:
        numbers.get(name)
    assert caught.value.hint == f"repair the package or remove it: `pip uninstall {package}`"
