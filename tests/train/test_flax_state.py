"""A checkpoint's training state that cannot be written or read: nothing of the attempt goes on afterwards, nothing warns."""

from __future__ import annotations

import asyncio
import gc
import inspect
import resource
import sys
from collections.abc import Iterator
from types import CoroutineType
from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax")
pytest.importorskip("orbax.checkpoint")

import jax.numpy as jnp
from orbax.checkpoint._src.serialization import jax_array_handlers, serialization, tensorstore_utils

from beit.core.errors import CheckpointError
from beit.train.flax import state

TREE = {
    "moments": {f"{i:02}": jnp.asarray(np.random.default_rng(i).normal(size=(40, 500)), jnp.float32) for i in range(12)}
}
ARRAY = 40 * 500 * 4  # bytes; random numbers are hardly compressed


@pytest.fixture(autouse=True)
def _nothing_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No coroutine is left unfinished, without help from the garbage collector, and none has warned."""
    complaints: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", complaints.append)
    gc.disable()  # so that what comes now stays in the youngest generation
    try:
        yield
        unfinished = [
            thing
            for thing in gc.get_objects(generation=0)
            if type(thing) is CoroutineType
            and ("orbax" in thing.cr_code.co_filename or thing.cr_code.co_filename == __file__)
            and inspect.getcoroutinestate(thing) != inspect.CORO_CLOSED
        ]
    finally:
        gc.enable()
    assert unfinished == []
    gc.collect(0)
    assert complaints == []


class Arrays:
    """Instead of the coroutine by which Orbax writes one array: counts arrays; one of them fails at once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, failing: int | None = None) -> None:
        self.failing, self.begun, self.finished = failing, 0, 0
        self.write = serialization.async_serialize_from_host
        monkeypatch.setattr(serialization, "async_serialize_from_host", self)

    async def __call__(self, *args: Any, **kwargs: Any) -> None:
        self.begun += 1
        if self.begun == self.failing:
            raise OSError(28, "No space left on device")
        await self.delay()
        await self.write(*args, **kwargs)
        self.finished += 1

    async def delay(self) -> None:
        raise NotImplementedError


class Slow(Arrays):
    """The others have begun, and would write long after the failure."""

    async def delay(self) -> None:
        await asyncio.sleep(0.3)


class Branching(Arrays):
    """The others start tasks of their own all the time, so that there are always some that have not begun."""

    async def delay(self) -> None:
        for _ in range(50):
            await asyncio.gather(asyncio.sleep(0), asyncio.sleep(0))


@pytest.mark.parametrize("kind", [Slow, Branching])
def test_a_write_that_fails_has_ended_when_it_returns(kind, tmp_path, monkeypatch):
    arrays = kind(monkeypatch, failing=3)
    with pytest.raises(OSError, match="No space left on device"):
        state.write(tmp_path, TREE)
    assert (arrays.begun, arrays.finished) == (12, 11)


def test_arrays_have_ended_when_shardings_fail(tmp_path, monkeypatch):
    """Orbax writes the two in a thread each, and raises the failure of the first without waiting for the second."""

    async def failing(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(jax_array_handlers, "_async_serialize_shardings", failing)
    arrays = Slow(monkeypatch)
    with pytest.raises(OSError, match="No space left on device"):
        state.write(tmp_path, TREE)
    assert (arrays.begun, arrays.finished) == (12, 12)


def test_a_write_that_fails_before_its_tasks_start(tmp_path, monkeypatch):
    build, asked = tensorstore_utils.build_array_write_spec, []

    def failing(**kwargs: Any) -> Any:
        asked.append(kwargs["info"].name)
        if len(asked) == 3:
            raise OSError(28, "No space left on device")
        return build(**kwargs)

    monkeypatch.setattr(tensorstore_utils, "build_array_write_spec", failing)
    with pytest.raises(OSError, match="No space left on device"):
        state.write(tmp_path, TREE)
    assert len(asked) == 3


def test_files_of_a_limited_size(tmp_path):
    """The kernel's own refusal, at ever later times in the write; how many arrays share a file is for Orbax to say."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for number, limit in enumerate(np.linspace(1000, 0.8 * ARRAY, 8).astype(int).tolist()):
        (tmp_path / str(number)).mkdir()
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
            with pytest.raises(OSError, match="File too large"):
                state.write(tmp_path / str(number), TREE)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_read_that_fails_has_ended_when_it_returns(damage, tmp_path):
    state.write(tmp_path, TREE)
    for path in (tmp_path / state.STATE).rglob("d/*"):
        if damage == "cut":
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        else:
            path.unlink()
    with pytest.raises(CheckpointError, match="is missing or damaged"):
        state.check(tmp_path)
    with pytest.raises(CheckpointError, match="missing, damaged or does not fit this run"):
        state.read(tmp_path, jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), TREE))


def test_what_is_written_is_read(tmp_path):
    state.write(tmp_path, TREE)
    state.check(tmp_path)
    found = state.read(tmp_path, jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), TREE))
    assert jax.tree.all(jax.tree.map(lambda one, other: bool((one == other).all()), found, TREE))
