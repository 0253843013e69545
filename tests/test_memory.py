import dataclasses
from pathlib import Path

import pytest
import torch

from omniavatar import CATALOG
from omniavatar.errors import InputError
from omniavatar.memory import (
    PARTS,
    TEXT_ENCODER,
    TRANSFORMER,
    USABLE,
    Free,
    Placement,
    arrange,
    arrangements,
    available_devices,
    choose_placement,
    describe,
    free_host_memory,
    free_memory,
    needs,
    refit,
    step_down,
)
from omniavatar.pipeline import longest_work
from omniavatar.tiers import GIGABYTE, MEMORY_TIERS
from omniavatar.weights.sizes import footprint_of_spec

GPU = Placement(device=torch.device("cuda"), dtype=torch.bfloat16)
CPU = Placement(device=torch.device("cpu"), dtype=torch.float32)
ONLY_TRANSFORMER, ONLY_TEXT = frozenset({TRANSFORMER}), frozenset({TEXT_ENCODER})


def card(gigabytes, host=128):
    return Free(device=gigabytes * GIGABYTE, host=host * GIGABYTE)


def choose(model, free, placement=GPU):
    spec = CATALOG[model]
    return arrange(placement, footprint_of_spec(spec), longest_work(spec), free, name=model)


# ---- device and precision


@pytest.mark.parametrize(
    ("available", "device", "dtype"),
    [
        (("cuda", "cpu"), "cuda", torch.bfloat16),
        (("mps", "cpu"), "mps", torch.float32),
        (("cpu",), "cpu", torch.float32),
    ],
)
def test_best_device_and_its_precision_are_chosen(available, device, dtype):
    chosen = choose_placement(available=available)
    assert chosen == Placement(device=torch.device(device), dtype=dtype)


@pytest.mark.parametrize(("instruction", "dtype"), [("amx_bf16", "bfloat16"), ("avx2", "float32")])
def test_cpu_computes_in_bfloat16_where_it_has_instructions_for_it(monkeypatch, instruction, dtype):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {instruction: True})
    cpu_dtype = CATALOG["nano"].cpu_dtype
    chosen = choose_placement(available=("cpu",), cpu_dtype=cpu_dtype)
    assert chosen.dtype == getattr(torch, dtype)
    assert choose_placement(available=("cpu",), dtype=torch.float32, cpu_dtype=cpu_dtype) == CPU
    published = choose_placement(available=("cpu",), cpu_dtype=CATALOG["1.3B"].cpu_dtype)
    assert published == CPU


def test_what_is_asked_for_is_taken():
    chosen = choose_placement(device="cpu", dtype=torch.bfloat16, available=("cuda", "cpu"))
    assert chosen == Placement(device=torch.device("cpu"), dtype=torch.bfloat16)
    second = choose_placement(device="cuda:1", available=("cuda", "cpu"))
    assert second.device == torch.device("cuda", 1)


@pytest.mark.parametrize("device", ["cuda", "toaster"])
def test_device_that_is_not_there_is_refused(device):
    with pytest.raises(InputError, match=f"{device}.*cpu") as caught:
        choose_placement(device=device, available=("cpu",))
    assert caught.value.field == "device"


def test_precision_that_is_not_offered_is_refused():
    with pytest.raises(InputError, match=r"torch\.float16"):
        choose_placement(device="cpu", dtype=torch.float16)


def test_there_is_always_a_cpu():
    assert available_devices()[-1] == "cpu"


# ---- arrangements by card


def test_large_card_takes_everything_as_it_is():
    assert choose("14B", card(80)) == GPU
    assert choose("1.3B", card(24)) == GPU
    assert choose("nano", card(8)) == GPU


def test_a10g_takes_14b_in_8_bits_and_1_3b_in_bfloat16():
    a10g = Free(device=23_028 * 2**20, host=30 * GIGABYTE)
    large, small = choose("14B", a10g), choose("1.3B", a10g)
    assert TRANSFORMER in large.fp8
    assert TRANSFORMER not in large.offloaded
    assert not small.fp8
    assert TRANSFORMER not in small.offloaded


