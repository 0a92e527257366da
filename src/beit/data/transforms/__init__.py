"""What a run does to an image before the network sees it."""
