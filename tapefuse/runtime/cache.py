"""Compiled programs kept on disk between processes: one file per key, checked whenever it is read.

A file is  magic, version, length of metadata and object, SHA-256, metadata (JSON), object code.  The digest covers the
key too, so a file under another's name is not taken for it. Files appear whole (written aside, then renamed), so any
number of processes may share a folder. Nobody waits for the disk: what a power failure leaves half is found damaged.
Whatever goes wrong means only that a program is compiled again.
"""

from __future__ import annotations

import json
import os
import stat
import struct
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from tapefuse._config import config
from tapefuse._errors import CacheWarning
from tapefuse._hash import sha256
from tapefuse._log import Logger

VERSION = 2
LIMIT = 1 << 29  # bytes a folder may grow to
_MAGIC = b"TAPEFUSE"
_HEAD = struct.Struct("<8sIIQ32s")
_SUFFIX, _ASIDE = ".tfo", ".tmp-"
_STALE = 3600.0  # seconds after which a file written aside belongs to a process that died
_SWEEP_EVERY = 64
_log = Logger("cache")
_warned: set[str] = set()


class Entry(NamedTuple):
    """One kept program."""

    key: str
    size: int
    used: float  # seconds since the epoch
    metadata: dict[str, Any]


class Kept(NamedTuple):
    """What is in a file: code, and what is to be known about it (JSON)."""

    metadata: dict[str, Any]
    code: bytes


def digest(*parts: str) -> str:
    """The key for everything that object code depends on: equal parts, equal code."""
    h = sha256()
    for part in parts:
        data = part.encode()
        h.update(len(data).to_bytes(8, "little") + data)
    return h.hexdigest()


def current() -> ObjectCache | None:
    """The cache that the flags `cache` and `cache_dir` ask for; None when it is off or its folder cannot be used."""
    if not config.cache:
        return None
    try:
        folder = default_folder()
        return ObjectCache(folder) if _usable(folder) else None
    except OSError as e:
        _warn_once("folder", f"programs are not kept on disk: {e}")
        return None


def default_folder() -> str:
    """The folder the flags ask for: `cache_dir`, or `tapefuse` in the user's cache folder."""
    if config.cache_dir:
        return os.path.expanduser(config.cache_dir)
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):
        home = os.path.expanduser("~")
        if not os.path.isabs(home):
            raise OSError("there is no home folder; set TAPEFUSE_CACHE_DIR")
        base = os.path.join(home, ".cache")
    return os.path.join(base, "tapefuse")


class ObjectCache:
    """Object files in one folder. Keys are hexadecimal digests."""

    _stores = 0

    def __init__(self, folder: str | os.PathLike[str], limit: int = LIMIT):
        self.folder = os.fspath(folder)
        self.limit = limit

    def load(self, key: str) -> Kept | None:
        """What is kept under `key`, or None. A damaged file is removed, with one warning per process."""
        path = self._path(key)
        try:
            data = _read(path)
        except FileNotFoundError:
            return None
        except OSError as e:
            _warn_once("read", f"{path} cannot be read, the program is compiled again: {e}")
            if os.path.isdir(path):  # anything else is replaced when the program is stored
                _discard(path)
            return None
        found = _unpack(key, data)
        if found is None:
            _warn_once("damage", f"{path} is damaged or of another version; the program is compiled again")
            _discard(path)
            return None
        try:
            os.utime(path)
        except OSError as e:
            _log.debug("cannot note the use of %s: %s", path, e)
        return found

    def store(self, key: str, object_code: bytes, metadata: Mapping[str, Any]) -> bool:
        """Keep object code. False, with one warning per process, when the disk does not take it."""
        aside = os.path.join(self.folder, f"{_ASIDE}{os.getpid()}-{threading.get_ident()}-{time.time_ns()}")
        try:
            with open(aside, "xb", opener=_private) as file:
                file.write(_pack(key, object_code, metadata))
            os.replace(aside, self._path(key))
        except OSError as e:
            _warn_once("write", f"programs are not kept in {self.folder}: {e}")
            _discard(aside)
            return False
        ObjectCache._stores += 1
        if ObjectCache._stores % _SWEEP_EVERY == 1:
            self.sweep()
        return True

    def sweep(self) -> None:
        """Remove what was written aside by processes that died, then the longest unused programs above the limit."""
        total, now = 0, time.time()
        for used, size, path in sorted(self._files(), reverse=True):
            aside = os.path.basename(path).startswith(_ASIDE)
            total += 0 if aside else size
            if (aside and now - used > _STALE) or total > self.limit:
                _discard(path)

    def entries(self) -> Iterator[Entry]:
        """What is kept, the last used first; damaged files are left out."""
        for used, size, path in sorted(self._files(), reverse=True):
            key, suffix = os.path.splitext(os.path.basename(path))
            if suffix == _SUFFIX:
                try:
                    found = _unpack(key, _read(path))
                except OSError:
                    continue
                if found is not None:
                    yield Entry(key, size, used, found.metadata)

    def verify(self) -> list[str]:
        """Read every file and remove the damaged ones; their paths."""
        damaged = []
        for _, _, path in self._files():
            key, suffix = os.path.splitext(os.path.basename(path))
            if suffix == _SUFFIX:
                try:
                    whole = _unpack(key, _read(path)) is not None
                except FileNotFoundError:  # another process has removed it
                    continue
                except OSError as e:
                    _log.info("%s cannot be read: %s", path, e)
                    whole = False
                if not whole:
                    damaged.append(path)
                    _discard(path)
        return damaged

    def clear(self) -> int:
        """Remove every file; how many there were."""
        return sum(_discard(path) for _, _, path in self._files())

    def _path(self, key: str) -> str:
        return os.path.join(self.folder, key + _SUFFIX)

    def _files(self) -> list[tuple[float, int, str]]:
        found = []
        try:
            with os.scandir(self.folder) as items:
                for item in items:
                    if item.name.endswith(_SUFFIX) or item.name.startswith(_ASIDE):
                        info = item.stat(follow_symlinks=False)
                        found.append((info.st_mtime, info.st_size, item.path))
        except OSError as e:
            _log.debug("cannot list %s: %s", self.folder, e)
        return found


