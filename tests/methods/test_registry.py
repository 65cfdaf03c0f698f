"""Methods by name: plugins that do not fit are refused with what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from consilia.core.errors import ConfigError
from consilia.federation.config import run_config
from consilia.methods import registry
from tests.methods.plugins import plugin

GOOD = '''
from consilia.methods import Method, ReplyField


class Own(Method):
    """A method of one's own."""

    name = "own"

    def fields(self):
        return (ReplyField("temperature", "a number of this method", 0.0, 2.0),)
'''


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import nowhere_at_all", "cannot be imported: ModuleNotFoundError"),
        ("def broken(:", "cannot be imported: SyntaxError"),
        ("import sys\n\nsys.exit(0)", r"cannot be imported: SystemExit: 0 \(own\.py, line 3\)"),
        ("\n1 / 0", r"cannot be imported: ZeroDivisionError: division by zero \(own\.py, line 2\)"),
        ("x = 1", "defines no subclass of consilia.methods.Method"),
        (GOOD.replace('"own"', '"fedavg"'), "a method 'fedavg' is there already"),
        (GOOD + GOOD.replace("class Own", "class Other"), "a method 'own' is there already"),
        (GOOD.replace('"own"', '"../own"'), r"has the name '\.\./own', expected letters"),
        (GOOD + "    Config = dict\n", "Config of method own is <class 'dict'>, expected a subclass of .*MethodConfig"),
        (GOOD + '    tasks = ("regression",)\n', r"tasks of method own are \('regression',\), expected"),
    ],
)
def test_a_plugin_that_does_not_fit_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "own.py"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        registry.load_plugin(path)
    assert str(path) in str(caught.value)
    assert registry.plugin_file() is None
    assert "own" not in registry.method_names()


def test_a_plugin_is_found_by_its_name_and_named_by_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text(GOOD)
    with plugin(path):
        assert "own" in registry.method_names()
        assert registry.make_method(registry.method_config("own")).name == "own"
        first = registry.plugin_digest("own")
    path.write_text(GOOD + "# another\n")
    with plugin(path):
        assert registry.plugin_digest("own") != first
    assert registry.plugin_digest("fedavg") is None


def test_a_second_name_of_a_class_is_no_second_method(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text(GOOD + "\n\nDefault = Own\n")
    with plugin(path):
        assert registry.method_class("own").__name__ == "Own"


def test_a_missing_plugin_and_an_unknown_method_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.py cannot be read"):
        registry.load_plugin(tmp_path / "nowhere.py")
    with pytest.raises(ConfigError, match=r"no method 'fedfoo' is installed; there are .*fedavg, .*--plugin FILE\.py"):
        registry.method_class("fedfoo")


def test_another_packages_method_runs_where_it_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import EntryPoint

    entry = EntryPoint("theirs", "consilia.methods.fedavg:FedAvg", registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry])
    registry._installed.cache_clear()
    try:
        registry.AllowedMethods(("theirs",), Path("site.yaml")).require({"method": "theirs"})
        nothing = registry.AllowedMethods((), Path("site.yaml"))
        nothing.require("fedavg")
        with pytest.raises(ConfigError, match=r"'theirs' is of the package unknown .* allow_methods in site\.yaml"):
            nothing.require("theirs")
        with pytest.raises(ConfigError, match="is no Method whose name is 'theirs'"):
            registry.method_class("theirs")
    finally:
        registry._installed.cache_clear()


def test_an_unlisted_method_is_refused_before_it_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import EntryPoint

    (tmp_path / "spying.py").write_text("raise SystemExit('the code of an unlisted package runs')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "entry_points", lambda group: [EntryPoint("spy", "spying:Spy", registry.GROUP)])
    registry._installed.cache_clear()
    try:
        nothing = registry.AllowedMethods((), Path("site.yaml"))
        with pytest.raises(ConfigError, match=r"'spy' .* allow_methods in site\.yaml"):
            run_config({"method": "spy", "model": {"class": "consilia.models.mlp.MLP"}}, allowed=nothing)
    finally:
        registry._installed.cache_clear()
