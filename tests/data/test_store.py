from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etrm.config import DataConfig
from etrm.data import Episodes, Sample, Task, TaskSet
from etrm.data.build import build_store
from etrm.data.store import EpisodeStore, read_index
from etrm.errors import DataError
from tests.errors import raises_code

AsPlain = Callable[[Sample], dict[str, object]]

AUGMENTATIONS, SEED = 30, 5


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, small_set: TaskSet) -> Path:
    """A store of the small set, not to be written to."""
    folder = tmp_path_factory.mktemp("built") / "store"
    build_store(folder, small_set, AUGMENTATIONS, SEED)
    return folder


@pytest.fixture
def store(tmp_path: Path, small_set: TaskSet) -> Path:
    """A store that a test may break."""
    build_store(tmp_path / "store", small_set, AUGMENTATIONS, SEED)
    return tmp_path / "store"


@given(
    index=st.integers(0, 5000),
    bucket=st.integers(0, 1),
    augmentations=st.integers(1, AUGMENTATIONS),
    translate=st.sampled_from([0, 8]),
    canvas=st.sampled_from(["region", "published"]),
    queries=st.sampled_from(["test", "leave_one_out", "all"]),
)
def test_an_episode_of_the_store_is_the_one_drawn_without_it(
    as_plain: AsPlain, built: Path, small_set: TaskSet, index: int, bucket: int, **settings: object
) -> None:
    data = DataConfig(buckets=2, **settings)
    drawn = Episodes(small_set, data, "etrm", SEED)
    read = Episodes(small_set, data.model_copy(update={"store": built}), "etrm", SEED)
    bucket = min(bucket, drawn.buckets - 1)
    assert as_plain(read.sample(bucket, index)) == as_plain(drawn.sample(bucket, index))


def test_fewer_tasks_than_stored_are_served(as_plain: AsPlain, built: Path, small_set: TaskSet) -> None:
    some = small_set.without([small_set.tasks[0].id, small_set.tasks[4].id])
    data = DataConfig(augmentations=7, buckets=1)
    read = Episodes(some, data.model_copy(update={"store": built}), "trm", SEED)
    drawn = Episodes(some, data, "trm", SEED)
    for index in range(60):
        assert as_plain(read.sample(0, index)) == as_plain(drawn.sample(0, index))


@pytest.mark.parametrize(("augmentations", "seed"), [(AUGMENTATIONS + 1, SEED), (3, SEED + 1)])
def test_a_store_of_other_settings_is_refused(
    built: Path, small_set: TaskSet, augmentations: int, seed: int
) -> None:
    wanted = f"{augmentations} (data.augmentations), seed {seed} (train.seed)"
    with raises_code(
        DataError, "store.other-augmentations", built, wanted, got=f"{AUGMENTATIONS} per task, seed {SEED}"
    ):
        Episodes(small_set, DataConfig(augmentations=augmentations, store=built), "etrm", seed)


def test_a_task_that_changed_is_named(
    built: Path, small_set: TaskSet, make_task: Callable[..., Task]
) -> None:
    changed = Task("task3", small_set.tasks[3].demos[::-1], small_set.tasks[3].tests)
    tasks = TaskSet((small_set.tasks[0], changed, make_task("new")), "s", "training")
    with raises_code(DataError, "store.absent-tasks", "2 of 3", got="new, task3"):
        EpisodeStore(built).require(tasks, 3, SEED)


def test_the_index_counts_and_digests(built: Path, small_set: TaskSet) -> None:
    tree = json.loads((built / "index.json").read_text())
    assert (tree["schema"], tree["data_hash"], tree["augmentations"]) == (1, small_set.hash, AUGMENTATIONS)
    files = sorted((built / "shards").iterdir())
    assert [shard["file"] for shard in tree["shards"]] == [path.name for path in files]
    for shard, path, task in zip(tree["shards"], files, small_set, strict=True):
        data = path.read_bytes()
        assert (shard["sha256"], shard["bytes"]) == (hashlib.sha256(data).hexdigest(), len(data))
        assert shard["id"] == task.id
    counts = tree["counts"]
    assert (counts["tasks"], counts["augmented"]) == (9, 9 * AUGMENTATIONS)
    assert counts["stored"] + counts["duplicates"] == counts["augmented"]
    assert counts["bytes"] == sum(path.stat().st_size for path in files)


