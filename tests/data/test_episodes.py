from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etrm.batch import IGNORE
from etrm.config import DataConfig
from etrm.data import (
    Augmentation,
    DemoPair,
    Episodes,
    Pair,
    Sample,
    Task,
    TaskSet,
    build_evaluation_samples,
    load_tasks,
    parse_name,
    read_grid,
    read_labels,
    to_canvas,
)
from etrm.data.sample import GridLayout, build, list_queries
from etrm.errors import DataError
from tests.errors import raises_code

AsPlain = Callable[[Sample], dict[str, object]]

FRESH = DataConfig(augmentations="fresh", buckets=2)
SHIFTED = DataConfig(augmentations="fresh", translate=8)


def every_sample(episodes: Episodes, count: int) -> list[Sample]:
    return [episodes.sample(bucket, index) for bucket in range(episodes.buckets) for index in range(count)]


def grids_of(demo: DemoPair) -> list[np.ndarray]:
    """The two grids of a demonstration, from its tokens and positions alone, in whatever order they are."""
    canvas = np.zeros(1800, dtype=np.int64)
    canvas[demo.positions] = demo.tokens
    return [cut(half.reshape(30, 30)) for half in (canvas[:900], canvas[900:])]


def cut(canvas: np.ndarray) -> np.ndarray:
    top, left = (int(np.argmax((canvas >= 2).any(axis=axis))) for axis in (1, 0))
    return read_grid(canvas[top:, left:])


@pytest.mark.parametrize(
    "data", [FRESH, SHIFTED, DataConfig(augmentations=4), DataConfig(canvas="published")]
)
def test_an_episode_is_drawn_again_from_its_serial(
    as_plain: AsPlain, small_set: TaskSet, data: DataConfig
) -> None:
    first, second = (Episodes(small_set, data, "etrm", seed=5) for _ in range(2))
    samples = every_sample(first, 25)
    assert len({sample.serial for sample in samples}) == len(samples)
    for sample in reversed(samples):
        assert as_plain(second.rebuild(sample.serial)) == as_plain(sample)


def test_an_episode_is_built_again_from_its_name(as_plain: AsPlain, small_set: TaskSet) -> None:
    for sample in every_sample(Episodes(small_set, FRESH, "etrm", seed=1), 10):
        task_id, augmentation = parse_name(sample.name)
        task = small_set.get(task_id)
        query = list_queries(task, small_set.tasks.index(task))[sample.query]
        again = build(query, augmentation, GridLayout("region", 10), serial=sample.serial)
        assert as_plain(again) == as_plain(sample)


def test_seeds_differ_and_global_randomness_plays_no_part(small_set: TaskSet) -> None:
    def names(seed: int) -> list[str]:
        return [sample.name for sample in every_sample(Episodes(small_set, FRESH, "etrm", seed), 10)]

    np.random.seed(0)  # noqa: NPY002 - that it has no effect is the point
    once = names(0)
    np.random.seed(1)  # noqa: NPY002
    assert once == names(0)
    assert once != names(1)


@pytest.mark.parametrize("data", [FRESH, SHIFTED, DataConfig(augmentations="fresh", canvas="published")])
def test_query_and_demos_come_from_one_task_under_one_augmentation(
    small_set: TaskSet, data: DataConfig
) -> None:
    for sample in every_sample(Episodes(small_set, data, "etrm", seed=2), 20):
        task_id, augmentation = parse_name(sample.name)
        task = small_set.get(task_id)
        asked = task.tests[sample.query]
        canvas = np.zeros(900, dtype=np.int64)
        canvas[sample.positions] = sample.tokens
        np.testing.assert_array_equal(augmentation.inverse(cut(canvas.reshape(30, 30))), asked.input)
        assert sample.target is not None
        np.testing.assert_array_equal(augmentation.inverse(sample.target), asked.output)
        assert len(sample.demos) == len(task.demos)
        for demo, pair in zip(sample.demos, task.demos, strict=True):
            for found, expected in zip(grids_of(demo), pair.grids, strict=True):
                np.testing.assert_array_equal(augmentation.inverse(found), expected)


