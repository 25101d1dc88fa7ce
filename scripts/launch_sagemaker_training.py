"""Starts the training job from Python: the same as `medpipe aws launch`.

.venv/bin/python scripts/launch_sagemaker_training.py --set aws.spot=false
"""

import sys

from medpipe.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["aws", "launch"]
    main()
