"""What was appended is read back, from any prefix of the file, after a kill, a torn line or a full disk."""

from __future__ import annotations

import itertools
import math
import os
import time
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diagnostics import Absent, Number, StepLog, StepScalars, iter_steps, read_steps
from tests.diagnostics.refusals import refused
from tests.forked import forking

numbers: st.SearchStrategy[Number] = st.one_of(
    st.floats(width=32),
    st.sampled_from([0, 1, 3, 1.0, -0.0]),
    st.sampled_from([Absent("frozen"), Absent("its rows are not matched, «B» is 3")]),
)


@st.composite
def runs(draw: st.DrawFn) -> list[StepScalars]:
    modules = draw(
        st.lists(st.sampled_from(["encoder", "core.0", "core.1", "head"]), unique=True, max_size=4)
    )
    records = []
    for step in draw(st.sets(st.integers(0, 50), max_size=5).map(sorted)):
        scalars = {name: {key: draw(numbers) for key in ("coverage", "moved")} for name in modules}
        order = tuple(draw(st.permutations(modules)))
        records.append(StepScalars(step, draw(st.integers(1, 512)), scalars, order))
    return records


def close(left: Number, right: Number) -> bool:
    if isinstance(left, Absent) or isinstance(right, Absent):
        return left == right
    return math.isclose(left, right, rel_tol=5e-6) or (math.isnan(left) and math.isnan(right))


def assert_same(found: list[StepScalars], given: list[StepScalars]) -> None:
    assert [(r.step, r.samples, r.order) for r in found] == [(r.step, r.samples, r.order) for r in given]
    for left, right in zip(found, given, strict=True):
        assert list(left.modules) == list(right.modules)
        for name, scalars in right.modules.items():
            assert left.modules[name].keys() == scalars.keys()
            assert all(close(left.modules[name][key], value) for key, value in scalars.items())


def record(step: int, *names: str, value: Number = 0.5) -> StepScalars:
    return StepScalars(step, 8, {name: {"coverage": value, "moved": 1e-3} for name in names}, names)


def write(path: Path, *records: StepScalars) -> None:
    with StepLog(path) as log:
        for one in records:
            log.append(one)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(given=runs())
def test_what_was_appended_is_read_back_from_every_prefix(tmp_path: Path, given: list[StepScalars]) -> None:
    path, part = tmp_path / "steps.jsonl", tmp_path / "part.jsonl"
    path.unlink(missing_ok=True)
    write(path, *given)
    assert_same(list(iter_steps(path)), given)
    content = path.read_bytes()
    for size in range(0, len(content), 17):
        part.write_bytes(content[:size])  # what a reader may see while it is written
        whole = max(content[:size].count(b"\n") - 1, 0)
        assert_same(list(iter_steps(part)), given[:whole])


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(given=runs())
def test_the_table_holds_the_same(tmp_path: Path, given: list[StepScalars]) -> None:
    path = tmp_path / "steps.jsonl"
    path.unlink(missing_ok=True)
    write(path, *given)
    table = pd.DataFrame(read_steps(path))
    expected = [(one, name) for one in given for name in one.modules]
    assert len(table) == len(expected)
    for row, (one, name) in zip(table.itertuples(), expected, strict=True):
        assert (row.session, row.step, row.samples, row.module) == (0, one.step, one.samples, name)
        for key, value in one.modules[name].items():
            known = math.nan if isinstance(value, Absent) else value
            assert close(getattr(row, key), known)


def assert_part_of(
    part: dict[str, Any], whole: pd.DataFrame, modules: list[str], quantities: list[str]
) -> None:
    """What was read of a part is that part of what was read as a whole."""
    chosen = whole[whole["module"].isin(modules)] if modules else whole
    wanted = quantities or list(whole.columns[4:])
    table = pd.DataFrame(part)
    assert set(table.columns) == {"session", "step", "samples", "module", *wanted}
    pd.testing.assert_frame_equal(table, chosen[list(table.columns)].reset_index(drop=True))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(given=runs(), again=runs(), part=st.data())
def test_a_part_is_that_part_of_the_whole(
    tmp_path: Path, given: list[StepScalars], again: list[StepScalars], part: st.DataObject
) -> None:
    path = tmp_path / "steps.jsonl"
    path.unlink(missing_ok=True)
    write(path, *given)
    write(path, *again)
    path.write_bytes(path.read_bytes() + b'{"step":99,"samples":1,"cover')  # still being written
    whole = pd.DataFrame(read_steps(path))
    known = sorted(set(whole["module"]))
    modules = part.draw(st.lists(st.sampled_from(known), unique=True)) if known else []
    quantities = part.draw(st.lists(st.sampled_from(sorted(whole.columns[4:])), unique=True)) if known else []
    assert_part_of(read_steps(path, modules=modules, quantities=quantities), whole, modules, quantities)


