"""The pipelines of one process: each model is loaded once, on its first use."""

import logging
import os
import threading
from collections.abc import Callable, Mapping

from omniavatar import CATALOG, AvatarPipeline, DownloadProgress, InputError
from omniavatar.serving.loras import from_environment

logger = logging.getLogger(__name__)

MEMORY_VARIABLE = "OMNIAVATAR_MEMORY"
MODELS_VARIABLE = "OMNIAVATAR_MODELS"
"""Models, with commas between, that are loaded before the first job."""


class Pipelines:
    """Load pipelines by the name of their model and keep them.

    Two requests for a model that is not there yet wait for the same load. A published model for
    which there is no room beside the others takes their place; the bundled one is small and stays.

    Args:
        environment: says how the networks are arranged, and which LoRAs are merged.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._environment = environment
        self._loading = threading.Lock()
        self._loaded: dict[tuple[str, str], AvatarPipeline] = {}
        self._closed = False

    @property
    def is_shared_gpu(self) -> bool:
        """Whether the GPU is lent for each job, to a process that inherits what is loaded here."""
        return self._environment.get("SPACES_ZERO_GPU", "").lower() in ("1", "true", "yes")

    def preload(self, *models: str) -> None:
        """Load these models, and those that the environment names.

        On a shared GPU this comes before the page is launched, in the main thread: what is loaded
        by then is there in each job at once, and nothing can be loaded later.

        Raises:
            as `get` does.
        """
        named = self._environment.get(MODELS_VARIABLE, "").split(",")
        for model in dict.fromkeys([*models, *filter(None, map(str.strip, named))]):
            self.get(model)
        self._closed = self.is_shared_gpu

    def get(
        self,
        model: str,
        *,
        memory: str | None = None,
        report: Callable[[DownloadProgress], None] | None = None,
    ) -> AvatarPipeline:
        """The pipeline of this model.

        Args:
            memory: how its networks are arranged; None as the environment has it, or "auto".
            report: told how far a download is.

        Raises:
            InputError: there is no such model, or too little memory for it.
            WeightsError: the model's weights can not be had, or are not what they should be.
        """
        memory = memory or self._environment.get(MEMORY_VARIABLE) or "auto"
        with self._loading:
            if (model, memory) not in self._loaded:
                if self._closed:
                    raise InputError(
                        f"{model} is not offered here. Name it in {MODELS_VARIABLE} when the page "
                        "is started, to have it loaded before the GPU is lent.",
                        field="model",
                    )
                self._make_room(model, memory)
                self._loaded[model, memory] = AvatarPipeline.from_pretrained(
                    model,
                    memory=memory,
                    loras=from_environment(model, self._environment) if model in CATALOG else (),
                    # A process that is gone after its job would compile for each job anew.
                    compile="off" if self.is_shared_gpu else "auto",
                    report=report,
                )
            return self._loaded[model, memory]

    def _make_room(self, model: str, memory: str) -> None:
        published = [key for key in self._loaded if CATALOG[key[0]].download_bytes]
        others = [key for key in published if key[0] != model]
        if self.is_shared_gpu or AvatarPipeline.fits_whole(model, memory=memory):
            others = []
        for key in [*others, *(key for key in self._loaded if key[0] == model)]:
            logger.info("%s makes room for %s", key[0], model)
            self._loaded.pop(key).close()
