"""Wrong, odd and empty words on the command line: named, with what was expected, and never a traceback."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nas.cli.adapt import adapt
from nas.cli.errors import way_on
from nas.cli.main import app
from nas.cli.search import search
from nas.exporting import members
from nas.exporting.export import Export

LONG = "n" * 3000


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("search --limit 1e309ms", 2, "'--limit': `1e309ms` is not finite, expected a latency"),
        ("search --limit peak-memory=1e999MB", 2, "'--limit': `1e999MB` is not finite, expected a size"),
        ("search --macs 1e400", 2, "'--macs': `1e400` is not finite, expected a count"),
        ("search --budget 1e400s", 2, "'--budget': `1e400s` is not finite, expected a time"),
        ("search --window nan", 2, "'--window': `nan`, expected a share"),
        ("search --gpus-per-trial inf", 2, "'--gpus-per-trial': `inf`, expected a number"),
        ("search --seed 18446744073709551616", 2, "`seed` is 18446744073709551616, expected a whole number from 0"),
        (
            "score elastic-mini/smallest --seed 9223372036854775808",
            2,
            "'--seed': 9223372036854775808, expected",
        ),
        ("train --set learning_rate=nan", 2, "training setting `learning_rate`: found `nan`, expected a number"),
        ("train --set learning_rate=1e400", 2, "training setting `learning_rate`: found `1e400`, expected a number"),
        ("scale --from asvit/seed --up-to 1e400M", 2, "limit `up_to`: `1e400M` is not finite"),
        ("profile vit_tiny_patch16_224 --limit nanms", 2, "'--limit': `nanms`, expected a latency"),
        ("search --device gpu0", 2, "device `gpu0`: no such device here, found cpu"),
        ("train --device cuda:77", 2, "device `cuda:77`: no such device here, found cpu"),
        ("finish --arch elastic-mini/smallest --data digits --device meta", 2, "device `meta`: no such device here"),
        ("search --space ''", 2, "`space` is '', expected a text that is not blank"),
        ("search --config .", 4, "settings file `.` cannot be read: Is a directory"),
        (f"train --arch {LONG}", 2, "unknown network"),
        ("latency build --target ''", 2, "target ``: expected `local`"),
        ("latency build --target 'ssh:a b'", 2, "ssh address `a b`: expected"),
        ("latency build --name ../x", 2, "target name `../x`: expected letters"),
        (f"latency build --name {LONG}", 2, "expected letters, digits"),
        ("export blank", 4, "`blank` holds no"),
    ],
)
def test_wrong_words_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, code: int, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "blank").touch()
    result = CliRunner().invoke(app, shlex.split(line))
    assert result.exit_code == code, result.output
    assert message in result.output
    assert "unexpected" not in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["blank"], "no run folder is made"


def test_only_what_can_be_resumed_is_said_to_be() -> None:
    assert "`--resume`" in way_on(search)
    assert "the same command again" in way_on(adapt)
    assert "--resume" not in way_on(adapt)


def test_an_export_of_an_untrained_member_says_that_another_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "finished" / "exports").mkdir(parents=True)
    made = Export(tmp_path, tmp_path / "model.onnx", True, {"onnx_difference": 0.0, "images": 16, "formats": {}})
    monkeypatch.setattr(members, "export_run", lambda *arguments: made)
    note = "without `--pick` the one that the search trained is written"
    assert note in CliRunner().invoke(app, ["export", str(tmp_path), "--pick", "best"]).stderr
    assert note not in CliRunner().invoke(app, ["export", str(tmp_path)]).stderr
