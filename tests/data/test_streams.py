"""The order of streams: every image once a pass, the same for the same seed, and from any position on exactly the rest."""

from __future__ import annotations

import itertools
import json
import logging
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beit.core import http as remote
from beit.core.errors import ConfigError, DataError, InputError, TrainingError
from beit.data.loader import Loader
from beit.data.order import Order
from beit.data.sources import open_images
from beit.data.sources.bad_images import BadImages
from beit.data.sources.in_memory import hold_in_memory
from beit.data.sources.shards import EncodedSample, TruncatedShard, sample_key
from beit.data.sources.stream import Stream, count_of
from beit.data.stream_order import STREAM_START, Cursor, StreamPosition, nearest_position, samples_of_reader
from beit.train.settings import TokenizerSettings
from fixtures_streams import colour, numbered, serving, striped, write_parquet, write_tar


class Memory:
    """Shards with the given numbers of samples, whose data are their numbers. Those in `cut` end early."""

    classes: list[str] = []
    total = None

    def __init__(self, sizes: list[int], cut: tuple[int, ...] = ()) -> None:
        self.sizes, self.cut = sizes, cut
        self.names = [f"shard-{number}" for number in range(len(sizes))]
        self.reads: list[tuple[int, int]] = []

    def read(self, number: int, first: int = 0):
        self.reads.append((number, first))
        before = sum(self.sizes[:number])
        for sample in range(first, self.sizes[number]):
            yield EncodedSample(str(sample), "", str(before + sample).encode())
        if number in self.cut:
            yield TruncatedShard(f"shard {number} is cut")


def take(
    stream: Stream,
    count: int,
    *,
    number: int = 0,
    readers: int = 1,
    seed: int = 0,
    position: StreamPosition = STREAM_START,
):
    return list(itertools.islice(samples_of_reader(stream, seed, number, readers, position), count))


def passes(stream: Stream, readers: int, count: int, seed: int = 0) -> list[Counter]:
    """How often each number comes in each of the first passes, over all readers."""
    found = [Counter() for _ in range(count)]
    for number in range(readers):
        later = 0
        for sample in samples_of_reader(stream, seed, number, readers):
            # A window may reach into the next pass, so that a pass is over when a few windows of later ones have come.
            later = 0 if sample.pass_index < count else later + 1
            if sample.pass_index < count:
                found[sample.pass_index][int(sample.encoded.data)] += 1
            elif later > 2 * stream.shuffle_buffer:
                break
    return found


# --- readers -------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 5), st.integers(1, 12), st.integers(0, 99))
def test_every_sample_comes_once_a_pass_and_in_one_reader(sizes, readers, buffer, seed):
    readers = min(readers, sum(sizes))
    stream = Stream(Memory(sizes), shuffle_buffer=buffer)
    for found in passes(stream, readers, 3, seed):
        assert found == dict.fromkeys(range(sum(sizes)), 1)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=5).filter(any),
    st.integers(1, 4),
    st.integers(1, 12),
    st.integers(0, 60),
    st.data(),
)
def test_from_any_place_on_comes_exactly_the_rest(sizes, readers, buffer, taken, data):
    stream = Stream(Memory(sizes), shuffle_buffer=buffer)
    number = data.draw(st.integers(0, readers - 1))
    whole = take(stream, taken + 40, number=number, readers=readers, seed=3)
    assert whole == take(stream, taken + 40, number=number, readers=readers, seed=3)
    place = whole[taken - 1].position if taken else STREAM_START
    kept = StreamPosition.from_json(json.loads(json.dumps(place.to_json())))
    assert take(stream, 40, number=number, readers=readers, seed=3, position=kept) == whole[taken:]


def test_the_seed_decides_the_order():
    stream = Stream(Memory([20] * 5), shuffle_buffer=10)

    def order(seed: int) -> list[int]:
        return [int(sample.encoded.data) for sample in take(stream, 300, seed=seed)]

    assert order(1) == order(1) != order(2)
    first, second = order(1)[:100], order(1)[100:200]
    assert first != second
    assert sorted(first) == sorted(second) == list(range(100))


