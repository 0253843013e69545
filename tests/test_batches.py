"""Batches: from uploads to rows without running anything, and rows carried out by real jobs."""

import csv
import io
import zipfile

import pytest
from app_process import write_portrait, write_voice

from omniavatar import InputError, read_settings
from omniavatar.serving.batch_rows import COLUMNS, gather, read_rows
from omniavatar.serving.batches import Batches
from omniavatar.serving.jobs import Jobs
from omniavatar.serving.pipelines import Pipelines
from omniavatar.serving.store import StoreSettings

QUICK = {
    "resolution": "small",
    "steps": 1,
    "guidance": 1.0,
    "max_tokens": 300,
    "overlap_frames": 1,
}


def places(tmp_path, *names):
    found = {}
    for name in names:
        found[name] = tmp_path / name
        found[name].parent.mkdir(parents=True, exist_ok=True)
        found[name].write_bytes(name.encode())
    return found


def table(tmp_path, text, *names, encoding="utf-8", **options):
    files = places(tmp_path, *names)
    path = tmp_path / "rows.csv"
    path.write_bytes(text.encode(encoding))
    return rows({**files, "rows.csv": path}, **options)


def rows(files, settings=None, model="nano", most=50):
    return read_rows(files, settings=settings or {}, model=model, most=most)


def pairs(found):
    return [(row.request.image.name, row.request.audio.name) for row in found]


class TestFilesAlone:
    def test_one_picture_speaks_every_recording(self, tmp_path):
        found = rows(places(tmp_path, "b.wav", "a.mp3", "face.PNG"))
        assert pairs(found) == [("face.PNG", "a.mp3"), ("face.PNG", "b.wav")]
        assert [row.name for row in found] == ["face-a", "face-b"]
        assert [row.number for row in found] == [1, 2]

    def test_every_picture_speaks_one_recording(self, tmp_path):
        found = rows(places(tmp_path, "x.jpg", "y.webp", "v.ogg"), {"seed": 5}, "14B")
        assert pairs(found) == [("x.jpg", "v.ogg"), ("y.webp", "v.ogg")]
        assert {(row.request.seed, row.model) for row in found} == {(5, "14B")}

    def test_several_of_both_go_by_their_names(self, tmp_path):
        found = rows(places(tmp_path, "Bo.png", "anna.jpg", "bo.wav", "Anna.m4a"))
        assert sorted(pairs(found)) == [("Bo.png", "bo.wav"), ("anna.jpg", "Anna.m4a")]

    @pytest.mark.parametrize(
        ("names", "told"),
        [
            (["a.png", "b.png", "a.wav", "c.wav"], "do not go together"),
            (["a.png", "b.png", "a.wav", "a.mp3"], "do not go together"),
            (["a.png"], "no recording"),
            (["a.wav", "b.mp3"], "no picture"),
            ([], "no picture"),
            (["a.csv", "b.csv"], "2 tables"),
        ],
    )
    def test_what_can_not_be_paired_is_one_sentence(self, tmp_path, names, told):
        with pytest.raises(InputError, match=told) as fault:
            rows(places(tmp_path, *names))
        assert fault.value.field == "files"

    def test_too_many_are_refused(self, tmp_path):
        with pytest.raises(InputError, match="up to 2"):
            rows(places(tmp_path, "a.png", *(f"{n}.wav" for n in range(3))), most=2)


