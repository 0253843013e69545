"""A worker whose first job hits a fault of ours, and whose GPU is full in every job after it."""

import itertools
import sys
from typing import Any, Self

import torch

from omniavatar import AvatarPipeline
from omniavatar.serving import handler


class FailingPipeline(AvatarPipeline):
    @classmethod
    def from_pretrained(cls, *arguments: Any, **options: Any) -> Self:
        pipeline = super().from_pretrained(*arguments, **options)
        count = itertools.count(1)

        def fail(*_arguments: Any) -> None:
            if next(count) == 1:
                raise RuntimeError("cosmic ray")
            raise torch.OutOfMemoryError("CUDA out of memory")

        pipeline.models.transformer.register_forward_pre_hook(fail)
        return pipeline


if __name__ == "__main__":
    handler.AvatarPipeline = FailingPipeline
    sys.exit(handler.main())
