"""Where images come from. `open_images` turns what a user wrote into images by number, or into a stream."""

from beit.data.sources.opening import open_images as open_images
