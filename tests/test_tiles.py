import torch

from omniavatar.stages.tiles import Tiling, plan_tiles, run_tiled

TILING = Tiling(size=(3, 4), stride=(2, 2))


def test_tiles_cover_every_cell_and_stay_inside():
    for height in range(1, 12):
        for width in range(1, 12):
            seen = torch.zeros(height, width)
            for tile in plan_tiles(height, width, TILING):
                assert tile.bottom <= height
                assert tile.right <= width
                seen[tile.top : tile.bottom, tile.left : tile.right] += 1
            assert seen.min() >= 1


def test_a_picture_smaller_than_a_tile_is_one_tile():
    (tile,) = plan_tiles(2, 3, TILING)
    assert (tile.top, tile.bottom, tile.left, tile.right) == (0, 2, 0, 3)


def test_what_all_tiles_agree_on_is_not_changed_by_the_blend():
    source = torch.randn(1, 2, 1, 7, 9)
    result = run_tiled(
        lambda tile: tile.repeat_interleave(2, -1).repeat_interleave(2, -2),
        source,
        height=7,
        width=9,
        tiling=TILING,
        source_scale=1,
        result_scale=2,
    )
    expected = source.repeat_interleave(2, -1).repeat_interleave(2, -2)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-6)
