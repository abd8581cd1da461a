"""The object cache under faults: whatever is done to files, folder or disk, a load gives the right bytes or nothing."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

from tapefuse._config import config
from tapefuse._errors import CacheWarning
from tapefuse.runtime import cache
from tapefuse.runtime.cache import ObjectCache, digest
from tapefuse.runtime.llvm_engine import load
from tests.runtime.programs import LAYOUT, add, refuse

KEY = digest("a program")
CODE = bytes(range(256)) * 8
posix = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs POSIX")


@pytest.fixture
def kept(tmp_path: Path) -> ObjectCache:
    c = ObjectCache(tmp_path)
    assert c.store(KEY, CODE, {"name": "f"})
    return c


def file(c: ObjectCache, key: str = KEY) -> Path:
    return Path(c.folder) / f"{key}.tfo"


def loaded(c: ObjectCache, key: str = KEY) -> bytes | None:
    found = c.load(key)
    return None if found is None else found.code


def test_what_is_stored_is_loaded(kept: ObjectCache):
    assert loaded(kept) == CODE
    assert kept.load(digest("another")) is None
    assert stat.S_IMODE(file(kept).stat().st_mode) == 0o600
    (entry,) = kept.entries()
    assert (entry.key, entry.metadata) == (KEY, {"name": "f"})
    assert kept.clear() == 1 and kept.load(KEY) is None


def test_keys_differ_by_parts_and_not_by_their_concatenation():
    assert len({digest("ab", "c"), digest("a", "bc"), digest("abc"), digest("abc", "")}) == 4


def damaged(kept: ObjectCache, data: bytes) -> None:
    """Damaged data give nothing, go away, and can be stored again."""
    file(kept).write_bytes(data)
    cache._warned.clear()
    with pytest.warns(CacheWarning, match="compiled again"):
        assert kept.load(KEY) is None
    assert not file(kept).exists()


def test_truncations(kept: ObjectCache):
    whole = file(kept).read_bytes()
    for n in [*range(70), *range(70, len(whole), 61), len(whole) - 1]:
        damaged(kept, whole[:n])


def test_bit_flips(kept: ObjectCache):
    whole = file(kept).read_bytes()
    rng = np.random.default_rng(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for bit in [*range(8 * 58), *rng.integers(0, 8 * len(whole), 1000)]:
            data = bytearray(whole)
            data[bit // 8] ^= 1 << bit % 8
            file(kept).write_bytes(data)
            assert kept.load(KEY) is None


def test_garbage_and_additions(kept: ObjectCache):
    whole = file(kept).read_bytes()
    for data in (b"\0" * 1000, os.urandom(5000), whole + b"\0", whole + whole, whole[:8] + os.urandom(200), b"{}"):
        damaged(kept, data)


def test_another_version(kept: ObjectCache, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cache, "VERSION", cache.VERSION + 1)
    with pytest.warns(CacheWarning, match="another version"):
        assert kept.load(KEY) is None
    assert kept.store(KEY, CODE, {}) and loaded(kept) == CODE


def test_a_file_under_anothers_name(kept: ObjectCache):
    other = digest("another")
    os.rename(file(kept), file(kept, other))
    with pytest.warns(CacheWarning):
        assert kept.load(other) is None


def test_one_warning_only(kept: ObjectCache):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for _ in range(5):
            file(kept).write_bytes(b"bad")
            kept.load(KEY)
    assert len(seen) == 1


@posix
def test_a_link_is_not_followed(kept: ObjectCache, tmp_path: Path):
    elsewhere = tmp_path / "elsewhere"
    os.rename(file(kept), elsewhere)
    file(kept).symlink_to(elsewhere)
    with pytest.warns(CacheWarning):
        assert kept.load(KEY) is None
    assert kept.store(KEY, CODE, {}) and loaded(kept) == CODE
    assert not file(kept).is_symlink() and elsewhere.exists()


def test_a_folder_in_place_of_the_file(kept: ObjectCache):
    file(kept).unlink()
    (file(kept) / "inside").mkdir(parents=True)
    with pytest.warns(CacheWarning):
        assert kept.load(KEY) is None
    assert kept.store(KEY, CODE, {}) and loaded(kept) == CODE


@posix
def test_a_pipe_in_place_of_the_file(kept: ObjectCache):
    file(kept).unlink()
    os.mkfifo(file(kept))
    with pytest.warns(CacheWarning):
        assert kept.load(KEY) is None
    assert kept.store(KEY, CODE, {}) and loaded(kept) == CODE


def test_a_time_in_the_future(kept: ObjectCache):
    os.utime(file(kept), (4e9, 4e9))
    assert loaded(kept) == CODE
    kept.sweep()
    assert loaded(kept) == CODE


CALLS = ("open", "replace", "utime", "fstat", "scandir", "unlink", "mkdir", "stat", "fdopen")


@pytest.mark.filterwarnings("ignore::tapefuse._errors.CacheWarning")
@pytest.mark.parametrize("code", ["ENOSPC", "EFBIG", "EROFS", "EACCES", "EMFILE", "EIO", "ESTALE"])
@pytest.mark.parametrize("name", CALLS)
def test_failing_system_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, code: str):
    """The k-th call of a kind fails, for every k: no exception, no wrong bytes, nothing to clean up by hand."""
    real = getattr(os, name)
    for k in range(4):
        calls = iter(range(10**6))

        def fail(*args, calls=calls, k=k, **kwargs):
            if next(calls) == k:
                raise OSError(getattr(errno, code), os.strerror(getattr(errno, code)))
            return real(*args, **kwargs)

        with config(cache_dir=str(tmp_path / "c"), cache=True):
            monkeypatch.setattr(os, name, fail)
            current = cache.current()
            if current is not None:
                current.store(KEY, CODE, {})
                assert loaded(current) in (CODE, None)
                current.sweep()
            monkeypatch.undo()
            current = cache.current()
            assert current is not None
            assert loaded(current) in (CODE, None)
            assert current.store(KEY, CODE, {}) and loaded(current) == CODE


class Full:
    """A file on a full disk: it takes some bytes."""

    def __init__(self, inner, room: int):
        self.inner, self.room = inner, room

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.inner.close()

    def write(self, data: bytes):
        self.inner.write(data[: self.room])
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    c = ObjectCache(tmp_path)
    small = lambda *args, **options: Full(open(*args, **options), 100)  # noqa: SIM115
    monkeypatch.setattr(cache, "open", small, raising=False)
    with pytest.warns(CacheWarning, match="No space"):
        assert not c.store(KEY, CODE, {})
    assert list(tmp_path.iterdir()) == []


@posix
@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder(tmp_path: Path):
    folder = tmp_path / "c"
    folder.mkdir(mode=0o500)
    with config(cache_dir=str(folder)), pytest.warns(CacheWarning):
        assert not cache.current().store(KEY, CODE, {})


@posix
def test_folders_that_others_control_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    open_folder = tmp_path / "open"
    open_folder.mkdir()
    open_folder.chmod(0o777)
    with config(cache_dir=str(open_folder)), pytest.warns(CacheWarning, match="everybody"):
        assert cache.current() is None
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with config(cache_dir=str(tmp_path)), pytest.warns(CacheWarning, match="another user"):
        assert cache.current() is None


def test_a_file_in_place_of_the_folder(tmp_path: Path):
    (tmp_path / "c").write_text("")
    with config(cache_dir=str(tmp_path / "c")), pytest.warns(CacheWarning):
        assert cache.current() is None


def test_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with config(cache_dir=""):
        assert cache.default_folder() == str(tmp_path / "tapefuse")
        assert os.stat(cache.current().folder).st_mode & 0o777 == 0o700
        monkeypatch.setenv("XDG_CACHE_HOME", "relative")
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        assert cache.default_folder() == str(tmp_path / "home" / ".cache" / "tapefuse")
    with config(cache=False):
        assert cache.current() is None


def test_no_home(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as where neither HOME nor the user is known
    with config(cache_dir=""), pytest.warns(CacheWarning, match="no home"):
        assert cache.current() is None


def test_the_longest_unused_go_first(tmp_path: Path):
    c = ObjectCache(tmp_path, limit=5 * 2200)
    keys = [digest(str(k)) for k in range(10)]
    for k, key in enumerate(keys):
        c.store(key, CODE, {})
        os.utime(file(c, key), (1000 + k, 1000 + k))
    c.load(keys[0])
    c.sweep()
    assert [c.load(key) is not None for key in keys] == [True] + [False] * 5 + [True] * 4


def test_leftovers_of_dead_processes(kept: ObjectCache):
    old, young = (Path(kept.folder) / f".tmp-{k}-{k}-{k}" for k in (1, 2))
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 4000,) * 2)
    kept.sweep()
    assert not old.exists() and young.exists() and loaded(kept) == CODE


@posix
def test_processes_killed_while_storing(tmp_path: Path):
    c = ObjectCache(tmp_path)
    rng = np.random.default_rng(1)
    for delay in rng.uniform(0, 0.004, 30):
        child = os.fork()
        if not child:
            while True:
                c.store(KEY, CODE, {})
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert loaded(c) in (CODE, None)
    assert c.store(KEY, CODE, {}) and loaded(c) == CODE


START = """
import numpy as np
from tapefuse.runtime.llvm_engine import load
from tests.runtime.programs import LAYOUT, add, refuse
x = np.ones(3, "f4")
loaded = load(add(), LAYOUT, (), refuse)
assert loaded.call(x, x)._array.tolist() == [2, 2, 2]
print(loaded.cached)
"""


def test_cold_starts_at_once(tmp_path: Path):
    environment = {**os.environ, "TAPEFUSE_CACHE_DIR": str(tmp_path / "c"), "PYTHONPATH": os.getcwd()}
    command = [sys.executable, "-W", "error", "-c", START]
    run = lambda: subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
    children = [run() for _ in range(4)]
    assert [c.wait() for c in children] == [0] * 4
    assert run().communicate()[0] == b"True\n"
    assert not list((tmp_path / "c").glob(".tmp-*"))


def test_programs_survive_damage(tmp_path: Path):
    x = np.ones(3, np.float32)
    with config(cache_dir=str(tmp_path / "c")):
        for spoil in (lambda d: d[:-1], lambda d: b"", lambda d: d[:200] + b"\xff" + d[201:], lambda d: d):
            loaded = load(add(), LAYOUT, (), refuse)
            assert loaded.call(x, x)._array.tolist() == [2, 2, 2]
            for path in (tmp_path / "c").iterdir():
                path.write_bytes(spoil(path.read_bytes()))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", CacheWarning)
                assert load(add(), LAYOUT, (), refuse).call(x, x)._array.tolist() == [2, 2, 2]
        assert load(add(), LAYOUT, (), refuse).cached