def test_windows_mix_well_and_keep_step():
    """A window of 50 of one shard in which all orders are as likely; one sample is read for one sample out."""
    memory = Memory([1000])
    stream = Stream(memory, shuffle_buffer=50)
    found = [int(sample.encoded.data) for sample in take(stream, 1000)]
    for start in range(0, 1000, 50):
        assert sorted(found[start : start + 50]) == list(range(start, start + 50))
    ranks = np.array(found).reshape(20, 50) % 50
    assert abs(np.corrcoef(ranks.ravel(), np.tile(np.arange(50), 20))[0, 1]) < 0.1
    read = 0

    class Counted(Memory):
        def read(self, number: int, first: int = 0):
            nonlocal read
            for raw in super().read(number, first):
                read += 1
                yield raw

    samples = samples_of_reader(Stream(Counted([1000]), shuffle_buffer=50), 0, 0, 1)
    for handed_out in range(1, 400):
        next(samples)
        assert read == min(50 + 1 + handed_out, 1000)  # a window, the next one's share, and one ahead


def test_small_data_sets_come_in_passes():
    stream = Stream(Memory([4, 3]), shuffle_buffer=100)
    found = take(stream, 70)
    assert [sample.pass_index for sample in found] == [visit for visit in range(10) for _ in range(7)]
    orders = {tuple(int(x.encoded.data) for x in found[i : i + 7]) for i in range(0, 70, 7)}
    assert len(orders) == 10


def test_draws_name_the_image_and_the_pass():
    stream = Stream(Memory([3, 3]), shuffle_buffer=10)
    alone = {(int(x.encoded.data), x.pass_index): x.key for x in take(stream, 12)}
    for number in range(4):  # the same in any reader
        for sample in take(stream, 3, number=number, readers=4, seed=9):
            assert sample.key == sample_key(f"shard-{int(sample.encoded.data) // 3}", sample.encoded.key)
    assert {key for (_, _), key in alone.items()} == {
        sample_key(f"shard-{i}", str(j)) for i in (0, 1) for j in range(3)
    }
    assert all(0 <= key < 2**63 for key in alone.values())


def test_readers_share_samples_only_where_shards_are_few():
    memory = Memory([6] * 4)
    take(Stream(memory, shuffle_buffer=2), 6, number=1, readers=4)
    assert len({number for number, _ in memory.reads[:1]}) == 1
    # More readers than samples: each gets one in turn, and none waits for ever.
    tiny = Stream(Memory([2]), shuffle_buffer=4)
    for number in range(5):
        found = take(tiny, 4, number=number, readers=5)
        assert {sample.encoded.data for sample in found} == {b"0", b"1"}


def test_empty_and_cut_shards_are_no_trouble():
    found = take(Stream(Memory([0, 3, 0], cut=(0, 1)), shuffle_buffer=9), 6, readers=3)
    assert {int(sample.encoded.data) for sample in found} == {0, 1, 2}
    assert {cut for sample in found for cut in sample.truncated} == {"shard 0 is cut", "shard 1 is cut"}
    for readers in (1, 2, 5):
        with pytest.raises(DataError, match=r"no images in shard-0, shard-1.*\nshard 1 is cut"):
            take(Stream(Memory([0, 0], cut=(1,))), 1, readers=readers)


# --- batches -----------------------------------------------------------------------------------------------------


class Plain:
    """Views that show which image was drawn, and with which random numbers."""

    def one(self, image, target, draw):
        red, green, _ = np.asarray(image)[0, 0].tolist()
        number = np.array(256 * red + green)
        return {"number": number, "label": np.array(target), "draw": np.array(draw.rng().random())}


class Hurried(Plain):
    """These views, with which a worker waits for no server: it does not see what a test changes in this process."""

    def __reduce__(self):
        return _hurry, ()


def _hurry() -> Hurried:
    remote.PAUSES = (0.0,) * 5
    return Hurried()


def shards(folder: Path, count: int = 4, each: int = 11) -> str:
    for number in range(count):
        numbered(folder / f"{number}.tar", number * each, each)
    return f"{folder}/{{0..{count - 1}}}.tar"


