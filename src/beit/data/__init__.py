"""Where images come from (`images.py`), what is done to them (`views.py`), and in which order (`loader.py`)."""
