"""The command line: help, errors, exit codes."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import peftlab
from peftlab import cli, errors
from peftlab.errors import PeftlabError, StudyError

ROOT = Path(__file__).parents[1]
VERBS = """
init list doctor check plan run
status analyze report paper choose power verify gc reproduce bundle export import predict
""".split()
FUNCTIONS = {"import": "import_results"}
BY_FLAG = {("choose", "ranks"): "choose_ranks"}  #: flags with which a verb calls another function


def peftlab_process(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "COLUMNS": "200", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "peftlab", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_every_verb_is_there_and_explains_itself() -> None:
    group = typer.main.get_command(cli.app)
    assert list(group.commands) == VERBS  # pyright: ignore[reportAttributeAccessIssue]
    for verb in VERBS:
        shown = CliRunner().invoke(cli.app, [verb, "--help"])
        assert shown.exit_code == 0
        assert shown.stdout.startswith("Usage: ")


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom peftlab.cli import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit:\n    pass\n"
        "print('LOADED', *[m for m in ('torch', 'numpy', 'pandas', 'pydantic', 'matplotlib', 'rich') if m in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "LOADED"


def test_every_verb_is_a_function() -> None:
    for verb in VERBS:
        function = getattr(peftlab, FUNCTIONS.get(verb, verb))
        assert callable(function), verb
    assert set(peftlab.__dir__()) >= {FUNCTIONS.get(verb, verb) for verb in VERBS} | set(BY_FLAG.values())


def test_verb_and_function_take_the_same_options() -> None:
    """Every option of a verb, ``--json`` and the flags of other functions apart, is a parameter of a function of it."""
    from peftlab import api

    renamed = {"as_json": None, "run_id": "run", "model": "model_folder", "checkpoint_every": "checkpoint_every_s"}
    for command in cli.app.registered_commands:
        assert command.callback is not None
        verb = command.name or command.callback.__name__
        others = {flag: function for (of, flag), function in BY_FLAG.items() if of == verb}
        functions = [FUNCTIONS.get(verb, verb), *others.values()]
        taken = {name for function in functions for name in inspect.signature(getattr(api, function)).parameters}
        given = {renamed.get(name, name) for name in inspect.signature(command.callback).parameters} - {None, *others}
        assert given <= taken, f"{verb}: {given - taken}"


def test_report_is_a_verb_and_a_package() -> None:
    import peftlab.report.figures

    assert callable(peftlab.report)
    assert inspect.ismodule(peftlab.report)


def test_unknown_attribute() -> None:
    with pytest.raises(AttributeError, match="no attribute 'rnu'"):
        _ = peftlab.rnu  # pyright: ignore[reportAttributeAccessIssue]


def test_at_exit_nothing_is_collected_once_more(tmp_path: Path) -> None:
    code = (
        "import atexit, gc, sys\n"
        "from peftlab.cli import main\n"
        "atexit.register(lambda: print('kept', gc.get_freeze_count()))\n"  # what is registered later runs before
        "sys.argv = ['peftlab', 'list', 'quantizer', '--json']\n"
        "main()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    words = done.stdout.split()
    assert words[-2] == "kept" and int(words[-1]) > 10_000


def test_mistyped_verb_and_option_get_a_suggestion(tmp_path: Path) -> None:
    done = peftlab_process("rnu", folder=tmp_path)
    assert done.returncode == 2
    assert "'run'" in done.stderr
    done = peftlab_process("run", "study.yaml", "--jbos", "2", folder=tmp_path)
    assert done.returncode == 2
    assert "--jobs" in done.stderr


def test_missing_study_says_what_where_and_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "digits.yaml").write_text("study: digits\n")
    done = peftlab_process("plan", "digts.yaml", folder=tmp_path)
    assert done.returncode == StudyError.exit_code == 2
    assert done.stderr.splitlines()[0] == "error digts.yaml: there is no such study file"
    assert done.stderr.splitlines()[1].startswith("   -> Did you mean 'digits.yaml'?")
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_debug_shows_the_traceback_wherever_it_stands(tmp_path: Path) -> None:
    done = peftlab_process("plan", "absent.yaml", "--debug", folder=tmp_path)
    assert done.returncode == 2
    assert "Traceback" in done.stderr


def test_an_unexpected_error_is_a_bug_and_keeps_secrets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    token = "hf_" + "a1B2" * 8

    def broken(**_: object) -> None:
        raise ZeroDivisionError(f"with {token}")

    monkeypatch.setattr(cli, "app", broken)
    monkeypatch.setattr(sys, "argv", ["peftlab", "doctor"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == cli.EXIT_BUG
    shown = capsys.readouterr().err
    assert "ZeroDivisionError" in shown and "Traceback" in shown
    assert token not in shown


@pytest.mark.parametrize("kind", [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, PeftlabError)])
def test_each_error_class_decides_the_exit_code(
    kind: type[PeftlabError], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(**_: object) -> None:
        raise kind("the fact [bold]as it is[/bold]", where="here", remedy="do this")

    monkeypatch.setattr(cli, "app", failing)
    monkeypatch.setattr(sys, "argv", ["peftlab", "doctor"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == kind.exit_code
    assert capsys.readouterr().err == "error here: the fact [bold]as it is[/bold]\n   -> do this\n"


def exit_code_table(text: str, pattern: str) -> dict[int, str]:
    return {int(code): " ".join(meaning.replace("`", "").split()) for code, meaning in re.findall(pattern, text, re.MULTILINE)}


def test_exit_codes_are_documented() -> None:
    in_source = exit_code_table(errors.__doc__ or "", r"^(\d+) +(.+)$")
    in_docs = exit_code_table((ROOT / "docs" / "cli.md").read_text(encoding="utf-8"), r"^\| (\d+) \| (.+) \|$")
    assert in_docs == in_source
    used = {c.exit_code for c in vars(errors).values() if isinstance(c, type) and issubclass(c, PeftlabError)}
    assert used | {0, cli.EXIT_BUG, cli.EXIT_INTERRUPTED} <= set(in_source)


def test_init_writes_a_study_that_is_valid_and_never_overwrites(tmp_path: Path) -> None:
    from peftlab.study.load import load_study

    done = peftlab_process("init", "mine.yaml", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    written = (tmp_path / "mine.yaml").read_text()
    assert load_study(tmp_path / "mine.yaml").arms
    again = peftlab_process("init", "mine.yaml", folder=tmp_path)
    assert again.returncode == 2
    assert (tmp_path / "mine.yaml").read_text() == written


def test_list_json_names_options_with_defaults(tmp_path: Path) -> None:
    done = peftlab_process("list", "adapter", "--json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "lora" in json.dumps(json.loads(done.stdout))
    assert "rank" in done.stdout


@pytest.mark.parametrize(
    ("typed", "remedy"),
    [
        ("run s.yaml --seeds 7", "it is a key of the study: --set 'seeds=[7]'; see peftlab run --help"),
        ("check s.yaml --lr=1e-3", "it is a key of the study: --set train.learning_rate=1e-3; see peftlab check --help"),
        ("run s.yaml -lr 3", "see peftlab run --help"),
        ("run s.yaml --workers 2", "see peftlab run --help"),
        ("status results --seeds 7", "see peftlab status --help"),  # which overrides no key
    ],
)
def test_an_option_that_is_a_key_of_the_study_is_told_to_be_set(typed: str, remedy: str) -> None:
    with pytest.raises(StudyError, match="no such option: -") as caught:
        cli.app(args=typed.split(), prog_name="peftlab", standalone_mode=False)
    assert caught.value.remedy == remedy


def test_an_override_that_a_shell_took_apart_is_told_to_be_quoted() -> None:
    """``--set trackers=[{name:mlflow,timeout_s:5}]`` reaches us as two words."""
    typed = ["run", "study.yaml", "--set", "trackers=[name:mlflow]", "trackers=[timeout_s:5]"]
    with pytest.raises(StudyError) as caught:
        cli.app(args=typed, prog_name="peftlab", standalone_mode=False)
    assert caught.value.where == "--set trackers=[name:mlflow]"
    assert "quote what a shell takes apart: --set 'trackers=VALUE'" in caught.value.remedy
