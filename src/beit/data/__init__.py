"""Where images come from (`sources.py`: `images.py`, or as a stream `shards.py`, `hub_shards.py`), what is done to them
(`views.py`), and in which order (`loader.py`, `streams.py`)."""
