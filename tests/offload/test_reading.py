"""Reading by offset with several threads: the file's bytes, wherever a range begins and ends."""

import os
import threading
import time

import numpy as np
import pytest

from roster.errors import RosterError
from roster.offload import reading
from roster.offload.reading import BLOCK, CHUNK, Files, _pieces


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("reading") / "weights"
    path.write_bytes(np.random.default_rng(0).integers(0, 256, 5 * CHUNK + 777, np.uint8).tobytes())
    return path


@pytest.mark.parametrize("direct", [False, True])
def test_any_range_is_the_files(file, direct):
    files, whole = Files([file], direct), file.read_bytes()
    for offset, size in (
        (0, len(whole)),
        (1, 3 * CHUNK),
        (BLOCK - 1, 2),
        (CHUNK + 13, 2 * CHUNK + 1),
        (len(whole) - 1, 1),
    ):
        into = bytearray(size)
        files.read(file, offset, memoryview(into))
        assert into == whole[offset : offset + size]
    files.close()


def test_pieces_end_where_blocks_begin():
    pieces = _pieces(BLOCK + 5, memoryview(bytearray(2 * CHUNK)))
    assert [offset % BLOCK for offset, _ in pieces[1:]] == [0, 0]
    assert [len(each) for _, each in pieces] == [CHUNK - 5, CHUNK, 5]


@pytest.mark.parametrize("direct", [False, True])
def test_a_file_that_ends_early_is_an_error_whichever_thread_meets_it(file, tmp_path, direct):
    short = tmp_path / "short"
    short.write_bytes(file.read_bytes()[: 3 * CHUNK])
    files = Files([short], direct)
    with pytest.raises(RosterError, match="became shorter"):
        files.read(short, 0, memoryview(bytearray(5 * CHUNK)))
    into = bytearray(2 * CHUNK)
    files.read(short, 5, memoryview(into))
    assert into == short.read_bytes()[5 : 5 + 2 * CHUNK], "and the others read on"
    files.close()


def test_helpers_share_in_large_reads(file, monkeypatch):
    readers, original = set(), os.preadv

    def slow(*given):
        readers.add(threading.get_ident())
        time.sleep(0.02)
        return original(*given)

    monkeypatch.setattr(reading.os, "preadv", slow)
    files = Files([file])
    files.read(file, 0, memoryview(bytearray(5 * CHUNK)))
    assert len(readers) > 1
    files.close()
