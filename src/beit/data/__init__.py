"""Images, from where they are stored to the batches that a model takes.

processor.py       one image or many → `pixel_values`, for prediction and evaluation (the public image processor)
image_input.py     the forms of image that the processor accepts: PIL, path, array, tensor
decode.py          an image file → RGB, upright, 8 bits; palette, grey and 16-bit images too
label_maps.py      a label map, such as a palette PNG → class numbers; label_form.py: how labels are written
colour_table.py    label maps in colour → class numbers
outlines.py        polygons and masks (rle.py) → class numbers
sources/           where images come from: folders, arrays, tar shards, the Hub; which of them are bad
order.py           in which order they come; stream_order.py: the same for streams
transforms/        what training does to them: crops, colours, augmentation, views
masking.py         which patches pre-training masks
token_cache.py     visual tokens that were computed before
workers/           processes that prepare batches
loader.py          all of this, as batches from any step on
postprocess/       a segmentation model's scores → label maps
embedded/          images that come with the package
"""
