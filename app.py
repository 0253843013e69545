"""The page, here and on Hugging Face Spaces: `python app.py`; `--help` tells the options."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in `python -m omniavatar`

import spaces  # noqa: F401 (before anything that looks for a GPU)

from omniavatar.serving import ui
from omniavatar.serving.jobs import Jobs
from omniavatar.serving.pipelines import Pipelines

pipelines = Pipelines()
jobs = Jobs(pipelines)
demo = ui.build(jobs)

if __name__ == "__main__":
    pipelines.get(ui.DEFAULT_MODEL)
    ui.launch(demo, jobs)