def test_region_layout_of_one_small_episode() -> None:
    demo = Pair(np.array([[1, 2]], dtype=np.uint8), np.array([[3]], dtype=np.uint8))
    asked = Pair(np.array([[4]], dtype=np.uint8), np.array([[5]], dtype=np.uint8))
    tasks = TaskSet((Task("t", (demo,), (asked,)),), "s", "training")
    sample = Episodes(tasks, DataConfig(), "etrm", 0).sample(0, 0)
    assert sample.region == (2, 3)
    assert sample.tokens.tolist() == [6, 1, 0, 1, 0, 0]
    assert sample.positions.tolist() == [0, 1, 2, 30, 31, 32]
    assert sample.labels.tolist() == [7, 1, IGNORE, 1, IGNORE, IGNORE]
    assert sample.demos[0].tokens.tolist() == [3, 4, 1, 1, 1, 5, 1, 1]
    assert sample.demos[0].positions.tolist() == [0, 1, 2, 30, 31, 900, 901, 930]
    assert (sample.in_region, sample.side, sample.translated) == (True, 30, (0, 0))
    assert sample.name == "t|||t0|||0123456789"


def test_published_layout_is_the_whole_canvas(small_set: TaskSet) -> None:
    episodes = Episodes(small_set, DataConfig(canvas="published"), "etrm", 0)
    assert episodes.buckets == 1
    sample = episodes.sample(0, 3)
    asked = small_set.get(sample.task_id)
    pair = asked.tests[sample.query]
    np.testing.assert_array_equal(sample.tokens, to_canvas(pair.input).ravel())
    np.testing.assert_array_equal(sample.labels, read_labels(to_canvas(pair.output)).ravel())
    np.testing.assert_array_equal(sample.positions, np.arange(900))
    assert sample.region == (30, 30)
    first = asked.demos[0]
    np.testing.assert_array_equal(
        sample.demos[0].tokens, np.concatenate([to_canvas(grid).ravel() for grid in first.grids])
    )
    np.testing.assert_array_equal(sample.demos[0].positions, np.arange(1800))


@pytest.mark.parametrize("data", [FRESH, SHIFTED])
def test_changing_labels_changes_neither_tokens_nor_region(
    as_plain: AsPlain, small_set: TaskSet, data: DataConfig
) -> None:
    def relabel(task: Task) -> Task:
        tests = tuple(Pair(pair.input, np.full((30, 17), 3, dtype=np.uint8)) for pair in task.tests)
        return Task(task.id, task.demos, tests)

    other = TaskSet(tuple(relabel(task) for task in small_set), "invented", "training")
    changed = 0
    for ours, theirs in zip(
        every_sample(Episodes(small_set, data, "etrm", 0), 15),
        every_sample(Episodes(other, data, "etrm", 0), 15),
        strict=True,
    ):
        mine, yours = as_plain(ours), as_plain(theirs)
        for key in ("labels", "target", "in_region"):
            changed += mine.pop(key) != yours.pop(key)
        assert mine == yours
    assert changed > 50


def test_labels_outside_the_region_are_dropped() -> None:
    grid = np.zeros((2, 2), dtype=np.uint8)
    answer = np.arange(10, dtype=np.uint8).reshape(1, 10)
    tasks = TaskSet((Task("t", (Pair(grid, grid),), (Pair(grid, answer),)),), "s", "training")
    sample = Episodes(tasks, DataConfig(), "etrm", 0).sample(0, 0)
    assert (sample.region, sample.in_region) == ((3, 3), False)
    assert sample.labels.reshape(3, 3).tolist() == [[2, 3, 4], [1, 1, 1], [IGNORE] * 3]
    published = Episodes(tasks, DataConfig(canvas="published"), "etrm", 0).sample(0, 0)
    assert published.in_region


@given(st.integers(0, 10_000))
def test_a_shift_moves_input_and_output_together_and_stays_on_the_canvas(index: int) -> None:
    small = np.ones((2, 3), dtype=np.uint8)
    large = np.ones((27, 28), dtype=np.uint8)
    tasks = TaskSet(
        (Task("t", (Pair(small, small), Pair(large, small)), (Pair(small, small),)),), "s", "training"
    )
    sample = Episodes(tasks, SHIFTED, "etrm", 0).sample(0, index)
    rows, columns = sample.translated
    swaps = parse_name(sample.name)[1].swaps_sides
    height, width = (29, 28) if swaps else (28, 29)
    assert sample.region == (height + rows, width + columns)
    assert max(sample.region) <= 30
    np.testing.assert_array_equal(sample.tokens != 0, sample.labels != IGNORE)
    first = np.flatnonzero(sample.tokens)[0]
    assert sample.positions[first] == 30 * rows + columns
    for demo in sample.demos:
        assert demo.positions[0] + 900 == demo.positions[demo.positions >= 900][0]


