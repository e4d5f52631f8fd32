from __future__ import annotations

from typing import Any

from benchmarks.gpu.kept_lines import HEADER, build_section

STEP = {
    "rows": 128,
    "ms_per_step": 100.0,
    "ms_per_step_by_round": [90.0, 110.0],
    "rows_per_second": 1280.0,
    "loader_ms": 3.0,
    "tflop": 20.0,
}
PEAK = {"bfloat16": 800.0, "tf32": 400.0, "float32": 50.0, "copy": 3.0}


def lines(**found: Any) -> list[dict[str, Any]]:
    return [{"case": name, "found": each} for name, each in found.items()]


def test_the_share_is_operations_over_time_and_peak() -> None:
    (table,) = build_section(lines(peak=PEAK, paper=STEP)).tables
    cells = dict(zip(HEADER, table.rows[0], strict=True))
    assert cells["% of peak"] == "25"  # 20 TFLOP in a tenth of a second: 200 of 800 TFLOP/s
    assert cells["fastest and slowest round"] == "90.0, 110.0"
    assert cells["GiB"] == ""


def test_a_case_that_failed_is_named() -> None:
    section = build_section(
        [*lines(paper=STEP), {"case": "waits", "failed": "stopped after 3 s"}], ("a remark",)
    )
    assert section.paragraphs == ("Not measured: waits (stopped after 3 s).", "a remark")


def test_the_earlier_commit_is_the_base_of_a_ratio_and_has_no_time_of_a_loader() -> None:
    earlier = {name: value for name, value in STEP.items() if name not in ("loader_ms", "tflop")}
    section = build_section(lines(**{"paper": STEP, "paper-earlier": earlier | {"rows_per_second": 640.0}}))
    assert section.paragraphs == ("Rows per second, divided by those of commit aa7834e: `paper` 2.00.",)
    assert dict(zip(HEADER, section.tables[0].rows[1], strict=True))["ms of the loader"] == ""


def test_other_ways_to_compute_a_size_have_its_operations_and_the_same_base() -> None:
    counted = {name: value for name, value in STEP.items() if name != "tflop"}
    section = build_section(
        lines(
            **{
                "peak": PEAK,
                "paper": STEP,
                "paper-earlier": counted | {"rows_per_second": 640.0},
                "paper-compiled": counted | {"ms_per_step": 50.0, "rows_per_second": 2560.0},
                "small": STEP,
            }
        )
    )
    assert section.paragraphs[-1].endswith("aa7834e: `paper` 2.00, `paper-compiled` 4.00.")
    cells = dict(zip(HEADER, section.tables[0].rows[2], strict=True))
    assert (cells["TFLOP"], cells["% of peak"]) == ("20", "50")


def test_graphs_are_those_before_and_during_the_timed_steps() -> None:
    graphs = {"graphs": 3, "graphs_during": 1, "captured": 0, "captured_during": 2}
    (table,) = build_section(lines(small=STEP, paper=STEP | graphs)).tables
    assert [row[HEADER.index("graphs")] for row in table.rows] == ["", "4 compiled, 2 captured"]


def test_plain_layers_have_their_median() -> None:
    plain = {"obvious": {"rows": 4, "seconds": [0.3, 0.1, 0.2]}}
    table = build_section(lines(plain=plain)).tables[-1]
    assert table.rows == (("obvious", "4", "200.0"),)


def test_waits_are_counted_per_step() -> None:
    waits = {
        "off": {
            "read": {
                "steps": 4,
                "waits": {"etrm/device.py:3 x = y.item()": 8, "benchmarks/gpu/peak.py:1 z": 1},
            },
            "unread": {"steps": 16, "waits": {}},
        }
    }
    table = build_section(lines(waits=waits)).tables[-1]
    assert table.rows == (("off", "4 read", "`etrm/device.py:3` 2"), ("off", "16 unread", "none"))


def test_the_cost_of_the_monitor_is_a_ratio() -> None:
    arms = {
        "off": {"ms_per_step": 5.0, "ratio": [1, 1, 1]},
        "on": {"ms_per_step": 6.0, "ratio": [1.2, 1.1, 1.25]},
    }
    table = build_section(lines(monitor=arms)).tables[-1]
    assert table.rows[1] == ("on", "6.0", "1.20 [1.10, 1.25]")
