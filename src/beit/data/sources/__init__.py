"""Where images come from: folders, arrays, tar shards, the Hub.

opening.py            what a user wrote → one of these; `open_images`
images.py             images by number: `FolderImages`, `ArrayImages`
paths.py              which files a folder holds
in_memory.py          small images, decoded once and kept
tables.py             columns of a CSV, JSON or Parquet file; table_labels.py what they say; `TableImages` in table_images.py
segmented.py          images with a label map each; open_segmented.py opens them, label_map_scan.py looks at all before a run
labelled_folders.py   label maps in files, which partners.py finds by name
outlined.py           labels that are shapes, as coco.py and yolo.py read them
class_names.py        names of classes from a text file; wnids.py those of ImageNet's folders
stream.py             a stream of images; its shards are described in shards.py and read in tar.py (tar_members.py) or hub.py
spooled.py            the images of a stream by number, read once, to measure on
splits.py             train/, val/ and test/ as parts of a data set
patterns.py           which tar files a pattern names
bad_images.py         counts the images that cannot be read
"""

from beit.data.sources.opening import open_images as open_images
from beit.data.sources.opening import open_to_measure as open_to_measure
