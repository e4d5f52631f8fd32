from __future__ import annotations

import json
from pathlib import Path

from benchmarks.family.__main__ import main
from benchmarks.family.device_episodes import NAMES


def test_the_lines_of_an_arm_are_drawn(tmp_path: Path) -> None:
    shares = {"solved": 0.5, "by_kind": dict.fromkeys(NAMES, 0.5)}
    lines = [{"parameters": 3}, *({"episodes": 1000 * n, "ema": shares} for n in range(3)), {"final": True}]
    (tmp_path / "lines").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    first, second = tmp_path / "first.png", tmp_path / "second.png"
    main(["--draw", str(tmp_path / "lines"), "--out", str(first)])
    lines[2] = {"episodes": 1000, "ema": shares | {"solved": 0.6}}
    (tmp_path / "lines").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    main(["--draw", str(tmp_path / "lines"), "--out", str(second)])
    assert first.read_bytes().startswith(b"\x89PNG")
    assert first.read_bytes() != second.read_bytes()
