import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from omniavatar.errors import WeightsError
from omniavatar.weights.checkpoint import Checkpoint, shape_of
from omniavatar.weights.files import find_shards

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b.bias": torch.ones(4).half()}


def save_torch(tensors, file, *, zipped=True):
    torch.save(tensors, file, _use_new_zipfile_serialization=zipped)


@pytest.mark.parametrize(
    ("name", "save"),
    [
        ("weights.safetensors", save_file),
        ("weights.pt", save_torch),
        ("weights.pth", save_torch),
        ("weights.bin", lambda tensors, file: save_torch(tensors, file, zipped=False)),
    ],
)
def test_every_kind_of_file_gives_its_tensors(tmp_path, name, save):
    save(TENSORS, tmp_path / name)
    with Checkpoint(tmp_path / name) as checkpoint:
        assert set(checkpoint) == set(TENSORS)
        assert len(checkpoint) == 2
        for key, tensor in TENSORS.items():
            assert shape_of(checkpoint, key) == tuple(tensor.shape)
            assert checkpoint[key].dtype == tensor.dtype
            assert torch.equal(checkpoint[key], tensor)


def test_tensors_outlive_the_files(tmp_path):
    for name, save in (("a.safetensors", save_file), ("a.pt", save_torch)):
        save(TENSORS, tmp_path / name)
        with Checkpoint(tmp_path / name) as checkpoint:
            tensors = dict(checkpoint)
        (tmp_path / name).unlink()
        assert all(torch.equal(tensors[key], tensor) for key, tensor in TENSORS.items())


def test_parts_are_one_checkpoint(tmp_path):
    for number, (key, tensor) in enumerate(TENSORS.items(), 1):
        save_file({key: tensor}, tmp_path / f"model-{number:05}-of-00002.safetensors")
    files = find_shards(tmp_path, "model")
    assert [file.name for file in files] == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ]
    with Checkpoint(*files) as checkpoint:
        assert set(checkpoint) == set(TENSORS)


def test_missing_part_is_named(tmp_path):
    for number in (1, 3):
        save_file(TENSORS, tmp_path / f"model-{number:05}-of-00003.safetensors")
    with pytest.raises(WeightsError, match=r"model-00002-of-00003\.safetensors"):
        find_shards(tmp_path, "model")


def test_folder_without_the_files_has_no_shards(tmp_path):
    save_file(TENSORS, tmp_path / "other.safetensors")
    assert find_shards(tmp_path, "model") == ()
    assert find_shards(tmp_path / "nowhere", "model") == ()


def test_tensor_that_is_in_two_files_is_named(tmp_path):
    for name in ("1.safetensors", "2.safetensors"):
        save_file({"a.weight": torch.ones(1)}, tmp_path / name)
    with pytest.raises(WeightsError, match=r"a\.weight"):
        Checkpoint(tmp_path / "1.safetensors", tmp_path / "2.safetensors")


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pt"])
def test_cut_file_is_named_and_not_read(tmp_path, name):
    file = tmp_path / name
    (save_file if file.suffix == ".safetensors" else save_torch)(TENSORS, file)
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(WeightsError, match=f"{name}.*damaged or incomplete"):
        Checkpoint(file)


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pt"])
def test_block_of_rubbish_in_a_file_is_named_and_not_loaded(tmp_path, name):
    file = tmp_path / name
    tensors = {"whole": torch.ones(8), "hit": torch.full((4096,), 0.5, dtype=torch.bfloat16)}
    (save_file if file.suffix == ".safetensors" else save_torch)(tensors, file)
    content = file.read_bytes()
    begin = content.index(torch.full((64,), 0.5, dtype=torch.bfloat16).view(torch.uint8).numpy())
    rubbish = np.random.default_rng(0).bytes(512)
    file.write_bytes(content[: begin + 64] + rubbish + content[begin + 64 + 512 :])
    with Checkpoint(file) as checkpoint:
        assert torch.equal(checkpoint["whole"], tensors["whole"])
        with pytest.raises(WeightsError, match=rf"{name} is damaged: hit has numbers"):
            checkpoint["hit"]


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pt", "weights.bin"])
def test_page_of_a_server_in_place_of_a_file_is_refused(tmp_path, name):
    (tmp_path / name).write_text("<html>404: not found</html>")
    with pytest.raises(WeightsError, match=name):
        Checkpoint(tmp_path / name)


class Payload:
    """Would run code when it is unpickled."""

    def __reduce__(self):
        return (print, ("gotcha",))


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_file_is_not_run(tmp_path, capsys, zipped):
    save_torch({"a": Payload()}, tmp_path / "weights.pt", zipped=zipped)
    with pytest.raises(WeightsError, match="more than tensors"):
        Checkpoint(tmp_path / "weights.pt")
    (tmp_path / "weights.bin").write_bytes(pickle.dumps(Payload(), protocol=2))
    with pytest.raises(WeightsError):
        Checkpoint(tmp_path / "weights.bin")
    assert "gotcha" not in capsys.readouterr().out


def test_file_of_other_things_is_refused(tmp_path):
    save_torch({"step": 3}, tmp_path / "weights.pt")
    with pytest.raises(WeightsError, match="not a table of named tensors"):
        Checkpoint(tmp_path / "weights.pt")


def test_table_within_what_a_trainer_keeps_is_read(tmp_path):
    save_torch({"state_dict": TENSORS, "epoch": 3}, tmp_path / "weights.pt")
    with Checkpoint(tmp_path / "weights.pt") as checkpoint:
        assert set(checkpoint) == set(TENSORS)
        assert torch.equal(checkpoint["a.weight"], TENSORS["a.weight"])


@pytest.mark.parametrize("name", ["weights.gguf", "weights.safetensors", "weights.pth"])
def test_gguf_file_is_called_by_its_name(tmp_path, name):
    (tmp_path / name).write_bytes(b"GGUF\3\0\0\0" + bytes(100))
    with pytest.raises(WeightsError, match=f"{name} is a GGUF file.*Use safetensors"):
        Checkpoint(tmp_path / name)


@pytest.mark.parametrize(
    "tensors",
    [
        {"layer.scale_weight": torch.ones(())},
        {"layer.weight_scale": torch.ones(4, 1)},
        {"scaled_fp8": torch.ones(2).to(torch.float8_e4m3fn)},
        {"layer.weight": torch.ones(4, 4, dtype=torch.int8)},
        {"layer.weight": torch.ones(4, 4, dtype=torch.uint8)},
    ],
    ids=lambda tensors: "-".join([*tensors, str(next(iter(tensors.values())).dtype)]),
)
@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pt"])
def test_quantised_weights_are_refused_before_any_is_read(tmp_path, name, tensors):
    file = tmp_path / name
    (save_file if file.suffix == ".safetensors" else save_torch)({**TENSORS, **tensors}, file)
    (quantised,) = tensors
    with pytest.raises(WeightsError, match=f"such as scaled fp8 or int8: it has {quantised}"):
        Checkpoint(file)


def test_plain_fp8_and_single_whole_numbers_are_read(tmp_path):
    plain = {"layer.weight": torch.ones(4, 4).to(torch.float8_e4m3fn), "alpha": torch.tensor(4)}
    save_file(plain, tmp_path / "weights.safetensors")
    with Checkpoint(tmp_path / "weights.safetensors") as checkpoint:
        assert checkpoint.fp8 == {"layer.weight"}
        assert checkpoint["alpha"] == 4


def test_missing_file_is_named(tmp_path):
    with pytest.raises(WeightsError, match=r"weights\.pt is missing"):
        Checkpoint(tmp_path / "weights.pt")