class TestTables:
    def test_cells_become_settings_and_empty_ones_take_the_page_s(self, tmp_path):
        text = (
            "image,audio,prompt,steps,guidance,cache_third_pass,model,aspect\n"
            'a.png,v.wav,"Two lines,\nshe smiles",8,2.5,no,1.3B,portrait\n'
            "\n"
            "a.png,v.wav,,,,,,\n"
        )
        first, second = table(tmp_path, text, "a.png", "v.wav", settings={"steps": 3, "seed": 9})
        assert first.request.prompt == "Two lines,\nshe smiles"
        assert (first.request.steps, first.request.guidance, first.model) == (8, 2.5, "1.3B")
        assert first.request.cache_third_pass is False
        assert (second.request.steps, second.request.seed, second.model) == (3, 9, "nano")
        assert second.request.cache_third_pass is True
        assert (first.name, second.name) == ("a-v", "a-v-2")

    def test_text_that_is_cut_by_its_commas_fails_its_row_alone(self, tmp_path):
        text = "image,audio,prompt\na.png,v.wav,She talks, smiling\na.png,v.wav,She talks\n"
        first, second = table(tmp_path, text, "a.png", "v.wav")
        assert first.request is None
        assert "Row 1: there is no column for 'smiling'" in first.error
        assert second.request.prompt == "She talks"

    @pytest.mark.parametrize("separator", [",", ";", "\t"])
    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
    def test_spreadsheets_of_all_countries_are_read(self, tmp_path, separator, encoding):
        text = f"Image{separator} audio\r\nä.png{separator}v.wav\r\n"
        assert pairs(table(tmp_path, text, "ä.png", "v.wav", encoding=encoding)) == [
            ("ä.png", "v.wav")
        ]

    @pytest.mark.parametrize(
        ("cells", "told"),
        [
            ("b.png,v.wav,1", "Row 2: image is 'b.png', but no uploaded file"),
            ("a.png,,1", "Row 2: audio is missing"),
            ("a.png,v.wav,many", "Row 2: steps is 'many'. Use a whole number from 1 to 100."),
            ("a.png,v.wav,1.5", "Row 2: steps is 1.5"),
            ("a.png,v.wav,1e999", "Row 2: steps is inf"),
            ("/etc/passwd,v.wav,1", "Row 2: image is '/etc/passwd', but no uploaded file"),
            ("../a.png,v.wav,1", "Row 2: image is '../a.png', but no uploaded file"),
            ("a.png", "Row 2: audio is missing"),
        ],
    )
    def test_a_bad_row_says_why_and_the_others_stay(self, tmp_path, cells, told):
        text = f"image,audio,steps\na.png,v.wav,1\n{cells}\na.png,v.wav,2\n"
        first, bad, last = table(tmp_path, text, "a.png", "v.wav")
        assert bad.request is None
        assert bad.error.startswith(told)
        assert "\n" not in bad.error
        assert first.error is last.error is None
        assert last.request.steps == 2

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("image,prompt\na.png,x\n", "no column 'audio'"),
            ("image,audio,speed\n", "column 'speed'"),
            ("image,audio,image\n", "twice"),
            ("", "is empty"),
            ("image,audio\n", "no row"),
            ("image,audio\n" + "a.png,v.wav\n" * 51, "up to 50"),
            ("image,audio\n" + '"' + "x" * 200_000, "can not be read as CSV"),
            ("image,audio\n" + "x" * 1_100_000, "larger than 1 MB"),
        ],
    )
    def test_a_table_that_can_not_be_understood_is_one_sentence(self, tmp_path, text, told):
        with pytest.raises(InputError, match=told) as fault:
            table(tmp_path, text, "a.png", "v.wav")
        assert "\n" not in str(fault.value)

    def test_other_encodings_are_refused(self, tmp_path):
        with pytest.raises(InputError, match="UTF-8"):
            table(tmp_path, "image,audio\nä.png,v.wav\n", "v.wav", encoding="latin-1")

    def test_every_setting_is_a_column(self):
        assert {"image", "audio", "model", "prompt", "seed", "audio_start"} <= set(COLUMNS)


class TestZips:
    def pack(self, path, **contents):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in contents.items():
                archive.writestr(name, content)
        return path

    def test_a_table_names_files_by_their_path_or_name(self, tmp_path):
        text = "image,audio\nfaces/a.png,b.wav\nfaces\\a.png,./sound/b.wav\na.png,b.wav\n"
        archive = self.pack(
            tmp_path / "all.zip",
            **{"faces/a.png": "1", "faces/b.png": "2", "sound/b.wav": "3", "rows.csv": text},
            **{"__MACOSX/x.png": "", ".hidden": "", "folder/": ""},
        )
        files = gather([archive], tmp_path / "unpacked")
        assert set(files) == {"faces/a.png", "faces/b.png", "sound/b.wav", "rows.csv"}
        first, second, third = rows(files)
        assert first.error is second.error is third.error is None
        assert first.request.image.read_text() == "1"

    def test_a_name_that_several_files_have_needs_its_path(self, tmp_path):
        files = places(tmp_path, "x/a.png", "y/a.png", "v.wav")
        (tmp_path / "t.csv").write_text("image,audio\na.png,v.wav\nx/a.png,v.wav\n")
        bad, good = rows({**files, "t.csv": tmp_path / "t.csv"})
        assert "2 uploaded files" in bad.error
        assert good.request.image == tmp_path / "x/a.png"

    def test_nothing_is_written_outside(self, tmp_path):
        names = ["../../evil.png", "/abs.png", "a/../../b.png", "..", "c\\..\\d.png", "x" * 300]
        archive = self.pack(tmp_path / "all.zip", **dict.fromkeys(names, "x"))
        folder = tmp_path / "deep" / "unpacked"
        for path in gather([archive], folder).values():
            assert path.resolve().is_relative_to(folder.resolve())
            assert path.is_file()
        assert {path.name for path in tmp_path.iterdir()} == {"all.zip", "deep"}

    def test_bombs_and_damage_are_one_sentence(self, tmp_path, monkeypatch):
        monkeypatch.setattr("omniavatar.serving.batch_rows.UNPACKED_BYTES", 1_000_000)
        bomb = self.pack(tmp_path / "bomb.zip", **{"a.png": bytes(2_000_000)})
        many = self.pack(tmp_path / "many.zip", **{f"{n}.png": "" for n in range(1001)})
        (tmp_path / "broken.zip").write_bytes(bomb.read_bytes()[:200])
        (tmp_path / "no.zip").write_text("no zip")
        for path, told in (
            (bomb, "unpacks to more"),
            (many, "more than 1000 files"),
            (tmp_path / "broken.zip", "can not be unpacked"),
            (tmp_path / "no.zip", "can not be unpacked"),
        ):
            with pytest.raises(InputError, match=told):
                gather([path], tmp_path / "unpacked" / path.stem)

    def test_two_files_of_one_name_are_refused(self, tmp_path):
        (tmp_path / "other").mkdir()
        with pytest.raises(InputError, match="two files called"):
            gather([tmp_path / "a.png", tmp_path / "other" / "a.png"], tmp_path)


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    settings = StoreSettings(data=tmp_path_factory.mktemp("data"), waiting=1, batch_rows=5)
    return Jobs(Pipelines(), settings)