def test_shifts_are_drawn_for_each_pair_within_the_limit() -> None:
    small = np.ones((2, 2), dtype=np.uint8)
    tasks = TaskSet(
        (Task("t", (Pair(small, small), Pair(small, small.T * 2)), (Pair(small, small * 3),)),), "s", "t"
    )
    samples = [Episodes(tasks, DataConfig(translate=3), "etrm", 0).sample(0, index) for index in range(300)]
    assert {sample.translated for sample in samples} == {(r, c) for r in range(4) for c in range(4)}
    firsts = {tuple(int(demo.positions[0]) for demo in sample.demos) for sample in samples}
    assert len(firsts) > 150  # of 16 x 16: independent


@settings(max_examples=20)
@given(ranks=st.lists(st.integers(0, 3), min_size=12, max_size=24), bucket=st.integers(0, 1))
def test_dealt_out_over_processes_each_index_is_drawn_once(
    as_plain: AsPlain, small_set: TaskSet, ranks: list[int], bucket: int
) -> None:
    """However indices are dealt out: the union is the order of one process, whoever draws what first."""
    alone = Episodes(small_set, SHIFTED, "etrm", 4)
    bucket = min(bucket, alone.buckets - 1)
    drawn: dict[int, Sample] = {}
    for rank in reversed(range(4)):
        process = Episodes(small_set, SHIFTED, "etrm", 4)
        mine = [process.sample(bucket, index) for index, owner in enumerate(ranks) if owner == rank]
        assert not drawn.keys() & {sample.serial for sample in mine}
        drawn |= {sample.serial: sample for sample in mine}
    one = [alone.sample(bucket, index) for index in range(len(ranks))]
    assert [as_plain(drawn[serial]) for serial in sorted(drawn)] == [as_plain(sample) for sample in one]


def test_every_query_comes_once_in_an_epoch(small_set: TaskSet) -> None:
    episodes = Episodes(small_set, FRESH, "etrm", 0)
    assert episodes.buckets == 2
    orders = []
    for bucket in range(2):
        n = len(episodes.bucket_queries(bucket))
        for epoch in range(3):
            drawn = [episodes.sample(bucket, epoch * n + place) for place in range(n)]
            asked = [(sample.task_id, sample.query) for sample in drawn]
            assert sorted(asked) == sorted((q.task.id, q.index) for q in episodes.bucket_queries(bucket))
            orders.append(asked)
    assert orders[0] != orders[1]


def test_buckets_rise_in_size_and_hold_everything(published: Callable[..., TaskSet]) -> None:
    episodes = Episodes(published("arc-agi-1"), DataConfig(buckets=4), "etrm", 0)
    sizes = [[q.region[0] * q.region[1] for q in episodes.bucket_queries(b)] for b in range(episodes.buckets)]
    assert [len(bucket) for bucket in sizes] == [104] * 4
    assert all(max(a) <= min(b) for a, b in itertools.pairwise(sizes))


def test_there_are_no_more_buckets_than_queries(make_task: Callable[..., Task]) -> None:
    one = TaskSet((make_task("a"),), "s", "training")
    assert Episodes(one, DataConfig(buckets=8), "etrm", 0).buckets == 1


@pytest.mark.parametrize("buckets", [1, 2, 3, 8])
def test_the_schedule_is_proportional_and_starves_nobody(small_set: TaskSet, buckets: int) -> None:
    episodes = Episodes(small_set, DataConfig(buckets=buckets), "etrm", 0)
    steps = [episodes.bucket_at(step) for step in range(1000)]
    assert steps == [
        Episodes(small_set, DataConfig(buckets=buckets), "etrm", 0).bucket_at(s) for s in range(1000)
    ]
    counts = Counter(steps)
    for bucket in range(episodes.buckets):
        share = len(episodes.bucket_queries(bucket)) / 10
        assert counts[bucket] / 1000 == pytest.approx(share, abs=0.01)
        visits = [-1, *(step for step, found in enumerate(steps) if found == bucket), 1000]
        assert max(b - a for a, b in itertools.pairwise(visits)) <= 3 / share


STAGES = ((4, 300), (6, 500), (11, 700))


def staged(tasks: TaskSet, replay: float = 0.0, buckets: int = 2) -> Episodes:
    data = DataConfig(curriculum=STAGES, replay=replay, buckets=buckets)
    return Episodes(tasks, data, "etrm", 0)


