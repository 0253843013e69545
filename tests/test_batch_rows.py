"""The zip files of a batch: damaged ones, and what all of them together may hold."""

import zipfile

import pytest

from omniavatar import InputError
from omniavatar.serving.batch_rows import gather

METHODS = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]


def pack(path, method=zipfile.ZIP_DEFLATED, **contents):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize("method", METHODS)
def test_damaged_contents_are_one_sentence_whatever_packed_them(method, tmp_path):
    archive = pack(tmp_path / "a.zip", method, **{"a.png": bytes(range(256)) * 20})
    whole = archive.read_bytes()
    with zipfile.ZipFile(archive) as content:
        (entry,) = content.infolist()
    begin = 30 + len(entry.filename)  # behind the header of the file
    for at in range(begin + 20, begin + entry.compress_size - 20, 9):
        damaged = whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :]
        archive.write_bytes(damaged)
        with pytest.raises(InputError, match=r"a\.zip can not be unpacked .* again") as caught:
            gather([archive], tmp_path / str(at))
        assert caught.value.field == "files"


def test_names_that_can_not_be_read_are_one_sentence(tmp_path):
    archive = pack(tmp_path / "a.zip", **{"ü.png": "1"})
    archive.write_bytes(archive.read_bytes().replace("ü".encode(), b"\xff\xff"))
    with pytest.raises(InputError, match="can not be unpacked"):
        gather([archive], tmp_path / "unpacked")


def test_bounds_are_of_all_zips_together_and_told_before_more_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr("omniavatar.serving.batch_rows.UNPACKED_BYTES", 1000)
    monkeypatch.setattr("omniavatar.serving.batch_rows.UNPACKED_FILES", 5)
    large = [pack(tmp_path / f"large-{n}.zip", **{f"{n}.png": bytes(600)}) for n in range(2)]
    many = [
        pack(tmp_path / f"many-{n}.zip", **{f"{n}-{each}.png": "" for each in range(3)})
        for n in range(2)
    ]
    assert len(gather([large[0], many[0]], tmp_path / "fits")) == 4
    for name, archives, told in (("large", large, "1e-06 GB"), ("many", many, "5 files")):
        with pytest.raises(InputError, match=f"unpacks to more than {told}"):
            gather(archives, tmp_path / name)
        assert not (tmp_path / name / "1").exists()