def make_loader(source, batch: int = 4, views: type[Plain] = Plain, **changes) -> Loader:
    stream = source if isinstance(source, Stream) else open_images(source, shuffle_buffer=6)
    return Loader(stream, views(), Order(None, batch, 5), BadImages(None), **changes)


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(
        type(a[name]) is type(b[name]) is np.ndarray
        and a[name].dtype == b[name].dtype
        and np.array_equal(a[name], b[name])
        for name in a
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_go_on_from_a_state(tmp_path, workers):
    source = shards(tmp_path)
    loader = make_loader(source, workers=workers)
    whole, states = [], [loader.state()]
    for batch in loader.batches(0, 17):
        whole.append(batch)
        states.append(json.loads(json.dumps(loader.state())))
    assert len(whole) == 17
    assert not same(whole[0], whole[11])
    for step in (0, 1, 8, 13) if workers == 0 else (3, 8):
        again = make_loader(source, workers=workers)
        assert again.restore([states[step]]) is None
        assert again.state() == states[step]
        rest = list(again.batches(step, 17))
        assert len(rest) == 17 - step
        assert all(same(a, b) for a, b in zip(rest, whole[step:], strict=True))
        assert again.state() == states[17]
    assert same(whole[0], next(iter(loader.batches(0, 1))))  # from the beginning again


def test_processes_and_workers_share_the_images(tmp_path):
    source = shards(tmp_path, 8, 6)
    loaders = [make_loader(source, workers=2, rank=rank, world=2) for rank in (0, 1)]
    batches = [list(loader.batches(0, 12)) for loader in loaders]
    assert all(len(batch["number"]) == 2 for some in batches for batch in some)
    # Four readers, two shards each: twelve images, of which each reader has given six batches of two.
    seen = Counter(np.concatenate([batch["number"] for some in batches for batch in some]).tolist())
    assert seen == dict.fromkeys(range(48), 1)
    assert len(set(np.concatenate([batch["draw"] for some in batches for batch in some]).tolist())) == 48


def test_a_state_is_kept_by_the_same_number_of_readers(tmp_path):
    source = shards(tmp_path)
    one, none = make_loader(source, workers=1), make_loader(source, workers=0)
    list(none.batches(0, 3))
    assert one.restore([none.state()]) is None  # the same reader, beside the main process or in it
    assert same(next(one.batches(3, 4)), next(none.batches(3, 4)))
    with pytest.raises(TrainingError, match="is at step 4, but step 7 was asked for"):
        next(none.batches(7, 8))


@pytest.mark.parametrize("processes", [1, 2])
def test_other_readers_go_on_about_where_a_stream_was_left(tmp_path, processes):
    source = shards(tmp_path, 8, 6)  # twelve batches of four
    loaders = [make_loader(source, workers=2, rank=rank, world=processes) for rank in range(processes)]
    for loader in loaders:
        list(loader.batches(0, 9))
    states = [json.loads(json.dumps(loader.state())) for loader in loaders]
    other = make_loader(source, workers=0)
    assert other.restore(states) == (processes, 2)
    assert other.step == 9
    assert other.bad.good == 36 / processes * processes
    start = other.positions[0].start
    # Readers have begun the shard that they are in, and one more may wait in the window.
    assert start.pass_index == 0
    assert 2 <= start.shard <= 6
    seen = Counter(np.concatenate([batch["number"] for batch in other.batches(9, 9 + 30)]).tolist())
    assert set(seen) == set(range(48))  # the rest of this pass, and the next


@given(st.integers(1, 12), st.integers(1, 6), st.integers(1, 6), st.integers(0, 3), st.integers(0, 100))
@settings(max_examples=100, deadline=None)
def test_the_nearest_position_is_never_ahead_of_what_was_read(shards, before, now, passes, part):
    """Readers that have all come to the same place: the shards that they finished are left out, up to one per reader."""
    places = []
    for reader in range(before):
        own = shards if shards < before else len(range(reader, shards, before))
        places.append(StreamPosition(Cursor(passes, part * own // 101, 0, 0), 5, 3))
    finished = places[0].start.shard if shards < before else sum(place.start.shard for place in places)
    found = nearest_position(places, now, shards)
    assert (found.start.pass_index, found.window, found.taken) == (passes, 6, 0)
    again = found.start.shard if shards < now else found.start.shard * now
    assert finished - now < again <= finished


@pytest.mark.parametrize("files", [1, 4])
def test_workers_share_a_data_set(tmp_path, hub_home, files, monkeypatch):
    # `datasets` loads torch wherever it is installed, which takes each worker seconds.
    monkeypatch.setattr("datasets.config.TORCH_AVAILABLE", False)
    monkeypatch.setenv("USE_TORCH", "0")
    folder = write_parquet(tmp_path / "animals", files, 24 // files)
    stream = open_images(f"hub:{folder}", labelled=True, shuffle_buffer=12)
    loader = make_loader(stream, workers=2)
    batches = loader.batches(0, 6)
    whole = list(itertools.islice(batches, 3))
    state, later = loader.state(), make_loader(stream, workers=2)
    whole += batches
    assert sorted(np.concatenate([batch["number"] for batch in whole]).tolist()) == list(range(24))
    assert all((batch["number"] % (24 // files) % 2 == batch["label"]).all() for batch in whole)
    assert later.restore([state]) is None
    assert all(same(a, b) for a, b in zip(later.batches(3, 6), whole[3:], strict=True))


def test_what_a_loader_of_a_stream_says(tmp_path):
    stream = open_images(shards(tmp_path))
    loader = make_loader(stream)
    assert loader.steps_per_epoch is None
    assert count_of(stream) is None
    assert hold_in_memory(stream, BadImages(None), 28) is stream
    with pytest.raises(DataError, match="batch of 4 cannot be divided among 3"):
        make_loader(stream, world=3)
    values = {"images": "x", "output": tmp_path / "run", "batch_size": 8}
    with pytest.raises(ConfigError, match="--steps; or --images-per-epoch"):
        Order.of(stream, TokenizerSettings(**values))
    assert Order.of(stream, TokenizerSettings(**values, steps=3)).steps_per_epoch is None
    assert Order.of(stream, TokenizerSettings(**values, images_per_epoch=100)).steps_per_epoch == 12
    stream.shards.total = 80
    assert Order.of(stream, TokenizerSettings(**values)).steps_per_epoch == 10


def test_labels_come_with_the_images(tmp_path):
    striped(tmp_path / "x.tar", 12, 0)
    stream = open_images(tmp_path / "x.tar", labelled=True, classes=["flat", "upright"])

    class Rows:
        def one(self, image, target, draw):
            pixels = np.asarray(image)
            return {"upright": np.array(int((pixels == pixels[:1]).all())), "label": np.array(target)}

    loader = Loader(stream, Rows(), Order(None, 6, 0), BadImages(None))
    for batch in loader.batches(0, 4):
        np.testing.assert_array_equal(batch["label"], batch["upright"])


# --- damage ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_damage_is_passed_over_and_reported_once(tmp_path, workers):
    source = shards(tmp_path, 4, 30)
    members = [(f"{i:05}.png", colour(i)) for i in range(30)]
    members[7] = ("00007.png", b"no image")
    write_tar(tmp_path / "0.tar", members)
    whole = (tmp_path / "2.tar").read_bytes()
    (tmp_path / "2.tar").write_bytes(whole[: 20 * 1024 + 520])  # in the data of image 80
    loader = make_loader(source, workers=workers)
    numbers = Counter(np.concatenate([batch["number"] for batch in loader.batches(0, 90)]).tolist())
    expected = (set(range(60)) - {7}) | set(range(60, 80)) | set(range(90, 120))
    assert numbers.keys() == expected
    assert len(loader.bad) == 2
    assert "0.tar: 00007.png: not an image" in str(loader.bad)
    assert "2.tar: damaged or cut" in str(loader.bad)


@pytest.mark.parametrize("workers", [0, 2])
def test_more_than_a_tenth_of_a_stream(tmp_path, workers):
    """Twelve images of which two are bad: when the first pass is over that is known to be too much."""
    members = [(f"{i}.png", colour(i) if i > 1 else b"no image") for i in range(12)]
    write_tar(tmp_path / "x.tar", members)
    with pytest.raises(DataError, match=r"2 of 12 images cannot be used, more than a tenth:\n.*not an image"):
        list(make_loader(f"{tmp_path}/x.tar", batch=2, workers=workers).batches(0, 100))
    write_tar(tmp_path / "x.tar", [(f"{i}.png", b"no image") for i in range(12)])
    with pytest.raises(DataError, match="11 of the first 11 images cannot be used"):
        list(make_loader(f"{tmp_path}/x.tar", workers=workers).batches(0, 1))
    write_tar(tmp_path / "x.tar", [("0.png", b"no image")])
    with pytest.raises(DataError, match="The last 200 images cannot be used"):
        list(make_loader(f"{tmp_path}/x.tar", workers=workers).batches(0, 1))


def test_too_many_bad_images_are_judged_by_those_seen():
    bad = BadImages(None)
    bad.add_good(30)
    for number in range(10):  # of a hundred, it may be a tenth
        bad.add(f"{number}.png")
    with pytest.raises(DataError, match="11 of the first 41 images"):
        bad.add("11.png")
    bad = BadImages(None)
    bad.add_good(1000)
    for number in range(100):
        bad.add(f"{number}.png")
    bad.add_good(18)
    bad.end_first_pass()
    for number in range(100, 111):
        bad.add(f"{number}.png")
    with pytest.raises(DataError, match="112 of 1118 images"):
        bad.add("111.png")


@pytest.mark.parametrize("workers", [0, 2])
def test_errors_come_as_text_from_workers(tmp_path, workers, monkeypatch):
    striped(tmp_path / "x.tar", 12, 0)
    stream = open_images(tmp_path / "x.tar", labelled=True, classes=["flat"])
    with pytest.raises(InputError) as error:
        list(make_loader(stream, workers=workers).batches(0, 3))
    assert str(error.value).startswith(f"{tmp_path}/x.tar: 0")
    assert "its label is 1; wanted a number from 0 to 0" in str(error.value)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(remote, "PAUSES", (0.0,) * 5)
    with serving(tmp_path) as server:
        server.failing = -1
        with pytest.raises(DataError) as lost:
            list(make_loader(f"{server.address}/x.tar", views=Hurried, workers=workers).batches(0, 3))
    assert str(lost.value).startswith(f"{server.address}/x.tar cannot be read after 6 failures in a row")


# --- whole runs --------------------------------------------------------------------------------------------------


def run(tmp_path: Path, name: str, source: str, **changes):
    from beit.train.tokenizer import train_tokenizer

    values = {
        "images": source,
        "output": tmp_path / name,
        "image_size": 8,
        "factor": 2,
        "vocab_size": 8,
        "width": 8,
        "steps": 8,
        "batch_size": 4,
        "workers": 2,
        "save_every": 3,
        "log_every": 1,
        "precision": "fp32",
        "shuffle_buffer": 5,
    }
    lines = train_tokenizer(TokenizerSettings(**{**values, **changes}))
    return [line["loss"] for line in lines]


def test_a_run_on_a_server_that_fails_has_the_losses_of_one_on_files(tmp_path, monkeypatch, caplog):
    pytest.importorskip("torch")
    pytest.importorskip("accelerate")
    for number in range(2):
        striped(tmp_path / f"{number}.tar", 9, number, 12)
    losses = run(tmp_path, "files", f"{tmp_path}/{{0..1}}.tar")
    assert len(set(losses)) == 8
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(remote, "PAUSES", (0.001,) * 5)
    with serving(tmp_path) as server:
        server.failing, server.dropping = 3, 2
        with caplog.at_level(logging.INFO, logger="beit"):
            assert run(tmp_path, "server", f"{server.address}/{{0..1}}.tar") == losses


def test_a_stopped_run_on_a_stream_goes_on_exactly(tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("accelerate")
    from beit.train import loop

    for number in range(3):
        striped(tmp_path / f"{number}.tar", 9, number, 12)
    source = f"{tmp_path}/{{0..2}}.tar"
    losses = run(tmp_path, "whole", source)
    save = loop._save_checkpoint

    def dies(run_, job, engine, step):
        save(run_, job, engine, step)
        if step == 6:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "_save_checkpoint", dies)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, "stopped", source)
    with pytest.raises(TrainingError, match="--workers 2"):
        run(tmp_path, "stopped", source, resume="must", workers=3)
    assert run(tmp_path, "stopped", source, resume="must") == losses


def test_fine_tuning_on_shards(tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("accelerate")
    from beit.train.finetune import finetune
    from beit.train.settings import FinetuneSettings
    from fixtures_runs import save_small_model

    for number in range(2):
        striped(tmp_path / f"{number}.tar", 20, number)
    (tmp_path / "classes.txt").write_text("flat\nupright\n")
    values = {
        "images": f"{tmp_path}/{{0..1}}.tar",
        "output": tmp_path / "run",
        "model": str(save_small_model(tmp_path / "model")),
        "batch_size": 8,
        "steps": 60,
        "learning_rate": 4e-3,
        "crop_scale": (0.6, 1.0),
        "layer_decay": 0.9,
        "workers": 0,
        "log_every": 10,
        "precision": "fp32",
    }
    with pytest.raises(ConfigError, match="--classes FILE"):
        finetune(FinetuneSettings(**values))
    values["classes"] = tmp_path / "classes.txt"
    with pytest.raises(ConfigError, match="labels_per_class is for folders"):
        finetune(FinetuneSettings(**values, labels_per_class=3))
    lines, _ = finetune(FinetuneSettings(**values))
    assert lines[-1]["accuracy"] > 0.75
    assert "epoch" not in lines[-1]