def flip(path: Path, place: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def test_an_altered_shard_is_named_when_it_is_read_and_when_all_are_verified(
    store: Path, small_set: TaskSet
) -> None:
    flip(store / "shards" / "00002.safetensors")
    data = DataConfig(augmentations=3, store=store, buckets=1)
    episodes = Episodes(small_set, data, "etrm", SEED)
    with raises_code(DataError, "store.altered-file", store / "shards" / "00002.safetensors", "SHA-256"):
        [episodes.sample(0, index) for index in range(40)]
    with raises_code(DataError, "store.altered-file", store / "shards" / "00002.safetensors"):
        EpisodeStore(store).verify()
    # What the error says to do fixes it.
    build_store(store, small_set, AUGMENTATIONS, SEED)
    EpisodeStore(store).verify()


@pytest.mark.parametrize("damage", ["truncated", "missing"])
def test_a_truncated_or_missing_shard_is_named_at_once(store: Path, small_set: TaskSet, damage: str) -> None:
    path = store / "shards" / "00004.safetensors"
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-10])
    with raises_code(DataError, "store.altered-file", path):
        Episodes(small_set, DataConfig(augmentations=3, store=store), "etrm", SEED)


def test_shards_that_changed_places_are_seen(store: Path, make_task: Callable[..., Task]) -> None:
    first, second = (store / "shards" / name for name in ("00000.safetensors", "00001.safetensors"))
    one = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(one)
    with raises_code(DataError, "store.altered-file", first):
        EpisodeStore(store).verify()


@pytest.mark.parametrize(
    "text",
    [None, "", "{", "[]", "3", "null", '{"schema": 2}', '{"schema": 1}', '{"schema": 1, "x": 2}', "[" * 9000],
)
def test_what_is_no_store_is_refused(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "index.json").write_text(text)
    index = tmp_path / "index.json"
    code, advice = (
        ("store.absent", f"etrm data build --out {tmp_path}")
        if text is None
        else ("store.unreadable-index", f"remove {index}")
    )
    with raises_code(DataError, code, tmp_path, index.name, advice):
        EpisodeStore(tmp_path)


def test_what_is_advised_for_a_damaged_index_mends_the_store(store: Path, small_set: TaskSet) -> None:
    index = (store / "index.json").read_text()
    shards = {path: path.stat().st_mtime_ns for path in (store / "shards").iterdir()}
    (store / "index.json").write_text("{")
    with raises_code(DataError, "store.unreadable-index", store / "index.json", "etrm data build"):
        build_store(store, small_set, AUGMENTATIONS, SEED)
    (store / "index.json").unlink()
    build_store(store, small_set, AUGMENTATIONS, SEED)
    assert (store / "index.json").read_text() == index
    assert shards == {path: path.stat().st_mtime_ns for path in (store / "shards").iterdir()}


def test_an_index_that_was_edited_is_refused(store: Path) -> None:
    path = store / "index.json"
    path.write_text(path.read_text().replace('"rows": 30', '"rows": 29', 1))
    with raises_code(DataError, "store.unreadable-index", path, "counts"):
        read_index(store)


def test_an_unfinished_store_says_so(store: Path) -> None:
    tree = json.loads((store / "index.json").read_text())
    tree["shards"], tree["counts"] = None, dict.fromkeys(tree["counts"], 0)
    (store / "index.json").write_text(json.dumps(tree))
    with raises_code(DataError, "store.unfinished", store, "etrm data build"):
        EpisodeStore(store)


def test_another_process_maps_the_files_itself(as_plain: AsPlain, built: Path, small_set: TaskSet) -> None:
    data = DataConfig(augmentations=30, store=built, buckets=1)
    episodes = Episodes(small_set, data, "etrm", SEED)
    expected = as_plain(episodes.sample(0, 3))
    again = pickle.loads(pickle.dumps(episodes))
    assert again._store._opened == {}
    assert as_plain(again.sample(0, 3)) == expected