def _usable(folder: str) -> bool:
    """Make the folder; refuse one that others could put code into."""
    os.makedirs(os.path.dirname(folder) or ".", exist_ok=True)
    with suppress(FileExistsError):
        os.mkdir(folder, 0o700)
    info = os.stat(folder)
    if not stat.S_ISDIR(info.st_mode):
        raise NotADirectoryError(f"{folder} is not a folder")
    if not hasattr(os, "geteuid"):
        return True
    if info.st_uid != os.geteuid():
        _warn_once("owner", f"programs are not kept: {folder} belongs to another user; set TAPEFUSE_CACHE_DIR")
        return False
    if info.st_mode & stat.S_IWOTH:
        _warn_once("mode", f"programs are not kept: everybody may write to {folder}; chmod 700 it")
        return False
    return True


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _read(path: str) -> bytes:
    """The bytes of a regular file; a link or anything else in its place is an OSError."""
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError("not a regular file")
        return file.read()


def _checksum(key: str, version: int, metadata: bytes, object_code: bytes) -> bytes:
    lengths = struct.pack("<IIQ", version, len(metadata), len(object_code))
    return sha256(key.encode() + lengths + metadata + object_code).digest()


def _pack(key: str, object_code: bytes, metadata: Mapping[str, Any]) -> bytes:
    text = json.dumps(dict(metadata), sort_keys=True).encode()
    check = _checksum(key, VERSION, text, object_code)
    return _HEAD.pack(_MAGIC, VERSION, len(text), len(object_code), check) + text + object_code


def _unpack(key: str, data: bytes) -> Kept | None:
    """What was packed, or None if a single bit differs from what was written under this key."""
    if len(data) < _HEAD.size:
        return None
    magic, version, n_text, n_object, check = _HEAD.unpack_from(data)
    if magic != _MAGIC or version != VERSION or len(data) != _HEAD.size + n_text + n_object:
        return None
    text, object_code = data[_HEAD.size : _HEAD.size + n_text], data[_HEAD.size + n_text :]
    if _checksum(key, version, text, object_code) != check:
        return None
    return Kept(json.loads(text), object_code)


def _discard(path: str) -> bool:
    """Remove a file (or what stands in its place); False when that is not possible."""
    try:
        if os.path.isdir(path) and not os.path.islink(path):
            os.rename(path, f"{path}.aside-{os.getpid()}-{time.time_ns()}")
        else:
            os.unlink(path)
    except OSError as e:
        _log.debug("cannot remove %s: %s", path, e)
        return False
    return True


def _warn_once(topic: str, message: str) -> None:
    _log.info(message)
    if topic not in _warned:
        _warned.add(topic)
        warnings.warn(message, CacheWarning, stacklevel=3)
