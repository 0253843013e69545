"""What `python -m omniavatar.nano` can not use ends in a sentence and exit status 2."""

from pathlib import Path

import pytest

from omniavatar.nano.__main__ import main


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("data --course nonsense", "invalid choice: 'nonsense'"),
        ("data --clips 0", "0 is less than 1"),
        ("evaluate --clips 0", "0 is less than 2"),
        ("evaluate --clips 1", "1 is less than 2"),
        ("evaluate --parts speed", "--parts has no effect without --full"),
        ("evaluate --look drawn", "--look has no effect without --full"),
        ("evaluate --recordings .", "--recordings has no effect without --full"),
        ("evaluate --full --sheet x.png", "--sheet has no effect with --full"),
        ("lips --device cpu", "required: --observer"),
        ("export --only nonsense", "invalid choice: 'nonsense'"),
    ],
)
def test_wrong_options_are_refused(
    arguments: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments.split())
    assert stopped.value.code == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("--runs {none} vae --device cpu", "Run `python -m omniavatar.nano speech` first."),
        ("--runs {none} emphasise", "Run `python -m omniavatar.nano speech` first."),
        ("--runs {none} export", "Run `python -m omniavatar.nano speech` first."),
        ("--runs {none} speech --course wide", "The synthesiser flite is missing"),
        ("fetch --to {none}", "apt-get and dpkg are missing"),
        ("films {table}", "table.csv is no request"),
        ("films {list}", "list.json is no request"),
        ("films {none}", "No such file"),
        ("evaluate --full --folder {none}", "none"),
        ("evaluate --folder {none}", "none"),
    ],
)
def test_what_is_missing_is_told_in_a_sentence(
    arguments: str,
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)  # where nothing was fetched
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "table.csv").write_text("image,audio\n")
    (tmp_path / "list.json").write_text("[1]")
    files = {"none": tmp_path / "none", "table": tmp_path / "table.csv"}
    given = arguments.format(**files, list=tmp_path / "list.json").split()
    assert main(given) == 2
    told = capsys.readouterr().err
    assert sentence in told
    assert "Traceback" not in told
