"""medpipe: from raw medical questions to an evaluated team of four co-trained language models.

The graph is in `medpipe/definitions.py`; the settings are in `medpipe/config.py` and `medpipe/profiles/`.
Research software: nothing here is medical advice.
"""

NOTICE = "Research software. Not a medical device and not medical advice: answers come from small language models and can be wrong."
