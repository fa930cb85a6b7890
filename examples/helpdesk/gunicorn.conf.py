"""gunicorn reads this file from the working directory; what the command line says wins."""

import subprocess
import sys


def on_starting(server):
    """Collect the static files, once and before there are workers: WhiteNoise looks for them when a worker starts."""
    subprocess.run([sys.executable, "manage.py", "collectstatic", "--noinput", "--verbosity=0"], check=True)
