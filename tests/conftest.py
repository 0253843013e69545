import os
from pathlib import Path

import pytest

# Before any library reads them: no test asks a model hub, and two test processes share the cores.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

REFERENCE = Path(__file__).parent / "data" / "reference"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--reference-dir",
        type=Path,
        default=REFERENCE,
        help="folder of reference values: another set in the format of tests/data/reference",
    )


@pytest.fixture(scope="session")
def reference_dir(pytestconfig: pytest.Config) -> Path:
    """The folder of reference values; see its README.md."""
    folder: Path = pytestconfig.getoption("--reference-dir")
    if not folder.is_dir():
        pytest.fail(f"--reference-dir {folder} is not a folder")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files to upload: a face, a voice of a second and one of a minute, and what is neither."""
    from app_process import write_portrait, write_voice

    folder = tmp_path_factory.mktemp("app")
    write_portrait(folder / "face.png")
    write_voice(folder / "voice.wav", 1.0)
    write_voice(folder / "long.wav", 60.0)
    (folder / "bad.png").write_text("no picture")
    (folder / "bad.wav").write_text("no sound")
    return folder


@pytest.fixture(scope="module")
def app(folder):
    """The app as visitors meet it, which tells no traceback."""
    from app_process import running_app

    with running_app(folder) as app:
        yield app
        assert "Traceback" not in app.log


@pytest.fixture(scope="module")
def browser():
    """A Chromium that plays H.264."""
    from page_driver import open_browser

    with open_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def nano_bank():
    """A little of the speech that nano is trained on."""
    from omniavatar.nano.speech import speech_bank

    return speech_bank(2, 8.0, seed=3)


@pytest.fixture(scope="module")
def nano_latents():
    """The bundled VAE as training uses it."""
    import torch

    from omniavatar.nano.architecture import weights_folder
    from omniavatar.nano.windows import Latents

    return Latents.load(weights_folder(), torch.device("cpu"))


@pytest.fixture(scope="module")
def nano_windows(nano_bank, nano_latents):
    """Two drawn clips of 49 frames as the transformer is trained on them, in float32."""
    import torch

    from omniavatar.nano.architecture import build_tokenizer, weights_folder
    from omniavatar.nano.clips import sample_clips
    from omniavatar.nano.prompts import VOCABULARY
    from omniavatar.nano.windows import LEAD_FRAMES, encode_takes, load_speech_encoder, take_clips

    clips = sample_clips(
        nano_bank,
        count=2,
        frames=49 + LEAD_FRAMES,
        height=64,
        width=64,
        generator=torch.Generator().manual_seed(4),
        device=torch.device("cpu"),
        continuation_share=0.5,
        context_rows=10,
    )
    takes = take_clips(clips, build_tokenizer(VOCABULARY))
    encoder = load_speech_encoder(weights_folder(), torch.device("cpu"))
    heard = encode_takes(takes, nano_latents).hear(encoder)
    return heard.map(lambda tensor: tensor.float() if tensor.is_floating_point() else tensor)