@pytest.mark.parametrize(
    ("gigabytes", "offloaded", "fp8"),
    [
        (48, ONLY_TEXT, frozenset()),
        (24, ONLY_TEXT, ONLY_TRANSFORMER),
        (16, PARTS, frozenset()),
        (12, PARTS, frozenset()),
        (8, PARTS, ONLY_TRANSFORMER),
    ],
)
def test_14b_on_smaller_cards(gigabytes, offloaded, fp8):
    chosen = choose("14B", card(gigabytes))
    assert (chosen.offloaded, chosen.fp8) == (offloaded, fp8)
    assert chosen.pinned is (TRANSFORMER in offloaded)


@pytest.mark.parametrize("gigabytes", [8, 12, 16])
def test_1_3b_stays_whole_on_small_cards(gigabytes):
    chosen = choose("1.3B", card(gigabytes, host=16))
    assert (chosen.offloaded, chosen.fp8) == (ONLY_TEXT, frozenset())


def test_host_memory_decides_as_well():
    assert choose("14B", card(16, host=48)).pinned
    assert not choose("14B", card(16, host=44)).pinned
    assert choose("14B", card(16, host=32)).fp8 == ONLY_TRANSFORMER
    assert choose("14B", card(8, host=26)).fp8 == PARTS
    assert choose("1.3B", card(16, host=11)).fp8 == ONLY_TEXT


@pytest.mark.parametrize("model", ["1.3B", "14B"])
@pytest.mark.parametrize("tier", MEMORY_TIERS)
@pytest.mark.parametrize("host", [20, 40, 200])
def test_what_is_chosen_fits_and_nothing_better_does(model, tier, host):
    spec = CATALOG[model]
    sizes, work = footprint_of_spec(spec), longest_work(spec)
    free = card(int(tier.removesuffix("GB")), host)

    def fits(placement):
        taken = needs(placement, sizes, work)
        return taken.device <= free.device * USABLE and taken.host <= free.host

    fitting = [placement for placement in arrangements(GPU) if fits(placement)]
    if fitting:
        assert choose(model, free) == fitting[0]
    else:
        with pytest.raises(InputError):
            choose(model, free)


def test_more_tokens_and_larger_pictures_take_more():
    spec = CATALOG["14B"]
    sizes, work = footprint_of_spec(spec), longest_work(spec)
    now = needs(GPU, sizes, work)
    longer = needs(GPU, sizes, dataclasses.replace(work, tokens=2 * work.tokens))
    larger = needs(GPU, sizes, dataclasses.replace(work, height=720))
    assert longer.denoise > now.denoise
    assert larger.decode > now.decode


def test_estimates_are_what_was_measured():
    """Peaks of one H200 at 30,375 tokens, uncompiled: 30.0 GiB (14B) and 4.1 GiB (1.3B)."""
    for model, peak in (("14B", 30.0), ("1.3B", 4.1)):
        spec = CATALOG[model]
        sizes = footprint_of_spec(spec)
        taken = needs(GPU, sizes, longest_work(spec))
        beside = 2 * (sizes.text_encoder + sizes.vae) + 4 * sizes.speech_encoder
        assert peak * 2**30 <= taken.denoise - beside <= 1.07 * peak * 2**30


def test_too_small_a_card_says_what_to_do():
    with pytest.raises(InputError, match=r"14B needs at least .* lower max_tokens") as caught:
        choose("14B", card(4))
    assert caught.value.field == "memory"


def test_too_little_host_memory_says_what_to_do():
    with pytest.raises(InputError, match=r"14B needs .* of free host memory beside this GPU"):
        choose("14B", card(8, host=16))
    with pytest.raises(InputError, match=r"14B needs .* of free host memory, but"):
        choose("14B", Free(device=None, host=8 * GIGABYTE), CPU)


def test_unknown_tier_is_refused():
    with pytest.raises(InputError, match=r"auto.*80GB") as caught:
        free_memory(torch.device("cpu"), "7GB")
    assert caught.value.field == "memory"
    assert free_memory(torch.device("cpu"), "24GB").device == 24 * GIGABYTE


# ---- other work, and stepping down


