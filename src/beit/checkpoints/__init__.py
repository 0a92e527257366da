"""Every BEiT checkpoint → named arrays, settings, and which settings had to be guessed. The main class is `Checkpoint`.

    name, folder or file → locate.py (where it lies) → read_weights.py (arrays) → dialects (whose names) → names.py (our names)
    → infer.py (settings that no file states) → `Checkpoint`, which the models, `BeitConfig` and `BeitImageProcessor` read

catalogue.py lists what was published; hub.py knows model folders and the Hub; write_weights.py writes. Only files that
`torch.save` wrote need torch.
"""

from beit.checkpoints.checkpoint import CONFIG_FILE as CONFIG_FILE
from beit.checkpoints.checkpoint import PROCESSOR_FILES as PROCESSOR_FILES
from beit.checkpoints.checkpoint import Checkpoint as Checkpoint
from beit.checkpoints.checkpoint import Source as Source
from beit.checkpoints.checkpoint import pixels_in as pixels_in