def stage_by_hand(task: Task) -> int:
    """The first stage whose side no input of a demonstration exceeds."""
    longest = max(side for pair in task.demos for side in pair.input.shape)
    return [longest <= side for side, _ in STAGES].index(True)


def test_a_stage_has_the_tasks_that_are_too_large_for_the_one_before(small_set: TaskSet) -> None:
    episodes = staged(small_set)
    assert episodes.buckets == 6
    found = [q for bucket in range(6) for q in episodes.bucket_queries(bucket)]
    assert sorted(q.task.id for q in found) == sorted(q.task.id for q in episodes.queries)
    for bucket in range(6):
        stages = {stage_by_hand(query.task) for query in episodes.bucket_queries(bucket)}
        assert stages == {bucket // 2} == {episodes.stage_of(bucket)}
    by_hand = Counter(stage_by_hand(task) for task in small_set)
    assert episodes.stage_tasks == tuple(by_hand[stage] for stage in range(3))


@pytest.mark.parametrize("turn", [1, 16])
def test_a_step_takes_its_bucket_from_its_stage(small_set: TaskSet, turn: int) -> None:
    episodes, again = staged(small_set), staged(small_set)
    begins = [0, 300, 800, 1500, 2000]  # the last stage has no end
    for stage, (begin, end) in enumerate(itertools.pairwise(begins)):
        for step in range(begin, end):
            bucket = episodes.bucket_at(step, turn)
            first = step - step % turn
            assert bucket == again.bucket_at(first, turn)
            expected = stage - 1 if first < begin or stage == 3 else stage
            assert episodes.stage_at(step, turn) == bucket // 2 == expected


@pytest.mark.parametrize("replay", [0.1, 0.25, 0.8])
def test_replay_is_the_share_of_batches_from_earlier_stages(small_set: TaskSet, replay: float) -> None:
    """In any stretch of a stage the number is within three batches of the share: a golden-ratio sequence."""
    episodes = staged(small_set, replay)
    assert {episodes.bucket_at(step) // 2 for step in range(300)} == {0}
    for stage, begin, end in ((1, 300, 800), (2, 800, 1500)):
        drawn = [episodes.bucket_at(step) for step in range(begin, end)]
        assert max(drawn) // 2 == stage
        for span in (10, 50, end - begin):
            for first in range(0, end - begin - span + 1, 7):
                earlier = sum(bucket // 2 < stage for bucket in drawn[first : first + span])
                assert abs(earlier - replay * span) < 3
        counts = Counter(bucket for bucket in drawn if bucket // 2 < stage)
        queries = {b: len(episodes.bucket_queries(b)) for b in range(2 * stage)}
        for bucket, number in queries.items():
            share = number / sum(queries.values())
            assert counts[bucket] / len(drawn) == pytest.approx(replay * share, abs=0.01)


def test_a_curriculum_of_one_stage_changes_no_episode(small_set: TaskSet) -> None:
    plain, one = (
        Episodes(small_set, DataConfig(buckets=3, curriculum=stages), "etrm", 0)
        for stages in ((), ((11, 50),))
    )
    assert [plain.bucket_at(step) for step in range(200)] == [one.bucket_at(step) for step in range(200)]
    for step in range(30):
        bucket = plain.bucket_at(step)
        assert plain.sample(bucket, step).name == one.sample(bucket, step).name


def test_a_stage_without_tasks_is_refused(small_set: TaskSet) -> None:
    with raises_code(DataError, "data.stage-without-tasks", "stage 1", got="0 up to side 1, 9 up to side 11"):
        Episodes(small_set, DataConfig(curriculum=((1, 5), (11, 5))), "etrm", 0)
    with raises_code(
        DataError, "data.stage-without-tasks", "stage 2", got="9 up to side 20, 0 up to side 30"
    ):
        Episodes(small_set, DataConfig(curriculum=((20, 5), (30, 5))), "etrm", 0)


def test_the_query_is_never_among_the_demos(make_task: Callable[..., Task]) -> None:
    task = make_task("a", demos=3)
    double = Task("a", (*task.demos, task.tests[0], task.demos[0]), task.tests)
    (query,) = list_queries(double, 0)
    assert query.demos == (*task.demos, task.demos[0])
    every = list_queries(task, 0, "all")
    assert list_queries(task, 0, "test") == every[:1]
    assert list_queries(task, 0, "leave_one_out") == every[1:]
    assert [query.left_out for query in every] == [False, True, True, True]
    assert [query.pair for query in every] == [*task.tests, *task.demos]
    assert [len(query.demos) for query in every] == [3, 2, 2, 2]
    assert all(query.pair not in query.demos for query in every)


@pytest.mark.parametrize("asked", ["leave_one_out", "all"])
def test_a_demonstration_is_asked_given_the_others_and_no_test_pair(
    published: Callable[..., TaskSet], asked: str
) -> None:
    tasks = published("arc-agi-1", "training", max_side=10)
    episodes = Episodes(tasks, DataConfig(queries=asked, max_demos=100, augmentations=3), "etrm", seed=1)
    seen = 0
    for sample in every_sample(episodes, 120):
        task_id, augmentation = parse_name(sample.name)
        task = tasks.get(task_id)
        if sample.query < len(task.tests):
            continue
        target = task.demos[sample.query - len(task.tests)]
        canvas = np.zeros(900, dtype=np.int64)
        canvas[sample.positions] = sample.tokens
        asked_for = [cut(canvas.reshape(30, 30)), sample.target]
        shown = [grids_of(demo) for demo in sample.demos]
        for found, true in zip(asked_for, target.grids, strict=True):
            np.testing.assert_array_equal(augmentation.inverse(found), true)
        forbidden = [target.grids, *(pair.grids for pair in task.tests)]
        for grids in shown:
            back = [augmentation.inverse(grid) for grid in grids]
            assert not any(all(map(np.array_equal, back, other)) for other in forbidden)
        expected = [pair for pair in task.demos if not all(map(np.array_equal, pair.grids, target.grids))]
        assert len(shown) == len(expected)
        seen += 1
    assert seen > 200


@pytest.mark.parametrize(("asked", "queries"), [("test", 416), ("leave_one_out", 1302), ("all", 1718)])
def test_queries_of_a_published_set_by_hand(
    published: Callable[..., TaskSet], asked: str, queries: int
) -> None:
    """1302 demonstrations and 416 test pairs are in the files of ARC-AGI-1 training."""
    tasks = published("arc-agi-1")
    assert len(Episodes(tasks, DataConfig(queries=asked), "etrm", 0).queries) == queries


def test_what_cannot_be_left_out_is_skipped_and_named(make_task: Callable[..., Task]) -> None:
    single, usual, double = make_task("single", demos=1), make_task("usual", demos=3), make_task("double")
    double = Task("double", (double.demos[0], double.demos[0]), double.tests)
    tasks = TaskSet((single, usual, double), "s", "training")
    episodes = Episodes(tasks, DataConfig(queries="leave_one_out"), "etrm", 0)
    assert episodes.skipped == ("double", "double", "single")
    assert [(q.task.id, q.index) for q in episodes.queries] == [("usual", 1), ("usual", 2), ("usual", 3)]
    both = Episodes(tasks, DataConfig(queries="all"), "etrm", 0)
    assert (len(both.queries), both.skipped) == (6, episodes.skipped)
    table = Episodes(tasks, DataConfig(queries="all"), "trm", 0)
    assert (len(table.queries), table.skipped) == (9, ())
    with raises_code(DataError, "data.no-two-demonstrations", "data.queries=test"):
        Episodes(tasks.without(["usual"]), DataConfig(queries="leave_one_out"), "etrm", 0)


def test_evaluation_never_asks_a_demonstration(as_plain: AsPlain, small_set: TaskSet) -> None:
    usual, left_out = (
        build_evaluation_samples(small_set, DataConfig(queries=asked), 2, 0)
        for asked in ("test", "leave_one_out")
    )
    assert [as_plain(sample) for sample in usual] == [as_plain(sample) for sample in left_out]


def test_no_more_demos_than_asked_for(small_set: TaskSet) -> None:
    full, cut_short = (Episodes(small_set, DataConfig(max_demos=n), "etrm", 0).sample(0, 0) for n in (10, 2))
    assert (len(full.demos), len(cut_short.demos)) == (3, 2)
    assert full.region == cut_short.region
    np.testing.assert_array_equal(full.demos[1].tokens, cut_short.demos[1].tokens)


def test_puzzle_ids_number_tasks_and_augmentations(small_set: TaskSet) -> None:
    data = DataConfig(augmentations=4, queries="all", buckets=2)
    episodes = Episodes(small_set, data, "trm", seed=7)
    assert episodes.puzzles == 36
    assert sum(len(episodes.bucket_queries(bucket)) for bucket in range(2)) == 27 + 10
    samples = every_sample(episodes, 400)
    names: dict[int, set[str]] = {}
    for sample in samples:
        names.setdefault(sample.puzzle_id, set()).add(sample.name)
    assert sorted(names) == list(range(36))
    assert {len(found) for found in names.values()} == {1}
    assert {sample.query for sample in samples if sample.task_id == "task4"} == {0, 1, 2, 3, 4}
    fresh = Episodes(small_set, FRESH, "etrm", 0)
    assert fresh.puzzles == 1
    assert {sample.puzzle_id for sample in every_sample(fresh, 10)} == {0}


def test_unknown_answers_cannot_be_trained_on(make_task: Callable[..., Task]) -> None:
    task = make_task("a")
    unknown = TaskSet((Task("a", task.demos, (Pair(task.tests[0].input, None),)),), "file", "training")
    with raises_code(DataError, "data.unknown-outputs", "file", 1, got="a"):
        Episodes(unknown, DataConfig(), "etrm", 0)
    (sample,) = build_evaluation_samples(unknown, DataConfig(), 1, 0)
    assert set(sample.labels.tolist()) == {IGNORE}
    assert (sample.target, sample.in_region) == (None, True)


def test_a_query_without_demos_needs_a_puzzle_id(make_task: Callable[..., Task]) -> None:
    task = make_task("a", demos=1)
    alone = TaskSet((Task("a", task.tests, task.tests),), "s", "training")
    for build_samples in (
        lambda variant: Episodes(alone, DataConfig(), variant, 0),
        lambda variant: build_evaluation_samples(alone, DataConfig(), 1, 0, variant=variant),
    ):
        with raises_code(DataError, "data.no-demonstrations", 1, "etrm", got="a"):
            build_samples("etrm")
        build_samples("trm")
    sample = Episodes(alone, DataConfig(), "trm", 0).sample(0, 0)
    assert (sample.demos, sample.region) == ((), (30, 30))


def test_evaluation_asks_every_query_under_the_fixed_augmentations(small_set: TaskSet) -> None:
    samples = build_evaluation_samples(small_set, SHIFTED, 4, seed=3)
    assert len(samples) == 10 * 4
    assert [sample.serial for sample in samples] == list(range(40))
    assert {sample.translated for sample in samples} == {(0, 0)}
    for start in range(0, 40, 4):
        votes = samples[start : start + 4]
        assert len({(vote.task_id, vote.query) for vote in votes}) == 1
        assert len({vote.name for vote in votes}) == 4
        assert parse_name(votes[0].name)[1] == Augmentation(0, tuple(range(10)))
        for vote in votes:
            task_id, augmentation = parse_name(vote.name)
            asked = small_set.get(task_id).tests[vote.query]
            tokens = vote.labels.reshape(vote.region)
            np.testing.assert_array_equal(augmentation.inverse(read_grid(tokens)), asked.output)


def test_evaluation_finds_the_rows_of_a_puzzle_table(small_set: TaskSet) -> None:
    data = DataConfig(augmentations=4)
    rows = {s.puzzle_id: s.name for s in every_sample(Episodes(small_set, data, "trm", 3), 300)}
    asked = TaskSet(small_set.tasks[4:6], "invented", "evaluation")
    samples = build_evaluation_samples(asked, data, 3, 3, variant="trm", trained=small_set)
    assert len(samples) == 9
    assert all(rows[sample.puzzle_id] == sample.name for sample in samples)
    with raises_code(DataError, "data.untrained-augmentations", 4, got="evaluate.augmentations 5"):
        build_evaluation_samples(asked, data, 5, 3, variant="trm", trained=small_set)
    with raises_code(DataError, "data.untrained-tasks", 7, "task0"):
        build_evaluation_samples(small_set, data, 2, 3, variant="trm", trained=asked)


def test_true_outputs_survive_layout_on_a_published_set() -> None:
    tasks = load_tasks("arc-agi-1", "evaluation")
    samples = build_evaluation_samples(tasks, DataConfig(), 2, 0)
    lost = 0
    for sample in samples:
        _, augmentation = parse_name(sample.name)
        found = augmentation.inverse(read_grid(sample.labels.reshape(sample.region)))
        true = tasks.get(sample.task_id).tests[sample.query].output
        lost += not (sample.in_region and np.array_equal(found, true))
        assert sample.in_region == np.array_equal(found, true)
    assert (len(samples), lost) == (838, 10)
