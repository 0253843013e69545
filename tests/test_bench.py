"""What `bench` counts and compares, on sizes that a processor manages; no speed is asserted."""

import json
from dataclasses import replace

import pytest
import torch

from omniavatar import (
    CATALOG,
    AvatarPipeline,
    measure,
    measure_accuracy,
    measure_chunk,
    measure_tiers,
    transformer_flops,
    write_tables,
)
from omniavatar.bench import tiers as tiers_module
from omniavatar.bench.random_networks import random_transformer
from omniavatar.serving.cli import main

CPU = torch.device("cpu")


def test_work_is_counted_and_compared_in_one_run():
    report = measure(AvatarPipeline.from_pretrained("nano"), seconds=0.5, resolution="small")
    pipeline_steps, forwards_a_step = 2, 1
    assert report.forwards == pipeline_steps * forwards_a_step
    assert report.seconds * 25 == 13
    assert report.guidance_ratio > 1  # two forwards against one
    assert sum(v for k, v in report.stages.items() if k != "total") <= report.stages["total"]


@pytest.fixture(scope="module")
def chunk():
    guided = replace(CATALOG["nano"], guidance=1.8)
    return measure_chunk(guided, device=CPU, tokens=64, steps=1, compile_blocks=False, compare=True)


def test_a_chunk_is_measured_beside_the_librarys_own_transformer(chunk):
    assert (chunk.tokens, chunk.frames, chunk.forwards) == (64, 13, 2)
    assert chunk.comparison.difference == 0  # the same blocks with the same weights
    assert chunk.rate == pytest.approx(
        2 * transformer_flops(CATALOG["nano"], tokens=64) / chunk.step_seconds
    )
    assert {"text", "speech", "encode", "denoise", "decode"} <= set(chunk.stages)


def test_no_random_weight_is_zero_for_a_whole_tensor():
    network = random_transformer(CATALOG["nano"], device=CPU, dtype=torch.bfloat16)
    assert all(weight.any() for weight in network.state_dict().values())
    assert network.blocks[0].scale_shift_table.dtype == torch.float32
    again = random_transformer(CATALOG["nano"], device=CPU, dtype=torch.bfloat16)
    assert torch.equal(network.proj_out.weight, again.proj_out.weight)


def test_bfloat16_is_as_close_to_float32_as_the_published_order_or_closer():
    report = measure_accuracy(device=CPU, steps=3)
    assert 0 < report.forward <= report.published_forward
    assert 0 < report.latents <= report.published_latents


def test_reports_become_tables(chunk, tmp_path):
    tiers = measure_tiers(CATALOG["nano"], device=CPU, tiers=("8GB",), tokens=64, steps=1)
    assert tiers.tiers[0].problem is None
    for name, report in (("chunk", chunk), ("tiers", tiers)):
        (tmp_path / f"{name}.json").write_text(json.dumps(report.to_mapping()))
    text = write_tables(tmp_path).read_text("utf-8")
    rows = [line for line in text.splitlines() if line.startswith("|") and "nano" in line]
    assert len(rows) == 2
    assert "8GB" in rows[1]


def test_a_compiled_decoder_stands_beside_the_plain_one(chunk, tmp_path):
    values = chunk.to_mapping()
    values["stages"] = {**chunk.stages, "decode": 1.146, "decode, compiled": 1.068}
    (tmp_path / "chunk.json").write_text(json.dumps(values))
    assert "| 1.15 (1.07) |" in write_tables(tmp_path).read_text("utf-8")


def test_the_command_writes_the_figures_that_it_prints(tmp_path, capsys):
    file = tmp_path / "figures.json"
    quick = ("--tokens", "64", "--steps", "1", "--uncompiled")
    main(["bench", "--random-weights", "nano", *quick, "--json", str(file)])
    figures = json.loads(file.read_text("utf-8"))
    assert figures["kind"] == "chunk"
    assert f"{figures['rate']:.4g}" in capsys.readouterr().out


def test_the_command_measures_the_tiers_that_are_named(tmp_path):
    file = tmp_path / "figures.json"
    quick = ("--tokens", "64", "--steps", "1")
    main(["bench", "--random-weights", "nano", "--tiers", "8GB", *quick, "--json", str(file)])
    [tier] = json.loads(file.read_text("utf-8"))["tiers"]
    assert tier["memory"] == "8GB"
    assert tier["step_seconds"] > 0
    assert tier["problem"] is None


def test_tiers_that_a_card_held_to_the_smallest_has_no_memory_for_are_measured_alone(monkeypatch):
    measured = tiers_module._measure

    def run_out_below_12_gb(spec, shape, placement, tier, **how):
        if tier.limit_bytes < 10e9 and not placement.offloaded:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB. GPU 0 has")
        return measured(spec, shape, placement, tier, **how)

    monkeypatch.setattr(tiers_module, "_measure", run_out_below_12_gb)
    names = ("8GB", "12GB", "16GB")
    found = measure_tiers(CATALOG["nano"], device=CPU, tiers=names, tokens=64, steps=1).tiers
    assert [tier.memory for tier in found] == ["8GB", "8GB", "12GB, 16GB"]
    assert found[0].problem == "CUDA out of memory. Tried to allocate 1 GiB."
    assert "streamed" in found[1].placement
    assert found[2].limit_bytes > found[1].limit_bytes
    assert found[2].placement == found[0].placement
    assert found[1].step_seconds > 0
    assert found[2].step_seconds > 0
