import subprocess
import sys

import omniavatar


def test_every_public_name_can_be_imported():
    for name in omniavatar.__all__:
        assert getattr(omniavatar, name) is not None


def test_importing_the_package_and_asking_for_the_request_loads_no_torch():
    code = "import sys, omniavatar; omniavatar.GenerationRequest; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
