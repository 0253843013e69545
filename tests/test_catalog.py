import dataclasses
import json

import pytest

from omniavatar.errors import InputError
from omniavatar.plan import frames_per_chunk
from omniavatar.weights.catalog import CATALOG, Bundled, Published


def test_catalog_names_its_entries():
    assert list(CATALOG) == ["nano", "1.3B", "14B"]
    assert all(spec.name == name for name, spec in CATALOG.items())


def test_entries_and_the_catalog_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        CATALOG["nano"].steps = 5  # type: ignore[misc]
    with pytest.raises(TypeError):
        CATALOG["nano"] = CATALOG["14B"]  # type: ignore[index]


def test_every_entry_can_chain_chunks_at_each_of_its_sizes():
    for spec in CATALOG.values():
        for height, width in spec.sizes:
            assert height % 16 == width % 16 == 0
            assert frames_per_chunk(spec.max_tokens, height, width) > spec.overlap_frames
        assert spec.overlap_frames % 4 == 1
        assert spec.sample_rate % spec.fps == 0


def test_nano_makes_the_chunks_that_it_was_trained_on():
    nano = CATALOG["nano"]
    assert nano.sizes == ((192, 192), (256, 192), (192, 256))
    chunks = [frames_per_chunk(nano.max_tokens, *size) for size in nano.sizes]
    assert chunks == [89, 65, 65]  # as it was trained
    small = nano.at_resolution("small")
    assert small.sizes == ((128, 128),)
    assert frames_per_chunk(small.max_tokens, 128, 128) == 89


@pytest.mark.parametrize("name", ["1.3B", "14B"])
def test_published_entries_have_the_published_defaults(name):
    spec = CATALOG[name]
    assert spec.sizes == ((400, 720), (720, 720), (720, 400))
    assert (spec.steps, spec.guidance, spec.max_tokens, spec.shift) == (50, 4.5, 30000, 5.0)
    assert (spec.fps, spec.sample_rate, spec.text_tokens) == (25, 16000, 512)
    assert len(spec.cache_coefficients) == 5
    large = spec.at_resolution("large")
    assert large.sizes == ((720, 720), (528, 960), (960, 528), (720, 1280), (1280, 720))
    chunks = [frames_per_chunk(large.max_tokens, *size) for size in large.sizes]
    assert chunks == [157, 161, 161, 85, 85]
    with pytest.raises(InputError, match="Use standard or large") as refusal:
        spec.at_resolution("small")
    assert refusal.value.field == "resolution"
    rows, bias = spec.latent_rgb
    assert [len(row) for row in rows] == [3] * 16
    assert len(bias) == 3


def test_each_published_entry_lists_its_own_files():
    for name, shards in (("1.3B", 1), ("14B", 6)):
        source = CATALOG[name].source
        assert isinstance(source, Published)
        assert source.base.folder == f"Wan2.1-T2V-{name}"
        assert source.adapter.folder == f"OmniAvatar-{name}"
        assert source.speech_encoder.folder == "wav2vec2-base-960h"
        base = [file.path for file in source.base.files]
        assert sum("diffusion_pytorch_model" in path for path in base) == shards
        assert "Wan2.1_VAE.pth" in base
        adapter = [file.path for file in source.adapter.files]
        assert adapter == ["config.json", "pytorch_model.pt"]


def test_published_entries_know_how_much_room_they_take():
    """Sizes of the weights as far as the hub has told them: in gigabytes, the original layout."""
    for name, size in (("1.3B", 18.6), ("14B", 71.9)):
        source = CATALOG[name].source
        assert source.size() == pytest.approx(size * 1e9, rel=0.01)
        assert source.size("diffusers") > source.size(), "its text encoder is in float32"
        assert {file.part for file in source.base.files} == {
            file.part for file in source.diffusers.files
        }


def test_preview_colours_of_a_bundled_model_are_read_from_its_folder(tmp_path):
    assert Bundled(path=str(tmp_path)).latent_rgb is None
    other = tmp_path / "other"
    other.mkdir()
    weight = [[0.1 * channel, 0.2, 0.3] for channel in range(16)]
    (other / "preview.json").write_text(json.dumps({"weight": weight, "bias": [0, 0.5, 1]}))
    spec = dataclasses.replace(CATALOG["nano"], source=Bundled(path=str(other)))
    rows, bias = spec.latent_rgb
    assert [list(row) for row in rows] == weight
    assert bias == (0, 0.5, 1)