@pytest.fixture(scope="module")
def batches(jobs):
    return Batches(jobs)


@pytest.fixture
def files(tmp_path):
    (tmp_path / "bad.png").write_text("no picture")
    return {
        "anna.png": write_portrait(tmp_path / "anna.png"),
        "bad.png": tmp_path / "bad.png",
        "v.wav": write_voice(tmp_path / "v.wav", 0.2),
        "t.csv": tmp_path / "t.csv",
    }


def test_every_good_row_becomes_a_video_in_the_zip(batches, jobs, files):
    files["t.csv"].write_text(
        "image,audio,seed,prompt\nanna.png,v.wav,11,=SUM(1)\nbad.png,v.wav,12,\n"
        "anna.png,v.wav,13,\nanna.png,none.wav,14,\n"
    )
    consent = {"agreed": True}
    batch = batches.submit(rows(files, QUICK), visitor="me", consent=consent)
    views = list(batches.follow(batch))
    fractions = [view.fraction for view in views]
    assert fractions == sorted(fractions)
    last = views[-1]
    assert [row.state for row in last.rows] == ["finished", "failed", "finished", "failed"]
    assert last.finished == 2
    assert last.rows[1].error.startswith("Row 2: bad.png")
    assert last.rows[3].error.startswith("Row 4: audio is 'none.wav'")
    with zipfile.ZipFile(last.archive) as archive:
        assert set(archive.namelist()) == {"anna-v.mp4", "anna-v-2.mp4", "results.csv"}
        table = list(csv.DictReader(io.StringIO(archive.read("results.csv").decode())))
        (files["t.csv"].parent / "out.mp4").write_bytes(archive.read("anna-v-2.mp4"))
    stored = read_settings(files["t.csv"].parent / "out.mp4")
    assert (stored["seed"], stored["consent"]) == (13, consent)
    assert [row["state"] for row in table] == [row.state for row in last.rows]
    assert [row["video"] for row in table] == ["anna-v.mp4", "", "anna-v-2.mp4", ""]
    assert (table[0]["seed"], table[0]["prompt"]) == ("11", "'=SUM(1)")
    assert table[1]["error"].startswith("Row 2")
    assert batches.view(batch) == last

    jobs.remove(last.rows[0].job, visitor="me")
    assert not last.archive.exists()
    view = batches.view(batch)
    first = view.rows[0]
    assert (first.phase, first.error) == ("Deleted", "Row 1: its video was deleted.")
    with zipfile.ZipFile(view.archive) as archive:
        assert set(archive.namelist()) == {"anna-v-2.mp4", "results.csv"}


def test_a_batch_that_is_closed_by_its_owner_ends_its_jobs(batches, files):
    del files["t.csv"], files["bad.png"]
    batch = batches.submit([*rows(files, {"steps": 50}), *rows(files)], visitor="me")
    follower = batches.follow(batch, cancel_on_close=True)
    next(follower)
    follower.close()
    assert {row.state for row in list(batches.follow(batch))[-1].rows} == {"stopped"}


def test_more_rows_than_allowed_and_unknown_batches_are_refused(batches, files):
    del files["t.csv"], files["bad.png"]
    with pytest.raises(InputError, match="1 to 5"):
        batches.submit(rows(files) * 6, visitor="me")
    with pytest.raises(InputError, match="not here any more"):
        next(batches.follow("0" * 32))
    assert batches.view("../secret") is None
