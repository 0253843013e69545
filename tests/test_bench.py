from omniavatar import AvatarPipeline, measure


def test_work_is_counted_and_compared_in_one_run():
    report = measure(AvatarPipeline.from_pretrained("nano"), seconds=0.5)
    pipeline_steps, forwards_a_step = 4, 2
    assert report.forwards == pipeline_steps * forwards_a_step
    assert report.seconds * 25 == 13
    assert report.guidance_ratio > 1  # two forwards against one
    assert sum(v for k, v in report.stages.items() if k != "total") <= report.stages["total"]
