"""What training does to an image before the model sees it.

    views.py                                     what each of the following offers to the loader
    pretrain.py, finetune.py, segmentation.py,
    tokenizer.py                                 the recipe of each kind of run
    crops.py, colours.py, augment.py,
    erasing.py, mixing.py, pixels.py             the operations that they are made of
    sample_seed.py                               the seed of all random choices for an image

Every random choice comes from a numpy Generator seeded by (seed, pass, image), never from global state: the same run sees
the same crops with any number of workers, and after a resume.
"""
