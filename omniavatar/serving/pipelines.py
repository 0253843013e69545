"""The pipelines of one process: each model is loaded once, on its first use."""

import threading
from collections.abc import Callable

from omniavatar import AvatarPipeline, DownloadProgress


class Pipelines:
    """Load pipelines by the name of their model and keep them.

    Two requests for a model that is not there yet wait for the same load.
    """

    def __init__(self) -> None:
        self._loading = threading.Lock()
        self._loaded: dict[str, AvatarPipeline] = {}

    def get(
        self, model: str, report: Callable[[DownloadProgress], None] | None = None
    ) -> AvatarPipeline:
        """The pipeline of this model.

        Args:
            report: told how far a download is; what it raises ends the download.

        Raises:
            WeightsError: the model's weights are not on this machine, or are not what they
                should be.
        """
        with self._loading:
            if model not in self._loaded:
                self._loaded[model] = AvatarPipeline.from_pretrained(model, report=report)
            return self._loaded[model]
