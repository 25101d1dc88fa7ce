"""What SageMaker starts in the training container: medpipe/aws/entry.py of the code that lies beside this script.

python3 /opt/ml/input/data/code/scripts/sagemaker_entry.py
"""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path

CODE = Path(__file__).resolve().parents[1]


def main() -> None:
    """Install what the image lacks, then do the job."""
    sys.path.insert(0, str(CODE))
    if importlib.util.find_spec("dagster") is None:
        print("medpipe: this image lacks medpipe's dependencies, installing them with pip (an image of deploy/docker has them)", flush=True)
        status = subprocess.run([sys.executable, "-m", "pip", "install", "--no-cache-dir", str(CODE)]).returncode
        if status:
            sys.exit(f"medpipe: got status {status} from pip, expected 0, in {CODE}: use an image that has medpipe's dependencies")
        importlib.invalidate_caches()
    from medpipe.aws.entry import main as work

    work()


if __name__ == "__main__":
    main()
