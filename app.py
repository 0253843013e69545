"""The page, here and on Hugging Face Spaces: `python app.py`; `--help` tells its options."""

import os
import sys

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in `python -m omniavatar`

import spaces  # noqa: F401 (before anything that looks for a GPU)

from omniavatar import OmniAvatarError
from omniavatar.serving import ui
from omniavatar.serving.app_options import check_address, parse_app_options
from omniavatar.serving.jobs import Jobs
from omniavatar.serving.pipelines import Pipelines

try:
    if __name__ == "__main__":
        options = parse_app_options(sys.argv[1:])
        check_address(options)
    pipelines = Pipelines()
    if pipelines.is_shared_gpu:
        pipelines.preload(ui.DEFAULT_MODEL)  # what is on the GPU by the launch is so in every job
    jobs = Jobs(pipelines)
    demo = ui.build(jobs)
    if __name__ == "__main__":
        pipelines.preload(ui.DEFAULT_MODEL)
        ui.launch(demo, jobs, options)
except OmniAvatarError as error:
    if __name__ != "__main__":
        raise
    sys.stderr.write(f"app.py: error: {error}\n")
    sys.exit(2)