def test_a_part_is_read_where_names_and_reasons_look_like_the_format(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    odd, plain = 'a],"moved":[9', "b"
    reason = Absent('it is {odd}, "moved":[3],"absent":{"')
    records = [
        StepScalars(
            step,
            8,
            {odd: {"coverage": reason, "moved": step}, plain: {"coverage": 0.5, "moved": math.inf}},
            (odd, plain) if step % 2 else (plain, odd),
        )
        for step in range(4)
    ]
    write(path, *records)
    whole = pd.DataFrame(read_steps(path))
    assert whole["moved"].tolist() == [0, math.inf, 1, math.inf, 2, math.inf, 3, math.inf]
    for modules, quantities in ((["b"], []), ([], ["moved"]), (["b"], ["moved"]), (["b"], ["coverage"])):
        assert_part_of(read_steps(path, modules=modules, quantities=quantities), whole, modules, quantities)


@pytest.mark.parametrize("missing", range(2, 60))  # the newline alone tears nothing
def test_a_line_torn_anywhere_is_found_when_a_part_is_read(tmp_path: Path, missing: int) -> None:
    path = tmp_path / "steps.jsonl"
    unknown = StepScalars(
        1, 8, {"a": {"coverage": Absent("frozen"), "moved": 1}, "b": {"coverage": 1, "moved": 2}}
    )
    write(path, record(0, "a", "b"), unknown)
    path.write_bytes(path.read_bytes()[:-missing])  # a power cut
    write(path, record(2, "a", "b"))
    assert read_steps(path, quantities=["moved"])["step"].tolist() == [0, 0, 2, 2]
    assert read_steps(path, modules=["b"])["step"].tolist() == [0, 2]


def test_a_torn_line_stays_alone_and_what_follows_is_a_session(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    write(path, record(0, "a"), record(1, "a"))
    content = path.read_bytes()
    path.write_bytes(content[:-9])  # a power cut
    write(path, record(1, "a"), record(2, "a"))
    table = pd.DataFrame(read_steps(path))
    assert list(zip(table["session"], table["step"], strict=True)) == [(0, 0), (1, 1), (1, 2)]
    path.write_bytes(content[:-9])
    StepLog(path).close()  # opened and never written
    assert [one.step for one in iter_steps(path)] == [0]


def write_steps(path: Path, begun: Event) -> None:
    """Write a step after the other, for ever."""
    log = StepLog(path)
    for step in itertools.count():
        log.append(StepScalars(step, 8, {f"m{i}": {"moved": step + i} for i in range(50)}))
        if step == 100:
            begun.set()
        time.sleep(0.002)  # or a reader never catches up


def test_a_killed_writer_leaves_whole_steps(tmp_path: Path) -> None:
    path, begun = tmp_path / "steps.jsonl", forking().Event()
    writer = forking().Process(target=write_steps, args=(path, begun), daemon=True)
    writer.start()
    assert begun.wait(60)
    during = [one.step for one in iter_steps(path)]
    writer.kill()
    writer.join()
    after = [one.step for one in iter_steps(path)]
    assert len(during) > 100
    assert during == list(range(len(during)))
    assert after == list(range(len(after)))


def test_a_full_disk_takes_the_line_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "steps.jsonl"
    real = os.write

    def full(file: int, data: bytes) -> int:
        if not full_now:
            return real(file, data)
        if len(data) > 20:
            return real(file, data[:20])
        raise OSError(28, "No space left on device")

    full_now = False
    monkeypatch.setattr(os, "write", full)
    with StepLog(path) as log:
        log.append(record(0, "a"))
        full_now = True
        with pytest.raises(OSError, match="No space"):
            log.append(StepScalars(1, 8, {"a": {"coverage": 0.123456, "moved": 1}}, ("a",)))
        full_now = False
        log.append(record(1, "a"))
    assert [one.step for one in iter_steps(path)] == [0, 1]


def test_a_repeated_step_is_passed_over_and_new_modules_begin_a_session(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    write(path, record(0, "a"), record(0, "a"), record(2, "a", "b"), record(3, "a", "b"))
    table = pd.DataFrame(read_steps(path))
    assert table[["session", "step", "module"]].to_numpy().tolist() == [
        [0, 0, "a"],
        [1, 2, "a"],
        [1, 2, "b"],
        [1, 3, "a"],
        [1, 3, "b"],
    ]
    chosen = pd.DataFrame(read_steps(path, modules=["b.*"], quantities=["moved"]))
    assert list(chosen) == ["session", "step", "samples", "module", "moved"]
    assert chosen["step"].tolist() == [2, 3]


def test_a_quantity_that_comes_later_is_not_known_before(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    write(path, record(0, "encoder", "core"))
    later = {name: {"coverage": 1.0, "new": 2.0 + place} for place, name in enumerate(("encoder", "core"))}
    write(path, StepScalars(1, 8, later, ("encoder", "core")))
    columns = read_steps(path)
    assert columns["module"] == ["encoder", "core"] * 2
    assert columns["new"][:2].isnan().all()
    assert columns["new"][2:].tolist() == [2.0, 3.0]
    assert columns["moved"][2:].isnan().all()


@pytest.mark.parametrize(
    ("content", "code", "facts"),
    [
        ('{"schema":"diagnostics.steps","version":3}\n', "version", {"got": 3, "allowed": "1 or 2"}),
        ('{"schema":"mine","version":1}\n', "version", {"schema": "mine", "expected": "diagnostics.steps"}),
        ('{"step":0}\n', "damaged", {"line": 1}),
        ("hello\n", "damaged", {"line": 1}),
    ],
)
def test_refuses_what_is_no_log(tmp_path: Path, content: str, code: str, facts: dict[str, Any]) -> None:
    path = tmp_path / "steps.jsonl"
    path.write_text(content)
    with refused(ValueError, f"step-log.{code}", path=str(path), **facts):
        read_steps(path)


def test_a_log_of_version_1_is_read_without_codes(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    path.write_text(
        '{"schema":"diagnostics.steps","version":1,"modules":["a","b"],"order":["a","b"]}\n'
        '{"step":0,"samples":8,"coverage":[1,null],"moved":null,'
        '"absent":{"coverage":{"one reason":[1]},"moved":{"another":"all"}}}\n'
    )
    (step,) = iter_steps(path)
    assert step.modules["a"] == {"coverage": 1, "moved": Absent("another")}
    assert step.modules["b"] == {"coverage": Absent("one reason"), "moved": Absent("another")}
    assert pd.DataFrame(read_steps(path, quantities=["coverage"]))["coverage"].isna().tolist() == [
        False,
        True,
    ]


def test_codes_of_what_is_absent_are_kept_apart(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    told = {"a": Absent("a reason", "first"), "b": Absent("a reason", "second"), "c": Absent("a reason")}
    write(path, StepScalars(0, 8, {name: {"moved": value} for name, value in told.items()}, ("a", "b", "c")))
    (step,) = iter_steps(path)
    assert {name: scalars["moved"] for name, scalars in step.modules.items()} == told


def test_refuses_damage_in_the_middle_and_unknown_names(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    write(path, *(record(step, "a") for step in range(3)))
    with refused(ValueError, "selection.no-match", argument="modules", got="b"):
        read_steps(path, modules=["b"])
    with refused(ValueError, "selection.no-match", argument="quantities", got="covrage", nearest="coverage"):
        read_steps(path, quantities=["covrage"])
    lines = path.read_text().splitlines(keepends=True)
    lines[2] = lines[2][5:]
    path.write_text("".join(lines))
    with refused(ValueError, "step-log.damaged", line=3):
        read_steps(path)


def test_a_step_of_200_modules_takes_few_bytes(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    varying = ("evenness", "gradient_max", "grad_norm_pre_clip", "grad_norm_post_clip", "moved")
    constant = ("coverage", "waste", "calls", "calls_grad_enabled", "params_none", "params_zero")
    names = [f"layers.{number}.attention" for number in range(200)]
    scalars: dict[str, dict[str, Number]] = {
        name: {**{key: math.sin(place + 7) for key in varying}, **dict.fromkeys(constant, 1.0)}
        for place, name in enumerate(names)
    }
    write(path, *(StepScalars(step, 8, scalars, tuple(names)) for step in range(20)))
    per_number = path.stat().st_size / (20 * 200 * (len(varying) + len(constant)))
    assert per_number < 6, "bytes for each of the 11 numbers of a module and step"