def test_a_larger_picture_is_tiled_and_the_next_small_one_is_not():
    spec = CATALOG["1.3B"]
    sizes, work, free = footprint_of_spec(spec), longest_work(spec), card(8)
    chosen = choose("1.3B", free)
    square = dataclasses.replace(work, height=720, frames=57)

    def fit(placement, work, **more):
        more = {"keep_tiles": False, **more}
        return refit(placement, sizes, work, free, name="1.3B", **more)

    assert not chosen.vae_tiled
    assert fit(chosen, work) == chosen
    tiled = fit(chosen, square)
    assert tiled == dataclasses.replace(chosen, vae_tiled=True)
    assert fit(tiled, work) == chosen
    assert fit(tiled, work, keep_tiles=True) == tiled
    endless = dataclasses.replace(work, tokens=1_000_000)
    with pytest.raises(InputError, match="max_tokens") as caught:
        fit(chosen, endless)
    assert caught.value.field == "max_tokens"


@pytest.mark.parametrize("placement", [GPU, CPU])
@pytest.mark.parametrize("model", ["nano", "14B"])
def test_every_step_down_takes_less_and_changes_no_value_while_it_can(placement, model):
    spec = CATALOG[model]
    sizes, work = footprint_of_spec(spec), longest_work(spec)
    steps = [placement]
    while below := step_down(steps[-1], sizes, work, host=200 * GIGABYTE):
        above, taken = needs(steps[-1], sizes, work), needs(below, sizes, work)
        assert taken.conditions <= above.conditions
        assert taken.denoise <= above.denoise
        assert taken.decode <= above.decode
        assert steps[-1].fp8 <= below.fp8
        assert steps[-1].offloaded <= below.offloaded
        steps.append(below)
    assert len(steps) >= 4
    assert steps[2].offloaded == PARTS
    assert not steps[2].fp8
    assert steps[-1].fp8


def test_no_step_goes_where_the_host_has_no_room():
    spec = CATALOG["14B"]
    sizes, work = footprint_of_spec(spec), longest_work(spec)
    placement = choose("14B", card(48))
    while below := step_down(placement, sizes, work, host=10 * GIGABYTE):
        placement = below
    assert TRANSFORMER not in placement.offloaded
    assert placement.fp8 == ONLY_TRANSFORMER


def test_words_for_people():
    placement = dataclasses.replace(GPU, fp8=ONLY_TRANSFORMER, offloaded=ONLY_TEXT)
    assert describe(placement) == (
        "transformer in fp8 on the GPU, text encoder in bfloat16 streamed from host memory, "
        "VAE without tiles"
    )


# ---- host memory


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"proc/meminfo": "MemTotal: 90 kB\nMemAvailable: 70 kB\n"}, 70 * 1024),
        (
            {
                "proc/meminfo": "MemAvailable: 70 kB\n",
                "sys/fs/cgroup/memory.max": "9000\n",
                "sys/fs/cgroup/memory.current": "5000\n",
                "sys/fs/cgroup/memory.stat": "active_file 7\ninactive_file 1000\n",
            },
            5000,
        ),
        (
            {
                "proc/meminfo": "MemAvailable: 70 kB\n",
                "sys/fs/cgroup/memory.max": "max\n",
                "sys/fs/cgroup/memory.current": "5000\n",
            },
            70 * 1024,
        ),
        (
            {
                "proc/meminfo": "MemAvailable: 70 kB\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "8000\n",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": "6000\n",
            },
            2000,
        ),
    ],
)
def test_container_limits_count(tmp_path, files, expected):
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    assert free_host_memory(tmp_path) == expected


# ---- the guide


def guide_cell(placement, device_bytes):
    kind = "fp8" if TRANSFORMER in placement.fp8 else "bfloat16"
    streamed = {
        frozenset(): "",
        ONLY_TEXT: ", text encoder streamed",
        PARTS: ", both streamed",
    }[placement.offloaded]
    return f"{kind}{streamed}, {device_bytes / GIGABYTE:.1f} GB"


@pytest.mark.parametrize("tier", MEMORY_TIERS)
def test_guide_says_what_each_card_takes(tier):
    guide = (Path(__file__).parents[1] / "deploy" / "runpod" / "README.md").read_text()
    gigabytes = int(tier.removesuffix("GB"))
    cells = [f"{gigabytes} GB"]
    for model in ("1.3B", "14B"):
        spec = CATALOG[model]
        chosen = choose(model, card(gigabytes))
        taken = needs(chosen, footprint_of_spec(spec), longest_work(spec))
        cells.append(guide_cell(chosen, taken.device))
    assert f"| {' | '.join(cells)} | {taken.host / GIGABYTE:.0f} GB" in guide
